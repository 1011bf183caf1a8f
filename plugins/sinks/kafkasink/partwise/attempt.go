package partwise

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
	"github.com/apache/arrow-go/v18/arrow"
)

// attempt is one attempt at one part.
type attempt struct {
	p         *Producer
	part      *Part
	ctx       context.Context
	cancel    context.CancelCauseFunc
	conns     *conns
	lanesDone sync.WaitGroup
	started   int64   // of rows whose timestamp is NULL, milliseconds
	layout    *layout // as it was at the start: partitions don't move while keys are hashed
	id        int64
	epoch     int16
	txn       *txn // nil: at-least-once

	// Of the goroutine that fills.
	bound    *binding
	row      row
	parts    []int32 // of the rows of a vector
	builders []*batch
	extents  []growth // of each partition's last batch
	lanes    []*lane
	sticky   int32
	ordinal  int64
	most     int // encoded bytes of one record, with its batch

	target atomic.Int64 // encoded bytes of a batch's records
	mu     sync.Mutex   // guards result, and serializes Part.Reject
	result Result
}

// begin prepares an attempt: it knows the topic and its limits.
func (p *Producer) begin(ctx context.Context, part *Part) (*attempt, error) {
	a := &attempt{p: p, part: part, started: p.opts.Now().UnixMilli()}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	a.conns = newConns(a.ctx, &p.pool)
	err := p.cluster.retry(a.ctx, func() error {
		var err error
		if a.layout, err = p.cluster.topic(a.conns, time.Now().Add(-metadataAge)); err != nil {
			return err
		}
		_, err = p.cluster.settings(a.conns)
		return err
	})
	if err != nil {
		a.end(false)
		return nil, err
	}
	_, limits := p.cluster.known()
	n := len(a.layout.leaders)
	a.builders, a.lanes, a.extents = make([]*batch, n), make([]*lane, n), make([]growth, n)
	a.sticky = rand.Int32N(int32(n))
	a.most = limits.maxMessageBytes
	target := min(p.opts.BatchBytes, int(p.opts.MaxBytes/4), a.most-batchOverhead)
	for target > 1 && worst(p.codec, target)+batchOverhead > a.most {
		target -= max(1, (worst(p.codec, target)+batchOverhead-a.most)/2)
	}
	a.target.Store(int64(target))
	return a, nil
}

// end gives all back. clean: nothing is in flight.
func (a *attempt) end(clean bool) {
	a.conns.close(clean)
	a.cancel(context.Canceled)
}

// stream sends all rows and returns when each is acknowledged or set aside.
func (a *attempt) stream() error {
	if err := a.fill(); err != nil {
		a.cancel(err) // lanes end
	}
	for _, l := range a.lanes {
		if l != nil {
			l.finish()
		}
	}
	a.lanesDone.Wait()
	a.settleBudget()
	if err := context.Cause(a.ctx); err != nil {
		return err // the first, of which all others are consequences
	}
	return a.audit()
}

// audit: rows in are rows acknowledged and rows set aside.
func (a *attempt) audit() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.result.Rows+a.result.Rejected != a.ordinal {
		return &Error{Op: "count the rows of", Topic: a.p.opts.Topic, Partition: -1, Err: fmt.Errorf("%d came in, %d were acknowledged and %d rejected", a.ordinal, a.result.Rows, a.result.Rejected)}
	}
	if a.part.Rows >= 0 && a.part.Rows != a.ordinal {
		return &Error{Op: "count the rows of", Topic: a.p.opts.Topic, Partition: -1, Err: fmt.Errorf("the part has %d rows, %d came in", a.part.Rows, a.ordinal)}
	}
	return nil
}

// settleBudget gives back what batches hold that were never acknowledged.
func (a *attempt) settleBudget() {
	for i, l := range a.lanes {
		if b := a.builders[i]; b != nil {
			a.p.budget.move(b.held)
			a.p.budget.release(b.held)
			a.builders[i] = nil
		}
		if l == nil {
			continue
		}
		for _, b := range append(l.window, l.queue...) {
			a.p.budget.release(b.held)
		}
		l.window, l.queue = nil, nil
	}
}

