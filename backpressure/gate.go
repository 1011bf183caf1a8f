package backpressure

import (
	"math"
	"time"
)

// DefaultLimit is the limit of a Gate or a Controller when none is given: 50 MiB.
const DefaultLimit = 50 << 20

// Result says how a request ended.
type Result uint8

// The results.
const (
	Succeeded Result = iota // the sink has it
	Rejected                // the sink is well and will never take this request
	Throttled               // too many requests: 429, 503 SlowDown, a quota, a full queue
	Failed                  // no useful answer: a timeout, a cut connection, a server error
	Abandoned               // the caller gave it up; says nothing about the sink
	results
)

// Outcome is what a request came to. The zero value is a success.
type Outcome struct {
	Result     Result
	RetryAfter time.Duration // how long a sink that throttles or fails asks to wait, 0 if it doesn't say
}

// Ticket is a request that waits at a Gate or was admitted by it.
type Ticket struct {
	bytes    int64
	asked    time.Duration
	ready    func()
	admitted bool
}

// Admitted reports whether the ticket's bytes are in flight.
func (t *Ticket) Admitted() bool { return t.admitted }

// blocked is what holds the first waiter back.
type blocked uint8

const (
	byNothing blocked = iota
	byBytes           // the limit
	byWindow          // the policy's window
	byPace            // the policy's rate, or a hold
)

// Gate is a Controller without goroutines, locks and clocks, for simulations and
// event loops: it counts bytes, queues those who wait, and lets the policy step.
// Times are durations since any moment and must not decrease. A Gate must not be
// used by two goroutines at once.
type Gate struct {
	limit    int64
	bytes    int64
	requests int
	waiters  []*Ticket

	state    State
	decision Decision
	open     time.Duration // no admission before, because of pace or hold
	paced    int64         // admissions under a pace, for Spread

	now        time.Duration // up to which time is accounted
	head       blocked
	roundBegan time.Duration
	round      Observation
	area       float64 // request-seconds of the round
	at         levels
	heldWindow float64 // seconds of the round
	heldPace   float64
	settled    bool          // whether the round is being observed
	observing  time.Duration // since when

	meters meters
	total  Totals
}

// NewGate returns a gate with a limit in bytes, DefaultLimit if it is 0. Seeds
// should differ between gates of one sink.
func NewGate(limit int64, seed uint64) *Gate {
	if limit == 0 {
		limit = DefaultLimit
	}
	g := &Gate{limit: limit}
	g.state, g.decision = First(seed)
	return g
}

// Ask queues a request, and admits it at once if nothing is in its way. When it is
// admitted, now or later, ready is called from within the method that admitted it;
// it must not call the gate.
func (g *Gate) Ask(now time.Duration, bytes int64, ready func()) *Ticket {
	if bytes < 0 {
		panic("backpressure: negative bytes")
	}
	g.advance(now)
	t := &Ticket{bytes: bytes, asked: now, ready: ready}
	g.waiters = append(g.waiters, t)
	g.meters.asked.add(now, 1)
	g.admit(now)
	return t
}

// Cancel takes a waiting ticket out of the queue. It does nothing and returns
// false when the ticket was admitted: its bytes must then be released.
func (g *Gate) Cancel(now time.Duration, t *Ticket) bool {
	if t.admitted {
		return false
	}
	g.advance(now)
	for i, w := range g.waiters {
		if w == t {
			g.remove(i)
			g.total.Cancelled++
			break
		}
	}
	g.admit(now)
	return true
}

// Release ends a request of that many bytes. It panics when so many are not in
// flight, which is a caller's mistake.
func (g *Gate) Release(now time.Duration, bytes int64, o Outcome) {
	if g.requests == 0 || bytes < 0 || bytes > g.bytes || o.Result >= results {
		panic("backpressure: release of what was not acquired")
	}
	g.advance(now)
	g.at.add(o.Result, float64(g.requests))
	g.requests--
	g.bytes -= bytes
	g.total.Ended[o.Result]++
	g.meters.ended.add(now, 1)
	switch o.Result {
	case Succeeded:
		g.total.Bytes += bytes
		g.round.Succeeded++
	case Rejected:
		g.round.Succeeded++
	case Throttled:
		g.round.Throttled++
	case Failed:
		g.round.Failed++
	case Abandoned:
		g.round.Admitted-- // as if it had never been; its time in flight remains in the mean
	}
	g.round.RetryAfter = max(g.round.RetryAfter, o.RetryAfter)
	g.admit(now)
}

// SetLimit changes the limit in bytes. Less than is in flight revokes nothing:
// nobody is admitted until what is in flight has fallen below it. A limit of 0 or
// less admits nobody.
func (g *Gate) SetLimit(now time.Duration, limit int64) {
	g.advance(now)
	g.limit = limit
	g.admit(now)
}

// Tick lets time pass: it ends a round and admits those whose time has come.
func (g *Gate) Tick(now time.Duration) {
	g.advance(now)
	g.admit(now)
}

// Next returns when Tick is to be called if no other method is called before, and
// whether at all.
func (g *Gate) Next() (time.Duration, bool) {
	if g.requests == 0 && len(g.waiters) == 0 {
		return 0, false
	}
	next := g.roundBegan + g.decision.Most
	if !g.settled {
		next = g.roundBegan + g.decision.Settle
	}
	if g.head == byPace {
		next = min(next, g.open)
	}
	return max(next, g.now), true
}

