// Package coordtest is the conformance suite of coordinators: a transcription of
// the contracts in coord.Coordinator. Every back end runs it.
package coordtest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/pipeline"
)

// Harness makes coordinators for the suite.
type Harness struct {
	// Open returns a coordinator over a ledger; the same dir is the same ledger.
	Open func(t *testing.T, dir string) coord.Coordinator
	// Advance moves the clock of leases and delays.
	Advance func(time.Duration)
	// Kill ends the process of a worker, as far as the coordinator can tell.
	Kill func(t *testing.T, w pipeline.Worker)
}

// Submission makes a run: task "a" of n shards, "b" of one shard that needs it.
func Submission(run string, n, attempts int) pipeline.Submission {
	retry := pipeline.Retry{Attempts: attempts, Backoff: time.Second}
	a := pipeline.Task{Name: "a", Kind: pipeline.Compute, Retry: retry, Buckets: min(16, n)}
	for i := range n {
		a.Shards = append(a.Shards, pipeline.Shard{Ordinal: i, Key: fmt.Sprint("key", i)})
	}
	b := pipeline.Task{Name: "b", Kind: pipeline.Commit, Needs: []string{"a"}, Retry: retry, Buckets: 1, Shards: []pipeline.Shard{{Key: "b"}}}
	return pipeline.Submission{Run: run, Job: "job", File: "/job.yaml", Digest: "d", Plan: []byte("{}"), Tasks: []pipeline.Task{a, b}}
}

type suite struct {
	*testing.T
	h   Harness
	c   coord.Coordinator
	ctx context.Context
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for name, f := range map[string]func(*suite){
		"life of a run": (*suite).life, "fence": (*suite).fence, "retry": (*suite).retry, "permanent": (*suite).permanent, "release": (*suite).release,
		"poison": (*suite).poison, "suspects": (*suite).suspects, "lease": (*suite).lease, "lost worker": (*suite).lostWorker, "cancel": (*suite).cancel,
		"slots": (*suite).slots, "shares": (*suite).shares, "retire": (*suite).retire, "named lease": (*suite).namedLease, "unknown run": (*suite).unknown, "leave": (*suite).leave, "follows": (*suite).follows, "backlog": (*suite).backlog, "blame": (*suite).blame,
	} {
		t.Run(name, func(t *testing.T) {
			c := h.Open(t, t.TempDir())
			t.Cleanup(func() { c.Close() })
			f(&suite{T: t, h: h, c: c, ctx: context.Background()})
		})
	}
}

func (s *suite) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) submit(n, attempts int) {
	s.Helper()
	s.must(s.c.Submit(s.ctx, Submission("run", n, attempts)))
}

func (s *suite) join() pipeline.Worker {
	s.Helper()
	w, err := s.c.Join(s.ctx, "run", 1)
	s.must(err)
	return w
}

func (s *suite) claim(w pipeline.Worker, limit int) []pipeline.Claim {
	s.Helper()
	claims, err := s.c.Claim(s.ctx, w, pipeline.Computing, limit)
	s.must(err)
	return claims
}

// one claims exactly one shard.
func (s *suite) one(w pipeline.Worker) pipeline.Claim {
	s.Helper()
	claims := s.claim(w, 1)
	if len(claims) != 1 {
		s.Fatalf("claimed %d shards, want 1", len(claims))
	}
	return claims[0]
}

func (s *suite) none(w pipeline.Worker) {
	s.Helper()
	if claims := s.claim(w, 1); len(claims) != 0 {
		s.Fatalf("claimed %+v, want nothing", claims)
	}
}

func (s *suite) complete(w pipeline.Worker, c pipeline.Claim) error {
	s.Helper()
	errs, err := s.c.Complete(s.ctx, w, []pipeline.Completion{{Claim: c, Parts: []pipeline.Part{{Name: c.Nonce, Rows: 5}}, Metrics: pipeline.Metrics{RowsOut: 5}}})
	s.must(err)
	return errs[0]
}

