package sqssink

import (
	"context"
	"sync"
)

// A queue holds messages between those who read rows and those who send them, a
// bounded number of each. It hands out batches for requests. In a FIFO queue a
// group's messages are handed out in their order, and none while earlier ones are
// on their way.
type queue struct {
	limits

	mu      sync.Mutex
	room    *sync.Cond // for put
	work    *sync.Cond // for take
	putters int        // who wait for room
	takers  int        // who wait for work
	groups  map[string]*group
	ready   []*group // those with messages and none on its way, the one that has waited longest first
	bytes   int      // of what waits
	rows    int
	full    bool // nothing more, by put
	stopped bool
}

// limits of a queue.
type limits struct {
	fifo     bool
	perGroup int // the most messages of a group in a batch
	perBatch int // the most bytes in a batch
	rows     int // the most messages that wait
	bytes    int // the most bytes that wait; one message may be larger
}

// group is the messages with one group id; a queue that isn't FIFO has one.
type group struct {
	id      string
	waiting []*message
	busy    bool // some are on their way
}

// newQueue returns an empty queue. It stops when ctx ends; release frees what
// watches over that.
func newQueue(ctx context.Context, l limits) (q *queue, release func() bool) {
	q = &queue{limits: l, groups: map[string]*group{}}
	q.room, q.work = sync.NewCond(&q.mu), sync.NewCond(&q.mu)
	return q, context.AfterFunc(ctx, q.stop)
}

// put adds a message, when there is room. It reports false once the queue is
// stopped.
func (q *queue) put(m *message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped && q.rows > 0 && (q.rows >= q.limits.rows || q.bytes+m.bytes > q.limits.bytes) {
		q.putters++
		q.wake()
		q.room.Wait()
		q.putters--
	}
	if q.stopped {
		return false
	}
	g := q.groups[m.group]
	if g == nil {
		g = &group{id: m.group}
		q.groups[m.group] = g
	}
	if len(g.waiting) == 0 && !g.busy {
		q.ready = append(q.ready, g)
	}
	g.waiting = append(g.waiting, m)
	q.rows++
	q.bytes += m.bytes
	q.wake()
	return true
}

// end says that nothing more will be put.
func (q *queue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.full = true
	q.work.Broadcast()
}

// stop drops what waits. What is on its way isn't touched.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stopped = true
	q.room.Broadcast()
	q.work.Broadcast()
}

// take waits for messages to be sent in one request and returns them, or nil when
// there are no more. They must be given to done.
func (q *queue) take() []*message {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.stopped {
		if q.full && q.rows == 0 {
			return nil
		}
		if picked, n := q.pick(); n > 0 {
			batch := q.remove(picked, n)
			q.wake()
			return batch
		}
		q.takers++
		q.work.Wait()
		q.takers--
	}
	return nil
}

// wake wakes one who waits for work if there is some, and all if there will be
// none.
func (q *queue) wake() {
	switch {
	case q.takers == 0:
	case q.full && q.rows == 0:
		q.work.Broadcast()
	default:
		if _, n := q.pick(); n > 0 {
			q.work.Signal()
		}
	}
}

// pick finds the groups at the head of ready whose messages make the next batch,
// how many of each, and of all. A request costs the same with one message as with
// ten: while more are being read, there is none until no more fit, or much waits.
func (q *queue) pick() (picked []int, n int) {
	size := 0
	for _, g := range q.ready {
		k := 0
		for ; k < len(g.waiting) && k < q.perGroup; k++ {
			b := g.waiting[k].bytes
			if n > 0 && size+b > q.perBatch {
				if k > 0 {
					picked = append(picked, k)
				}
				return picked, n
			}
			size += b
			if n++; n == maxBatch {
				return append(picked, k+1), n
			}
		}
		picked = append(picked, k)
	}
	if q.full || q.putters > 0 || q.rows >= q.limits.rows/2 || q.bytes >= q.limits.bytes/2 {
		return picked, n
	}
	return nil, 0
}

func (q *queue) remove(picked []int, n int) []*message {
	batch := make([]*message, 0, n)
	var again []*group
	for i, k := range picked {
		g := q.ready[i]
		batch = append(batch, g.waiting[:k]...)
		clear(g.waiting[:k])
		g.waiting = g.waiting[k:]
		g.busy = q.fifo
		if !q.fifo && len(g.waiting) > 0 {
			again = append(again, g)
		}
	}
	clear(q.ready[:len(picked)])
	q.ready = q.ready[len(picked):]
	if len(again) > 0 {
		q.ready = append(again, q.ready...)
	}
	q.rows -= n
	for _, m := range batch {
		q.bytes -= m.bytes
	}
	q.room.Broadcast()
	return batch
}

// done says that messages of take have arrived, or will not. Further ones of
// their groups may follow.
func (q *queue) done(batch []*message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range batch {
		g := q.groups[m.group]
		if g == nil || !g.busy { // seen with another message
			continue
		}
		g.busy = false
		if len(g.waiting) > 0 {
			q.ready = append(q.ready, g)
		} else {
			delete(q.groups, g.id)
		}
	}
	q.wake()
}
