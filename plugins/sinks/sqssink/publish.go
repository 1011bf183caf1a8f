package sqssink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// What waits between reading and sending is at most so much.
const (
	waitingRows  = 4096
	waitingBytes = 8 << 20
	named        = 10 // refused rows, in an error
)

// publisher sends parts to one queue.
type publisher struct {
	c      *config
	client *sqs.Client
	gate   sinks.Gate
	tell   func(string)

	ready      bool // the following, and c.url, are known
	maxMessage int  // bytes
	warned     bool // of what comes too late
}

// Open implements sinks.Remote.
func (Sink) Open(p *pipeline.SinkPlan, o sinks.Options) (sinks.Publisher, error) {
	c, err := parse(p.Settings)
	if err != nil {
		return nil, err
	}
	client, err := newClient(c)
	if err != nil {
		return nil, err
	}
	return &publisher{c: c, client: client, gate: o.Gate, tell: o.Warn}, nil
}

func (p *publisher) warn(format string, args ...any) {
	p.tell(p.c.target() + ": " + fmt.Sprintf(format, args...))
}

// Publish implements sinks.Publisher.
func (p *publisher) Publish(ctx context.Context, part *sinks.Part) (sinks.Result, error) {
	if err := p.prepare(ctx); err != nil {
		return sinks.Result{}, p.explain(err)
	}
	if p.c.fifo() && !part.FirstAttempt.IsZero() && time.Since(part.FirstAttempt) > remembered && !p.warned {
		p.warned = true
		p.warn("a part is sent again, perhaps more than %v after the first time, which is as long as SQS knows duplicates; rows may be there twice", remembered)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	l := limits{fifo: p.c.fifo(), perGroup: maxBatch, perBatch: p.c.maxBytes, rows: waitingRows, bytes: waitingBytes}
	if l.fifo && !p.c.batched {
		l.perGroup = 1
	}
	s := &sending{publisher: p, cancel: cancel}
	s.progress.Store(time.Now().UnixNano())
	queue, release := newQueue(ctx, l)
	defer release()
	s.queue = queue
	var senders sync.WaitGroup
	for range p.c.concurrency {
		senders.Go(func() {
			for batch := queue.take(); batch != nil; batch = queue.take() {
				s.deliver(ctx, batch)
				queue.done(batch)
			}
		})
	}
	if err := s.read(ctx, part); err != nil {
		s.fail(err)
	}
	queue.end()
	senders.Wait()
	return sinks.Result{Rows: s.rows.Load(), Bytes: s.bytes.Load(), Resent: s.resent.Load()}, s.outcome()
}

// Last implements sinks.Publisher.
func (*publisher) Last(context.Context, [][]pipeline.Part) (sinks.Result, error) {
	return sinks.Result{}, nil
}

// Close implements sinks.Publisher.
func (*publisher) Close() error { return nil }

// sending is a part on its way.
type sending struct {
	*publisher
	queue  *queue
	cancel context.CancelFunc

	rows, bytes, resent atomic.Int64
	progress            atomic.Int64 // when a message has arrived last, in nanoseconds since 1970

	mu       sync.Mutex
	err      error
	refusals []*refusal
}

// read makes messages of a part's rows and puts them into the queue. Once a row is
// refused nothing more is sent; the rows behind it are only looked at, until ten
// such rows can be named.
func (s *sending) read(ctx context.Context, part *sinks.Part) error {
	row := int64(0)
	for batch, err := range part.Batches {
		if err != nil {
			return err
		}
		r, err := newReader(s.c, batch)
		if err != nil {
			return pipeline.Permanent(err)
		}
		for i := range int(batch.NumRows()) {
			m, err := r.message(i, row)
			if err == nil && m.bytes > s.maxMessage {
				err = m.refusal(fmt.Sprintf(tooLarge, m.bytes, s.maxMessage))
			}
			var refused *refusal
			if errors.As(err, &refused) && s.refuse(refused) == named || ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil {
				s.queue.put(m)
			}
			row++
		}
	}
	return nil
}

const tooLarge = "the message has %d bytes with its attributes, and the queue takes %d; send fewer columns:, or a reference to what is large"

// refuse notes a row that the queue doesn't take, and returns how many there are.
func (s *sending) refuse(r *refusal) int {
	s.queue.stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refusals = append(s.refusals, r)
	return len(s.refusals)
}

// fail ends the attempt.
func (s *sending) fail(err error) {
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.mu.Unlock()
	s.cancel()
}

// stopped reports whether messages that have not arrived shall not be sent again.
func (s *sending) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err != nil || len(s.refusals) > 0
}

// outcome is the attempt's error. All requests have ended.
func (s *sending) outcome() error {
	if s.err != nil || len(s.refusals) == 0 {
		return s.err
	}
	slices.SortFunc(s.refusals, func(a, b *refusal) int { return cmp.Compare(a.row, b.row) })
	var text strings.Builder
	fmt.Fprintf(&text, "%s doesn't take some rows for what they contain:", s.c.target())
	for _, r := range s.refusals[:min(named, len(s.refusals))] {
		fmt.Fprintf(&text, "\n  %v", r)
	}
	if len(s.refusals) >= named {
		text.WriteString("\n  and perhaps more")
	}
	return pipeline.Permanent(errors.New(text.String()))
}
