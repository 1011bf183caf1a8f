package partwise

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// lane sends the batches of one partition, in order, and sends again what wasn't
// acknowledged. See the package comment for the rules. One goroutine runs it;
// push and finish are for the one that fills.
type lane struct {
	a         *attempt
	partition int32

	mu     sync.Mutex
	queue  []*batch
	queued int64 // bytes of queue
	done   bool
	news   chan struct{} // one token when queue or done changed

	// The rest belongs to run.
	window   []*batch // sent or to be sent again, in order, none acknowledged
	flying   int      // of window, unanswered
	next     int32    // sequence number of the next new batch
	opened   bool     // the broker has acknowledged a batch of ours: it knows the producer
	trouble  error    // why sending stopped; sent again when nothing flies
	since    time.Time
	tries    int
	offset   int64 // after the last one acknowledged
	answers  chan answer
	enlisted bool
}

// flight is what a lane knows of a batch that it has sent.
type flight struct {
	sequence int32
	flying   bool
	doubt    bool // it was on a connection that was lost, or half written: it may be in the log
	refusal  *Error
	culprits []int32
	at       time.Time
	bytes    int64
}

type answer struct {
	b        *batch
	link     *link
	response *sarama.ProduceResponse
	err      error
}

func newLane(a *attempt, partition int32) *lane {
	return &lane{
		a: a, partition: partition, news: make(chan struct{}, 1), next: a.p.opts.firstSequence,
		answers: make(chan answer, a.p.opts.InFlight), offset: -1,
	}
}

// push hands over a batch.
func (l *lane) push(b *batch) {
	l.mu.Lock()
	l.queue = append(l.queue, b)
	l.queued += int64(b.size)
	l.mu.Unlock()
	l.signal()
}

// finish says that no batch will come.
func (l *lane) finish() {
	l.mu.Lock()
	l.done = true
	l.mu.Unlock()
	l.signal()
}

func (l *lane) signal() {
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// load is how many bytes wait to be sent.
func (l *lane) load() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queued
}

func (l *lane) pop() (b *batch, done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil, l.done
	}
	b = l.queue[0]
	l.queue[0] = nil
	l.queue = l.queue[1:]
	l.queued -= int64(b.size)
	return b, false
}

