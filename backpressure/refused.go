package backpressure

import (
	"math"
	"time"
)

// pace follows a quota: a limit of requests per second that the sink holds by
// refusing.
type pace struct {
	Rate   float64 // admissions per second, 0 for no pace
	gain   float64 // growth per second, as a share
	ok     float64 // successes per second, over about paceWindow
	all    float64 // answers per second, over the same
	refuse float64 // refusals per second, over the same, since the last cut

	since   float64 // seconds since the last cut
	crowded crowding
}

// crowding tells a quota of requests at once from one of requests per time: the
// first refuses when many are in flight, the second whenever its time comes.
type crowding struct {
	refused, served float64 // number in flight at refusals and at successes, smoothed
	squares         float64 // of the deviation of the latter, smoothed
	seen            float64 // refusals
}

const (
	paceWindow    = 1.0  // seconds
	tolerated     = 0.02 // share of refusals that is the price of knowing the quota
	mostTolerated = 0.3
	firstGain     = 0.05
	pause         = 1.0 // seconds from a cut to the next growth
	lowestRate    = 0.5
	probeFirst    = 100 * time.Millisecond
	probeSlowest  = time.Second
	longestHold   = time.Minute // whatever a sink asks for, it is tried again by then
)

// refused handles a round with refusals or failures, and returns "" if there is
// nothing to say of it.
func (s *State) refused(r round) Reason {
	if s.Mode == Down {
		return ""
	}
	if paced := s.pace.Rate > 0; s.pace.step(r) {
		s.Mode, s.before = Running, 0
		if !paced { // from now on the pace is what holds back
			s.settle(s.Window*0.7, 0, 0)
		}
		return ReasonThrottle
	}
	ended := float64(r.Succeeded + r.Throttled + r.Failed)
	share := float64(r.Failed) / ended
	usual := s.failures
	s.failures += (share - usual) / 20
	if r.Failed >= 2 && share > usual+0.1 {
		s.Mode = Running
		s.settle(s.Window*0.7, 0, 0)
		return ReasonFailing
	}
	return ""
}

// step follows the quota, and reports whether the rate was cut. While requests
// are refused, those that aren't are the quota: so the rate goes to what
// succeeds, and grows from there, faster the longer nothing is refused.
func (p *pace) step(r round) bool {
	ended := float64(r.Succeeded + r.Throttled + r.Failed)
	if p.all == 0 {
		p.ok, p.all = r.throughput, ended/r.seconds
	}
	keep := math.Exp(-r.length / paceWindow)
	p.ok = p.ok*keep + r.throughput*(1-keep)
	p.all = p.all*keep + ended/r.seconds*(1-keep)
	p.refuse = p.refuse*keep + float64(r.Throttled)/r.seconds*(1-keep)
	pausing := p.Rate > 0 && p.since < pause
	p.since += r.length
	p.crowded.see(r)
	accepted := p.tolerance()
	if pausing {
		accepted = 2*accepted + 0.05
	}
	if r.Throttled > 0 && p.refuse > accepted*p.all {
		p.cut(r.throughput)
		return true
	}
	if p.Rate > 0 && !pausing {
		p.grow(r)
	}
	return false
}

// tolerance is the share of refusals that is accepted. A quota of requests per time
// gives the same however many ask, and a few refusals are the price of knowing it.
// One of requests at once gives more to those who ask more often: a place that is
// free for a moment is worth some refusals. The two are told apart by how many more
// are in flight at refusals, in standard deviations (Cohen's d).
func (p *pace) tolerance() float64 {
	c := p.crowded
	if c.seen < 10 || c.squares <= 0 {
		return tolerated
	}
	d := (c.refused - c.served) / math.Sqrt(c.squares)
	return tolerated + (mostTolerated-tolerated)*min(max(0, 2*d-1), 1)
}

func (c *crowding) see(r round) {
	if r.Throttled > 0 {
		// The mean over about the last 50 refusals.
		c.refused += (r.AtRefusal - c.refused) * (1 - math.Exp(-float64(r.Throttled)/min(50, c.seen+1)))
		c.seen += float64(r.Throttled)
	}
	if r.Succeeded > 0 && c.seen > 0 {
		k := 1 - math.Exp(-float64(r.Succeeded)/1000)
		if c.served == 0 {
			k = 1
		}
		c.served += k * (r.AtSuccess - c.served)
		c.squares += k * (r.Deviation*r.Deviation - c.squares)
	}
}

func (p *pace) grow(r round) {
	if r.Paced > 0.1 {
		p.Rate *= 1 + p.gain*r.length
		p.gain = min(p.gain*math.Exp2(2*r.length), 1)
	} else if p.Rate > 2*r.throughput && p.gain >= 1 {
		p.Rate = 0
	}
}

// cut takes the rate down to what the sink takes, and by the tolerance more: on the
// average, or, the first time, when the average lags behind, in this round.
func (p *pace) cut(now float64) {
	if p.Rate == 0 {
		p.ok = max(p.ok, now)
	}
	rate := max(p.ok*(1+p.tolerance()), lowestRate)
	if p.Rate > 0 {
		rate = max(min(rate, p.Rate), p.Rate/2)
	}
	p.Rate, p.gain, p.since = rate, firstGain, 0
	p.refuse = 0
}

// outage enters and leaves Down. A sink is down when a round had failures and not
// one success, or no answer at all for longer than a round may take.
func (s *State) outage(r round) Reason {
	if s.Mode == Down {
		if r.Succeeded == 0 {
			s.probes++
			return ReasonDown
		}
		s.Mode, s.seen = Starting, pair{}
		s.Window = min(max(2, s.before/4)+float64(r.Pending), s.before)
		return ReasonRecover
	}
	silent := r.Succeeded+r.Throttled+r.Failed == 0
	if r.Succeeded > 0 || !silent && (r.Failed < 2 || r.Throttled > 0) {
		return ""
	}
	s.before = max(s.before, s.Window)
	s.Mode, s.probes = Down, 0
	return ReasonDown
}

// probe lets one request more into a sink that is down, less and less often. It
// doesn't wait for those that hang: the sink may answer again long before they
// give up.
func (s *State) probe(d Decision, o Observation) Decision {
	gap := min(probeSlowest, probeFirst<<min(s.probes, 8))
	gap = spread(gap, s.Seed, s.Rounds)
	d.Window = min(o.Pending+1, max(1, int(s.before)))
	d.Rate = 1 / gap.Seconds()
	d.Answers, d.Settle, d.Least, d.Most = 1, 0, 0, gap
	d.Hold = hold(o)
	return d
}

// hold is the wait that the sink asked for, where it took nothing at all: one that
// takes others' requests means only those it refused, and those keep to the pace.
func hold(o Observation) time.Duration {
	if o.Succeeded > 0 {
		return 0
	}
	return min(o.RetryAfter, longestHold)
}