func (s *suite) status() pipeline.RunStatus {
	s.Helper()
	st, err := s.c.Status(s.ctx, "run")
	s.must(err)
	return st
}

func (s *suite) state(want pipeline.RunState) pipeline.RunStatus {
	s.Helper()
	st := s.status()
	if st.State != want {
		s.Fatalf("the run is %s (%s), want %s", st.State, st.Error, want)
	}
	return st
}

func (s *suite) life() {
	s.submit(3, 1)
	w := s.join()
	seen := map[int]bool{}
	for range 3 {
		c := s.one(w)
		if c.Task != "a" || c.Attempt != 1 || c.Epoch != 1 || c.Nonce == "" || seen[c.Shard.Ordinal] {
			s.Fatalf("claim %+v", c)
		}
		seen[c.Shard.Ordinal] = true
		if p, err := s.c.Pulse(s.ctx, w); err != nil || p.Running != 1 || p.Workers != 1 || p.Runnable != 3-len(seen) {
			s.Fatalf("pulse %+v, %v", p, err)
		}
		s.must(s.complete(w, c))
	}
	c := s.one(w)
	if c.Task != "b" {
		s.Fatalf("claimed %s before its need was complete, or not after", c.Task)
	}
	s.state(pipeline.RunRunning)
	s.must(s.complete(w, c))
	st := s.state(pipeline.RunSucceeded)
	if st.Tasks[0].Completed != 3 || st.Tasks[0].Metrics.RowsOut != 15 || st.Tasks[0].State != pipeline.TaskComplete || st.Ended.IsZero() {
		s.Fatalf("status %+v", st)
	}
	s.none(w)
	parts, err := s.c.Parts(s.ctx, "run", "a")
	if err != nil || len(parts) != 3 || len(parts[2]) != 1 || parts[2][0].Rows != 5 {
		s.Fatalf("parts %+v, %v", parts, err)
	}
	s.must(s.c.Leave(s.ctx, w))
	if last, err := s.c.Latest(s.ctx, "/job.yaml"); err != nil || last.Run != "run" {
		s.Fatalf("latest %+v, %v", last, err)
	}
}

// A shard that follows another becomes ready with its completion, in a lane of its
// own, and comes with what that one wrote.
func (s *suite) follows() {
	sub := Submission("run", 5, 3)
	a := sub.Tasks[0]
	p := pipeline.Task{Name: "sink:publish", Kind: pipeline.Publish, Follows: "a", Sink: &pipeline.SinkPlan{Name: "sink"}, Retry: a.Retry, Buckets: a.Buckets}
	for _, sh := range a.Shards {
		p.Shards = append(p.Shards, pipeline.Shard{Ordinal: sh.Ordinal, Key: sh.Key})
	}
	sub.Tasks = []pipeline.Task{a, p}
	s.must(s.c.Submit(s.ctx, sub))
	w := s.join()
	publish := func() []pipeline.Claim {
		s.Helper()
		claims, err := s.c.Claim(s.ctx, w, p.Lane(), 10)
		s.must(err)
		return claims
	}
	for range 5 {
		if early := publish(); len(early) > 0 {
			s.Fatalf("claimed %+v before what it follows is complete", early)
		}
		c := s.one(w)
		if c.Task != "a" {
			s.Fatalf("claimed %s to compute", c.Task)
		}
		s.must(s.complete(w, c))
		ready := publish()
		if len(ready) != 1 || ready[0].Shard.Ordinal != c.Shard.Ordinal || len(ready[0].Followed) != 1 || ready[0].Followed[0].Name != c.Nonce {
			s.Fatalf("shard %d is complete, and %+v is ready", c.Shard.Ordinal, ready)
		}
		if pulse, err := s.c.Pulse(s.ctx, w); err != nil || pulse.Running != 0 {
			s.Fatalf("what is being published counts as computed: %+v, %v", pulse, err)
		}
		s.must(s.c.Fail(s.ctx, w, []pipeline.Failure{{Claim: ready[0], Error: "no luck"}}))
		if early := publish(); len(early) > 0 {
			s.Fatalf("claimed %+v before its delay is over", early)
		}
		s.h.Advance(time.Hour)
		s.must(s.c.Heartbeat(s.ctx, w))
		again := publish()
		if len(again) != 1 || again[0].Attempt != 2 || len(again[0].Followed) != 1 {
			s.Fatalf("after a failure: %+v", again)
		}
		s.must(s.complete(w, again[0]))
	}
	s.state(pipeline.RunSucceeded)
}

