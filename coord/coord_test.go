package coord_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/coord/coordtest"
	"github.com/kinequet/kq/pipeline"
)

// dirs are the state directories by test.
var dirs sync.Map

// harness runs the suite with a clock of its own. A worker is killed by taking
// away its lock file, as the kernel does with the lock.
func harness() coordtest.Harness {
	var clock atomic.Int64
	clock.Store(1_000_000)
	return coordtest.Harness{
		Open: func(t *testing.T, dir string) coord.Coordinator {
			s, err := coord.Open(context.Background(), dir, &coord.Options{Now: clock.Load})
			if err != nil {
				t.Fatal(err)
			}
			dirs.Store(t.Name(), dir)
			return s
		},
		Advance: func(d time.Duration) { clock.Add(d.Milliseconds()) },
		Kill: func(t *testing.T, w pipeline.Worker) {
			dir, _ := dirs.Load(t.Name())
			if err := os.Remove(filepath.Join(dir.(string), "workers", fmt.Sprintf("%d.lock", w.ID))); err != nil {
				t.Fatal(err)
			}
		},
	}
}

func TestConformance(t *testing.T) { coordtest.Run(t, harness()) }

func TestUnknownSchemaIsRefused(t *testing.T) {
	dir := t.TempDir()
	s, err := coord.Open(context.Background(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := coord.SetSchemaVersion(s, "999"); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := coord.Open(context.Background(), dir, nil); err == nil || !strings.Contains(err.Error(), "schema version 999") {
		t.Errorf("opened: %v", err)
	}
}

func TestNetworkFileSystemIsRefused(t *testing.T) {
	for magic, name := range map[int64]string{0x6969: "NFS", 0xFE534D42: "SMB2", 0x12345: "unknown"} {
		_, err := coord.Open(context.Background(), t.TempDir(), &coord.Options{Statfs: func(string) (int64, error) { return magic, nil }})
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "--state") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDamagedFileIsExplained(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "coord.db"), []byte(strings.Repeat("this is no database ", 500)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := coord.Open(context.Background(), dir, nil); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("opened: %v", err)
	}
}

// model is what a shard must look like.
type model struct {
	state    pipeline.ShardState
	epoch    int64
	attempts int
	owner    int64
}

// TestModel drives the coordinator with random verbs beside a model of the
// state machine: one holder at a time, epochs only grow, COMPLETED is final.
func TestModel(t *testing.T) {
	ctx := context.Background()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp("", "kq-model-")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(dir)
		var clock atomic.Int64
		s, err := coord.Open(ctx, dir, &coord.Options{Now: clock.Load, MaxLost: 1000})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		const shards, most = 6, 3
		if err := s.Submit(ctx, coordtest.Submission("run", shards, most)); err != nil {
			rt.Fatal(err)
		}
		want := map[int]*model{}
		for i := range shards {
			want[i] = &model{}
		}
		held := map[int64][]pipeline.Claim{}
		var workers []pipeline.Worker
		stale := []pipeline.Claim{}
		failed := false
		worker := func(rt *rapid.T) pipeline.Worker {
			if len(workers) == 0 {
				rt.Skip()
			}
			return rapid.SampledFrom(workers).Draw(rt, "worker")
		}
		pop := func(w pipeline.Worker) (pipeline.Claim, bool) {
			if len(held[w.ID]) == 0 {
				return pipeline.Claim{}, false
			}
			c := held[w.ID][0]
			held[w.ID] = held[w.ID][1:]
			return c, true
		}
		rt.Repeat(map[string]func(*rapid.T){
			"join": func(rt *rapid.T) {
				w, err := s.Join(ctx, "run", 1)
				if err != nil {
					rt.Fatal(err)
				}
				workers = append(workers, w)
			},
			"claim": func(rt *rapid.T) {
				w := worker(rt)
				claims, err := s.Claim(ctx, w, pipeline.Computing, rapid.IntRange(1, 4).Draw(rt, "limit"))
				if errors.Is(err, pipeline.ErrWorkerLost) {
					return
				}
				if err != nil {
					rt.Fatal(err)
				}
				for _, c := range claims {
					if c.Task == "b" {
						for _, m := range want {
							if m.state != pipeline.ShardCompleted {
								rt.Fatal("b was handed out before a was complete")
							}
						}
						continue
					}
					m := want[c.Shard.Ordinal]
					if failed || m.state != pipeline.ShardPending || c.Epoch != m.epoch+1 || c.Attempt != m.attempts+1 {
						rt.Fatalf("claim %+v of %+v", c, m)
					}
					*m = model{pipeline.ShardProcessing, c.Epoch, c.Attempt, w.ID}
					held[w.ID] = append(held[w.ID], c)
				}
			},
			"complete": func(rt *rapid.T) {
				w := worker(rt)
				if c, ok := pop(w); ok {
					m := want[c.Shard.Ordinal]
					mine := m.state == pipeline.ShardProcessing && m.owner == w.ID && m.epoch == c.Epoch
					errs, err := s.Complete(ctx, w, []pipeline.Completion{{Claim: c}})
					if err != nil || (errs[0] == nil) != mine {
						rt.Fatalf("complete %+v of %+v: %v, %v", c, m, errs, err)
					}
					if mine {
						m.state = pipeline.ShardCompleted
					}
					stale = append(stale, c)
				}
			},
			"fail": func(rt *rapid.T) {
				w := worker(rt)
				if c, ok := pop(w); ok {
					m := want[c.Shard.Ordinal]
					mine := m.state == pipeline.ShardProcessing && m.owner == w.ID && m.epoch == c.Epoch
					if err := s.Fail(ctx, w, []pipeline.Failure{{Claim: c, Error: "x"}}); err != nil {
						rt.Fatal(err)
					}
					if mine {
						m.state = pipeline.ShardPending
						if m.attempts >= most {
							m.state, failed = pipeline.ShardFailed, true
						}
					}
				}
			},
			"release": func(rt *rapid.T) {
				w := worker(rt)
				if c, ok := pop(w); ok {
					m := want[c.Shard.Ordinal]
					if err := s.Release(ctx, w, []pipeline.Claim{c}); err != nil {
						rt.Fatal(err)
					}
					if m.state == pipeline.ShardProcessing && m.owner == w.ID && m.epoch == c.Epoch {
						m.state = pipeline.ShardPending
						m.attempts--
					}
				}
			},
			"stale": func(rt *rapid.T) { // a zombie repeats what it did
				if len(stale) == 0 {
					rt.Skip()
				}
				errs, err := s.Complete(ctx, worker(rt), []pipeline.Completion{{Claim: rapid.SampledFrom(stale).Draw(rt, "claim")}})
				if err != nil || !errors.Is(errs[0], pipeline.ErrFenced) {
					rt.Fatalf("a repeated completion: %v, %v", errs, err)
				}
			},
			"die": func(rt *rapid.T) {
				w := worker(rt)
				_ = os.Remove(filepath.Join(dir, "workers", fmt.Sprintf("%d.lock", w.ID)))
				if _, err := s.Reap(ctx, "run"); err != nil {
					rt.Fatal(err)
				}
				for _, m := range want {
					if m.state == pipeline.ShardProcessing && m.owner == w.ID {
						m.state = pipeline.ShardPending
						m.attempts--
					}
				}
			},
			"retry": func(rt *rapid.T) {
				if _, err := s.Retry(ctx, "run"); err != nil {
					rt.Fatal(err)
				}
				for _, m := range want {
					if m.state == pipeline.ShardFailed {
						m.state, m.attempts = pipeline.ShardPending, 0
					}
				}
				failed = false
			},
			"time": func(rt *rapid.T) { clock.Add(rapid.Int64Range(0, 4000).Draw(rt, "ms")) },
			"": func(rt *rapid.T) {
				for _, w := range workers { // leases don't end here
					_ = s.Heartbeat(ctx, w)
				}
				all, err := s.Shards(ctx, "run", "a")
				if err != nil {
					rt.Fatal(err)
				}
				var done int64
				for _, sh := range all {
					m := want[sh.Shard.Ordinal]
					if sh.State != m.state || sh.Epoch != m.epoch || sh.Attempt != m.attempts {
						rt.Fatalf("shard %d is %s epoch %d attempts %d, want %+v", sh.Shard.Ordinal, sh.State, sh.Epoch, sh.Attempt, m)
					}
					if sh.State == pipeline.ShardCompleted {
						done++
					}
				}
				st, err := s.Status(ctx, "run")
				if err != nil || st.Tasks[0].Completed != done || failed != (st.State == pipeline.RunFailed) {
					rt.Fatalf("status %+v, %v; %d are done", st, err, done)
				}
			},
		})
	})
}
