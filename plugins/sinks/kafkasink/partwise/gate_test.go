package partwise

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// strict is a Gate with a limit that checks its users.
type strict struct {
	t        *testing.T
	max      int64
	mu       sync.Mutex
	cond     *sync.Cond
	bytes    int64
	peak     int64
	outcomes []Outcome
}

func newStrict(t *testing.T, limit int64) *strict {
	g := &strict{t: t, max: limit}
	g.cond = sync.NewCond(&g.mu)
	return g
}

func (g *strict) Acquire(ctx context.Context, bytes int64) error {
	defer context.AfterFunc(ctx, g.cond.Broadcast)()
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.bytes > 0 && g.bytes+bytes > g.max {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		g.cond.Wait()
	}
	g.bytes += bytes
	g.peak = max(g.peak, g.bytes)
	return nil
}

func (g *strict) Release(bytes int64, o Outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.bytes -= bytes
	g.outcomes = append(g.outcomes, o)
	g.cond.Broadcast()
}

// TestGate lets parts share a gate that takes little more than a batch, under
// faults: every byte that is acquired is released, once.
func TestGate(t *testing.T) {
	_, addrs := fake(t)
	for _, every := range []int{0, 6} {
		g := newStrict(t, 900)
		in := &injector{}
		if every > 0 {
			in.choose = nowAndThen(5, every, cutEarly, cutLate, belie)
		}
		o := hasty(addrs, "t", AtLeastOnce, in)
		o.Gate, o.DeliveryTimeout = g, 10*time.Second
		p := publisher(t, o)
		var group sync.WaitGroup
		for i := range 3 {
			group.Go(func() {
				if _, err := publishUntil(p, partOf(fmt.Sprintf("gate-%d-%d", every, i), 500, 2)); err != nil && every == 0 {
					t.Error(err)
				}
			})
		}
		group.Wait()
		p.Close()
		if g.bytes != 0 || g.peak > g.max || g.peak < 400 {
			t.Errorf("%d bytes left, %d at most of %d", g.bytes, g.peak, g.max)
		}
	}
}

// TestThrottle has the broker ask to be left alone.
func TestThrottle(t *testing.T) {
	c, addrs := fake(t)
	if err := c.CreateTopic("one", 1, nil); err != nil {
		t.Fatal(err)
	}
	const pause = 40
	var last, early atomic.Int64
	in := &injector{
		tamper: func(r kmsg.Response) {
			if p, ok := r.(*kmsg.ProduceResponse); ok {
				p.ThrottleMillis = pause
				last.Store(time.Now().UnixNano())
			}
		},
		seen: func(_ int, key int16, _ []byte) {
			// One partition, one batch at a time: each must wait for the one before.
			if at := last.Load(); key == int16(kmsg.Produce) && at > 0 && time.Since(time.Unix(0, at)) < (pause-5)*time.Millisecond {
				early.Add(1)
			}
		},
	}
	g := newStrict(t, 1<<20)
	o := hasty(addrs, "one", AtLeastOnce, in)
	o.Gate, o.InFlight = g, 1
	p := publisher(t, o)
	part := partOf("throttled", 60, 0) // without keys: to the only partition
	res, err := p.Publish(context.Background(), part)
	if err != nil {
		t.Fatal(err)
	}
	if want := time.Duration(res.Batches) * pause * time.Millisecond; res.Throttled != want || res.Batches < 4 {
		t.Errorf("%+v, want %s", res, want)
	}
	if early.Load() > 0 {
		t.Errorf("%d batches were sent before their time", early.Load())
	}
	for _, o := range g.outcomes {
		if o.Throttled != pause*time.Millisecond {
			t.Errorf("the gate was told %+v", o)
		}
	}
}

// TestBudget models attempts that fill, hand over and wait, with little memory:
// never too much, never stuck, all given back.
func TestBudget(t *testing.T) {
	for seed := range uint64(30) {
		b := &budget{max: 1000}
		var group sync.WaitGroup
		for w := range 4 {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			group.Go(func() {
				var lanes sync.WaitGroup
				filling := int64(0)
				handOver := func() {
					n := filling
					filling = 0
					if n == 0 {
						return
					}
					b.move(n)
					pause := time.Duration(r.IntN(200)) * time.Microsecond
					lanes.Go(func() { time.Sleep(pause); b.release(n) })
				}
				for range 200 {
					n := 1 + r.Int64N(400)
					for granted := b.try(n); !granted; {
						var err error
						if granted, err = b.acquire(context.Background(), n, filling > 0); err != nil {
							t.Error(err)
							return
						}
						if !granted {
							handOver()
						}
					}
					if filling += n; r.IntN(4) == 0 {
						handOver()
					}
				}
				handOver()
				lanes.Wait()
			})
		}
		group.Wait()
		if b.held != 0 || b.still != 0 || b.peak > b.max || len(b.waiters) != 0 {
			t.Fatalf("%+v", b)
		}
	}
}

func TestBudgetCancelled(t *testing.T) {
	b := &budget{max: 10}
	if !b.try(10) || b.try(1) {
		t.Fatal("the first fits, the second doesn't")
	}
	b.move(10)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		_, err := b.acquire(ctx, 5, false)
		done <- err
	}()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	b.release(10)
	if b.held != 0 || !b.try(25) {
		t.Errorf("%+v: one that is larger than all passes alone", b)
	}
}

// TestLittleMemory publishes much more than may be held, to many partitions.
func TestLittleMemory(t *testing.T) {
	c, addrs := fake(t)
	if err := c.CreateTopic("wide", 40, nil); err != nil {
		t.Fatal(err)
	}
	p := publisher(t, Options{Brokers: addrs, Topic: "wide", MaxBytes: 64 << 10})
	var group sync.WaitGroup
	for i := range 3 {
		group.Go(func() {
			id := fmt.Sprint("little-", i)
			if res, err := p.Publish(context.Background(), partOf(id, 20000, 2)); err != nil || res.Rows != 20000 {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
	group.Wait()
	if p.budget.peak < 32<<10 {
		t.Errorf("only %d bytes were ever held", p.budget.peak)
	}
	verifyAll(t, addrs, "wide", map[string]int{"little-0": 20000, "little-1": 20000, "little-2": 20000}, true)
}