// Of a worker that dies with a shard that it computes and one that it publishes,
// the former is blamed.
func (s *suite) blame() {
	sub := Submission("run", 2, 3)
	a := sub.Tasks[0]
	p := pipeline.Task{Name: "sink:publish", Kind: pipeline.Publish, Follows: "a", Retry: a.Retry, Buckets: a.Buckets, Shards: a.Shards, Sink: &pipeline.SinkPlan{Name: "sink"}}
	sub.Tasks = []pipeline.Task{a, p}
	s.must(s.c.Submit(s.ctx, sub))
	w := s.join()
	s.must(s.complete(w, s.one(w)))
	for range 20 {
		w := s.join()
		published, err := s.c.Claim(s.ctx, w, p.Lane(), 1)
		s.must(err)
		if len(published) != 1 || published[0].Attempt != 1 {
			s.Fatalf("claimed %+v to publish", published)
		}
		if len(s.claim(w, 1)) == 0 {
			s.Fatal("nothing to compute, and no failure")
		}
		s.h.Kill(s.T, w)
		_, err = s.c.Reap(s.ctx, "run")
		s.must(err)
		if st := s.status(); st.State == pipeline.RunFailed {
			if !strings.Contains(st.Error, "a, shard") {
				s.Fatalf("the run failed by %s", st.Error)
			}
			return
		}
	}
	s.Fatal("nobody is blamed for 20 deaths")
}

// A task whose parts wait for a sink is held back beyond its backlog, and goes on
// once enough of them are published. Other tasks are not.
func (s *suite) backlog() {
	sub := Submission("run", 5, 3)
	a := sub.Tasks[0]
	p := pipeline.Task{
		Name: "sink:publish", Kind: pipeline.Publish, Follows: "a", Retry: a.Retry, Buckets: a.Buckets, Shards: a.Shards,
		Sink: &pipeline.SinkPlan{Name: "sink", MaxBacklog: 150},
	}
	other := pipeline.Task{Name: "other", Kind: pipeline.Compute, Retry: a.Retry, Buckets: 1, Shards: []pipeline.Shard{{Key: "x"}}}
	sub.Tasks = []pipeline.Task{other, a, p}
	s.must(s.c.Submit(s.ctx, sub))
	w := s.join()
	complete := func(c pipeline.Claim, m pipeline.Metrics) {
		s.Helper()
		errs, err := s.c.Complete(s.ctx, w, []pipeline.Completion{{Claim: c, Metrics: m}})
		s.must(errors.Join(err, errs[0]))
	}
	for range 2 { // 200 bytes wait
		c := s.one(w)
		if c.Task != "a" {
			s.Fatalf("claimed %s", c.Task)
		}
		complete(c, pipeline.Metrics{BytesOut: 100})
	}
	if c := s.one(w); c.Task != "other" {
		s.Fatalf("claimed %s although its sink is behind", c.Task)
	}
	s.none(w)
	claims, err := s.c.Claim(s.ctx, w, p.Lane(), 1)
	s.must(err)
	complete(claims[0], pipeline.Metrics{BytesRead: 100})
	if c := s.one(w); c.Task != "a" {
		s.Fatalf("claimed %s once the sink has caught up", c.Task)
	}
}

