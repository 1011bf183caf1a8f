// Package backpressure bounds what is in flight to a sink, and finds out how much
// that should be. A caller asks before each request and says afterwards what
// became of it:
//
//	if err := c.Acquire(ctx, bytes); err != nil {
//		return err
//	}
//	err := send(ctx, request)
//	c.Release(bytes, outcome(err))
//
// It imports the standard library only.
//
// # The bound
//
// The sum of the bytes of all requests between Acquire and Release never exceeds
// the limit (50 MiB by default). Two exceptions are part of the contract: a single
// request larger than the limit goes alone, when nothing else is in flight, and is
// counted as oversized; and a limit that shrinks below what is in flight revokes
// nothing, but admits nobody until there is room again. A limit of 0 admits nobody.
// The limit may be changed at any time, as when processes that share a sink lend
// each other parts of it.
//
// # The order
//
// Waiters go in the order in which they came, whatever their sizes. So nobody
// starves. A caller whose context ends leaves the queue and holds nothing.
//
// # The policy
//
// Below the hard limit a window bounds the number of requests in flight. It is
// moved by Step, a pure function of a state and an observation, once in a round:
// the time that what was in flight needs to be answered, and then as long again.
//
// Starting: the window doubles while throughput follows it.
//
// Running: a PID loop (derivative on the measurement, anti-windup by
// back-calculation) holds the queue in the sink. What it measures is log1p of the
// excess of latency over the latency without a queue (the least that was seen, as in
// TCP Vegas, Brakmo and Peterson 1995, and BBR, Cardwell et al. 2016). In M/M/1
// the excess is the number in the system, so this is Charge of the utilisation ρ,
// -log1p(-ρ): each further request costs more than the one before. In a full queue
// it is the logarithm of the window, so the loop, whose output is that logarithm,
// has the same gain at 2 requests and at 2,000. The setpoint is a queue of
// Safety·√(in service): what keeps many servers busy in spite of chance. Safety is
// moved by the measured elasticity of throughput: rounds alternate between a
// somewhat larger and a somewhat smaller window, and as long as 1 % more requests
// give more than 0.1 % more throughput, more are allowed. That point is the knee.
//
// When the loop has taken 40 % of the window away, and that cost as much throughput
// and won no latency, there was no queue: the sink itself became slower, so the
// window is restored and the latency without a queue learnt anew. That is also
// looked for about every twenty seconds, in a round with 0.7 of what is in service
// (Draining).
//
// Latency is measured by Little's law, as the mean number in flight over the rate
// at which requests come and go. It needs no clock per request, and it sees
// requests that hang before they end.
//
// Throttled: requests that a sink refuses as too many set a pace. What it takes
// while it refuses is the quota, so the rate goes to that and grows from there,
// slowly at first and faster the longer nothing is refused. 2 % of refusals is the
// price of knowing the quota. A sink that counts requests at once and not per second
// refuses when many are in flight; that is seen, and there up to 30 % are accepted,
// because each place that is free for a moment is throughput lost. A Retry-After is
// kept by everybody (up to a minute) while the sink takes nothing at all; one that
// serves others means only those it refused, which is their caller's to keep.
//
// Failed: when more requests fail than usual, the window shrinks. When in a round
// none succeeds, or none is answered for eight round trips and at least a second,
// the sink is Down: single probes go out, one in 100 ms at first and one in a
// second later, also while earlier ones hang. The first success ends it, and the
// window doubles from a quarter of what it was before up to that.
//
// Everything that is decided has a Reason, and there is no hidden cap: what bounds
// a sink is in its Snapshot.
//
// # Spreading
//
// Several controllers that share a sink see the same events. Their probes, paces
// and looks for the latency are spread by multiples of primes (see Spread), so that
// they don't come back in step, and yet every run is the same.
//
// # Layers
//
// Step, PID.Step, Spread, MM1 and Charge are pure. Gate adds the counting and the
// queue and is a plain data structure whose time is given to it; simulations run
// on it. Controller is a Gate behind a mutex with one timer.
package backpressure
