package partwise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// token is what a committed part leaves behind: the metadata of an offset of the
// part's own group, at most 4,096 bytes by the broker's default.
type token struct {
	Version  int    `json:"kq"`
	Checksum string `json:"checksum"`
	Rows     int64  `json:"rows"`     // of the part
	Rejected int64  `json:"rejected"` // of these, set aside
}

// txn is the transaction of an attempt. Coordinators are looked up anew whenever
// they say that they are none or don't answer.
type txn struct {
	a       *attempt
	version int16 // of InitProducerId that the broker speaks

	mu      sync.Mutex // one request to the transaction's coordinator at a time
	waiting []int32    // partitions to add
	added   []int32
	failed  error
	open    bool

	find  sync.Mutex
	where map[sarama.CoordinatorType]string
}

// toCoordinator sends a request to a coordinator until its code is settled.
// The request must bear repeating.
func toCoordinator[T any](t *txn, kind sarama.CoordinatorType, op string, request func(*sarama.Broker) (T, error), code func(T) (sarama.KError, string)) (T, error) {
	var answer T
	err := t.a.p.cluster.retry(t.a.ctx, func() error {
		addr, err := t.coordinator(kind)
		if err != nil {
			return err
		}
		if answer, err = ask(t.a.conns, op, addr, request); err != nil {
			t.forget(kind, addr)
			return err
		}
		c, topic := code(answer)
		if c == sarama.ErrNoError {
			return nil
		}
		if v := verdictOf(c); v == elsewhere || v == maybe {
			t.forget(kind, addr)
		}
		e := coded(op, c, "")
		e.Broker, e.Topic = addr, topic
		return e
	})
	return answer, err
}

func (t *txn) coordinator(kind sarama.CoordinatorType) (string, error) {
	t.find.Lock()
	defer t.find.Unlock()
	if addr := t.where[kind]; addr != "" {
		return addr, nil
	}
	addr, err := t.a.p.cluster.coordinator(t.a.conns, kind, t.a.part.ID)
	if err == nil {
		t.where[kind] = addr
	}
	return addr, err
}

func (t *txn) forget(kind sarama.CoordinatorType, addr string) {
	t.find.Lock()
	defer t.find.Unlock()
	if t.where[kind] == addr {
		delete(t.where, kind)
	}
}

// fence ends what earlier attempts have open, and makes sure that none of them
// can commit any more.
func (t *txn) fence() error {
	p := t.a.p
	_, limits := p.cluster.known()
	if limits.maxTransaction > 0 && p.opts.TransactionTimeout > limits.maxTransaction {
		return &Error{Class: Sink, Op: "begin a transaction", Partition: -1, Err: fmt.Errorf(
			"the transaction timeout of %s is larger than the broker's transaction.max.timeout.ms, %s", p.opts.TransactionTimeout, limits.maxTransaction)}
	}
	answer, err := toCoordinator(t, sarama.CoordinatorTransaction, "fence earlier attempts of "+strconv.Quote(t.a.part.ID), func(b *sarama.Broker) (*sarama.InitProducerIDResponse, error) {
		return b.InitProducerID(&sarama.InitProducerIDRequest{Version: 4, TransactionalID: &t.a.part.ID, TransactionTimeout: p.opts.TransactionTimeout, ProducerID: -1, ProducerEpoch: -1})
	}, func(r *sarama.InitProducerIDResponse) (sarama.KError, string) { return r.Err, "" })
	if err != nil {
		return err
	}
	t.a.id, t.a.epoch, t.version = answer.ProducerID, answer.ProducerEpoch, answer.Version
	return nil
}

// token returns what an earlier attempt committed, or nil. Only after fence does
// nil mean that nothing is committed and nothing will be.
func (t *txn) token() (*token, error) {
	topic := t.a.p.opts.TokenTopic
	answer, err := toCoordinator(t, sarama.CoordinatorGroup, "ask for the token of "+strconv.Quote(t.a.part.ID), func(b *sarama.Broker) (*sarama.OffsetFetchResponse, error) {
		r := &sarama.OffsetFetchRequest{Version: 7, ConsumerGroup: t.a.part.ID, RequireStable: true}
		r.AddPartition(topic, 0)
		return b.FetchOffset(r)
	}, func(r *sarama.OffsetFetchResponse) (sarama.KError, string) {
		if r.Err != sarama.ErrNoError {
			return r.Err, ""
		}
		if block := r.GetBlock(topic, 0); block != nil {
			return block.Err, topic
		}
		return sarama.ErrNoError, ""
	})
	var e *Error
	if errors.As(err, &e) && e.Code == sarama.ErrGroupIDNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	block := answer.GetBlock(topic, 0)
	if block == nil {
		return nil, &Error{Op: "ask for the token", Topic: topic, Partition: 0, Err: errors.New("the broker's answer leaves the partition out")}
	}
	if block.Offset < 0 {
		return nil, nil
	}
	found := &token{}
	if err := json.Unmarshal([]byte(block.Metadata), found); err != nil || found.Version != 1 {
		return nil, &Error{Class: Sink, Op: "ask for the token", Topic: topic, Partition: 0, Err: fmt.Errorf(
			"group %q has an offset that is no token of kq: %q: %w", t.a.part.ID, block.Metadata, ErrTokenMismatch)}
	}
	return found, nil
}