// run sends until all is acknowledged or set aside.
func (l *lane) run(ctx context.Context) error {
	for done := false; ; {
		if l.trouble != nil && l.flying == 0 {
			if err := l.recover(ctx); err != nil {
				return err
			}
		}
		for l.trouble == nil {
			var b *batch
			if b, done = l.due(); b == nil {
				break
			}
			if err := l.send(ctx, b); err != nil {
				return err
			}
		}
		switch {
		case l.trouble != nil && l.flying == 0:
			continue
		case done && len(l.window) == 0:
			return nil
		}
		select {
		case <-l.news:
		case ans := <-l.answers:
			if err := l.handle(ans); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// due is the batch to send now, if any: one of the window that doesn't fly, or a
// new one. Only the first InFlight of the window may fly, and until the broker
// knows the producer, only one.
func (l *lane) due() (b *batch, done bool) {
	most := l.a.p.opts.InFlight
	if !l.opened {
		most = 1
	}
	for i := 0; i < min(most, len(l.window)); i++ {
		if !l.window[i].sent.flying {
			return l.window[i], false
		}
	}
	if len(l.window) >= most {
		return nil, false
	}
	if b, done = l.pop(); b != nil {
		b.sent = flight{sequence: l.next}
		l.next = after(l.next, len(b.entries))
		l.window = append(l.window, b)
	}
	return b, done
}

// after is the sequence number n records on: they wrap around within the
// positive ones (Kafka's DefaultRecordBatch.incrementSequence).
func after(sequence int32, n int) int32 {
	return int32((int64(sequence) + int64(n)) & math.MaxInt32)
}

// send writes one batch. A failure to do so is trouble, not an error: the error
// is what ends the attempt.
func (l *lane) send(ctx context.Context, b *batch) error {
	if err := l.a.enlist(l); err != nil {
		return err
	}
	to, err := l.a.leader(l.partition)
	if err == nil {
		err = to.wait(ctx)
	}
	if err != nil {
		return l.stop(err)
	}
	if !b.sent.at.IsZero() {
		l.a.resent()
	}
	bytes := int64(b.size + batchOverhead)
	if err := l.a.p.gate.Acquire(ctx, bytes); err != nil {
		return fmt.Errorf("wait for the sink's backpressure: %w", err)
	}
	b.sent.flying, b.sent.refusal, b.sent.culprits, b.sent.bytes, b.sent.at = true, nil, nil, bytes, time.Now()
	l.flying++
	err = l.write(to, b)
	if err != nil { // no callback comes
		l.a.p.gate.Release(bytes, Outcome{Latency: time.Since(b.sent.at), Err: err})
		l.answers <- answer{b: b, link: to, err: err}
	}
	return nil
}

// write encodes a batch and writes it; the answer comes by l.answers.
func (l *lane) write(to *link, b *batch) error {
	a := l.a
	s, _ := a.p.scratch.Get().(*scratch)
	if s == nil {
		s = &scratch{}
	}
	records, first, last := s.of(b, a.p.opts.Now())
	encoded := &sarama.RecordBatch{
		Version: 2, Codec: a.p.codec, CompressionLevel: a.p.level, FirstTimestamp: first, MaxTimestamp: last,
		ProducerID: a.id, ProducerEpoch: a.epoch, FirstSequence: b.sent.sequence, IsTransactional: a.txn != nil,
		Records: records, LastOffsetDelta: int32(len(records) - 1),
	}
	request := &sarama.ProduceRequest{Version: 8, RequiredAcks: sarama.WaitForAll, Timeout: int32(a.p.opts.RequestTimeout * 3 / 4 / time.Millisecond)}
	if a.txn != nil {
		request.TransactionalID = &a.part.ID
	}
	request.AddBatch(a.p.opts.Topic, l.partition, encoded)
	bytes, at := b.sent.bytes, b.sent.at // b is the lane's again once it is answered
	err := to.broker.AsyncProduce(request, func(r *sarama.ProduceResponse, err error) {
		outcome := Outcome{Latency: time.Since(at), Err: err}
		if r != nil {
			outcome.Throttled = r.ThrottleTime
			to.throttle(r.ThrottleTime)
			if block := r.GetBlock(a.p.opts.Topic, l.partition); block != nil && block.Err != sarama.ErrNoError && block.Err != sarama.ErrDuplicateSequenceNumber {
				outcome.Err = coded("produce to", block.Err, "")
			}
		}
		a.p.gate.Release(bytes, outcome)
		l.answers <- answer{b, to, r, err}
	})
	*encoded = sarama.RecordBatch{} // the request lives until its answer; what was encoded need not
	s.drop(len(records))
	a.p.scratch.Put(s)
	return err
}

// handle takes one answer in.
func (l *lane) handle(ans answer) error {
	b := ans.b
	b.sent.flying = false
	l.flying--
	if ans.err != nil {
		l.a.conns.fail(produce, ans.link)
		b.sent.doubt = true
		e := broken(l.a.ctx, "produce to", ans.link.addr, ans.err)
		e.Topic, e.Partition = l.a.p.opts.Topic, l.partition
		return l.stop(e)
	}
	l.a.throttled(ans.response.ThrottleTime)
	block := ans.response.GetBlock(l.a.p.opts.Topic, l.partition)
	if block == nil {
		l.a.conns.fail(produce, ans.link)
		b.sent.doubt = true
		return l.stop(l.errorf(ans.link, "the broker's answer leaves the partition out"))
	}
	switch block.Err {
	case sarama.ErrNoError, sarama.ErrDuplicateSequenceNumber:
		return l.acknowledge(b, block, ans.link)
	case sarama.ErrOutOfOrderSequenceNumber:
		if b != l.window[0] { // one before it failed, which is why
			return l.stop(l.coded(block, ans.link))
		}
	}
	err := l.coded(block, ans.link)
	switch verdictOf(block.Err) {
	case maybe:
		b.sent.doubt = true
		return l.stop(err)
	case again, elsewhere:
		return l.stop(err)
	case refused:
		b.sent.refusal = err
		for _, c := range block.RecordErrors {
			b.sent.culprits = append(b.sent.culprits, c.BatchIndex)
		}
		return l.stop(err)
	}
	if err.Class == Fenced && l.a.txn == nil {
		err.Class = RetryPart // this producer id is nobody else's
	}
	return err
}

func (l *lane) errorf(to *link, format string, args ...any) *Error {
	return &Error{Op: "produce to", Topic: l.a.p.opts.Topic, Partition: l.partition, Broker: to.addr, Err: fmt.Errorf(format, args...)}
}

func (l *lane) coded(block *sarama.ProduceResponseBlock, to *link) *Error {
	message := ""
	if block.ErrorMessage != nil {
		message = *block.ErrorMessage
	}
	for _, c := range block.RecordErrors {
		if c.BatchIndexErrorMessage != nil && *c.BatchIndexErrorMessage != "" {
			message = *c.BatchIndexErrorMessage
			break
		}
	}
	e := coded("produce to", block.Err, message)
	e.Topic, e.Partition, e.Broker = l.a.p.opts.Topic, l.partition, to.addr
	return e
}

// acknowledge takes a batch off the window.
func (l *lane) acknowledge(b *batch, block *sarama.ProduceResponseBlock, from *link) error {
	if block.Err == sarama.ErrNoError && block.Offset >= 0 {
		if !b.sent.doubt && block.Offset < l.offset {
			return l.errorf(from, "the log went back: the broker wrote at offset %d, and at %d before", block.Offset, l.offset-1)
		}
		l.offset = max(l.offset, block.Offset+int64(len(b.entries)))
	}
	i := slices.Index(l.window, b)
	l.window = slices.Delete(l.window, i, i+1)
	l.opened, l.since, l.tries = true, time.Time{}, 0
	if l.trouble != nil { // of a batch behind this one
		l.since = time.Now()
	}
	l.a.acknowledged(b, block.Err == sarama.ErrDuplicateSequenceNumber)
	return nil
}

// stop notes trouble: nothing is sent until nothing flies. Errors that repeating
// can't help end the attempt.
func (l *lane) stop(err error) error {
	var e *Error
	if !errors.As(err, &e) || l.a.ctx.Err() != nil {
		return err
	}
	if e.Class == Sink || e.Class == Fenced {
		return err
	}
	if l.trouble == nil || verdictOf(e.Code) != giveUp {
		l.trouble = err
	}
	if l.since.IsZero() {
		l.since = time.Now()
	}
	return nil
}

// recover prepares for sending again what is not acknowledged, after a while, to
// whoever leads the partition then. Nothing flies.
func (l *lane) recover(ctx context.Context) error {
	if slices.ContainsFunc(l.window, func(b *batch) bool { return b.sent.refusal != nil }) {
		l.trouble = nil
		return l.reconsider()
	}
	if overdue(l.trouble, time.Since(l.since), l.a.p.opts.DeliveryTimeout) {
		return l.trouble
	}
	asked := time.Now()
	if err := sleep(ctx, backoff(l.tries)); err != nil {
		return err
	}
	l.tries++
	if err := l.a.relocate(asked); err != nil {
		if repeatable(err) && l.a.ctx.Err() == nil {
			l.trouble = err
			return nil // and again
		}
		return err
	}
	l.trouble = nil
	return nil
}

// reconsider takes refused batches apart: named records are set aside, a single
// one is, and without names the batch is halved. All from the first of them on are
// not in the log, so they can be numbered anew, unless that is in doubt.
func (l *lane) reconsider() error {
	var window []*batch
	var next int32
	renumber, dropped, freed := false, 0, int64(0)
	for _, b := range l.window {
		if b.sent.refusal != nil && !renumber {
			renumber, next = true, b.sent.sequence
		}
		kept := []*batch{b}
		if b.sent.refusal != nil {
			var err error
			if kept, err = l.dissect(b); err != nil {
				return err
			}
			freed += b.held
			for _, k := range kept {
				freed -= k.held
			}
		}
		was := len(b.entries)
		for _, k := range kept {
			was -= len(k.entries)
			if renumber {
				k.sent.sequence = next
				next = after(next, len(k.entries))
			}
			window = append(window, k)
		}
		if dropped += was; dropped > 0 && b.sent.doubt {
			return &Error{
				Op: "produce to", Topic: l.a.p.opts.Topic, Partition: l.partition,
				Err: errors.New("the broker refused records after a lost connection or a moving leader: what the log has after them isn't known"),
			}
		}
	}
	l.window, l.next = window, next
	l.a.p.budget.release(freed)
	return nil
}

// dissect sets records of a refused batch aside and returns what is left.
func (l *lane) dissect(b *batch) ([]*batch, error) {
	n, refusal := len(b.entries), b.sent.refusal
	guilty := map[int]bool{}
	for _, c := range b.sent.culprits {
		if c >= 0 && int(c) < n {
			guilty[int(c)] = true
		}
	}
	if n == 1 {
		guilty[0] = true
	}
	var kept []*batch
	if len(guilty) == 0 {
		if refusal.Code == sarama.ErrMessageSizeTooLarge || refusal.Code == sarama.ErrMessageSetSizeTooLarge {
			l.a.shrink(b.size / 2)
		}
		first, second := b.split()
		kept = append(kept, first, second)
	}
	for i := range b.entries {
		if guilty[i] {
			if err := l.a.reject(b.entries[i].ordinal, refusal); err != nil {
				return nil, err
			}
		}
	}
	if len(guilty) > 0 && len(guilty) < n {
		kept = append(kept, b.part(func(i int) bool { return !guilty[i] }))
	}
	for _, k := range kept {
		k.sent.doubt = b.sent.doubt
	}
	return kept, nil
}
