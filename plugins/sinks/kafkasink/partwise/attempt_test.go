package partwise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func TestToken(t *testing.T) {
	_, addrs := fake(t)
	now := time.Now()
	p := publisher(t, Options{Brokers: addrs, Delivery: EffectivelyOnce, TokenLifetime: 10 * time.Hour, Now: func() time.Time { return now }})
	part := partOf("token", 100, 2)
	part.Reject = func(int64, error) error { return nil }
	if res, err := p.Publish(context.Background(), part); err != nil || res.Committed {
		t.Fatalf("%+v, %v", res, err)
	}
	part.FirstAttempt = now.Add(-100 * time.Hour) // however long ago: the token is there
	if res, err := p.Publish(context.Background(), part); err != nil || !res.Committed || res.Rows != 100 {
		t.Errorf("%+v, %v", res, err)
	}
	for name, other := range map[string]Part{"checksum": {Checksum: "else", Rows: 100}, "rows": {Checksum: part.Checksum, Rows: 99}} {
		other.ID, other.Batches = part.ID, part.Batches
		_, err := p.Publish(context.Background(), other)
		if !errors.Is(err, ErrTokenMismatch) || ClassOf(err) != Sink {
			t.Errorf("%s: %v", name, err)
		}
	}
	late := partOf("late", 100, 2)
	late.FirstAttempt = now.Add(-9*time.Hour - time.Second)
	if _, err := p.Publish(context.Background(), late); !errors.Is(err, ErrTokenExpired) || ClassOf(err) != Sink {
		t.Error(err)
	}
	late.FirstAttempt = now.Add(-8 * time.Hour)
	if res, err := p.Publish(context.Background(), late); err != nil || res.Rows != 100 {
		t.Errorf("%+v, %v", res, err)
	}
	none := partOf("none", 0, 0)
	for _, committed := range []bool{false, true} {
		if res, err := p.Publish(context.Background(), none); err != nil || res.Rows != 0 || res.Committed != committed {
			t.Errorf("a part without rows: %+v, %v", res, err)
		}
	}
	verifyAll(t, addrs, "t", map[string]int{"token": 100, "late": 100}, true)
}

// TestCommitUnknown loses the answer to the commit: it is told as such, and the
// token knows.
func TestCommitUnknown(t *testing.T) {
	_, addrs := fake(t)
	for _, c := range []struct {
		kind      faultKind
		committed bool
	}{{cutLate, true}, {silence, true}, {cutEarly, false}} {
		id := "unknown-" + c.kind.String()
		p := publisher(t, hasty(addrs, "t", EffectivelyOnce, &injector{choose: nth(int16(kmsg.EndTxn), 0, c.kind, 0)}))
		settled := 0
		part := partOf(id, 100, 2)
		part.Settle = func(context.Context) error { settled++; return nil }
		if _, err := p.Publish(context.Background(), part); ClassOf(err) != CommitUnknown || settled != 1 {
			t.Errorf("%s: %v: %v, settled %d times", id, ClassOf(err), err, settled)
		}
		res, err := p.Publish(context.Background(), part)
		if err != nil || res.Committed != c.committed || res.Rows != 100 {
			t.Errorf("%s: %+v, %v", id, res, err)
		}
		p.Close()
	}
	verifyAll(t, addrs, "t", map[string]int{"unknown-cut late": 100, "unknown-silence": 100, "unknown-cut early": 100}, true)
}

// TestFenced lets a second attempt begin while the first is at work.
func TestFenced(t *testing.T) {
	_, addrs := fake(t)
	p := publisher(t, Options{Brokers: addrs, Delivery: EffectivelyOnce, BatchBytes: 400})
	var second error
	old := partOf("fenced", 2000, 2)
	old.Batches = hooked(old.Batches, 20, func() {
		_, second = p.Publish(context.Background(), partOf("fenced", 2000, 2))
	})
	_, first := p.Publish(context.Background(), old)
	if second != nil || ClassOf(first) != Fenced {
		t.Errorf("the newer one: %v; the older one: %s, %v", second, ClassOf(first), first)
	}
	verifyAll(t, addrs, "t", map[string]int{"fenced": 2000}, true)
}

