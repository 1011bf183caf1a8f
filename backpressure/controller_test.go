package backpressure

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// usage watches from outside what is in flight.
type usage struct {
	bytes, requests atomic.Int64
	over            atomic.Int64
}

func (u *usage) begin(bytes, limit int64) {
	sum, n := u.bytes.Add(bytes), u.requests.Add(1)
	if sum > limit && n > 1 {
		u.over.Add(1)
	}
}

func (u *usage) end(bytes int64) {
	u.bytes.Add(-bytes)
	u.requests.Add(-1)
}

// Many goroutines on real time: never over the limit, nobody is forgotten, and
// those who give up hold nothing.
func TestControllerParallel(t *testing.T) {
	const limit = 1000
	c := New(Options{Limit: limit})
	var u usage
	var wg sync.WaitGroup
	var served, given atomic.Int64
	for i := range 32 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 7))
			for range 300 {
				ctx, cancel := context.Background(), context.CancelFunc(func() {})
				if rng.IntN(4) == 0 {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(300))*time.Microsecond)
				}
				bytes := rng.Int64N(400)
				if rng.IntN(50) == 0 {
					bytes = limit + 1
				}
				if err := c.Acquire(ctx, bytes); err != nil {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					given.Add(1)
				} else {
					u.begin(bytes, limit)
					time.Sleep(time.Duration(rng.IntN(100)) * time.Microsecond)
					u.end(bytes)
					c.Release(bytes, Outcome{Result: Result(rng.IntN(int(Throttled)))})
					served.Add(1)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	s := c.Snapshot()
	if u.over.Load() > 0 {
		t.Errorf("%d times over the limit", u.over.Load())
	}
	if s.InFlight != 0 || s.Requests != 0 || s.Waiting != 0 || s.Totals.Admitted != served.Load() || s.Totals.Peak > limit+1 {
		t.Errorf("left over: %+v", s)
	}
	if served.Load()+given.Load() != 32*300 || given.Load() == 0 {
		t.Errorf("%d served, %d gave up", served.Load(), given.Load())
	}
}

// An hour of a sink's life in virtual time: outages, throttling, a limit that is
// lent and taken back. After each outage everybody goes on within ten seconds.
func TestControllerLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Limit: 1 << 20, Seed: 5})
		began := time.Now()
		var u usage
		var last atomic.Int64 // of a success
		result := func() Outcome {
			switch at := time.Since(began) % (3 * time.Minute); {
			case at > 60*time.Second && at < 90*time.Second:
				return Outcome{Result: Failed}
			case at > 120*time.Second && at < 130*time.Second:
				return Outcome{Result: Throttled, RetryAfter: time.Second}
			}
			last.Store(int64(time.Since(began)))
			return Outcome{}
		}
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Minute)
		defer stop()
		var wg sync.WaitGroup
		counts := make([]int, 40)
		for i := range counts {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(uint64(i), 9))
				for {
					bytes := 1 + rng.Int64N(128<<10)
					if c.Acquire(ctx, bytes) != nil {
						return
					}
					u.begin(bytes, 1<<20)
					time.Sleep(time.Duration(10+rng.IntN(40)) * time.Millisecond)
					o := result()
					u.end(bytes)
					c.Release(bytes, o)
					if o.Result == Succeeded {
						counts[i]++
					}
				}
			})
		}
		for ctx.Err() == nil {
			time.Sleep(time.Second)
			at := time.Since(began)
			if in := at % (3 * time.Minute); (in > 100*time.Second && in < 120*time.Second || in > 140*time.Second) && at-time.Duration(last.Load()) > time.Second {
				t.Errorf("%v: no success since %v; %+v", at, time.Duration(last.Load()), c.Snapshot())
			}
			c.SetLimit([]int64{1 << 20, 200 << 10, 600 << 10}[int(at.Seconds())%3])
		}
		wg.Wait()
		if u.over.Load() > 0 {
			t.Errorf("%d times over the largest limit", u.over.Load())
		}
		if s := c.Snapshot(); s.InFlight != 0 || s.Waiting != 0 {
			t.Errorf("left over: %+v", s)
		}
		if low, high := slices.Min(counts), slices.Max(counts); float64(low) < 0.9*float64(high) {
			t.Errorf("between %d and %d successes: not fair", low, high)
		}
	})
}

// A limit of 0 lets nobody in, and wakes them when it is raised; one that shrinks
// revokes nothing.
func TestControllerSetLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Limit: 100})
		acquire := func(bytes int64) *atomic.Bool {
			var done atomic.Bool
			go func() {
				if err := c.Acquire(t.Context(), bytes); err != nil {
					t.Error(err)
				}
				done.Store(true)
			}()
			synctest.Wait()
			return &done
		}
		if !acquire(60).Load() {
			t.Fatal("60 of 100 wait")
		}
		c.SetLimit(50)
		second := acquire(10)
		if s := c.Snapshot(); second.Load() || s.InFlight != 60 {
			t.Fatalf("%+v", s)
		}
		c.SetLimit(0)
		c.Release(60, Outcome{})
		synctest.Wait()
		if second.Load() {
			t.Fatal("admitted with a limit of 0")
		}
		time.Sleep(time.Hour)
		c.SetLimit(10)
		synctest.Wait()
		if !second.Load() {
			t.Fatal("not woken by a larger limit")
		}
		c.Release(10, Outcome{})
	})
}

func TestControllerCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{Limit: 10})
		if err := c.Acquire(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		first := make(chan error, 1)
		go func() { first <- c.Acquire(ctx, 9) }()
		synctest.Wait()
		second := make(chan error, 1)
		go func() { second <- c.Acquire(t.Context(), 10) }()
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		c.Release(10, Outcome{})
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		c.Release(10, Outcome{})
		if err := c.Acquire(ctx, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("acquired by a context that has ended: %v", err)
		}
		if err := c.Acquire(t.Context(), -1); !errors.Is(err, ErrBytes) {
			t.Errorf("negative bytes: %v", err)
		}
		if s := c.Snapshot(); s.InFlight != 0 || s.Totals.Cancelled != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// A lone caller, whom nobody's release wakes, is woken when what the sink asked for
// is over, and not before.
func TestControllerRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Options{})
		const after = 17 * time.Second
		longest := time.Duration(0)
		for range 50 {
			began := time.Now()
			if err := c.Acquire(t.Context(), 1); err != nil {
				t.Fatal(err)
			}
			longest = max(longest, time.Since(began))
			time.Sleep(100 * time.Millisecond)
			c.Release(1, Outcome{Result: Throttled, RetryAfter: after})
		}
		if longest < after-time.Second || longest > after+3*time.Second {
			t.Errorf("longest wait %v, the sink asked for %v", longest, after)
		}
	})
}

// The price of a request: it must be nothing beside sending one.
func BenchmarkController(b *testing.B) {
	c := New(Options{})
	b.ReportAllocs()
	for b.Loop() {
		if err := c.Acquire(b.Context(), 1000); err != nil {
			b.Fatal(err)
		}
		c.Release(1000, Outcome{})
	}
}
