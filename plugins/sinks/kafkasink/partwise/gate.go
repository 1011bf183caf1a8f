package partwise

import (
	"context"
	"sync"
	"time"
)

// Gate is a backpressure controller: it is asked before a batch is written and
// told when the batch is answered. Implementations are safe for concurrent use.
type Gate interface {
	// Acquire waits until bytes more may be in flight, or for the end of ctx.
	Acquire(ctx context.Context, bytes int64) error
	// Release gives back what one Acquire took. It must not block: it is called
	// by the goroutine that reads answers.
	Release(bytes int64, outcome Outcome)
}

// Outcome is how a batch fared.
type Outcome struct {
	Latency   time.Duration // from the write to the answer
	Throttled time.Duration // that the broker asked for before anything else is sent
	Err       error         // nil: acknowledged. An *Error otherwise
}

// open is the Gate of a sink without one.
type open struct{}

func (open) Acquire(ctx context.Context, _ int64) error { return ctx.Err() }
func (open) Release(int64, Outcome)                     {}

// budget bounds bytes that are held. Waiters are served in order. A request for
// more than the whole is served when nothing else is held.
type budget struct {
	max int64

	mu      sync.Mutex
	held    int64
	peak    int64
	waiters []*waiter
}

type waiter struct {
	bytes int64
	ready chan struct{}
}

// try takes bytes if that needs no waiting.
func (b *budget) try(bytes int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.waiters) > 0 || !b.fits(bytes) {
		return false
	}
	b.take(bytes)
	return true
}

func (b *budget) fits(bytes int64) bool { return b.held+bytes <= b.max || b.held == 0 }

func (b *budget) take(bytes int64) {
	b.held += bytes
	b.peak = max(b.peak, b.held)
}

// acquire waits for bytes. Whoever waits must hold only what will be given back
// without their doing.
func (b *budget) acquire(ctx context.Context, bytes int64) error {
	if b.try(bytes) {
		return nil
	}
	b.mu.Lock()
	w := &waiter{bytes, make(chan struct{})}
	b.waiters = append(b.waiters, w)
	b.wake()
	b.mu.Unlock()
	select {
	case <-w.ready:
		return nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range b.waiters {
		if b.waiters[i] == w {
			b.waiters = append(b.waiters[:i], b.waiters[i+1:]...)
			b.wake()
			return context.Cause(ctx)
		}
	}
	b.give(bytes) // it came in the same instant
	return context.Cause(ctx)
}

func (b *budget) release(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.give(bytes)
}

func (b *budget) give(bytes int64) {
	b.held -= bytes
	if b.held < 0 {
		panic("partwise: more bytes given back than taken")
	}
	b.wake()
}

func (b *budget) wake() {
	for len(b.waiters) > 0 && b.fits(b.waiters[0].bytes) {
		w := b.waiters[0]
		b.waiters = b.waiters[1:]
		b.take(w.bytes)
		close(w.ready)
	}
}
