package backpressure

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func observation(t *rapid.T) Observation {
	count := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 20), rapid.Int64Range(0, 1e9))
	share := rapid.Float64Range(0, 1)
	o := Observation{
		Length:     time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "length")),
		Admitted:   count.Draw(t, "admitted") - rapid.Int64Range(0, 2).Draw(t, "abandoned"),
		Succeeded:  count.Draw(t, "succeeded"),
		Throttled:  count.Draw(t, "throttled"),
		Failed:     count.Draw(t, "failed"),
		InFlight:   rapid.Float64Range(0, 1e6).Draw(t, "in flight"),
		Pending:    rapid.IntRange(0, 1e6).Draw(t, "pending"),
		Limited:    share.Draw(t, "limited"),
		Paced:      share.Draw(t, "paced"),
		RetryAfter: time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "after")),
	}
	o.Elapsed = time.Duration(share.Draw(t, "elapsed") * float64(o.Length))
	return o
}

// Whatever is observed, the policy is a function, its numbers are numbers, and its
// decisions let somebody through.
func policyProperty(t *rapid.T) {
	s, d := First(rapid.Uint64().Draw(t, "seed"))
	for range rapid.IntRange(1, 60).Draw(t, "rounds") {
		o := observation(t)
		before := s
		s, d = Step(s, o)
		again, same := Step(before, o)
		if again != s || same != d { // also when anything is not a number
			t.Fatalf("not a function, or not numbers: %+v, %+v", s, again)
		}
		if d.Window < 1 || d.Window > 2*maxWindow || d.Rate < 0 || math.IsInf(d.Rate, 0) {
			t.Fatalf("%+v", d)
		}
		if d.Rate > 0 && d.Rate < lowestRate/2 || d.Hold < 0 || d.Hold > longestHold {
			t.Fatalf("nobody gets through: %+v", d)
		}
		if d.Most <= 0 || d.Least > d.Most || d.Settle > d.Least || d.Settle < 0 || d.Most > 8*longestTrip || d.Answers < 1 {
			t.Fatalf("the round doesn't end: %+v", d)
		}
	}
}

func TestPolicyProperties(t *testing.T) { rapid.Check(t, policyProperty) }

func FuzzPolicy(f *testing.F) { f.Fuzz(rapid.MakeFuzz(policyProperty)) }

// line is a sink with a base latency and a capacity, both exact: what a window
// gives is known.
type line struct {
	base     float64 // seconds
	capacity float64 // requests per second
}

func (l line) answer(d Decision, window int) Observation {
	x := math.Min(float64(window)/l.base, l.capacity)
	if d.Rate > 0 {
		x = math.Min(x, d.Rate)
	}
	latency := math.Max(l.base, float64(window)/l.capacity)
	length := min(d.Most, max(d.Least, seconds(2*latency), seconds(latency+float64(d.Answers)/x)))
	o := Observation{Length: length, Elapsed: length - min(length/2, seconds(latency)), Pending: window, InFlight: float64(window), Limited: 1}
	o.Succeeded = int64(math.Max(1, math.Round(x*o.Elapsed.Seconds())))
	o.Admitted = o.Succeeded
	o.InFlight = float64(o.Succeeded) / o.Elapsed.Seconds() * latency
	return o
}

// On a sink without noise the window settles around the knee, whatever the units:
// full throughput, and a queue that is a small multiple of √(in service).
func TestKnee(t *testing.T) {
	for _, base := range []float64{0.001, 0.05, 2} {
		for _, service := range []float64{2, 20, 200, 2000} { // in service at the knee
			l := line{base, service / base}
			s, d := First(0)
			for range 60 {
				s, d = Step(s, l.answer(d, d.Window))
			}
			worst, most := math.Inf(1), 0.0
			for range 40 {
				s, d = Step(s, l.answer(d, d.Window))
				if s.Mode == Draining {
					continue
				}
				worst, most = min(worst, float64(d.Window)), max(most, float64(d.Window))
			}
			if worst < 0.9*service || most > 1.3*(service+4*math.Sqrt(service)+2) {
				t.Errorf("base %g s, knee at %g: windows from %g to %g", base, service, worst, most)
			}
		}
	}
}

