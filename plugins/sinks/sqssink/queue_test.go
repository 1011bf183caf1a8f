package sqssink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// TestQueue: whatever is put, and by however many it is taken, each message is
// handed out once, in batches within their limits; in a FIFO queue in the order of
// its group, none while earlier ones are on their way.
func TestQueue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := limits{
			fifo: rapid.Bool().Draw(t, "fifo"), perGroup: rapid.IntRange(1, maxBatch).Draw(t, "perGroup"),
			perBatch: rapid.IntRange(10, 200).Draw(t, "perBatch"), rows: rapid.IntRange(1, 50).Draw(t, "rows"), bytes: rapid.IntRange(1, 500).Draw(t, "bytes"),
		}
		if !l.fifo {
			l.perGroup = maxBatch
		}
		groups := rapid.IntRange(1, 20).Draw(t, "groups")
		n := rapid.IntRange(0, 300).Draw(t, "n")
		takers := rapid.IntRange(1, 6).Draw(t, "takers")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		messages := make([]*message, n)
		for i := range messages {
			messages[i] = &message{row: int64(i), bytes: 1 + rng.IntN(10)}
			if l.fifo {
				messages[i].group = fmt.Sprint(rng.IntN(groups))
			}
		}
		q, release := newQueue(context.Background(), l)
		defer release()
		w := &watch{t: t, l: l, last: map[string]int64{}, busy: map[string]bool{}, seen: map[int64]bool{}}
		var group sync.WaitGroup
		for range takers {
			group.Go(func() {
				for batch := q.take(); batch != nil; batch = q.take() {
					w.taken(batch)
					runtime.Gosched()
					w.ended(batch)
					q.done(batch)
				}
			})
		}
		for _, m := range messages {
			if !q.put(m) {
				t.Fatal("it was stopped")
			}
		}
		q.end()
		group.Wait()
		if len(w.seen) != n || w.wrong != "" {
			t.Fatalf("%d messages of %d were handed out; %s", len(w.seen), n, w.wrong)
		}
		if len(q.ready) > 0 || q.rows != 0 || q.bytes != 0 || l.fifo && len(q.groups) > 0 {
			t.Fatalf("it is not empty: %+v", q)
		}
	})
}

// watch looks at what a queue hands out.
type watch struct {
	t     *rapid.T
	l     limits
	mu    sync.Mutex
	last  map[string]int64
	busy  map[string]bool
	seen  map[int64]bool
	wrong string
}

func (w *watch) taken(batch []*message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	size, of := 0, map[string]int{}
	for _, m := range batch {
		size += m.bytes
		of[m.group]++
		if w.seen[m.row] {
			w.wrong = fmt.Sprintf("row %d came twice", m.row)
		}
		w.seen[m.row] = true
		if last, ok := w.last[m.group]; w.l.fifo && ok && last >= m.row {
			w.wrong = fmt.Sprintf("row %d came after %d", m.row, last)
		}
		w.last[m.group] = m.row
	}
	if len(batch) > maxBatch || len(batch) > 1 && size > w.l.perBatch {
		w.wrong = fmt.Sprintf("a batch of %d, %d bytes", len(batch), size)
	}
	for g, n := range of {
		if w.l.fifo && (n > w.l.perGroup || w.busy[g]) {
			w.wrong = fmt.Sprintf("%d of group %s, busy %v", n, g, w.busy[g])
		}
		w.busy[g] = true
	}
}

func (w *watch) ended(batch []*message) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range batch {
		w.busy[m.group] = false
	}
}

// TestQueueStops: at any moment a stop, or the end of the context, frees all.
func TestQueueStops(t *testing.T) {
	for after := range 40 {
		ctx, cancel := context.WithCancel(context.Background())
		q, release := newQueue(ctx, limits{fifo: after%2 == 0, perGroup: 1, perBatch: 100, rows: 8, bytes: 100})
		var group sync.WaitGroup
		for range 3 {
			group.Go(func() {
				for batch := q.take(); batch != nil; batch = q.take() {
					q.done(batch)
				}
			})
		}
		for i := range after {
			q.put(&message{row: int64(i), bytes: 5})
		}
		cancel()
		group.Wait()
		if q.put(&message{}) {
			t.Error("it takes more")
		}
		release()
	}
}

// TestFullBatches: while more are read, requests are not sent half empty.
func TestFullBatches(t *testing.T) {
	q, release := newQueue(context.Background(), limits{perGroup: maxBatch, perBatch: 1000, rows: 100, bytes: 1000})
	defer release()
	var sizes []int
	var group sync.WaitGroup
	group.Go(func() {
		for batch := q.take(); batch != nil; batch = q.take() {
			sizes = append(sizes, len(batch))
			q.done(batch)
		}
	})
	for i := range 1005 {
		q.put(&message{row: int64(i), bytes: 1})
		if i%3 == 0 {
			runtime.Gosched()
		}
	}
	q.end()
	group.Wait()
	if len(sizes) != 101 || sizes[100] != 5 {
		t.Errorf("1005 messages in %d batches: %v", len(sizes), sizes)
	}
}
