package tpc

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKills takes TPC-H while workers die: SIGKILL at random instants.
func TestKills(t *testing.T) {
	w := newWorld(t, tpchSuite(t))
	t.Logf("seed %d", *seed)
	rng := rand.New(rand.NewPCG(*seed, 0))
	queries, killed := 0, 0
	for _, q := range w.suite.Queries {
		t.Run(q.Name, func(t *testing.T) {
			queries++
			killed += w.murder(t, q, rng)
		})
	}
	t.Logf("%d workers killed", killed)
	if killed < queries*min(1, *kills) {
		t.Errorf("only %d workers of %d queries were there to be killed", killed, queries)
	}
}

// murder runs a query and kills its workers, as many as -kills says, then gives
// the command again until it succeeds.
func (w *world) murder(t *testing.T, q Query, rng *rand.Rand) (killed int) {
	dir, file := w.job(t, q)
	v := variant{shards: 16, workers: 1 + rng.IntN(3), exchange: modes[min(1, len(modes)-1)]}
	args := append(w.arguments(t, q, file, v), "--set", "stages.result.retry.attempts=100", "--set", "stages.result.retry.backoff=10ms")
	for try := 0; ; try++ {
		cmd := exec.Command(kq, args...)
		cmd.Env = append(os.Environ(), "KQ_LEASE=1500ms")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = time.Second
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		over := make(chan error, 1)
		go func() { over <- cmd.Wait() }()
		err, ended := error(nil), false
		for !ended {
			select {
			case err = <-over:
				ended = true
			case <-time.After(time.Duration(rng.IntN(60)+1) * time.Millisecond):
				if pids := workersOf(dir); killed < *kills && len(pids) > 0 && syscall.Kill(pids[rng.IntN(len(pids))], syscall.SIGKILL) == nil {
					killed++
				}
			}
		}
		if err == nil {
			break
		}
		// A shard may have become poison by the kills: running again is a retry.
		if try == 20 {
			t.Fatalf("seed %d: kq run: %v after %d tries\n%s", *seed, err, try, out.Bytes())
		}
	}
	w.check(t, q, v, dir)
	if t.Failed() {
		t.Logf("seed %d, %d workers killed", *seed, killed)
	}
	return killed
}

// workersOf lists the live workers on the run of a folder.
func workersOf(dir string) (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		args := strings.Split(string(line), "\x00")
		if len(args) > 2 && args[0] == kq && args[1] == "worker" && strings.Contains(string(line), dir) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			pids = append(pids, pid)
		}
	}
	return pids
}