// decide says whether the part is committed. If it isn't, the attempt may go on.
func (t *txn) decide() (*token, error) {
	part := t.a.part
	found, err := t.token()
	if err != nil {
		return nil, err
	}
	if found != nil {
		if found.Checksum != part.Checksum || part.Rows >= 0 && found.Rows != part.Rows {
			return nil, &Error{Class: Sink, Op: "publish part " + strconv.Quote(part.ID), Topic: t.a.p.opts.Topic, Partition: -1, Err: fmt.Errorf(
				"%w: checksum %s and %d rows there, %s and %d here", ErrTokenMismatch, found.Checksum, found.Rows, part.Checksum, part.Rows)}
		}
		return found, nil
	}
	_, limits := t.a.p.cluster.known()
	keeps := limits.tokenLifetime - limits.tokenLifetime/10
	if age := t.a.p.opts.Now().Sub(part.FirstAttempt); !part.FirstAttempt.IsZero() && age > keeps {
		return nil, &Error{Class: Sink, Op: "publish part " + strconv.Quote(part.ID), Topic: t.a.p.opts.Topic, Partition: -1, Err: fmt.Errorf(
			"%w: first tried %s ago, and a token is kept for %s (of which a tenth is left out, for clocks)", ErrTokenExpired, age.Round(time.Second), limits.tokenLifetime)}
	}
	return nil, nil
}

// enlist adds a partition to the transaction. Lanes that ask at the same time
// share one request.
func (t *txn) enlist(partition int32) error {
	t.find.Lock()
	t.waiting = append(t.waiting, partition)
	t.find.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failed != nil || slices.Contains(t.added, partition) {
		return t.failed
	}
	if !t.open {
		t.open = true
		// Past its timeout the coordinator aborts the transaction: nothing that is
		// sent after that can be committed.
		timer := time.AfterFunc(t.a.p.opts.TransactionTimeout, func() { t.a.cancel(t.overtime()) })
		context.AfterFunc(t.a.ctx, func() { timer.Stop() })
	}
	t.find.Lock()
	partitions := t.waiting
	t.waiting = nil
	t.find.Unlock()
	topic := t.a.p.opts.Topic
	_, err := toCoordinator(t, sarama.CoordinatorTransaction, "add partitions to the transaction", func(b *sarama.Broker) (*sarama.AddPartitionsToTxnResponse, error) {
		return b.AddPartitionsToTxn(&sarama.AddPartitionsToTxnRequest{
			Version: 3, TransactionalID: t.a.part.ID, ProducerID: t.a.id, ProducerEpoch: t.a.epoch, TopicPartitions: map[string][]int32{topic: partitions},
		})
	}, func(r *sarama.AddPartitionsToTxnResponse) (sarama.KError, string) {
		return partitionsCode(r.Errors[topic], len(partitions)), topic
	})
	if err != nil {
		t.failed = err
		return err
	}
	t.added = append(t.added, partitions...)
	return nil
}

func (t *txn) overtime() *Error {
	return &Error{Class: Fenced, Op: "produce to", Topic: t.a.p.opts.Topic, Partition: -1, Err: fmt.Errorf(
		"the transaction timeout of %s passed before the part was sent: make it larger (at most the broker's transaction.max.timeout.ms), or parts smaller", t.a.p.opts.TransactionTimeout)}
}

// partitionsCode is the code that counts of many: the first that isn't a mere
// consequence of another. An answer that leaves partitions out is none.
func partitionsCode(errs []*sarama.PartitionError, want int) sarama.KError {
	code := sarama.ErrNoError
	for _, e := range errs {
		if e.Err != sarama.ErrNoError && (code == sarama.ErrNoError || code == sarama.ErrOperationNotAttempted) {
			code = e.Err
		}
	}
	if code == sarama.ErrNoError && len(errs) < want {
		return sarama.ErrUnknown
	}
	return code
}

