// Package send sends the parts of shards through a sink that is a service. It
// stands between a worker and a sink type: it reads the rows, keeps the sink's
// bytes in flight bounded, and checks that what arrived is what was there.
package send

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"time"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
	"github.com/kinequet/kq/stages/sqlstage"
)

// Sender sends shards of one sink. It is not safe for concurrent use.
type Sender struct {
	plan    *pipeline.SinkPlan
	run     string
	started time.Time
	session *sqlstage.Session // nil: the sink takes files
	sink    sinks.Publisher
	gate    *backpressure.Controller
	limit   int64 // of all processes together
}

// Options of a Sender.
type Options struct {
	Run     string
	Started time.Time // of the run: no attempt is older
	Type    sinks.Remote
	Warn    func(message string)
}

// Open starts a session for the rows of t, a publish task, and opens its sink.
func Open(ctx context.Context, g *pipeline.Graph, t *pipeline.Task, r pipeline.Resources, o Options) (*Sender, error) {
	s := &Sender{plan: t.Sink, run: o.Run, started: o.Started, limit: t.Sink.InFlight()}
	s.gate = backpressure.New(backpressure.Options{Limit: s.limit, Seed: uint64(os.Getpid())})
	var err error
	if s.sink, err = o.Type.Open(t.Sink, sinks.Options{Run: o.Run, Job: g.Job, JobHash: g.Digest, Gate: gate{s.gate}, Warn: o.Warn}); err != nil {
		return nil, fmt.Errorf("sink %s: %w", t.Sink.Name, err)
	}
	if !t.Sink.Publication.Files {
		if s.session, err = sqlstage.Open(ctx, g, t, r); err != nil {
			return nil, errors.Join(err, s.sink.Close())
		}
	}
	return s, nil
}

// Check asks a sink's service whether rows can be sent to it.
func Check(ctx context.Context, typ sinks.Remote, p *pipeline.SinkPlan) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	sink, err := typ.Open(p, sinks.Options{Gate: gate{backpressure.New(backpressure.Options{})}, Warn: func(string) {}})
	if err == nil {
		err = errors.Join(sink.Check(ctx), sink.Close())
	}
	if err != nil {
		return fmt.Errorf("sink %s: %w", p.Name, err)
	}
	return nil
}

// gate is the controller as a sink sees it.
type gate struct {
	*backpressure.Controller
}

func (g gate) Limit() int64 { return g.Snapshot().Limit }

// Close ends the session and the sink.
func (s *Sender) Close() error {
	err := s.sink.Close()
	if s.session != nil {
		err = errors.Join(err, s.session.Close())
	}
	return err
}

// Send implements worker.Sender: all rows of the parts have arrived, or there is
// an error. workers share the bytes that may be on their way.
func (s *Sender) Send(ctx context.Context, c pipeline.Claim, parts []pipeline.StoredPart, workers int) ([]pipeline.Part, pipeline.Metrics, error) {
	s.gate.SetLimit(max(1, s.limit/int64(workers)))
	var m pipeline.Metrics
	p := &sinks.Part{
		ID: fmt.Sprintf("kq/%s/%s/%d", s.run, s.plan.Name, c.Shard.Ordinal), Shard: c.Shard.Ordinal,
		Checksum: checksum(parts), Attempt: c.Epoch,
	}
	if c.Epoch > 1 {
		p.FirstAttempt = s.started
	}
	for _, part := range parts {
		p.Rows += part.Rows
		m.BytesRead += part.Bytes
	}
	m.RowsIn = p.Rows
	if len(parts) == 0 { // nothing came to this shard
		return nil, m, nil
	}
	if s.session != nil {
		p.Batches = s.session.Rows(ctx, parts, p.ID)
	} else {
		p.Files = parts
	}
	result, err := s.sink.Publish(ctx, p)
	if err != nil {
		return nil, m, fmt.Errorf("sink %s: %w", s.plan.Name, err)
	}
	m.RowsOut, m.BytesOut = result.Rows, result.Bytes
	if m.RowsOut != m.RowsIn {
		return nil, m, pipeline.Permanent(fmt.Errorf("sink %s: %d rows came in, %d arrived", s.plan.Name, m.RowsIn, m.RowsOut))
	}
	return result.Objects, m, nil
}

// Last implements worker.Sender.
func (s *Sender) Last(ctx context.Context, sent [][]pipeline.Part) (pipeline.Metrics, error) {
	var m pipeline.Metrics
	for _, parts := range sent {
		for _, p := range parts {
			m.RowsIn += p.Rows
		}
	}
	result, err := s.sink.Last(ctx, sent)
	if err != nil {
		return m, fmt.Errorf("sink %s: %w", s.plan.Name, err)
	}
	m.RowsOut, m.BytesOut = result.Rows, result.Bytes
	if m.RowsOut != m.RowsIn {
		return m, pipeline.Permanent(fmt.Errorf("sink %s: %d rows were sent, its record has %d", s.plan.Name, m.RowsIn, m.RowsOut))
	}
	return m, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is that of the parts' checksums, or the only part's own.
func checksum(parts []pipeline.StoredPart) string {
	if len(parts) == 1 {
		return parts[0].Checksum
	}
	h := crc32.New(castagnoli)
	for _, p := range parts {
		fmt.Fprintln(h, p.Checksum)
	}
	return fmt.Sprintf("crc32c:%08x", h.Sum32())
}