// A sink that becomes slower by itself, without a queue, keeps its window.
func TestSlowerSink(t *testing.T) {
	l := line{0.05, 400}
	s, d := First(0)
	for range 50 {
		s, d = Step(s, l.answer(d, d.Window))
	}
	l = line{0.2, 100}
	for range 30 {
		s, d = Step(s, l.answer(d, d.Window))
	}
	if d.Window < 16 || s.Base < 0.15 {
		t.Errorf("window %d, base %g s; 20 requests are needed and take 0.2 s", d.Window, s.Base)
	}
}

func TestOutage(t *testing.T) {
	l := line{0.05, 4000}
	s, d := First(3)
	for range 50 {
		s, d = Step(s, l.answer(d, d.Window))
	}
	before := d.Window
	for range 100 {
		s, d = Step(s, Observation{Length: d.Most, Elapsed: d.Most, Admitted: 2, Failed: 2, Pending: 1, InFlight: 1})
	}
	if s.Mode != Down || d.Rate > 2 || d.Rate < 0.5 || d.Window != 2 {
		t.Fatalf("while down: %v %+v", s.Mode, d)
	}
	rounds := 0
	for ; d.Window < before*8/10; rounds++ {
		s, d = Step(s, l.answer(d, d.Window))
		if rounds > 6 {
			t.Fatalf("window %d after %d rounds, %d before the outage", d.Window, rounds, before)
		}
	}
	if d.Rate != 0 {
		t.Errorf("still paced at %g", d.Rate)
	}
}

// A quota of requests per second is found and used, and given up when it is gone.
func TestQuota(t *testing.T) {
	const quota = 100.0
	s, d := First(0)
	l := line{0.05, 4000}
	refusals, answers, given := 0.0, 0.0, 0.0
	round := func(quota float64) {
		o := l.answer(d, d.Window)
		if asked := float64(o.Succeeded) / o.Elapsed.Seconds(); asked > quota {
			o.Succeeded = int64(math.Round(quota * o.Elapsed.Seconds()))
			o.Throttled = o.Admitted - o.Succeeded
		}
		o.Paced = 1
		if d.Rate == 0 {
			o.Paced = 0
		} else {
			o.Limited = 0
		}
		refusals += float64(o.Throttled)
		answers += float64(o.Admitted)
		given += d.Rate * d.Least.Seconds()
		s, d = Step(s, o)
	}
	for range 300 {
		round(quota)
	}
	if share := refusals / answers; share > 0.2 {
		t.Errorf("%.0f %% refused", 100*share)
	}
	if d.Rate < 0.9*quota || d.Rate > 1.3*quota {
		t.Errorf("rate %g for a quota of %g", d.Rate, quota)
	}
	for range 400 {
		round(math.Inf(1))
	}
	if d.Rate != 0 && d.Rate < 2000 {
		t.Errorf("still paced at %g", d.Rate)
	}
}

// A sink that asks to wait is left alone, but not for ever, and not by those whom it
// serves.
func TestRetryAfter(t *testing.T) {
	s, _ := First(0)
	o := Observation{Length: time.Second, Elapsed: time.Second, Admitted: 4, Throttled: 4, InFlight: 1, RetryAfter: 3 * time.Second}
	if _, d := Step(s, o); d.Hold != 3*time.Second {
		t.Errorf("hold %v", d.Hold)
	}
	o.RetryAfter = 24 * time.Hour
	if _, d := Step(s, o); d.Hold != longestHold {
		t.Errorf("hold %v", d.Hold)
	}
	o.Succeeded = 1
	if _, d := Step(s, o); d.Hold != 0 {
		t.Errorf("hold %v although others are served", d.Hold)
	}
}
