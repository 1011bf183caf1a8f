package backpressure

import "time"

// Totals count since the beginning.
type Totals struct {
	Admitted  int64          // requests
	Ended     [results]int64 // requests by Result
	Bytes     int64          // of requests that succeeded
	Cancelled int64          // callers that gave up waiting
	Oversized int64          // requests larger than the limit, admitted alone
	Peak      int64          // most bytes in flight at once
}

// Snapshot is a consistent view of a controller, for metrics.
type Snapshot struct {
	Limit    int64 // bytes
	InFlight int64 // bytes
	Requests int   // in flight
	Waiting  int   // callers
	Totals   Totals

	Mode       Mode
	Reason     Reason        // of the last decision
	Window     int           // requests in flight at most
	Rate       float64       // admissions per second at most, 0 for no pace
	Base       time.Duration // latency of the sink without a queue, as far as known
	Latency    time.Duration // mean of the last round
	Throughput float64       // successes per second in the last round
	Elasticity float64       // d log throughput / d log window: near 1, a larger window serves; near 0, it only waits
	Queue      Queue
}

// Snapshot returns what is so at this moment.
func (g *Gate) Snapshot(now time.Duration) Snapshot {
	g.advance(now)
	return Snapshot{
		Limit:      g.limit,
		InFlight:   g.bytes,
		Requests:   g.requests,
		Waiting:    len(g.waiters),
		Totals:     g.total,
		Mode:       g.state.Mode,
		Reason:     g.decision.Reason,
		Window:     g.decision.Window,
		Rate:       g.decision.Rate,
		Base:       seconds(g.state.Base),
		Latency:    seconds(g.state.Latency),
		Throughput: g.state.Throughput,
		Elasticity: g.state.Elasticity,
		Queue:      g.meters.queue(g.now),
	}
}
