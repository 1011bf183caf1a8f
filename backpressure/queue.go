package backpressure

import (
	"math"
	"time"
)

// Queue is a sink seen as one queue with one server, over about the last ten
// seconds. Three figures say how long a request waits before it is admitted; in
// a quiet sink they agree, and how they part tells why it isn't quiet:
//
//   - Measured is what callers of Acquire really waited.
//   - Little is J. D. C. Little's law, "A Proof for the Queuing Formula L = λW",
//     Operations Research 9 (1961): the mean number of waiters over the rate at
//     which they are admitted. It holds for every stable queue, so a Measured
//     that is much smaller means a queue that grows: those who wait now will
//     wait longer than those who were admitted.
//   - Expected is what M/M/1 (random arrivals and random service, Kleinrock,
//     "Queueing Systems" I, 1975) gives for the two rates: ρ/(μ-λ). It is infinite
//     when more arrives than is served. Callers that wait for an answer before
//     they ask again are no random arrivals, so it is far above Measured there.
type Queue struct {
	Arrivals    float64 // λ: requests that ask, per second
	Service     float64 // μ: requests that end, per second in which any was in flight
	Utilisation float64 // ρ = λ/μ; above 1, the queue grows
	Waiting     float64 // mean number of callers waiting
	InFlight    float64 // mean number of requests in flight
	Measured    time.Duration
	Little      time.Duration
	Expected    time.Duration // Forever when ρ ≥ 1
}

// Forever stands for a wait that M/M/1 gives no end for.
const Forever = time.Duration(math.MaxInt64)

// MM1 returns the mean wait before service, ρ/(μ-λ), for rates per second, and
// Forever for λ ≥ μ.
func MM1(arrivals, service float64) time.Duration {
	if arrivals >= service {
		return Forever
	}
	return seconds(arrivals / service / (service - arrivals))
}

// Charge is the cost of a utilisation ρ in [0, 1): -log1p(-ρ), which is log1p(L)
// of M/M/1's mean number in the system L = ρ/(1-ρ). Each further bit of
// utilisation costs more than the one before: the marginal cost 1/(1-ρ) is
// M/M/1's time in the system in units of the time of service.
func Charge(utilisation float64) float64 { return -math.Log1p(-utilisation) }

// queueing returns log1p of the excess of a latency over the latency without a
// queue. By M/M/1 the excess R/S - 1 is the number in the system, so this is
// Charge of the utilisation; and in any queue that is full, where R grows with
// the window, it is the logarithm of the window and a constant. The policy's loop
// sees a plant with gain 1 wherever it stands.
func queueing(latency, base float64) float64 {
	if base <= 0 || latency <= base {
		return 0
	}
	return math.Log1p(latency/base - 1)
}

// meter is a sum that forgets with a time constant of meterWindow.
type meter struct {
	sum float64
	at  time.Duration
}

const meterWindow = 10 * time.Second

func (m *meter) add(now time.Duration, v float64) {
	m.sum = m.value(now) + v
	m.at = now
}

func (m *meter) value(now time.Duration) float64 {
	return m.sum * math.Exp(-(now-m.at).Seconds()/meterWindow.Seconds())
}

// area adds v, held from m.at's time of forgetting until now, as an integral.
func (m *meter) area(now time.Duration, v float64) {
	w := meterWindow.Seconds()
	keep := math.Exp(-(now - m.at).Seconds() / w)
	m.sum = m.sum*keep + v*w*(1-keep)
	m.at = now
}

// meters feed Queue: all with the same forgetting, so that their quotients are
// means over the same time.
type meters struct {
	time, busy, waiting, inFlight    meter // integrals over time, in seconds
	asked, admitted, ended, waitings meter // sums; waitings in seconds
}

// until accounts the time up to now, in which nothing changed.
func (m *meters) until(now time.Duration, waiting, inFlight int) {
	m.time.area(now, 1)
	m.waiting.area(now, float64(waiting))
	m.inFlight.area(now, float64(inFlight))
	busy := 0.0
	if inFlight > 0 {
		busy = 1
	}
	m.busy.area(now, busy)
}

func (m *meters) queue(now time.Duration) Queue {
	q := Queue{
		Arrivals: ratio(m.asked.value(now), m.time.value(now)),
		Service:  ratio(m.ended.value(now), m.busy.value(now)),
		Waiting:  ratio(m.waiting.value(now), m.time.value(now)),
		InFlight: ratio(m.inFlight.value(now), m.time.value(now)),
		Measured: seconds(ratio(m.waitings.value(now), m.admitted.value(now))),
		Little:   seconds(ratio(m.waiting.value(now), m.admitted.value(now))),
	}
	q.Utilisation = ratio(q.Arrivals, q.Service)
	if q.Service > 0 {
		q.Expected = MM1(q.Arrivals, q.Service)
	}
	return q
}

func ratio(a, b float64) float64 {
	if b <= 0 {
		return 0
	}
	return a / b
}

// seconds converts, and stops at Forever.
func seconds(s float64) time.Duration {
	if s >= Forever.Seconds() {
		return Forever
	}
	return time.Duration(s * float64(time.Second))
}