// fill reads the part and hands batches to lanes.
func (a *attempt) fill() error {
	for r, err := range a.part.Batches {
		if err != nil {
			return fmt.Errorf("read the part: %w", err)
		}
		if err := context.Cause(a.ctx); err != nil {
			return err
		}
		if a.bound == nil || a.bound.schema != r.Schema() && !a.bound.schema.Equal(r.Schema()) {
			if a.bound, err = a.p.opts.Columns.bind(r.Schema()); err != nil {
				return err
			}
		}
		if err := a.fillFrom(r); err != nil {
			return err
		}
	}
	return a.flush()
}

func (a *attempt) fillFrom(r arrow.RecordBatch) error {
	v := a.bound.read(r)
	n := int(r.NumRows())
	a.parts = v.partitions(a.parts[:0], n, int32(len(a.lanes)))
	for i := range n {
		ordinal := a.ordinal
		a.ordinal++
		err := a.bound.row(&v, i, &a.row)
		to := a.parts[i]
		if err == nil && to == nowhere {
			given, _ := v.partition(i)
			err = fmt.Errorf("partition %d: the topic has %d", given, len(a.lanes))
		}
		if err != nil {
			if err := a.reject(ordinal, a.record(err)); err != nil {
				return err
			}
			continue
		}
		if to == anywhere {
			to = a.sticky
		}
		if a.row.timestamp == noTimestamp && v.timestamp != nil {
			a.row.timestamp = a.started
		}
		if err := a.add(to, ordinal); err != nil {
			return err
		}
	}
	return nil
}

func (a *attempt) record(err error) *Error {
	return &Error{Class: Record, Op: "produce to", Topic: a.p.opts.Topic, Partition: -1, Err: err}
}

// add puts a.row into the batch of a partition.
func (a *attempt) add(to int32, ordinal int64) error {
	b := a.builders[to]
	if b == nil {
		b = &batch{}
	}
	delta, fits := b.delta(&a.row)
	size := recordSize(&a.row, int64(len(b.entries)), delta)
	if len(b.entries) > 0 && (!fits || int64(b.size+size) > a.target.Load()) {
		if err := a.seal(to); err != nil {
			return err
		}
		b = &batch{}
		size = recordSize(&a.row, 0, 0)
	}
	if whole := size + batchOverhead; whole > a.most && (a.p.codec == sarama.CompressionNone || whole > maxRequest) {
		return a.reject(ordinal, a.record(brokerError{sarama.ErrMessageSizeTooLarge, fmt.Sprintf("the record takes %d bytes, the topic %d", whole, a.most)}))
	}
	if bytes, by := a.room(to, b); bytes > 0 {
		for granted := a.p.budget.try(bytes); !granted; {
			var err error
			if granted, err = a.p.budget.acquire(a.ctx, bytes, a.filling()); err != nil {
				return err
			}
			if granted {
				break
			}
			if err := a.flush(); err != nil {
				return err
			}
			if len(b.entries) > 0 { // b is gone
				b = &batch{}
				size = recordSize(&a.row, 0, 0)
			}
			bytes, by = a.room(to, b)
		}
		b.grow(by)
	}
	b.add(&a.row, ordinal, size)
	a.builders[to] = b
	return nil
}

// room tells what b has to grow by to take a.row: a new batch at once to the
// size of the last one of its partition.
func (a *attempt) room(to int32, b *batch) (int64, growth) {
	bytes, by := b.room(&a.row)
	if last := a.extents[to]; bytes > 0 && len(b.entries) == 0 {
		by = growth{max(by.data, last.data), max(by.entries, last.entries), max(by.heads, last.heads), max(by.stamps, last.stamps)}
	}
	return by.bytes(), by
}

// filling tells whether any batch is being filled.
func (a *attempt) filling() bool {
	return slices.ContainsFunc(a.builders, func(b *batch) bool { return b != nil })
}

