package backpressure

import (
	"math"
	"time"
)

// Mode is what the policy is doing.
type Mode uint8

// The modes, as doc.go describes them.
const (
	Starting Mode = iota // doubling the window while throughput follows
	Running              // the loop holds the window at the knee
	Draining             // a short look at the latency of a sink that is less full
	Down                 // nothing but single probes
)

// String returns the mode's name in metrics.
func (m Mode) String() string {
	return [...]string{"starting", "running", "draining", "down"}[m]
}

// Observation is what happened in one round.
type Observation struct {
	Length     time.Duration // of the round
	Elapsed    time.Duration // of it, the part that all else here is about
	Admitted   int64         // requests that began
	Succeeded  int64         // requests answered, rejections of single records among them
	Throttled  int64         // requests refused as too many
	Failed     int64         // requests without a useful answer
	InFlight   float64       // mean number in flight
	Pending    int           // number in flight at the end
	Limited    float64       // share of the time in which the window alone held somebody back
	Paced      float64       // share of the time in which the pace did
	AtRefusal  float64       // mean number in flight when a request was throttled
	AtSuccess  float64       // the same when one succeeded
	Deviation  float64       // standard deviation of the latter
	RetryAfter time.Duration // the longest wait that the sink asked for, 0 for none
}

// Decision is what holds for the next round.
type Decision struct {
	Window int           // requests in flight at most
	Rate   float64       // admissions per second at most; 0 means no pace
	Hold   time.Duration // nobody is admitted before this has passed
	Reason Reason        // why the window or the rate is what it is

	// The round is observed once Settle has passed, when what was in flight before
	// is answered. It ends after Answers requests have ended since then, but not
	// before Least, counted from its beginning, and in any case after Most.
	Answers             int64
	Settle, Least, Most time.Duration
}

// Reason says why a decision differs from the one before.
type Reason string

// The reasons.
const (
	ReasonStart    Reason = "start"      // nothing is known yet
	ReasonDouble   Reason = "double"     // throughput follows the window
	ReasonKnee     Reason = "knee"       // the loop moved the window towards the knee
	ReasonUnused   Reason = "unused"     // the window isn't what holds anybody back
	ReasonBase     Reason = "base"       // the sink became slower by itself: a smaller window didn't help
	ReasonDrain    Reason = "drain"      // looking at the latency of a less full sink
	ReasonThrottle Reason = "throttled"  // the sink refused requests as too many
	ReasonFailing  Reason = "failing"    // more requests fail than usual
	ReasonDown     Reason = "down"       // no request succeeds
	ReasonRecover  Reason = "recovering" // back from an outage
)

// Tuning of the policy. None of these depends on units of a sink: times are in
// round trips, and windows are logarithms.
const (
	firstWindow = 4.0
	knee        = 0.1 // elasticity of throughput by window, below which more isn't worth its wait
	minSafety   = 2.0 // bounds of State.Safety
	maxSafety   = 64.0
	dither      = 0.1 // rounds alternate between a window larger and smaller by this
	maxWindow   = 1 << 20
	growth      = 0.4  // largest step up of the logarithm of the window
	decline     = 0.36 // largest step down: 30 %
	answers     = 8
	leastRound  = 10 * time.Millisecond
	mostRound   = time.Second
	drainEvery  = 20 * time.Second
	longestTrip = 10 * time.Minute
)

// loop gives the logarithm of the window; time is in rounds.
var loop = PID{Kp: 0.2, Ki: 0.45, Kd: 0.1}

// State is what the policy remembers. It is a plain value; the zero value knows
// nothing of the sink.
type State struct {
	Mode   Mode
	Seed   uint64  // for Spread: differs between controllers of one sink
	Rounds int64   // steps so far
	Window float64 // requests, before dither and rounding
	PID    PIDState

	Base       float64 // seconds: latency of the sink without a queue, 0 for unknown
	Latency    float64 // seconds: mean of the last round, by Little's law
	Throughput float64 // successes per second in the last round
	Elasticity float64 // d log throughput / d log window, smoothed
	Safety     float64 // requests to keep queued, per square root of those in service

	seen    pair       // the last round that can be compared
	slope   regression // of Elasticity
	confirm float64    // seconds since Base was last seen or looked for
	easy    int        // rounds in a row that wanted much more window
	from    pair       // the first of those
	high    pair       // where latency rose above the setpoint
	before  float64    // window before an outage

	pace     pace
	failures float64 // usual share of failed requests
	probes   int64   // rounds of this outage
}

