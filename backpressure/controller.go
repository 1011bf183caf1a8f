package backpressure

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Options of a Controller; the zero value works.
type Options struct {
	Limit int64            // bytes in flight at most; 0 means DefaultLimit
	Seed  uint64           // should differ between the controllers of one sink
	Now   func() time.Time // time.Now if nil
}

// Controller bounds what is in flight to one sink. All methods may be called by
// any number of goroutines. It starts none itself and needs no closing: a timer
// is armed only while somebody waits or a request is in flight.
type Controller struct {
	now   func() time.Time
	began time.Time

	mu    sync.Mutex
	gate  *Gate
	timer *time.Timer
	armed time.Duration // when timer goes off, 0 for not armed
}

// ErrBytes is returned for a negative number of bytes.
var ErrBytes = errors.New("backpressure: negative bytes")

// New returns a controller of a sink of which nothing is known yet.
func New(o Options) *Controller {
	if o.Now == nil {
		o.Now = time.Now
	}
	c := &Controller{now: o.Now, began: o.Now(), gate: NewGate(o.Limit, o.Seed)}
	c.timer = time.AfterFunc(time.Hour, c.tick)
	c.timer.Stop()
	return c
}

// Acquire waits until the bytes of one request may be in flight. With a nil error
// they are, and Release must be called once with the same number. It returns
// ctx.Err() when ctx ends first, and then nothing was acquired; ErrBytes for a
// negative number.
//
// Waiters are served in the order in which they came. A request larger than the
// limit waits until nothing else is in flight and then goes alone.
func (c *Controller) Acquire(ctx context.Context, bytes int64) error {
	if bytes < 0 {
		return ErrBytes
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	admitted := make(chan struct{})
	c.mu.Lock()
	t := c.gate.Ask(c.since(), bytes, func() { close(admitted) })
	c.arm()
	c.mu.Unlock()
	select {
	case <-admitted:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.arm()
	if c.gate.Cancel(c.since(), t) {
		return ctx.Err()
	}
	return nil // admitted meanwhile: the caller has it and will see ctx by itself
}

// Release ends a request that Acquire admitted, with what it came to. It panics
// when so many bytes are not in flight.
func (c *Controller) Release(bytes int64, o Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate.Release(c.since(), bytes, o)
	c.arm()
}

// SetLimit changes the limit at once, in bytes. What is in flight stays so; with
// less than that nobody is admitted until enough of it has ended, and with 0
// nobody at all.
func (c *Controller) SetLimit(bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gate.SetLimit(c.since(), bytes)
	c.arm()
}

// Snapshot returns what is so at this moment.
func (c *Controller) Snapshot() Snapshot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gate.Snapshot(c.since())
}

func (c *Controller) tick() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = 0
	c.gate.Tick(c.since())
	c.arm()
}

func (c *Controller) since() time.Duration { return c.now().Sub(c.began) }

// arm sets the timer for the gate's next moment. A timer that goes off too early
// does no harm, so one that is armed for less is left alone.
func (c *Controller) arm() {
	next, ok := c.gate.Next()
	if !ok {
		c.timer.Stop()
		c.armed = 0
		return
	}
	if c.armed != 0 && c.armed <= next {
		return
	}
	now := c.since()
	c.timer.Reset(max(next-now, 0))
	c.armed = max(next, 1)
}