func (s *suite) fence() {
	s.submit(1, 5)
	w, v := s.join(), s.join()
	old := s.one(w)
	s.h.Kill(s.T, w)
	if n, err := s.c.Reap(s.ctx, "run"); n != 1 || err != nil {
		s.Fatalf("reaped %d, %v", n, err)
	}
	now := s.one(v)
	if now.Epoch <= old.Epoch || now.Nonce == old.Nonce {
		s.Fatalf("the new attempt %+v is not told apart from %+v", now, old)
	}
	if err := s.complete(w, old); !errors.Is(err, pipeline.ErrFenced) {
		s.Fatalf("the old attempt completed: %v", err)
	}
	s.must(s.c.Fail(s.ctx, w, []pipeline.Failure{{Claim: old, Error: "late", Permanent: true}}))
	s.must(s.c.Release(s.ctx, w, []pipeline.Claim{old}))
	s.state(pipeline.RunRunning)
	// The right worker with the wrong epoch is fenced as well.
	stale := now
	stale.Epoch--
	if err := s.complete(v, stale); !errors.Is(err, pipeline.ErrFenced) {
		s.Fatalf("a stale epoch completed: %v", err)
	}
	s.must(s.complete(v, now))
	if err := s.complete(v, now); !errors.Is(err, pipeline.ErrFenced) {
		s.Fatalf("completed twice: %v", err)
	}
}

func (s *suite) retry() {
	s.submit(1, 3)
	w := s.join()
	for attempt := 1; attempt <= 3; attempt++ {
		c := s.one(w)
		if c.Attempt != attempt {
			s.Fatalf("attempt %d, want %d", c.Attempt, attempt)
		}
		s.must(s.c.Fail(s.ctx, w, []pipeline.Failure{{Claim: c, Error: "no luck"}}))
		if attempt == 3 {
			break
		}
		s.none(w) // not before its delay is over
		s.h.Advance(time.Duration(1<<attempt) * time.Second)
	}
	st := s.state(pipeline.RunFailed)
	if st.Error != "a, shard 0, after 3 attempts: no luck" || st.Tasks[0].Failed != 1 || st.Tasks[0].Retries != 3 {
		s.Fatalf("status %+v", st)
	}
	shards, err := s.c.Shards(s.ctx, "run", "a")
	if err != nil || len(shards) != 1 || shards[0].State != pipeline.ShardFailed || len(shards[0].Errors) != 3 || shards[0].Errors[2].Error != "no luck" {
		s.Fatalf("shards %+v, %v", shards, err)
	}
	s.none(w)
	if n, err := s.c.Retry(s.ctx, "run"); n != 1 || err != nil {
		s.Fatalf("retried %d, %v", n, err)
	}
	s.state(pipeline.RunRunning)
	c := s.one(w)
	if c.Attempt != 1 || c.Epoch != 4 {
		s.Fatalf("after retry: %+v", c)
	}
	s.must(s.complete(w, c))
}

func (s *suite) permanent() {
	s.submit(2, 5)
	w := s.join()
	c, d := s.one(w), s.one(w)
	s.must(s.c.Fail(s.ctx, w, []pipeline.Failure{{Claim: c, Error: "never", Permanent: true}}))
	s.state(pipeline.RunFailed)
	s.must(s.complete(w, d)) // what was in progress may still be committed
	s.none(w)
	s.state(pipeline.RunFailed)
}

func (s *suite) release() {
	s.submit(1, 1)
	w := s.join()
	for range 3 {
		c := s.one(w)
		if c.Attempt != 1 {
			s.Fatalf("releasing spent an attempt: %+v", c)
		}
		s.must(s.c.Release(s.ctx, w, []pipeline.Claim{c}))
	}
}