// pair is one point of the curve of throughput over the number in flight.
type pair struct{ inFlight, throughput, latency float64 }

// regression is the slope of a line through the origin, with forgetting.
type regression struct{ xy, xx float64 }

// round is an observation in the policy's terms.
type round struct {
	Observation
	length     float64 // seconds
	seconds    float64 // observed
	throughput float64 // successes per second
	latency    float64 // seconds, 0 for unknown
	limited    bool
	clean      bool // hardly anything was refused or failed
}

// First returns the decision before anything was observed.
func First(seed uint64) (State, Decision) {
	s := State{Seed: seed, Window: firstWindow, Safety: minSafety, Elasticity: 1}
	return s, s.decide(ReasonStart)
}

// Step is the policy: from a state and what happened in a round to the next
// state and what holds in the next round. It is a pure function.
func Step(s State, o Observation) (State, Decision) {
	ended := o.Succeeded + o.Throttled + o.Failed
	s.Rounds++
	if idle := o.Pending == 0 || s.Latency == 0; o.Elapsed <= 0 || ended == 0 && idle && s.Mode != Down {
		return s, s.decide(ReasonUnused) // nothing in flight, or the very first answer is still to come
	}
	r := round{Observation: o, length: o.Length.Seconds(), seconds: o.Elapsed.Seconds()}
	r.throughput = float64(o.Succeeded) / r.seconds
	r.limited = o.Limited > 0.1
	r.clean = o.Throttled+o.Failed <= ended/50
	if moved := float64(o.Admitted+ended) / 2; ended > 0 && moved > 0 {
		r.latency = min(o.InFlight*r.seconds/moved, longestTrip.Seconds())
	}
	if r.latency < 1e-9 { // nothing is answered within a nanosecond
		r.latency = 0
	}
	reason := s.outage(r)
	if reason == "" {
		reason = s.refused(r)
	}
	if reason == "" && r.latency > 0 {
		reason = s.adapt(r)
	}
	if s.Mode == Down {
		return s, s.probe(s.decide(reason), o)
	}
	if r.latency > 0 {
		s.Latency = r.latency
		if s.Mode != Draining {
			s.Throughput = r.throughput
		}
	}
	if reason == ReasonRecover && s.Base > 0 {
		s.Latency = s.Base // what hung in the outage says nothing of the round trips to come
	}
	d := s.decide(reason)
	d.Hold = hold(o)
	return s, d
}

// adapt finds the knee from a round in which nothing was wrong.
func (s *State) adapt(r round) Reason {
	switch s.Mode {
	case Starting:
		return s.start(r)
	case Draining:
		return s.drain(r)
	}
	return s.run(r)
}

// decide puts the state into a decision.
func (s *State) decide(reason Reason) Decision {
	w := math.Round(s.Window)
	switch {
	case s.Mode == Draining:
		w = min(w, math.Floor(max(0.7*s.Throughput*s.Base, 0.4*w)))
	case s.Mode == Running && s.Rounds%2 == 0:
		w += max(1, math.Round(w*dither))
	case s.Mode == Running:
		w -= math.Round(w * dither)
	}
	rtt := seconds(s.Latency)
	enough := int64(answers)
	switch s.Mode {
	case Starting:
		enough *= 2
	case Draining:
		enough *= 4
	}
	return Decision{
		Window:  max(1, int(w)),
		Rate:    s.pace.Rate,
		Reason:  reason,
		Answers: enough,
		Settle:  rtt,
		Least:   max(leastRound, 2*rtt),
		Most:    max(mostRound, 8*rtt),
	}
}

