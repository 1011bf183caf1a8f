package partwise

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// hasty are options under which faults are over soon.
func hasty(addrs []string, topic string, d Delivery, in *injector) Options {
	return Options{
		Brokers: addrs, Topic: topic, Columns: keyed, Delivery: d, BatchBytes: 400, Dial: in.dial,
		RequestTimeout: 200 * time.Millisecond, DeliveryTimeout: 1500 * time.Millisecond, TransactionTimeout: 20 * time.Second,
	}
}

// trial publishes a part under an injector and then, as a caller would, again
// without one until it is there. It returns what the first attempt gave.
func trial(t *testing.T, addrs []string, topic string, d Delivery, in *injector, part Part) (Result, error) {
	t.Helper()
	p := publisher(t, hasty(addrs, topic, d, in))
	defer p.Close()
	result, first := p.Publish(context.Background(), part)
	if first == nil {
		return result, nil
	}
	in.mu.Lock()
	in.choose, in.tamper = nil, nil
	in.mu.Unlock()
	for n := 0; ; n++ {
		_, err := p.Publish(context.Background(), part)
		if err == nil {
			return result, first
		}
		if n == 4 {
			t.Fatalf("after %v, without any fault: %v", first, err)
		}
	}
}

// sweep does one kind of harm to request 0, 1, 2, … until a part is through
// before its turn comes, and reads all parts back.
func sweep(t *testing.T, addrs []string, topic string, d Delivery, kind faultKind, code int16) {
	rowsOf := map[string]int{}
	for n := 0; ; n++ {
		id := fmt.Sprintf("%s-%d-%d", kind, d, n)
		part := partOf(id, 60, 2)
		in := &injector{choose: at(n, kind, code)}
		rowsOf[id] = 60
		res, err := trial(t, addrs, topic, d, in, part)
		if in.hits == 0 {
			if n < 8 || err != nil || res.Rows != 60 {
				t.Errorf("swept only %d requests: %+v, %v", n, res, err)
			}
			t.Logf("%s: %d requests swept", kind, n)
			break
		}
		if c := ClassOf(err); err != nil && (c == Sink || c == Record || c == Fenced) {
			t.Errorf("request %d: class %s: %v", n, c, err)
		}
		if n > 200 {
			t.Fatal("no end")
		}
	}
	verifyAll(t, addrs, topic, rowsOf, d == EffectivelyOnce)
}

func verifyAll(t *testing.T, addrs []string, topic string, rowsOf map[string]int, once bool) {
	t.Helper()
	all := readAll(t, addrs, topic, once)
	c := count(t, all)
	if once {
		inOrder(t, all)
	}
	for id, n := range rowsOf {
		if err := c.verify(id, n, once); err != nil {
			t.Error(err)
		}
	}
	if len(c) != len(rowsOf) {
		t.Errorf("%d parts on the topic, %d sent", len(c), len(rowsOf))
	}
}

func TestSweepConnections(t *testing.T) {
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		for _, kind := range []faultKind{cutEarly, cutLate, silence} {
			t.Run(fmt.Sprintf("%d/%s", d, kind), func(t *testing.T) {
				_, addrs := fake(t)
				sweep(t, addrs, "t", d, kind, 0)
			})
		}
	}
}

// keysOf are the requests of an attempt that have a code in their answer.
func keysOf(d Delivery) []kmsg.Key {
	keys := []kmsg.Key{kmsg.Metadata, kmsg.DescribeConfigs, kmsg.InitProducerID, kmsg.Produce}
	if d == EffectivelyOnce {
		keys = append(keys, kmsg.FindCoordinator, kmsg.OffsetFetch, kmsg.AddPartitionsToTxn, kmsg.AddOffsetsToTxn, kmsg.TxnOffsetCommit, kmsg.EndTxn)
	}
	return keys
}

// TestSweepCodes answers each kind of request with each error code of Kafka's,
// whether the broker did it or not.
func TestSweepCodes(t *testing.T) {
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		for _, key := range keysOf(d) {
			t.Run(fmt.Sprintf("%d/%s", d, key.Name()), func(t *testing.T) {
				_, addrs := fake(t)
				rowsOf := map[string]int{}
				for code := range codes {
					for _, kind := range []faultKind{refuse, belie} {
						if kind == refuse && code == sarama.ErrDuplicateSequenceNumber && key == kmsg.Produce {
							continue // a broker that says it has what it hasn't
						}
						if kind == belie && verdictOf(code) == refused && key == kmsg.Produce {
							continue // a broker that writes what it says it refused: no client can know
						}
						n := 0
						if key == kmsg.Produce {
							n = int(uint16(code)) % 4 // the first of a lane, or a later one
						}
						id := fmt.Sprintf("%s-%s-%d-%d", key.Name(), kind, code, d)
						rowsOf[id] = 60
						in := &injector{choose: nth(int16(key), n, kind, int16(code))}
						_, err := trial(t, addrs, "t", d, in, partOf(id, 60, 2))
						if in.hits == 0 {
							t.Errorf("%s: never sent", id)
						}
						checkClass(t, key, kind, code, err)
					}
				}
				verifyAll(t, addrs, "t", rowsOf, d == EffectivelyOnce)
			})
		}
	}
}

// checkClass checks what the caller is told about a code.
func checkClass(t *testing.T, key kmsg.Key, kind faultKind, code sarama.KError, err error) {
	t.Helper()
	v := verdictOf(code)
	if err == nil {
		if v == giveUp && key != kmsg.DescribeConfigs && code != sarama.ErrDuplicateSequenceNumber && code != sarama.ErrGroupIDNotFound && code != sarama.ErrOutOfOrderSequenceNumber {
			t.Errorf("%s %s %d: no error", key.Name(), kind, code)
		}
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Errorf("%s %s %d: %T %v", key.Name(), kind, code, err, err)
		return
	}
	want := RetryPart
	switch {
	case v == hopeless, code == sarama.ErrUnknownTopicOrPartition && e.Class == Sink: // it stays unknown
		want = Sink
	case v == fenced && (key != kmsg.Produce || e.Class != RetryPart):
		want = Fenced
	case v == refused:
		want = Record
	}
	if key == kmsg.EndTxn && e.Class == CommitUnknown {
		return // always true of a commit
	}
	if e.Class != want && e.Code == code {
		t.Errorf("%s %s %d: class %s, want %s: %v", key.Name(), kind, code, e.Class, want, err)
	}
}

// TestStorm does harm at random, to every request in so many, attempt after
// attempt.
func TestStorm(t *testing.T) {
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			_, addrs := fake(t)
			storm(t, addrs, "t", d, 25, 7)
		})
	}
}

func storm(t *testing.T, addrs []string, topic string, d Delivery, parts int, seed uint64) {
	rowsOf := map[string]int{}
	attempts, failed := 0, 0
	for i := range parts {
		id := fmt.Sprintf("storm-%d-%d", d, i)
		rowsOf[id] = 120
		for n := 0; ; n++ {
			in := &injector{}
			if n < 12 {
				in.choose = nowAndThen(seed+uint64(i*100+n), 5+3*n, cutEarly, cutLate, silence, refuse, belie)
			}
			p := publisher(t, hasty(addrs, topic, d, in))
			_, err := p.Publish(context.Background(), partOf(id, 120, 3))
			p.Close()
			attempts++
			if err == nil {
				break
			}
			failed++
			if n == 15 {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d parts, %d attempts, %d failed", parts, attempts, failed)
	verifyAll(t, addrs, topic, rowsOf, d == EffectivelyOnce)
}
