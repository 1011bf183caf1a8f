package partwise

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
	"github.com/apache/arrow-go/v18/arrow"
)

// Part is immutable rows: every attempt gives the same ones in the same order.
type Part struct {
	// ID is the same for every attempt, and no other part's: with
	// EffectivelyOnce it is the transactional id and the token's group, so
	// something like "kq/<run>/<sink>/<part>".
	ID       string
	Checksum string // of the content; at most 1,024 bytes
	Rows     int64  // -1: not known beforehand
	// FirstAttempt is when the first attempt began that may have come as far as a
	// commit; zero: there was none.
	FirstAttempt time.Time
	// Batches are the rows. A batch need only stay valid until the next is asked for.
	Batches iter.Seq2[arrow.RecordBatch, error]
	// Reject takes a row that can't be published: its place in the part, from 0,
	// and why. It is called by one goroutine at a time, in no order; a failed
	// attempt's rejections are void, and the next one makes its own. An error of
	// Reject ends the attempt. nil: a rejection ends the attempt.
	Reject func(ordinal int64, why error) error
	// Settle, if there is one, is called when all rows are acknowledged or
	// rejected, before the commit: what Reject took must be durable when it
	// returns, since a committed part is never sent again.
	Settle func(ctx context.Context) error
}

// Result is what became of a part.
type Result struct {
	Rows      int64 // acknowledged
	Rejected  int64
	Committed bool // an earlier attempt had committed it: nothing was sent, Rows and Rejected are the token's

	Bytes      int64         // of record batches before compression
	Batches    int64         // acknowledged
	Resent     int64         // batches that were sent more than once, each time counted
	Recognized int64         // batches that the broker said it had already
	Throttled  time.Duration // that brokers asked for
}

// Producer publishes parts to one topic. It is safe for concurrent use; attempts
// share its memory budget, what it knows of the cluster, and idle connections,
// but none in use.
type Producer struct {
	opts    Options
	codec   sarama.CompressionCodec
	level   int
	gate    Gate
	budget  budget
	pool    pool
	cluster cluster
	scratch sync.Pool // of *scratch
	users   sync.WaitGroup
	mu      sync.Mutex
	closed  bool
	ctx     context.Context
	cancel  context.CancelCauseFunc
}

// Open checks the options. No broker is asked before the first part; Check asks.
func Open(opts Options) (*Producer, error) {
	opts, err := opts.normalized()
	if err != nil {
		return nil, err
	}
	conf, err := opts.config()
	if err != nil {
		return nil, err
	}
	p := &Producer{opts: opts, codec: codecs[opts.Compression], level: opts.CompressionLevel, gate: opts.Gate, budget: budget{max: opts.MaxBytes}}
	if p.level == 0 {
		p.level = sarama.CompressionLevelDefault
	}
	if p.gate == nil {
		p.gate = open{}
	}
	p.ctx, p.cancel = context.WithCancelCause(context.Background())
	p.pool = pool{opts: &p.opts, conf: conf, idle: map[string][]*link{}}
	p.cluster = cluster{opts: &p.opts}
	return p, nil
}

// Check asks the brokers for the topic, so that wrong addresses, credentials and
// names come up before any work. It returns the number of partitions.
func (p *Producer) Check(ctx context.Context) (partitions int, err error) {
	ctx, done, err := p.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer done()
	a, err := p.begin(ctx, &Part{})
	if err != nil {
		return 0, err
	}
	a.end(true)
	return len(a.layout.leaders), nil
}

// enter counts a user in and makes its context end with the Producer.
func (p *Producer) enter(ctx context.Context) (context.Context, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrClosed
	}
	p.users.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ctx, func() { cancel(ErrClosed) })
	return ctx, func() { stop(); cancel(context.Canceled); p.users.Done() }, nil
}

// Close ends attempts that still run, waits for them and closes all connections.
func (p *Producer) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.cancel(ErrClosed)
	p.users.Wait()
	p.pool.close()
}

// Publish sends one part. The error's class (ClassOf) says whether and how to try
// again; see Delivery for what then is on the topic. When it returns, nothing of
// the attempt is under way from this side.
func (p *Producer) Publish(ctx context.Context, part Part) (Result, error) {
	if err := part.check(p.opts.Delivery); err != nil {
		return Result{}, err
	}
	ctx, done, err := p.enter(ctx)
	if err != nil {
		return Result{}, err
	}
	defer done()
	a, err := p.begin(ctx, &part)
	if err != nil {
		return Result{}, err
	}
	if p.opts.Delivery == EffectivelyOnce {
		a.txn = &txn{a: a, where: map[sarama.CoordinatorType]string{}}
		err = a.once()
	} else {
		err = a.repeatedly()
	}
	a.end(err == nil)
	if err != nil && a.txn != nil && ClassOf(err) != CommitUnknown && ClassOf(err) != Fenced {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(p.opts.RequestTimeout, 5*time.Second))
		a.txn.abort(ctx)
		cancel()
	}
	return a.result, err
}

func (part *Part) check(d Delivery) error {
	switch {
	case part.Batches == nil:
		return &Error{Class: Sink, Op: "publish", Partition: -1, Err: errors.New("the part has no rows to read")}
	case d == EffectivelyOnce && part.ID == "":
		return &Error{Class: Sink, Op: "publish", Partition: -1, Err: errors.New("effectively-once needs an id for the part")}
	case len(part.Checksum) > 1024:
		return &Error{Class: Sink, Op: "publish part " + strconv.Quote(part.ID), Partition: -1, Err: fmt.Errorf("a checksum of %d bytes", len(part.Checksum))}
	}
	return nil
}

// repeatedly sends the part whatever there is of it already.
func (a *attempt) repeatedly() error {
	err := a.p.cluster.retry(a.ctx, func() error {
		answer, addr, err := anyBroker(&a.p.cluster, a.conns, "get a producer id for", func(b *sarama.Broker) (*sarama.InitProducerIDResponse, error) {
			return b.InitProducerID(&sarama.InitProducerIDRequest{Version: 4, TransactionTimeout: time.Minute, ProducerID: -1, ProducerEpoch: -1})
		})
		if err != nil {
			return err
		}
		if answer.Err != sarama.ErrNoError {
			e := coded("get a producer id for", answer.Err, "")
			e.Topic, e.Broker = a.p.opts.Topic, addr
			return e
		}
		a.id, a.epoch = answer.ProducerID, answer.ProducerEpoch
		return nil
	})
	if err != nil {
		return err
	}
	if err := a.stream(); err != nil {
		return err
	}
	return a.settle()
}

// once sends the part unless it is committed, and commits it.
func (a *attempt) once() error {
	if err := a.txn.fence(); err != nil {
		return err
	}
	found, err := a.txn.decide()
	if err != nil {
		return err
	}
	if found != nil {
		a.result = Result{Committed: true, Rows: found.Rows - found.Rejected, Rejected: found.Rejected}
		return nil
	}
	if err := a.stream(); err != nil {
		return err
	}
	if err := a.settle(); err != nil {
		return err
	}
	return a.txn.commit()
}

func (a *attempt) settle() error {
	if a.part.Settle == nil {
		return nil
	}
	if err := a.part.Settle(a.ctx); err != nil {
		return fmt.Errorf("settle rejected rows: %w", err)
	}
	return nil
}