// setpoint is the queueing to hold: a queue of Safety times the square root of
// what is in service (square-root staffing: Halfin and Whitt, "Heavy-Traffic
// Limits for Queues with Many Exponential Servers", Operations Research 29, 1981).
func (s *State) setpoint(throughput float64) float64 {
	return math.Log1p(s.Safety / math.Sqrt(max(1, throughput*s.Base)))
}

// settle sets the window and lets the loop go on from there.
func (s *State) settle(window, setpoint, queueing float64) {
	s.Window = min(max(1, window), maxWindow)
	s.PID = loop.At(math.Log(s.Window), setpoint, queueing)
	s.seen = pair{}
}

// learn takes the least latency as that without a queue. Rounds are noisy, and the
// least of many would be too low: so it follows a lower one by the weight of its
// answers. Where nothing waits for the window and little is in flight, it slowly
// follows a higher one too.
func (s *State) learn(r round) {
	weight := float64(r.Succeeded) / float64(r.Succeeded+32)
	switch {
	case !r.clean:
	case s.Base == 0:
		s.Base, s.confirm = r.latency, 0
	case r.latency < s.Base:
		s.Base += (r.latency - s.Base) * weight
		s.confirm = 0
	case !r.limited && r.InFlight < s.Window/2:
		s.Base += (min(r.latency, 2*s.Base) - s.Base) * weight / 4
		s.confirm = 0
	case r.latency < s.Base*1.05:
		s.confirm = 0
	default:
		s.confirm += r.length
	}
}

// start doubles the window as long as throughput follows (TCP's slow start).
func (s *State) start(r round) Reason {
	s.learn(r)
	last := s.seen
	y, target := queueing(r.latency, s.Base), s.setpoint(r.throughput)
	if (!r.limited || !r.clean) && y < target || r.Succeeded < answers/2 {
		s.seen = pair{}
		return ReasonUnused
	}
	s.seen = pair{r.InFlight, r.throughput, r.latency}
	gain := 1.0 // how much of the growth of the window throughput followed
	if grown := math.Log(r.InFlight / last.inFlight); last.throughput > 0 && grown > 0 {
		gain = math.Log(r.throughput/last.throughput) / grown
	}
	switch {
	case s.before > 0 && s.Window < s.before: // known to be good; probes that hang make latency look worse
		s.Window = min(2*s.Window, s.before)
		return ReasonRecover
	case s.before > 0:
		s.before, s.Mode = 0, Running
		s.settle(s.Window, target, y)
		return ReasonKnee
	case !r.limited || !r.clean || gain < 0.3 || y > target && gain < 0.7 || y > target+math.Ln2: // y alone may be chance
		s.Mode = Running
		s.settle(min(s.Window, max(s.Window/2, math.Ceil(r.throughput*s.Base*math.Exp(target)))), target, y)
		return ReasonKnee
	}
	if y > target {
		s.Window = min(s.Window*1.25, maxWindow)
		return ReasonDouble
	}
	s.Window = min(2*s.Window, maxWindow)
	return ReasonDouble
}

// run is one step of the loop.
func (s *State) run(r round) Reason {
	s.learn(r)
	y, now := s.smooth(r)
	if !r.limited || !r.clean {
		s.seen, s.high = pair{}, pair{}
	} else if s.compare(r, now) {
		return ReasonBase
	}
	if !r.limited && r.InFlight < s.Window/2 {
		return ReasonUnused
	}
	target := s.setpoint(r.throughput)
	at := math.Log(s.Window)
	highest := at
	if r.limited && r.clean {
		highest = min(at+growth, math.Log(maxWindow))
	}
	pid, out := loop.Step(s.PID, target, y, 1, max(0, at-decline), highest)
	s.PID, s.Window = pid, math.Exp(out)
	if s.freed(r, y, target) {
		s.Mode, s.seen = Starting, pair{}
		return ReasonDouble
	}
	if every := drainEvery.Seconds() * (0.75 + Spread(s.Seed, s.Rounds)/2); r.limited && s.confirm > max(every, 200*s.Base) {
		s.Mode = Draining
		return ReasonDrain
	}
	if !r.limited {
		return ReasonUnused
	}
	return ReasonKnee
}