func (s *suite) poison() {
	s.submit(1, 1)
	for i := range 3 {
		w := s.join()
		if c := s.one(w); c.Attempt != 1 {
			s.Fatalf("the death of a worker spent an attempt: %+v", c)
		}
		s.h.Kill(s.T, w)
		if n, err := s.c.Reap(s.ctx, "run"); n != 1 || err != nil {
			s.Fatalf("death %d: reaped %d, %v", i, n, err)
		}
	}
	if st := s.state(pipeline.RunFailed); st.Error == "" {
		s.Fatal("a poison shard is not explained")
	}
}

// suspects: of a batch whose worker died nobody is blamed, but each is then
// handed out alone.
func (s *suite) suspects() {
	sub := Submission("run", 64, 1)
	sub.Tasks[0].Buckets = 1
	s.must(s.c.Submit(s.ctx, sub))
	for range 5 {
		w := s.join()
		first := s.claim(w, 4)
		s.h.Kill(s.T, w)
		if n, err := s.c.Reap(s.ctx, "run"); n != len(first) || err != nil {
			s.Fatalf("reaped %d of %d, %v", n, len(first), err)
		}
		if len(first) == 1 {
			return // a suspect, alone
		}
	}
	s.Fatal("suspects are never handed out alone")
}

func (s *suite) lease() {
	s.submit(1, 1)
	w, v := s.join(), s.join()
	s.one(w)
	s.h.Advance(20 * time.Second)
	s.must(s.c.Heartbeat(s.ctx, v))
	s.must(s.c.Heartbeat(s.ctx, w))
	s.h.Advance(20 * time.Second)
	s.must(s.c.Heartbeat(s.ctx, v))
	if n, err := s.c.Reap(s.ctx, "run"); n != 0 || err != nil {
		s.Fatalf("reaped %d of a worker within its lease, %v", n, err)
	}
	s.h.Advance(20 * time.Second)
	if n, err := s.c.Reap(s.ctx, "run"); n != 1 || err != nil {
		s.Fatalf("reaped %d of a worker past its lease, %v", n, err)
	}
}

func (s *suite) lostWorker() {
	s.submit(2, 1)
	w := s.join()
	s.h.Kill(s.T, w)
	if _, err := s.c.Reap(s.ctx, "run"); err != nil {
		s.Fatal(err)
	}
	if err := s.c.Heartbeat(s.ctx, w); !errors.Is(err, pipeline.ErrWorkerLost) {
		s.Fatalf("heartbeat of a dead worker: %v", err)
	}
	if _, err := s.c.Claim(s.ctx, w, pipeline.Computing, 1); !errors.Is(err, pipeline.ErrWorkerLost) {
		s.Fatalf("claim of a dead worker: %v", err)
	}
}

func (s *suite) cancel() {
	s.submit(2, 1)
	w := s.join()
	c := s.one(w)
	s.must(s.c.Cancel(s.ctx, "run"))
	s.state(pipeline.RunCancelled)
	s.none(w)
	s.must(s.c.Release(s.ctx, w, []pipeline.Claim{c}))
	if p, err := s.c.Pulse(s.ctx, w); err != nil || p.RunState != pipeline.RunCancelled {
		s.Fatalf("pulse %+v, %v", p, err)
	}
	if _, err := s.c.Retry(s.ctx, "run"); err != nil {
		s.Fatal(err)
	}
	s.one(w)
}

func (s *suite) slots() {
	s.submit(1, 1)
	a, b, c := s.join(), s.join(), s.join()
	if a.Slot != 0 || b.Slot != 1 || c.Slot != 2 {
		s.Fatalf("slots %d %d %d", a.Slot, b.Slot, c.Slot)
	}
	s.must(s.c.Leave(s.ctx, b))
	if d := s.join(); d.Slot != 1 {
		s.Fatalf("slot %d, want the lowest free one, 1", d.Slot)
	}
}