// commit puts the token into the transaction and commits it.
func (t *txn) commit() error {
	a := t.a
	id, topic := a.part.ID, a.p.opts.TokenTopic
	metadata, err := json.Marshal(token{1, a.part.Checksum, a.ordinal, a.result.Rejected})
	if err != nil {
		return err
	}
	text := string(metadata)
	_, err = toCoordinator(t, sarama.CoordinatorTransaction, "add the token to the transaction", func(b *sarama.Broker) (*sarama.AddOffsetsToTxnResponse, error) {
		return b.AddOffsetsToTxn(&sarama.AddOffsetsToTxnRequest{Version: 3, TransactionalID: id, ProducerID: a.id, ProducerEpoch: a.epoch, GroupID: id})
	}, func(r *sarama.AddOffsetsToTxnResponse) (sarama.KError, string) { return r.Err, "" })
	if err != nil {
		return err
	}
	t.open = true
	_, err = toCoordinator(t, sarama.CoordinatorGroup, "write the token", func(b *sarama.Broker) (*sarama.TxnOffsetCommitResponse, error) {
		return b.TxnOffsetCommit(&sarama.TxnOffsetCommitRequest{
			Version: 3, TransactionalID: id, GroupID: id, ProducerID: a.id, ProducerEpoch: a.epoch, GenerationID: -1,
			Topics: map[string][]*sarama.PartitionOffsetMetadata{topic: {{Partition: 0, Offset: a.ordinal, LeaderEpoch: -1, Metadata: &text}}},
		})
	}, func(r *sarama.TxnOffsetCommitResponse) (sarama.KError, string) {
		return partitionsCode(r.Topics[topic], 1), topic
	})
	if err != nil {
		return err
	}
	return t.end()
}

// end commits. It is asked again only where the coordinator said that it did
// nothing; whatever else is not a yes leaves the commit unknown, and Fenced a
// clear no.
func (t *txn) end() error {
	a := t.a
	unknown := false
	err := a.p.cluster.retry(a.ctx, func() error {
		const op = "commit the transaction"
		addr, err := t.coordinator(sarama.CoordinatorTransaction)
		if err != nil {
			return err
		}
		answer, err := ask(a.conns, op, addr, func(b *sarama.Broker) (*sarama.EndTxnResponse, error) {
			return b.EndTxn(&sarama.EndTxnRequest{Version: 3, TransactionalID: a.part.ID, ProducerID: a.id, ProducerEpoch: a.epoch, TransactionResult: true})
		})
		if err != nil {
			unknown = true
			return &Error{Class: CommitUnknown, Op: op, Partition: -1, Broker: addr, Err: err}
		}
		if answer.Err == sarama.ErrNoError {
			return nil
		}
		e := coded(op, answer.Err, "")
		e.Broker = addr
		switch v := verdictOf(answer.Err); {
		case answer.Err == sarama.ErrConsumerCoordinatorNotAvailable || v == maybe || v == giveUp:
			unknown = true // its log may have it
			t.forget(sarama.CoordinatorTransaction, addr)
		case v == elsewhere:
			t.forget(sarama.CoordinatorTransaction, addr)
		}
		return e
	})
	var e *Error
	if err != nil && unknown && errors.As(err, &e) {
		e.Class = CommitUnknown
	}
	return err
}

// abort ends the transaction of an attempt that failed, for the sake of readers:
// without it they would wait for the next attempt, or the timeout. Where it can't
// be done nothing is lost. ctx is not the attempt's, which has ended.
func (t *txn) abort(ctx context.Context) {
	if !t.open || t.version < 3 { // older brokers would let us fence our successor
		return
	}
	conns := newConns(ctx, &t.a.p.pool)
	addr, err := t.a.p.cluster.coordinator(conns, sarama.CoordinatorTransaction, t.a.part.ID)
	if err == nil {
		_, err = ask(conns, "abort", addr, func(b *sarama.Broker) (*sarama.InitProducerIDResponse, error) {
			return b.InitProducerID(&sarama.InitProducerIDRequest{
				Version: 4, TransactionalID: &t.a.part.ID, TransactionTimeout: t.a.p.opts.TransactionTimeout, ProducerID: t.a.id, ProducerEpoch: t.a.epoch,
			})
		})
	}
	conns.close(err == nil)
}