// freed reports whether the sink has become able to do much more: three rounds in a
// row had hardly a queue, and throughput followed the window.
func (s *State) freed(r round, y, target float64) bool {
	if !r.limited || y > target/4 {
		s.easy, s.from = 0, pair{}
		return false
	}
	if s.easy++; s.easy == 1 {
		s.from = pair{r.InFlight, r.throughput, r.latency}
	}
	if s.easy < 3 || s.from.throughput <= 0 {
		return false
	}
	follows := math.Log(r.throughput/s.from.throughput) > 0.4*math.Log(r.InFlight/s.from.inFlight)
	s.easy, s.from = 0, pair{}
	return follows
}

// smooth returns the queueing of this round and the last one together, in which
// the dither is not seen, and that of this round.
func (s *State) smooth(r round) (both, now float64) {
	now = queueing(r.latency, s.Base)
	if last := s.seen.latency; last > 0 {
		return (now + queueing(last, s.Base)) / 2, now
	}
	return now, now
}

// compare learns from two rounds in a row with different numbers in flight how
// throughput follows, and moves the setpoint: extremum seeking (Heiss and Wagner,
// "Adaptive Load Control in Transaction Processing Systems", VLDB 1991). It
// reports whether Base was wrong.
func (s *State) compare(r round, y float64) bool {
	last := s.seen
	s.seen = pair{r.InFlight, r.throughput, r.latency}
	if last.throughput <= 0 || r.throughput <= 0 {
		return false
	}
	dn, dx := math.Log(r.InFlight/last.inFlight), math.Log(r.throughput/last.throughput)
	// Only what the dither did counts: the loop's own moves answer to noise in
	// throughput, and would take the return of it for an effect of theirs.
	const forget, prior = 0.97, 0.25
	weight := min(1, float64(r.Succeeded)/100) // the fewer answers, the more noise
	if s.Rounds%2 == 0 {
		weight = -weight // after an odd step, the window is the smaller one
	}
	s.slope.xy = s.slope.xy*forget + weight*dx
	s.slope.xx = s.slope.xx*forget + weight*dn
	s.Elasticity = (s.slope.xy + prior*knee) / (max(0, s.slope.xx) + prior)
	more := min(max(s.Elasticity, -1), 1) - knee
	if more > 0 {
		more *= min(2, more/0.2) // a little may be chance
	}
	s.Safety = min(max(minSafety, s.Safety*math.Exp(0.15*more)), maxSafety)

	return s.moved(r, y)
}

// moved reports whether the sink became slower by itself, and if so learns how much
// and restores the window: since latency rose above the setpoint, the loop took 40 %
// of the window away, and that cost as much throughput and won no latency. So there
// was no queue.
func (s *State) moved(r round, y float64) bool {
	target := s.setpoint(r.throughput)
	if y <= target {
		s.high = pair{}
		return false
	}
	if s.high.throughput == 0 || r.latency < 0.8*s.high.latency { // there was a queue, and it goes
		s.high = s.seen
		return false
	}
	dn, dx := math.Log(s.high.inFlight/r.InFlight), math.Log(s.high.throughput/r.throughput)
	if dn < 0.5 || dx < 0.6*dn {
		return false
	}
	before := s.high.inFlight
	s.Base, s.confirm, s.high = r.latency, 0, pair{}
	s.settle(before, s.setpoint(r.throughput), 0)
	return true
}

// drain takes the latency of a round with 0.7 of what is in service without a queue.
// If Base was right, so is this; if it was too high, this is lower. Upwards it
// believes half, and looks again.
func (s *State) drain(r round) Reason {
	higher := r.latency > 1.2*s.Base
	if r.clean {
		s.Base, s.confirm = min(r.latency, math.Sqrt(s.Base*r.latency)), 0
	}
	if higher && r.clean {
		return ReasonDrain
	}
	s.Mode, s.seen, s.high = Running, pair{}, pair{}
	return ReasonKnee
}
