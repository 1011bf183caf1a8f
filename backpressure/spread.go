package backpressure

import "time"

// spreadSlots is the number of places that wake-ups are spread over. It is a
// prime, so that every stride below it visits each place once in a cycle.
const spreadSlots = 251

// strides are primes whose multiples modulo spreadSlots jump about: neighbours
// in time are far apart in place.
var strides = [...]int64{97, 101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173}

// Spread returns the k-th wake-up's place in [0, 1) for a controller with this
// seed: (k·stride + seed) mod 251, over 251. It needs no random numbers and no
// messages:
//
//   - any 251 consecutive wake-ups take each place exactly once, so their mean is
//     exactly 125/251, and a pace that is spread by it keeps its rate;
//   - two controllers whose strides differ take the same place in 1 of 251
//     wake-ups, wherever they start, so those that were stopped by the same event
//     don't come back in step.
func Spread(seed uint64, k int64) float64 {
	stride := strides[seed%uint64(len(strides))]
	k = (k%spreadSlots + spreadSlots) % spreadSlots
	return float64((k*stride+int64(seed%spreadSlots))%spreadSlots) / spreadSlots
}

// spread lengthens or shortens a gap by up to half of it; the mean is the gap.
func spread(gap time.Duration, seed uint64, k int64) time.Duration {
	const mean = float64(spreadSlots-1) / 2 / spreadSlots
	return time.Duration(float64(gap) * (1 + Spread(seed, k) - mean))
}
