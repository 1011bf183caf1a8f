package main

import (
	"math"
	"math/rand/v2"
	"time"
)

// answer is what a server says.
type answer uint8

const (
	ok answer = iota
	throttled
	failed
)

// weather is how a server is at one moment.
type weather struct {
	slots   int           // requests served at once; the others queue
	service time.Duration // mean time of service
	spread  float64       // coefficient of variation of the time of service (lognormal); 0 for constant
	crowd   float64       // each request in the server lengthens service by this share: a soft knee
	thrash  float64       // each request beyond 4 for each slot lengthens service by this share: collapse
	quota   float64       // requests per second (token bucket), 0 for none
	busy    int           // more than so many requests in the server are refused, 0 for none
	refuse  bool          // every request fails at once
	silent  bool          // no request is answered
}

// server is a sink: a network, a quota, a queue and slots.
type server struct {
	*clock
	rng     *rand.Rand
	weather func(time.Duration) weather
	rtt     time.Duration // network, there and back
	jitter  float64       // of the network: exponential, as a share of rtt
	burst   float64       // tokens that the bucket holds

	tokens   float64
	filled   time.Duration
	queue    []*call
	inSlots  int
	waking   bool
	answered map[answer]int64
}

type call struct{ reply func(answer) }

// send carries a request there, and its answer back to reply, or nothing ever.
func (s *server) send(reply func(answer)) {
	half := time.Duration(float64(s.rtt) / 2 * (1 + s.jitter*s.rng.ExpFloat64()))
	back := func(a answer) {
		s.answered[a]++
		s.after(half, func() { reply(a) })
	}
	s.after(half, func() { s.receive(&call{back}) })
}

func (s *server) receive(c *call) {
	w := s.weather(s.now)
	switch {
	case w.silent:
		return
	case w.refuse:
		c.reply(failed)
		return
	case w.quota > 0 && !s.token(w.quota), w.busy > 0 && s.inSlots+len(s.queue) >= w.busy:
		c.reply(throttled)
		return
	}
	s.queue = append(s.queue, c)
	s.serve()
}

func (s *server) token(rate float64) bool {
	s.tokens = min(s.burst, s.tokens+rate*(s.now-s.filled).Seconds())
	s.filled = s.now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}

// serve starts what slots are free for.
func (s *server) serve() {
	w := s.weather(s.now)
	for s.inSlots < w.slots && len(s.queue) > 0 {
		c := s.queue[0]
		s.queue = s.queue[1:]
		here := float64(s.inSlots + 1 + len(s.queue))
		factor := 1 + w.crowd*(here-1) + w.thrash*max(0, here-4*float64(w.slots))
		if w.spread > 0 {
			sigma := math.Sqrt(math.Log1p(w.spread * w.spread))
			factor *= math.Exp(sigma*s.rng.NormFloat64() - sigma*sigma/2)
		}
		s.inSlots++
		s.after(time.Duration(float64(w.service)*factor), func() {
			s.inSlots--
			if !s.weather(s.now).silent {
				c.reply(ok)
			}
			s.serve()
		})
	}
	if len(s.queue) > 0 && !s.waking { // slots may be added while nothing ends
		s.waking = true
		s.after(100*time.Millisecond, func() { s.waking = false; s.serve() })
	}
}