// advance accounts for the time since the last call.
func (g *Gate) advance(now time.Duration) {
	now = max(now, g.now)
	dt := (now - g.now).Seconds()
	g.area += dt * float64(g.requests)
	switch g.head {
	case byWindow:
		g.heldWindow += dt
	case byPace:
		g.heldPace += dt
	}
	g.meters.until(now, len(g.waiters), g.requests)
	g.now = now
}

// admit ends the round if it is over and lets in whom it can.
func (g *Gate) admit(now time.Duration) {
	now = max(now, g.now)
	g.endRound(now)
	for {
		g.head = g.held(now)
		if g.head != byNothing || len(g.waiters) == 0 {
			return
		}
		t := g.waiters[0]
		g.remove(0)
		g.enter(now, t)
	}
}

// held returns what holds the first waiter back. Nobody passes it: it would wait
// longer for the others' sake, and in simulations with mixed sizes the sink was no
// busier for it.
func (g *Gate) held(now time.Duration) blocked {
	switch {
	case len(g.waiters) == 0:
		return byNothing
	case g.requests >= g.decision.Window:
		return byWindow
	case now < g.open:
		return byPace
	case !g.fits(g.waiters[0].bytes):
		return byBytes
	}
	return byNothing
}

func (g *Gate) fits(bytes int64) bool {
	return g.limit > 0 && (bytes <= g.limit-g.bytes || bytes > g.limit && g.requests == 0)
}

func (g *Gate) remove(i int) {
	if i == 0 {
		g.waiters[0] = nil
		g.waiters = g.waiters[1:]
		return
	}
	copy(g.waiters[i:], g.waiters[i+1:])
	g.waiters[len(g.waiters)-1] = nil
	g.waiters = g.waiters[:len(g.waiters)-1]
}

// enter puts a ticket in flight.
func (g *Gate) enter(now time.Duration, t *Ticket) {
	if g.requests == 0 && len(g.waiters) == 0 && g.round.Succeeded+g.round.Throttled+g.round.Failed == 0 {
		g.newRound(now) // idle until now
	}
	g.requests++
	g.bytes += t.bytes
	g.round.Admitted++
	g.total.Admitted++
	if t.bytes > g.limit {
		g.total.Oversized++
	}
	g.total.Peak = max(g.total.Peak, g.bytes)
	g.meters.admitted.add(now, 1)
	g.meters.waitings.add(now, (now - t.asked).Seconds())
	if rate := g.decision.Rate; rate > 0 {
		// Someone who comes late has not saved anything up, but for what a timer is
		// late by.
		gap := spread(seconds(1/rate), g.state.Seed, g.paced)
		g.open = max(g.open, now-10*time.Millisecond) + gap
		g.paced++
	}
	t.admitted = true
	t.ready()
}

// endRound lets the policy step when the round is over.
func (g *Gate) endRound(now time.Duration) {
	elapsed := now - g.roundBegan
	if !g.settled && elapsed >= g.decision.Settle && elapsed < g.decision.Most {
		g.observe(now)
	}
	ended := g.round.Succeeded + g.round.Throttled + g.round.Failed
	enough := ended >= g.decision.Answers && elapsed >= g.decision.Least
	if (!enough || !g.settled) && elapsed < g.decision.Most || elapsed <= 0 {
		return
	}
	o := g.round
	o.Length, o.Elapsed, o.Pending = elapsed, now-g.observing, g.requests
	if s := o.Elapsed.Seconds(); s > 0 {
		o.InFlight, o.Limited, o.Paced = g.area/s, g.heldWindow/s, g.heldPace/s
	}
	g.at.put(&o)
	before := g.decision
	g.state, g.decision = Step(g.state, o)
	if g.decision.Hold > 0 {
		g.open = max(g.open, now+g.decision.Hold)
	}
	if before.Rate > 0 && g.decision.Hold == 0 && g.decision.Rate != before.Rate {
		g.repace(now)
	}
	g.newRound(now)
}

// repace brings the next admission forward when the pace has become faster: what
// was waited for at the old one must not outlast it.
func (g *Gate) repace(now time.Duration) {
	if g.decision.Rate == 0 {
		g.open = min(g.open, now)
		return
	}
	g.open = min(g.open, now+seconds(1/g.decision.Rate))
}

func (g *Gate) newRound(now time.Duration) {
	g.roundBegan, g.settled = now, false
	g.observe(now)
	g.settled = g.decision.Settle == 0
}

// observe forgets what the round has seen so far: it was the last one's.
func (g *Gate) observe(now time.Duration) {
	g.settled, g.observing, g.round = true, now, Observation{}
	g.area, g.heldWindow, g.heldPace, g.at = 0, 0, 0, levels{}
}

// levels sum up how many were in flight when requests ended.
type levels struct{ refused, served, squares float64 }

func (l *levels) add(r Result, inFlight float64) {
	switch r {
	case Throttled:
		l.refused += inFlight
	case Succeeded, Rejected:
		l.served += inFlight
		l.squares += inFlight * inFlight
	}
}

// put writes means into an observation whose counts are complete.
func (l *levels) put(o *Observation) {
	o.AtRefusal = ratio(l.refused, float64(o.Throttled))
	o.AtSuccess = ratio(l.served, float64(o.Succeeded))
	o.Deviation = math.Sqrt(max(0, ratio(l.squares, float64(o.Succeeded))-o.AtSuccess*o.AtSuccess))
}
