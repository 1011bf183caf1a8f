package main

import (
	"math"
	"math/rand/v2"
	"time"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	s   = time.Second
	ms  = time.Millisecond
)

// always returns a size that is always the same.
func always(bytes int64) func(*rand.Rand) int64 { return func(*rand.Rand) int64 { return bytes } }

// mixed returns sizes from 1 KiB to 8 MiB, each power of two as likely.
func mixed(r *rand.Rand) int64 { return int64(kib * math.Exp2(13*r.Float64())) }

// calm is the sink that scenarios start from: 16 slots of 40 ms behind 10 ms of
// network give 400 requests a second from 20 in flight.
func calm() weather { return weather{slots: 16, service: 40 * ms, spread: 0.5} }

// slots returns a sink like calm with n slots.
func slots(n int) weather { w := calm(); w.slots = n; return w }

// between tells whether t is in [from, to) seconds.
func between(t time.Duration, from, to int) bool {
	return t >= time.Duration(from)*s && t < time.Duration(to)*s
}

// scenarios returns all of them; each says what it has other than calm.
func scenarios() []scenario {
	list := append(append(changing(), refusing()...), crowds()...)
	for i := range list {
		sc := &list[i]
		if sc.length == 0 {
			sc.length = 120 * s
		}
		if sc.workers == 0 {
			sc.workers = 64
		}
		if sc.processes == 0 {
			sc.processes = 1
		}
		if sc.limit == 0 {
			sc.limit = 50 * mib
		}
		if sc.size == nil {
			sc.size = always(256 * kib)
		}
		if sc.rtt == 0 {
			sc.rtt = 10 * ms
		}
		if sc.weather == nil {
			sc.weather = func(time.Duration) weather { return calm() }
		}
	}
	return list
}

// changing sinks.
func changing() []scenario {
	return []scenario{
		{name: "calm", what: "16 slots of 40 ms, 10 ms of network, 64 workers"},
		{name: "steps", what: "16, 4, 24, 8 slots, 30 s each", weather: func(t time.Duration) weather {
			return slots([]int{16, 4, 24, 8}[min(3, int(t/(30*s)))])
		}},
		{name: "slower", what: "service of 40, 160, 40, 10 ms, 30 s each", weather: func(t time.Duration) weather {
			w := calm()
			w.service = []time.Duration{40 * ms, 160 * ms, 40 * ms, 10 * ms}[min(3, int(t/(30*s)))]
			return w
		}},
		{name: "ramp", what: "from 4 to 32 slots and back, evenly, in 120 s", weather: func(t time.Duration) weather {
			return slots(int(4 + 28*(1-math.Abs(t.Seconds()-60)/60)))
		}},
		{name: "warm-up", what: "1 slot at first, one more each 2 s, up to 16", weather: func(t time.Duration) weather {
			return slots(min(16, 1+int(t/(2*s))))
		}},
		{name: "bursts", what: "open arrivals: 120 a second, for 3 s of every 15 s 900", arrivals: func(t time.Duration) float64 {
			if t%(15*s) < 3*s {
				return 900
			}
			return 120
		}},
		{name: "light", what: "open arrivals: 60 % of what the sink can", arrivals: func(time.Duration) float64 { return 240 }},
		{
			name: "jitter", what: "service with a coefficient of variation of 3, network of 10 ms with exponential jitter of 10 times that", jitter: 10,
			weather: func(time.Duration) weather { w := calm(); w.spread = 3; return w },
		},
		{
			name: "slow sink", what: "2 slots of 1 s: 2 requests a second", length: 600 * s, workers: 16,
			weather: func(time.Duration) weather { return weather{slots: 2, service: s, spread: 0.5} },
		},
		{
			name: "far", what: "150 ms of network, 32 slots of 40 ms, 256 workers", workers: 256, size: always(64 * kib), rtt: 150 * ms,
			weather: func(time.Duration) weather { return weather{slots: 32, service: 40 * ms, spread: 0.5} },
		},
	}
}

// refusing sinks: outages, quotas, overload.
func refusing() []scenario {
	return []scenario{
		{name: "outage", what: "every request fails at once from 40 s to 60 s", outage: [2]time.Duration{40 * s, 60 * s}, weather: func(t time.Duration) weather {
			w := calm()
			w.refuse = between(t, 40, 60)
			return w
		}},
		{name: "silence", what: "no answer from 40 s to 60 s; workers give up after 5 s", outage: [2]time.Duration{40 * s, 60 * s}, weather: func(t time.Duration) weather {
			w := calm()
			w.silent = between(t, 40, 60)
			return w
		}},
		{name: "quota", what: "200 requests a second, bucket of 100, then 429", burst: 100, weather: func(time.Duration) weather {
			w := calm()
			w.quota = 200
			return w
		}},
		{name: "quotas", what: "quota of 100, 300, 150 a second, 40 s each, bucket of 50", burst: 50, weather: func(t time.Duration) weather {
			w := calm()
			w.quota = []float64{100, 300, 150}[min(2, int(t/(40*s)))]
			return w
		}},
		{name: "busy", what: "429 when more than 12 are in the sink", weather: func(time.Duration) weather {
			w := calm()
			w.busy = 12
			return w
		}},
		{name: "collapse", what: "8 slots; beyond 32 in the sink each one lengthens service by 5 %", workers: 128, weather: func(time.Duration) weather {
			w := slots(8)
			w.thrash = 0.05
			return w
		}},
		{name: "soft knee", what: "64 slots; each request in the sink lengthens service by 5 %", weather: func(time.Duration) weather {
			w := slots(64)
			w.crowd = 0.05
			return w
		}},
	}
}

// crowds of workers, few or many, in one process or several.
func crowds() []scenario {
	return []scenario{
		{name: "1 worker", what: "one worker", workers: 1},
		{name: "256 workers", what: "256 workers", workers: 256},
		{name: "8 processes", what: "8 processes of 8 workers, each with an eighth of the limit", workers: 64, processes: 8, size: always(128 * kib)},
		{name: "64 processes", what: "64 processes of 4 workers, each with a 64th of the limit", workers: 256, processes: 64, size: always(64 * kib)},
		{name: "sizes", what: "requests from 1 KiB to 8 MiB, limit of 20 MiB", size: mixed, limit: 20 * mib},
	}
}
