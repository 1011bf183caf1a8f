package main

import (
	"container/heap"
	"time"
)

// clock runs events in the order of their times, and those of one time in the
// order in which they were added: the same events give the same run.
type clock struct {
	now    time.Duration
	events eventHeap
	added  int64
}

type event struct {
	at  time.Duration
	seq int64
	do  func()
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = event{}
	*h = (*h)[:last]
	return e
}

// after runs do when d has passed.
func (c *clock) after(d time.Duration, do func()) {
	c.added++
	heap.Push(&c.events, event{c.now + max(d, 0), c.added, do})
}

// run runs events until the time end.
func (c *clock) run(end time.Duration) {
	for len(c.events) > 0 && c.events[0].at <= end {
		e := heap.Pop(&c.events).(event)
		c.now = e.at
		e.do()
	}
	c.now = end
}
