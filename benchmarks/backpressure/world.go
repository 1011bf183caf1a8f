package main

import (
	"math/rand/v2"
	"slices"
	"time"
)

const (
	timeout   = 5 * time.Second        // after which a worker gives a request up
	bin       = 100 * time.Millisecond // of series
	backoff   = 100 * time.Millisecond // doubled for each further attempt, with full jitter
	backoffTo = 5 * time.Second
)

// scenario is a sink and those who send to it.
type scenario struct {
	name, what string
	length     time.Duration
	workers    int
	processes  int                           // each with its own limiter and an equal part of the limit
	limit      int64                         // bytes, of all processes together
	size       func(*rand.Rand) int64        // bytes of a request
	arrivals   func(time.Duration) float64   // requests per second in all; nil: each worker always has one more
	outage     [2]time.Duration              // for the time of recovery; zero for none
	rtt        time.Duration                 // of the network
	jitter     float64                       // of the network
	burst      float64                       // of the quota
	weather    func(t time.Duration) weather // of the sink
}

// result is what one policy made of one scenario.
type result struct {
	Goodput  float64 `json:"bytes_per_second"` // of what was acknowledged, over the whole run
	Peak     int64   `json:"peak_bytes"`       // most in flight at once
	Wait     float64 `json:"p99_wait_s"`       // from having a request to its acknowledgement, retries included
	AtSink   float64 `json:"p99_sink_s"`       // of one attempt that succeeded
	Jain     float64 `json:"jain"`             // of bytes over workers
	Recovery float64 `json:"recovery_s"`       // after the outage; -1 for never
	Refused  float64 `json:"refused"`          // share of attempts that the sink refused, failed or let time out
	Setting  int     `json:"setting,omitempty"`

	delivered []float64 // bytes a bin
}

// world is one run.
type world struct {
	clock
	scenario
	server   server
	rng      *rand.Rand
	limiters []limiter
	armed    []time.Duration

	flying, peak   int64
	waits, sinks   []float64
	perWorker      []float64
	pending        map[*job]bool
	attempts, lost int64
	result         result
}

// job is one request of a worker, until the sink has it.
type job struct {
	worker int
	bytes  int64
	since  time.Duration
	tries  int
}

// run plays a scenario with a limiter for each process.
func run(sc scenario, seed uint64, limiterOf func(limit int64, process int) limiter) result {
	w := &world{scenario: sc, rng: rand.New(rand.NewPCG(seed, 1)), pending: map[*job]bool{}}
	w.perWorker = make([]float64, sc.workers)
	w.result.delivered = make([]float64, sc.length/bin+1)
	w.server = server{
		clock: &w.clock, rng: rand.New(rand.NewPCG(seed, 2)), weather: sc.weather, rtt: sc.rtt,
		jitter: sc.jitter, burst: sc.burst, tokens: sc.burst, answered: map[answer]int64{},
	}
	for p := range sc.processes {
		w.limiters = append(w.limiters, limiterOf(sc.limit/int64(sc.processes), p))
	}
	w.armed = make([]time.Duration, sc.processes)
	if sc.arrivals == nil {
		for i := range sc.workers {
			w.after(time.Duration(i)*time.Microsecond, func() { w.begin(i, w.now, nil) })
		}
	} else {
		w.arrive()
	}
	w.run(sc.length)
	return w.finish()
}

// arrive deals requests, at random times, to workers in turn; each sends one at a
// time.
func (w *world) arrive() {
	backlog := make([][]time.Duration, w.workers)
	busy := make([]bool, w.workers)
	var take func(i int)
	take = func(i int) {
		if len(backlog[i]) == 0 {
			busy[i] = false
			return
		}
		busy[i] = true
		since := backlog[i][0]
		backlog[i] = backlog[i][1:]
		w.begin(i, since, func() { take(i) })
	}
	n := 0
	var next func()
	next = func() {
		i := n % w.workers
		n++
		backlog[i] = append(backlog[i], w.now)
		if !busy[i] {
			take(i)
		}
		w.after(time.Duration(w.rng.ExpFloat64()/w.arrivals(w.now)*float64(time.Second)), next)
	}
	next()
}