// shares: near the end nobody takes a heap; all is found, whoever owned it.
func (s *suite) shares() {
	s.submit(100, 1)
	w, v := s.join(), s.join()
	if got := s.claim(w, 64); len(got) == 0 || len(got) > 25 {
		s.Fatalf("claimed %d of 100 shards between two workers", len(got))
	}
	s.must(s.c.Leave(s.ctx, w))
	seen := map[int]bool{}
	for range 200 {
		for _, c := range s.claim(v, 64) {
			if seen[c.Shard.Ordinal] {
				s.Fatalf("shard %d handed out twice", c.Shard.Ordinal)
			}
			seen[c.Shard.Ordinal] = true
		}
	}
	if len(seen) != 100 {
		s.Fatalf("found %d of 100 shards", len(seen))
	}
}

func (s *suite) leave() {
	s.submit(1, 1)
	w := s.join()
	s.one(w)
	s.must(s.c.Leave(s.ctx, w))
	if c := s.one(s.join()); c.Attempt != 1 {
		s.Fatalf("leaving spent an attempt: %+v", c)
	}
}

func (s *suite) retire() {
	s.submit(3, 1)
	w := s.join()
	for range 4 {
		s.must(s.complete(w, s.one(w)))
	}
	s.must(s.c.Leave(s.ctx, w))
	now := time.Now().Add(time.Hour)
	if runs, err := s.c.Retire(s.ctx, now.Add(-2*time.Hour), now.Add(-2*time.Hour)); len(runs) != 0 || err != nil {
		s.Fatalf("retired %v too early, %v", runs, err)
	}
	if runs, err := s.c.Retire(s.ctx, now, now.Add(-2*time.Hour)); len(runs) != 1 || err != nil {
		s.Fatalf("archived %v, %v", runs, err)
	}
	if st := s.state(pipeline.RunSucceeded); st.Tasks[0].Metrics.RowsOut != 15 {
		s.Fatalf("the summary is gone: %+v", st)
	}
	if shards, err := s.c.Shards(s.ctx, "run", "a"); len(shards) != 0 || err != nil {
		s.Fatalf("%d shards are left, %v", len(shards), err)
	}
	if runs, err := s.c.Retire(s.ctx, now, now.Add(-2*time.Hour)); len(runs) != 0 || err != nil {
		s.Fatalf("archived again: %v, %v", runs, err)
	}
	if _, err := s.c.Retire(s.ctx, now, now); err != nil {
		s.Fatal(err)
	}
	if _, err := s.c.Status(s.ctx, "run"); !errors.Is(err, pipeline.ErrNoRun) {
		s.Fatalf("a purged run: %v", err)
	}
}

func (s *suite) namedLease() {
	s.submit(1, 1)
	w, v := s.join(), s.join()
	first, ok, err := s.c.Lease(s.ctx, "plan", w, time.Second)
	if !ok || err != nil {
		s.Fatalf("lease %v %v", ok, err)
	}
	if _, ok, err := s.c.Lease(s.ctx, "plan", v, time.Second); ok || err != nil {
		s.Fatalf("two holders: %v %v", ok, err)
	}
	s.h.Advance(2 * time.Second)
	second, ok, err := s.c.Lease(s.ctx, "plan", v, time.Second)
	if !ok || err != nil || second <= first {
		s.Fatalf("lease %d after %d: %v %v", second, first, ok, err)
	}
}

func (s *suite) unknown() {
	for what, err := range map[string]error{
		"plan":   func() error { _, err := s.c.Plan(s.ctx, "x"); return err }(),
		"join":   func() error { _, err := s.c.Join(s.ctx, "x", 1); return err }(),
		"status": func() error { _, err := s.c.Status(s.ctx, "x"); return err }(),
		"cancel": s.c.Cancel(s.ctx, "x"),
		"retry":  func() error { _, err := s.c.Retry(s.ctx, "x"); return err }(),
		"latest": func() error { _, err := s.c.Latest(s.ctx, "x"); return err }(),
	} {
		if !errors.Is(err, pipeline.ErrNoRun) {
			s.Errorf("%s of an unknown run: %v", what, err)
		}
	}
}