// TestLeadersMove moves partitions and coordinators about while parts are sent.
func TestLeadersMove(t *testing.T) {
	c, addrs := fake(t, kfake.NumBrokers(3))
	rowsOf := map[string]int{}
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		p := publisher(t, Options{Brokers: addrs, Delivery: d, BatchBytes: 600})
		id := fmt.Sprint("move-", d)
		rowsOf[id] = 8000
		part := partOf(id, 8000, 2)
		inner, n := part.Batches, 0
		part.Batches = func(yield func(arrow.RecordBatch, error) bool) {
			for b, err := range inner {
				if n++; n%15 == 0 {
					c.ShufflePartitionLeaders()
					c.RehashCoordinators()
				}
				if !yield(b, err) {
					return
				}
			}
		}
		res, err := p.Publish(context.Background(), part)
		if err != nil || res.Resent == 0 {
			t.Errorf("%+v, %v", res, err)
		}
		t.Logf("%+v", res)
	}
	all := readAll(t, addrs, "t", true)
	inOrder(t, all)
	for id, n := range rowsOf {
		if err := count(t, all).verify(id, n, true); err != nil {
			t.Error(err)
		}
	}
}

// TestTopicMadeAnew deletes the topic under a part and makes it again: what was
// acknowledged is gone, so the attempt must not go on.
func TestTopicMadeAnew(t *testing.T) {
	c, addrs := fake(t)
	p := publisher(t, Options{Brokers: addrs, BatchBytes: 400, DeliveryTimeout: 5 * time.Second})
	part := partOf("anew", 2000, 2)
	part.Batches = hooked(part.Batches, 20, func() {
		if err := c.DeleteTopic("t"); err != nil {
			t.Error(err)
		}
		time.Sleep(50 * time.Millisecond) // batches meet it gone
		if err := c.CreateTopic("t", 4, nil); err != nil {
			t.Error(err)
		}
	})
	if _, err := p.Publish(context.Background(), part); err == nil || ClassOf(err) != RetryPart {
		t.Errorf("%s: %v", ClassOf(err), err)
	}
	if res, err := p.Publish(context.Background(), partOf("anew", 2000, 2)); err != nil || res.Rows != 2000 {
		t.Errorf("%+v, %v", res, err)
	}
}