// begin starts a worker's next request; after it, then runs, or the next begins.
func (w *world) begin(worker int, since time.Duration, then func()) {
	if then == nil {
		then = func() { w.begin(worker, w.now, nil) }
	}
	j := &job{worker: worker, bytes: w.size(w.rng), since: since}
	w.pending[j] = true
	w.attempt(j, then)
}

func (w *world) attempt(j *job, then func()) {
	p := j.worker % w.processes
	w.limiters[p].ask(w.now, j.bytes, func() {
		w.flying += j.bytes
		w.peak = max(w.peak, w.flying)
		w.after(0, func() { w.send(p, j, then) })
	})
	w.arm(p)
}

func (w *world) send(p int, j *job, then func()) {
	sent, over := w.now, false
	w.attempts++
	end := func(a answer) {
		if over {
			return
		}
		over = true
		took := w.now - sent
		w.flying -= j.bytes
		if a == ok {
			w.sinks = append(w.sinks, took.Seconds())
			w.acknowledged(j)
			w.after(0, then)
		} else {
			w.lost++
			pause := min(backoffTo, backoff<<min(j.tries, 10))
			j.tries++
			w.after(time.Duration(w.rng.Float64()*float64(pause)), func() { w.attempt(j, then) })
		}
		w.limiters[p].release(w.now, j.bytes, took, a)
		w.arm(p)
	}
	w.after(timeout, func() { end(failed) })
	w.server.send(end)
}

func (w *world) acknowledged(j *job) {
	delete(w.pending, j)
	w.waits = append(w.waits, (w.now - j.since).Seconds())
	w.perWorker[j.worker] += float64(j.bytes)
	w.result.delivered[w.now/bin] += float64(j.bytes)
}

// arm lets a limiter's time pass when it wants that.
func (w *world) arm(p int) {
	at, wants := w.limiters[p].next()
	if !wants || w.armed[p] > w.now && w.armed[p] <= at {
		return
	}
	at = max(at, w.now+1)
	w.armed[p] = at
	w.after(at-w.now, func() {
		if w.armed[p] == w.now {
			w.limiters[p].tick(w.now)
			w.armed[p] = 0
			w.arm(p)
		}
	})
}

func (w *world) finish() result {
	r := w.result
	for j := range w.pending { // those still waiting have waited at least so long
		w.waits = append(w.waits, (w.length - j.since).Seconds())
	}
	var sum, squares float64
	for _, b := range w.perWorker {
		sum += b
		squares += b * b
	}
	r.Goodput = sum / w.length.Seconds()
	r.Peak = w.peak
	r.Wait, r.AtSink = p99(w.waits), p99(w.sinks)
	if squares > 0 {
		r.Jain = sum * sum / (squares * float64(w.workers))
	}
	r.Refused = float64(w.lost) / float64(max(w.attempts, 1))
	return r
}

func p99(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[min(len(values)-1, len(values)*99/100)]
}

// recovery is the time from the end of an outage until a second's deliveries are
// 90 % of what reference delivers per second in the ten seconds before it, or -1.
func recovery(sc scenario, r, reference result) float64 {
	var before float64
	for i := (sc.outage[0] - 10*time.Second) / bin; i < sc.outage[0]/bin; i++ {
		before += reference.delivered[i]
	}
	const bins = int(time.Second / bin)
	want := 0.9 * before / 10
	for i := int(sc.outage[1]/bin) + bins; i < len(r.delivered); i++ {
		sum := 0.0
		for _, b := range r.delivered[i-bins : i] {
			sum += b
		}
		if sum >= want {
			return float64(i)*bin.Seconds() - sc.outage[1].Seconds()
		}
	}
	return -1
}
