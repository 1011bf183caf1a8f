package main

import (
	"math"
	"time"

	"github.com/kinequet/kq/backpressure"
)

// limiter admits requests to the sink. All but "none" and ours are a window over
// the same first-come-first-served queue with the same exact limit of bytes.
type limiter interface {
	ask(now time.Duration, bytes int64, ready func())
	release(now time.Duration, bytes int64, took time.Duration, a answer)
	tick(now time.Duration)
	next() (time.Duration, bool)
}

// ours is the package's own gate, run as it is.
type ours struct{ *backpressure.Gate }

func (o ours) ask(now time.Duration, bytes int64, ready func()) { o.Ask(now, bytes, ready) }

func (o ours) release(now time.Duration, bytes int64, _ time.Duration, a answer) {
	result := map[answer]backpressure.Result{ok: backpressure.Succeeded, throttled: backpressure.Throttled, failed: backpressure.Failed}[a]
	o.Release(now, bytes, backpressure.Outcome{Result: result})
}
func (o ours) tick(now time.Duration)      { o.Tick(now) }
func (o ours) next() (time.Duration, bool) { return o.Next() }

// windowed is a queue with a limit of bytes and a window that a rule sets.
type windowed struct {
	limit   int64
	bytes   int64
	flying  int
	waiting []waiter
	rule    rule
}

type waiter struct {
	bytes int64
	ready func()
}

// rule is a policy that sets a window of requests.
type rule interface {
	began(flying int)
	ended(now, took time.Duration, flying int, a answer)
	limit() int
}

func (l *windowed) ask(_ time.Duration, bytes int64, ready func()) {
	l.waiting = append(l.waiting, waiter{bytes, ready})
	l.admit()
}

func (l *windowed) release(now time.Duration, bytes int64, took time.Duration, a answer) {
	l.rule.ended(now, took, l.flying, a)
	l.flying--
	l.bytes -= bytes
	l.admit()
}

func (l *windowed) admit() {
	for len(l.waiting) > 0 {
		w := l.waiting[0]
		if l.flying >= l.rule.limit() || l.bytes+w.bytes > l.limit && l.flying > 0 {
			return
		}
		l.waiting = l.waiting[1:]
		l.flying++
		l.bytes += w.bytes
		l.rule.began(l.flying)
		w.ready()
	}
}
func (l *windowed) tick(time.Duration)          {}
func (l *windowed) next() (time.Duration, bool) { return 0, false }

// fixed is a constant window; math.MaxInt is on/off at the limit of bytes.
type fixed int

func (f fixed) began(int)                                      {}
func (f fixed) ended(_, _ time.Duration, flying int, a answer) {}
func (f fixed) limit() int                                     { return int(f) }

// aimd is AIMDLimit of Netflix/concurrency-limits with its defaults: 10 at first,
// one more for each success while at least half is used, 0.9 of it for each
// refusal or failure and for each answer slower than 5 s.
type aimd struct{ window int }

func (p *aimd) began(int) {}
func (p *aimd) ended(_, took time.Duration, flying int, a answer) {
	if a != ok || took > 5*time.Second {
		p.window = max(1, min(p.window-1, int(float64(p.window)*0.9)))
	} else if flying*2 >= p.window {
		p.window++
	}
}
func (p *aimd) limit() int { return p.window }

// gradient is Gradient2Limit of Netflix/concurrency-limits with its defaults (20
// at first, 200 at most, a queue of 4, smoothing 0.2, a long window of 600), in
// windows of one second with ten samples, as its WindowedLimit has them. Its least
// window is 20 by default, "not desirable … for batch apps" by its own words: here
// it is 1, which is to its favour.
type gradient struct {
	window  float64
	long    float64 // seconds
	samples int     // of long
	sum     time.Duration
	n       int
	flying  int
	until   time.Duration
}

func (p *gradient) began(int) {}
func (p *gradient) ended(now, took time.Duration, flying int, a answer) {
	if a == ok {
		p.sum += took
		p.n++
	}
	p.flying = max(p.flying, flying)
	if now <= p.until {
		return
	}
	if p.n >= 10 {
		p.update(p.sum.Seconds() / float64(p.n))
	}
	p.sum, p.n, p.flying, p.until = 0, 0, 0, now+time.Second
}

func (p *gradient) update(short float64) {
	const warmup, span = 10, 600
	if p.samples++; p.samples <= warmup {
		p.long += (short - p.long) / float64(p.samples)
	} else {
		p.long += (short - p.long) * 2 / (span + 1)
	}
	long := p.long
	if long/short > 2 {
		p.long *= 0.9
	}
	if float64(p.flying) < p.window/2 {
		return
	}
	slope := max(0.5, min(1, long/short))
	p.window = p.window*0.8 + (p.window*slope+4)*0.2
	p.window = max(1, min(200, p.window))
}
func (p *gradient) limit() int { return int(p.window) }

// arc is Vector's adaptive request concurrency with its defaults: 1 at first, 200
// at most, one more in a round trip without back pressure and not slower than the
// past, 0.9 of it otherwise; past latency by an EWMA of 0.4, slower means 2.5
// deviations.
type arc struct {
	window         int
	known          bool
	mean, variance float64
	next           time.Duration
	sum            float64
	n              int
	pressed        bool
	reached        bool
}

func (p *arc) began(flying int) { p.reached = p.reached || flying >= p.window }
func (p *arc) ended(now, took time.Duration, _ int, a answer) {
	if a != ok {
		p.pressed = true
	} else {
		p.sum += took.Seconds()
		p.n++
	}
	current := p.sum / float64(max(p.n, 1))
	if !p.known {
		if p.n > 0 {
			p.past(current)
			p.next = now + time.Duration(current*float64(time.Second))
		}
		return
	}
	if now < p.next {
		return
	}
	p.manage(current)
	if p.n > 0 {
		p.past(current)
	}
	p.next = now + time.Duration(p.mean*float64(time.Second))
	p.sum, p.n, p.pressed, p.reached = 0, 0, false, false
}

func (p *arc) manage(current float64) {
	threshold := p.mean + 2.5*math.Sqrt(p.variance)
	switch {
	case p.window < 200 && p.reached && !p.pressed && p.n > 0 && current <= p.mean:
		p.window++
	case p.window > 1 && (p.pressed || p.n > 0 && current >= threshold):
		p.window = max(1, int(float64(p.window)*0.9))
	}
}

func (p *arc) past(rtt float64) {
	const alpha = 0.4
	if !p.known {
		p.known, p.mean = true, rtt
		return
	}
	diff := rtt - p.mean
	p.mean += alpha * diff
	p.variance = (1 - alpha) * (p.variance + alpha*diff*diff)
}
func (p *arc) limit() int { return p.window }

// unlimited lets everybody through at once.
type unlimited struct{}

func (unlimited) ask(_ time.Duration, _ int64, ready func())          { ready() }
func (unlimited) release(time.Duration, int64, time.Duration, answer) {}
func (unlimited) tick(time.Duration)                                  {}
func (unlimited) next() (time.Duration, bool)                         { return 0, false }