// TestCancel ends attempts at every request.
func TestCancel(t *testing.T) {
	_, addrs := fake(t)
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		for n := 0; ; n++ {
			ctx, cancel := context.WithCancelCause(context.Background())
			reason := errors.New("enough")
			in := &injector{}
			in.seen = func(i int, _ int16, _ []byte) {
				if i == n {
					in.hits++
					cancel(reason)
				}
			}
			p := publisher(t, hasty(addrs, "t", d, in))
			_, err := p.Publish(ctx, partOf(fmt.Sprintf("cancel-%d-%d", d, n), 60, 2))
			p.Close()
			cancel(nil)
			if in.hits == 0 {
				if err != nil || n < 8 {
					t.Errorf("%d: %v", n, err)
				}
				break
			}
			if err != nil && !errors.Is(err, reason) {
				t.Errorf("request %d: %v", n, err)
			}
		}
	}
	p := publisher(t, Options{Brokers: addrs})
	p.Close()
	if _, err := p.Publish(context.Background(), partOf("closed", 1, 1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// TestCallersErrors: what the caller's own code returns comes back.
func TestCallersErrors(t *testing.T) {
	_, addrs := fake(t)
	mine := errors.New("mine")
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		p := publisher(t, Options{Brokers: addrs, Delivery: d, MaxMessageBytes: 2000})
		reader := partOf("reader", 10, 1)
		reader.Batches = func(yield func(arrow.RecordBatch, error) bool) { yield(nil, mine) }
		settle := partOf("settle", 10, 1)
		settle.Settle = func(context.Context) error { return mine }
		reject := Part{ID: "reject", Rows: 10, Batches: oversized("reject", 10, 5, 4000), Reject: func(int64, error) error { return mine }}
		for _, part := range []Part{reader, settle, reject} {
			if _, err := p.Publish(context.Background(), part); !errors.Is(err, mine) || ClassOf(err) != RetryPart {
				t.Errorf("%s: %v", part.ID, err)
			}
		}
		wrong := partOf("wrong", 10, 1)
		wrong.Rows = 11
		if _, err := p.Publish(context.Background(), wrong); err == nil || !strings.Contains(err.Error(), "11 rows, 10 came in") {
			t.Error(err)
		}
	}
	if all := count(t, readAll(t, addrs, "t", true)); len(all["wrong"]) != 10 { // at-least-once wrote it; the transaction did not commit
		t.Errorf("%d rows", len(all["wrong"]))
	}
}

// TestRefusedBatches has the broker refuse batches by what is in them: it names
// no record, so that they must be halved down to the culprit.
func TestRefusedBatches(t *testing.T) {
	_, addrs := fake(t)
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		for _, code := range []int16{10, 18, 32, 87} {
			in := &injector{}
			bad := []byte("/13|")
			in.inspect = func(key int16, frame []byte) (faultKind, int16) {
				if key == int16(kmsg.Produce) && bytes.Contains(frame, bad) {
					return refuse, code
				}
				return noFault, 0
			}
			p := publisher(t, hasty(addrs, "t", d, in))
			id := fmt.Sprintf("refused-%d-%d", d, code)
			var out []int64
			part := partOf(id, 60, 2)
			part.Reject = func(n int64, why error) error {
				if ClassOf(why) != Record {
					t.Error(why)
				}
				out = append(out, n)
				return nil
			}
			res, err := p.Publish(context.Background(), part)
			if err != nil || res.Rows != 59 || res.Rejected != 1 || len(out) != 1 || out[0] != 13 {
				t.Errorf("%s: %+v, %v, %v", id, res, out, err)
			}
			if err := count(t, readAll(t, addrs, "t", true)).verify(id, 60, true, 13); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestTimeoutInsideAnswer lets the answer about versions stop in its middle: the
// connection must not be used any more.
func TestTimeoutInsideAnswer(t *testing.T) {
	_, addrs := fake(t)
	var dials atomic.Int64
	o := hasty(addrs, "t", AtLeastOnce, &injector{})
	o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if dials.Add(1) <= 2 && err == nil {
			return &slow{Conn: c, left: 7}, nil
		}
		return c, err
	}
	p := publisher(t, o)
	if res, err := p.Publish(context.Background(), partOf("inside", 60, 2)); err != nil || res.Rows != 60 || dials.Load() < 3 {
		t.Errorf("%+v, %v, %d connections", res, err, dials.Load())
	}
}

// slow is a connection of which some bytes can be read, and then, until the
// deadline is over, none.
type slow struct {
	net.Conn
	mu    sync.Mutex
	left  int
	until time.Time
}

func (s *slow) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	s.until = t
	s.mu.Unlock()
	return s.Conn.SetReadDeadline(t)
}

func (s *slow) Read(b []byte) (int, error) {
	s.mu.Lock()
	left, until := s.left, s.until
	if left == 0 {
		s.left = 1 << 30
	}
	s.mu.Unlock()
	if left == 0 {
		time.Sleep(time.Until(until))
		return 0, os.ErrDeadlineExceeded
	}
	n, err := s.Conn.Read(b[:min(len(b), left)])
	s.mu.Lock()
	s.left -= n
	s.mu.Unlock()
	return n, err
}
