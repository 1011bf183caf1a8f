package coord_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/coord/coordtest"
	"github.com/kinequet/kq/pipeline"
)

// TestMain lets the test binary be one of the worker processes.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KQ_COORD_WORKER"); dir != "" {
		if err := workProcess(dir); err != nil && !errors.Is(err, pipeline.ErrWorkerLost) {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// entry is one line of a worker's history.
type entry struct {
	Event string // claim, done or fenced
	Task  string
	Shard int
	Epoch int64
	Nonce string
	PID   int
}

// workProcess claims and completes until the run has ended, and dies now and
// then with shards in its hands. What it did is in history/<pid>.
func workProcess(dir string) error {
	ctx := context.Background()
	s, err := coord.Open(ctx, dir, &coord.Options{MaxLost: 1 << 30})
	if err != nil {
		return err
	}
	w, err := s.Join(ctx, "run", os.Getpid())
	if err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "history", fmt.Sprint(os.Getpid())))
	if err != nil {
		return err
	}
	note := func(event string, c pipeline.Claim) {
		data, _ := json.Marshal(entry{event, c.Task, c.Shard.Ordinal, c.Epoch, c.Nonce, os.Getpid()})
		_, _ = f.Write(append(data, '\n')) // one write: whole or not at all
	}
	for {
		claims, err := s.Claim(ctx, w, pipeline.Computing, 1+rand.IntN(8))
		if err != nil {
			return err
		}
		for _, c := range claims {
			note("claim", c)
		}
		if rand.IntN(40) == 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		if len(claims) == 0 {
			p, err := s.Pulse(ctx, w)
			if err != nil || p.RunState.Final() {
				return errors.Join(err, s.Leave(ctx, w))
			}
			if _, err := s.Reap(ctx, "run"); err != nil {
				return err
			}
			time.Sleep(5 * time.Millisecond)
			continue
		}
		var done []pipeline.Completion
		for _, c := range claims {
			done = append(done, pipeline.Completion{Claim: c, Metrics: pipeline.Metrics{RowsOut: 1}})
		}
		errs, err := s.Complete(ctx, w, done)
		if err != nil {
			return err
		}
		for i, e := range errs {
			if e == nil {
				note("done", claims[i])
			} else {
				note("fenced", claims[i])
			}
		}
	}
}

// TestProcesses lets 64 processes work on one database, some of which die, and
// checks their histories: no attempt has two holders, and every shard is done
// exactly once, by the last attempt that held it.
func TestProcesses(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "history"), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := coord.Open(ctx, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const shards, processes = 3000, 64
	sub := coordtest.Submission("run", shards, 5)
	sub.Tasks[0].Buckets = 256
	if err := s.Submit(ctx, sub); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var deaths sync.Map
	for i := range processes {
		wg.Go(func() {
			for round := 0; ; round++ { // a process that died is replaced
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "KQ_COORD_WORKER="+dir, "GOMAXPROCS=1")
				out, err := cmd.CombinedOutput()
				if err == nil {
					return
				}
				if state, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !state.Signaled() {
					t.Errorf("worker: %v: %s", err, out)
					return
				}
				deaths.Store([2]int{i, round}, true)
			}
		})
	}
	wg.Wait()
	died := 0
	deaths.Range(func(any, any) bool { died++; return true })
	if died == 0 {
		t.Error("nobody died: the test does not test")
	}
	st, err := s.Status(ctx, "run")
	if err != nil || st.State != pipeline.RunSucceeded || st.Tasks[0].Completed != shards || st.Tasks[0].Metrics.RowsOut != shards {
		t.Fatalf("status %+v, %v", st, err)
	}
	checkHistories(t, filepath.Join(dir, "history"), shards+1)
}

// checkHistories reads what all processes did.
func checkHistories(t *testing.T, dir string, shards int) {
	t.Helper()
	type attempt struct {
		task  string
		shard int
		epoch int64
	}
	type shard struct {
		task    string
		ordinal int
	}
	holder := map[attempt]entry{}
	last := map[shard]int64{}
	done := map[shard]entry{}
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var finished []entry
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for sc := bufio.NewScanner(f); sc.Scan(); {
			var e entry
			if err := json.Unmarshal(sc.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
			at := attempt{e.Task, e.Shard, e.Epoch}
			switch e.Event {
			case "claim":
				if other, ok := holder[at]; ok {
					t.Errorf("%+v has two holders: %+v and %+v", at, other, e)
				}
				holder[at] = e
				last[shard{e.Task, e.Shard}] = max(last[shard{e.Task, e.Shard}], e.Epoch)
			case "done":
				finished = append(finished, e)
			}
		}
		f.Close()
	}
	for _, e := range finished {
		sh := shard{e.Task, e.Shard}
		if other, ok := done[sh]; ok {
			t.Errorf("%+v was done twice: %+v and %+v", sh, other, e)
		}
		done[sh] = e
		if h := holder[attempt{e.Task, e.Shard, e.Epoch}]; h.PID != e.PID || h.Nonce != e.Nonce {
			t.Errorf("%+v was done by another than its holder %+v", e, h)
		}
		if last[sh] != e.Epoch {
			t.Errorf("%+v was handed out again, as epoch %d, after it was done", e, last[sh])
		}
	}
	// A completion that its process did not live to note down is in the ledger only.
	if len(done) < shards*9/10 {
		t.Errorf("histories tell of %d shards of %d", len(done), shards)
	}
}
