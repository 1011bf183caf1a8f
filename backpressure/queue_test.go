package backpressure

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestMM1(t *testing.T) {
	// ρ = 0.8, μ = 10: 4 times the service of 100 ms.
	if got := MM1(8, 10); math.Abs(got.Seconds()-0.4) > 1e-9 {
		t.Errorf("MM1(8, 10) = %v", got)
	}
	if MM1(10, 10) != Forever || MM1(11, 10) != Forever || MM1(0, 10) != 0 {
		t.Error("wrong at the ends")
	}
}

// The marginal cost rises, and is M/M/1's time in the system.
func TestCharge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rho := rapid.Float64Range(0, 0.99).Draw(t, "rho")
		const d = 1e-6
		slope := (Charge(rho+d) - Charge(rho)) / d
		if want := 1 / (1 - rho); math.Abs(slope-want) > 1e-2*want {
			t.Fatalf("marginal cost %g at %g, want %g", slope, rho, want)
		}
		if l := rho / (1 - rho); math.Abs(Charge(rho)-math.Log1p(l)) > 1e-9 {
			t.Fatalf("Charge(%g) isn't log1p of the number in the system", rho)
		}
		if got := queueing(1/(1-rho), 1); math.Abs(got-Charge(rho)) > 1e-9 {
			t.Fatalf("queueing is %g, Charge %g", got, Charge(rho))
		}
	})
}

// Random arrivals at one server with random service: what is measured, what
// Little's law says of the mean number of waiters, and what M/M/1 predicts agree.
func TestQueueOfMM1(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	const lambda, mu = 60.0, 100.0
	g := NewGate(1, 0) // one byte: one request at a time
	exp := func(rate float64) time.Duration { return seconds(rng.ExpFloat64() / rate) }
	arrive, leave := exp(lambda), Forever
	var sum Queue
	n := 0
	var waiters []*Ticket
	serve := func(now time.Duration) {
		if leave == Forever && len(waiters) > 0 && waiters[0].Admitted() {
			waiters = waiters[1:]
			leave = now + exp(mu)
		}
	}
	for now := time.Duration(0); now < 20_000*time.Second; {
		if next, ok := g.Next(); ok && next < min(arrive, leave) {
			now = next
			g.Tick(now)
		} else if now = min(arrive, leave); now == arrive {
			waiters = append(waiters, g.Ask(now, 1, func() {}))
			arrive = now + exp(lambda)
		} else {
			leave = Forever
			g.Release(now, 1, Outcome{})
		}
		serve(now)
		if int(now/(20*time.Second)) > n {
			n++
			q := g.Snapshot(now).Queue
			sum.Arrivals += q.Arrivals
			sum.Service += q.Service
			sum.Measured += q.Measured
			sum.Little += q.Little
		}
	}
	k := float64(n)
	within(t, "arrivals", sum.Arrivals/k, lambda, 0.02)
	within(t, "service", sum.Service/k, mu, 0.03)
	want := MM1(lambda, mu).Seconds()
	within(t, "measured", sum.Measured.Seconds()/k, want, 0.1)
	within(t, "little", sum.Little.Seconds()/k, want, 0.1)
}

func within(t *testing.T, what string, got, want, share float64) {
	t.Helper()
	if math.Abs(got-want) > share*want {
		t.Errorf("%s: %g, want %g ± %g %%", what, got, want, 100*share)
	}
}

func TestSpread(t *testing.T) {
	for seed := range uint64(40) {
		for _, from := range []int64{0, 17, -300} {
			seen := map[float64]bool{}
			var sum time.Duration
			for k := from; k < from+spreadSlots; k++ {
				p := Spread(seed, k)
				if p < 0 || p >= 1 {
					t.Fatalf("place %g", p)
				}
				seen[p] = true
				sum += spread(time.Second, seed, k)
			}
			if len(seen) != spreadSlots {
				t.Fatalf("seed %d from %d: %d places of %d", seed, from, len(seen), spreadSlots)
			}
			within(t, "mean gap", sum.Seconds()/spreadSlots, 1, 1e-6)
		}
	}
	for a := range uint64(len(strides)) {
		for b := range a {
			same := 0
			for k := range int64(spreadSlots) {
				if Spread(a, k) == Spread(b, k) {
					same++
				}
			}
			if same != 1 {
				t.Errorf("seeds %d and %d meet %d times in a cycle", a, b, same)
			}
		}
	}
}
