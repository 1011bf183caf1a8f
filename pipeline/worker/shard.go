package worker

import (
	"fmt"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/kinequet/kq/internal/durable"
	"github.com/kinequet/kq/pipeline"
)

// compute executes a shard with SQL and makes its part durable. The part is
// visible to nobody until the completion names it.
func (w *worker) compute(t *pipeline.Task, c pipeline.Claim) ([]pipeline.Part, pipeline.Metrics, error) {
	if err := w.openSession(t); err != nil {
		return nil, pipeline.Metrics{}, err
	}
	name := PartName(c, t.Extension())
	// The extension stays last: DuckDB picks the compression of text by it.
	tmp := filepath.Join(w.parts, unfinished+name)
	durable.Point("part.write.before")
	written, m, err := w.session.Run(w.ctx, &c.Shard, tmp)
	if err != nil {
		for _, out := range append(written, pipeline.Written{Path: tmp}) {
			_ = durable.Remove(out.Path) // what is left of it is an orphan that gc removes
		}
		return nil, m, err
	}
	durable.Point("part.write.after")
	if err := w.ledger(t, c, &m); err != nil {
		return nil, m, err
	}
	var parts []pipeline.Part
	for _, out := range written {
		part, err := keep(w.parts, out)
		if err != nil {
			return nil, m, err
		}
		m.BytesOut += part.Bytes
		parts = append(parts, part)
	}
	return parts, m, nil
}

const unfinished = ".tmp-"

// keep makes a file of a result durable under its name.
func keep(folder string, w pipeline.Written) (pipeline.Part, error) {
	sum, size, err := durable.Checksum(w.Path)
	if err != nil {
		return pipeline.Part{}, err
	}
	name := strings.TrimPrefix(filepath.Base(w.Path), unfinished)
	if err := durable.Finish(w.Path, filepath.Join(folder, name)); err != nil {
		return pipeline.Part{}, err
	}
	return pipeline.Part{Name: name, Rows: w.Rows, Bytes: size, Checksum: sum, Buckets: w.Buckets, Raw: w.Raw}, nil
}

// PartName is the file name of an attempt's part. No two attempts share one.
func PartName(c pipeline.Claim, extension string) string {
	return fmt.Sprintf("%s-%05d-%d-%s%s", strings.ReplaceAll(c.Task, ":", "."), c.Shard.Ordinal, c.Epoch, c.Nonce, extension)
}

// ledger adds the rows of the parts that the shard has read to its metrics, and
// checks that encoding kept every one of them.
func (w *worker) ledger(t *pipeline.Task, c pipeline.Claim, m *pipeline.Metrics) error {
	for _, in := range t.Inputs {
		if in.Task == "" || in.Kind == pipeline.Broadcast || in.Bucketed() {
			continue
		}
		all, err := w.partsOf(in.Task)
		if err != nil {
			return err
		}
		if in.Kind == pipeline.Forward {
			all = all[c.Shard.Ordinal : c.Shard.Ordinal+1]
		}
		for _, parts := range all {
			for _, p := range parts {
				m.RowsIn += p.Rows
			}
		}
	}
	if t.Kind == pipeline.Encode && m.RowsOut != m.RowsIn {
		return fmt.Errorf("%s wrote %d rows of %d; nothing was published", t.Name, m.RowsOut, m.RowsIn)
	}
	return nil
}

// partsOf lists a task's parts by shard.
func (w *worker) partsOf(task string) ([][]pipeline.StoredPart, error) {
	shards, err := w.co.Parts(w.ctx, w.Run, task)
	if err != nil {
		return nil, err
	}
	out := make([][]pipeline.StoredPart, len(shards))
	for i, parts := range shards {
		for _, p := range parts {
			out[i] = append(out[i], pipeline.StoredPart{Part: p, Path: filepath.Join(w.parts, p.Name)})
		}
	}
	return out, nil
}

// publish makes a sink's files visible.
func (w *worker) publish(t *pipeline.Task, c pipeline.Claim) (pipeline.Metrics, error) {
	from := t.Sink.From
	if !t.Sink.Linked {
		from = t.Sink.Encode
	}
	parts, err := w.partsOf(from)
	if err != nil {
		return pipeline.Metrics{}, err
	}
	return w.Publish(w.ctx, w.graph, w.Run, c.Nonce, t.Sink, parts)
}

// openSession makes sure that the session is one for t with the resources that
// are this worker's share now.
func (w *worker) openSession(t *pipeline.Task) error {
	r := w.share(t)
	if w.session != nil && w.task == t.Name && reflect.DeepEqual(r, w.resources) {
		return nil
	}
	w.closeSession()
	w.task, w.resources = t.Name, r
	r.Parts = w.partsOf
	var err error
	w.session, err = w.Open(w.ctx, w.graph, t, r)
	return err
}

func (w *worker) closeSession() {
	if w.session == nil {
		return
	}
	if err := w.session.Close(); err != nil {
		w.log.Warn("close the session", "error", err)
	}
	w.session = nil
}

// share is this worker's part of the machine: an equal one among the workers
// that have something to do, so that a task that is alone gets everything.
func (w *worker) share(t *pipeline.Task) pipeline.Resources {
	p := w.pulse.Load()
	// This worker's own shard counts among the running ones.
	active := max(1, min(max(p.Workers, w.Among), p.Running+p.Runnable))
	r := pipeline.Resources{
		Threads: max(1, w.Cores/active),
		OutDir:  w.parts,
		Spill:   filepath.Join(w.StateDir, "runs", w.Run, "spill", fmt.Sprintf("worker-%d", w.me.ID)),
	}
	total := w.Memory
	if total == 0 {
		total = MachineMemory() * 8 / 10
	}
	budget := total / int64(active)
	for i := range w.graph.Tasks { // the loops that send need some as well
		if s := &w.graph.Tasks[i]; s.Kind == pipeline.Publish {
			budget -= sessionMemory(total) + s.Sink.InFlight()/int64(active)
		}
	}
	budget = max(budget, total/int64(active)/4)
	if t.Kind == pipeline.Publish {
		r.Threads, r.Memory = 1, sessionMemory(total)
		return r
	}
	if t.Memory > 0 {
		budget = t.Memory
	}
	r.Memory = limit(budget)
	if t.Exchanges() {
		// Many files are open at once, or rows of all buckets are being sorted:
		// more lies beside the limit. What doesn't fit is computed in pieces.
		r.Memory = r.Memory * 3 / 4
		if budget < 512<<20 {
			r.Memory = r.Memory * 2 / 3
		}
	}
	// A thread of DuckDB needs about 128 MiB to sort or aggregate with spilling.
	r.Threads = max(1, min(r.Threads, int(r.Memory>>27)))
	return r
}

// sessionMemory is what DuckDB may manage where it reads the rows of a sink, a
// few row groups at a time. Bytes.
func sessionMemory(total int64) int64 {
	return max(64<<20, min(256<<20, total/16))
}

// limit is the part of a worker's resident memory that DuckDB may manage: the
// process itself and what DuckDB allocates past its limit need the rest.
func limit(budget int64) int64 {
	several := max((budget-128<<20)*3/4, budget*7/8-1<<30) // what lies beside it grows slowly
	if several >= 240<<20 {
		return several
	}
	return max((budget-64<<20)*4/5, budget/3, 16<<20) // one thread: less lies beside the limit
}
