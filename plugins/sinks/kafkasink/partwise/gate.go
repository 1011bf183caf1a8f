package partwise

import (
	"context"
	"slices"
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

// budget bounds bytes that are held. Bytes are still while their batch is being
// filled, and move from when it is handed to its lane: then they come back
// without their owner's doing. Waiters are served in order; when nothing moves,
// those that hold still bytes are asked to hand them over. A request for more than
// the whole is served when nothing else is held.
type budget struct {
	max int64

	mu      sync.Mutex
	held    int64
	still   int64 // of held
	peak    int64
	waiters []*waiter
}

type waiter struct {
	bytes   int64
	willing bool      // has something to hand over
	ready   chan bool // true: granted; false: hand over first
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
	b.still += bytes
	b.peak = max(b.peak, b.held)
}

// acquire waits for bytes. It returns false when the caller, who is willing, has
// to hand over what it holds and ask again.
func (b *budget) acquire(ctx context.Context, bytes int64, willing bool) (bool, error) {
	b.mu.Lock()
	w := &waiter{bytes, willing, make(chan bool, 1)}
	b.waiters = append(b.waiters, w)
	b.wake()
	b.mu.Unlock()
	select {
	case granted := <-w.ready:
		return granted, nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.waiters, w); i >= 0 {
		b.waiters = slices.Delete(b.waiters, i, i+1)
		b.wake()
	} else if <-w.ready { // it came in the same instant
		b.still -= bytes
		b.give(bytes)
	}
	return false, context.Cause(ctx)
}

// move says that bytes will be released without the caller's doing.
func (b *budget) move(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.still -= bytes
}

// release gives back bytes that move.
func (b *budget) release(bytes int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.give(bytes)
}

func (b *budget) give(bytes int64) {
	b.held -= bytes
	if b.held < b.still || b.still < 0 {
		panic("partwise: more bytes given back than taken")
	}
	b.wake()
}

func (b *budget) wake() {
	for len(b.waiters) > 0 && b.fits(b.waiters[0].bytes) {
		w := b.waiters[0]
		b.waiters = b.waiters[1:]
		b.take(w.bytes)
		w.ready <- true
	}
	if b.held > b.still {
		return // what moves will come
	}
	b.waiters = slices.DeleteFunc(b.waiters, func(w *waiter) bool {
		if w.willing {
			w.ready <- false
		}
		return w.willing
	})
}