// maxRequest is the most that sarama and, by default, a broker take at once.
const maxRequest = 100<<20 - 4096

// flush hands all batches to their lanes.
func (a *attempt) flush() error {
	for to, b := range a.builders {
		if b != nil {
			if err := a.seal(int32(to)); err != nil {
				return err
			}
		}
	}
	return nil
}

// seal hands a batch to its lane.
func (a *attempt) seal(to int32) error {
	b := a.builders[to]
	a.builders[to] = nil
	a.extents[to] = b.extent()
	a.p.budget.move(b.held)
	l := a.lanes[to]
	if l == nil {
		l = newLane(a, to)
		a.lanes[to] = l
		a.lanesDone.Go(func() {
			if err := l.run(a.ctx); err != nil {
				a.cancel(err)
			}
		})
	}
	l.push(b)
	if to == a.sticky {
		a.sticky = a.idlest()
	}
	return nil
}

// idlest is the partition with a leader that has least to send, the next one
// among equals.
func (a *attempt) idlest() int32 {
	n := int32(len(a.lanes))
	best, least := (a.sticky+1)%n, int64(-1)
	for i := int32(1); i <= n; i++ {
		p := (a.sticky + i) % n
		if a.layout.leader(p) == "" {
			continue
		}
		load := int64(0)
		if a.lanes[p] != nil {
			load = a.lanes[p].load()
		}
		if least < 0 || load < least {
			best, least = p, load
		}
	}
	return best
}

// leader returns the link to a partition's leader.
func (a *attempt) leader(partition int32) (*link, error) {
	known, _ := a.p.cluster.known()
	addr := known.leader(partition)
	if addr == "" {
		e := coded("produce to", sarama.ErrLeaderNotAvailable, "")
		e.Topic, e.Partition = a.p.opts.Topic, partition
		return nil, e
	}
	return a.conns.get(produce, addr)
}

// relocate looks up leaders anew, after asked.
func (a *attempt) relocate(asked time.Time) error {
	l, err := a.p.cluster.topic(a.conns, asked)
	if err != nil {
		return err
	}
	if l.id != a.layout.id || len(l.leaders) < len(a.layout.leaders) {
		return &Error{Code: sarama.ErrUnknown, Op: "produce to", Topic: a.p.opts.Topic, Partition: -1, Err: errors.New("the topic was deleted and made anew while the part was being sent")}
	}
	return nil
}

// enlist makes a lane's partition part of the transaction.
func (a *attempt) enlist(l *lane) error {
	if a.txn == nil || l.enlisted {
		return nil
	}
	err := a.txn.enlist(l.partition)
	l.enlisted = err == nil
	return err
}

func (a *attempt) acknowledged(b *batch, duplicate bool) {
	a.p.budget.release(b.held)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.result.Rows += int64(len(b.entries))
	a.result.Bytes += int64(b.size + batchOverhead)
	a.result.Batches++
	if duplicate {
		a.result.Recognized++
	}
}

func (a *attempt) resent() {
	a.mu.Lock()
	a.result.Resent++
	a.mu.Unlock()
}

func (a *attempt) throttled(d time.Duration) {
	if d > 0 {
		a.mu.Lock()
		a.result.Throttled += d
		a.mu.Unlock()
	}
}

// shrink makes later batches smaller: the broker takes less than it said.
func (a *attempt) shrink(to int) {
	for {
		now := a.target.Load()
		if int64(to) >= now || a.target.CompareAndSwap(now, int64(max(to, 1))) {
			return
		}
	}
}

// reject sets a row aside.
func (a *attempt) reject(ordinal int64, why *Error) error {
	if a.part.Reject == nil {
		why.Err = fmt.Errorf("row %d: %w", ordinal, why.Err)
		return why
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.part.Reject(ordinal, why); err != nil {
		return fmt.Errorf("set row %d aside: %w", ordinal, err)
	}
	a.result.Rejected++
	return nil
}
