package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"github.com/kinequet/kq/pipeline"
)

// child is a worker process that this kq run has started.
type child struct {
	cmd *exec.Cmd
	log string
	err error
}

// execute starts workers, watches the run until it has ended, and sums it up.
func (r *runner) execute(ctx context.Context) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	if _, err := r.store.Reap(ctx, r.run); err != nil {
		return environment(err)
	}
	st, err := r.store.Status(ctx, r.run)
	if err != nil {
		return environment(err)
	}
	if n := r.flags.workers; n > 0 && affordable(n, r.job.Memory, leastMemory) < n {
		r.out.line("fewer_workers", "", "memory: %s is too little for %d workers; there will be %d", bytesText(r.job.Memory), n, affordable(n, r.job.Memory, leastMemory))
	}
	w := &watcher{runner: r, wanted: r.workers(), exits: make(chan *child, 64), alive: map[*child]bool{}}
	defer r.out.close()
	for range w.wanted - len(st.Workers) {
		if err := w.spawn(); err != nil {
			return environment(err)
		}
	}
	if n := len(st.Workers); n > 0 {
		r.out.joined(n)
	}
	st, err = w.watch(ctx, signals)
	if err != nil {
		return err
	}
	r.out.update(st)
	r.out.close()
	err = r.summary(ctx, st)
	r.retire(ctx)
	return err
}

// workers is how many processes can be busy at once, within what was asked for.
func (r *runner) workers() int {
	n := r.flags.workers
	if n == 0 {
		n = r.job.Workers
	}
	if n > 0 {
		return affordable(n, r.job.Memory, leastMemory)
	}
	most := 1
	for _, t := range r.graph.Tasks {
		most = max(most, len(t.Shards))
	}
	return min(most, worthwhileWorkers(r.job.Memory))
}

// Memory that a worker needs: with less than the first it can hardly sort a few
// megabytes beside its own process, with less than the second it spends its time
// on temporary files. Bytes.
const (
	leastMemory      = 192 << 20
	worthwhileMemory = 256 << 20
)

// affordable is how many of n workers have that much memory each. memory is the
// job's, in bytes; 0: not limited.
func affordable(n int, memory, each int64) int {
	if memory > 0 {
		n = max(1, min(n, int(memory/each)))
	}
	return n
}

// worthwhileWorkers is a worker for each core, but not more than have memory to
// work with.
func worthwhileWorkers(memory int64) int {
	return affordable(runtime.GOMAXPROCS(0), memory, worthwhileMemory)
}

type watcher struct {
	*runner
	wanted  int
	spawned int
	failed  int   // workers that ended badly since there was progress
	steps   int64 // attempts that ended, in whatever way: progress
	exits   chan *child
	alive   map[*child]bool
	asked   os.Signal // the first signal
}

// spawn starts a worker in a process group of its own: Ctrl-C is for kq run,
// which passes it on.
func (w *watcher) spawn() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	logs := filepath.Join(w.dir, "runs", w.run, "logs")
	if err := os.MkdirAll(logs, 0o777); err != nil {
		return err
	}
	c := &child{log: filepath.Join(logs, fmt.Sprintf("worker-%d-%d.log", os.Getpid(), w.spawned))}
	f, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	defer f.Close()
	args := []string{"worker", "--state", w.dir, "--run", w.run, "--among", strconv.Itoa(w.wanted)}
	if w.job.Memory > 0 {
		args = append(args, "--memory", strconv.FormatInt(w.job.Memory, 10))
	}
	c.cmd = exec.Command(self, args...)
	if share := w.job.Memory / int64(w.wanted); w.job.Memory > 0 && share < 512<<20 {
		// glibc keeps freed blocks of up to 32 MiB for later; with little memory that
		// is too much. Fixed thresholds give them back at once (measured on a sort with
		// 320 MiB: 365 MiB resident, 419 without; from about 512 MiB on it saves nothing,
		// and costs a sort 5 % of its time).
		c.cmd.Env = append(os.Environ(), "MALLOC_MMAP_THRESHOLD_=131072", "MALLOC_TRIM_THRESHOLD_=131072")
	}
	c.cmd.Stdout, c.cmd.Stderr = f, f
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.cmd.Start(); err != nil {
		return fmt.Errorf("start a worker: %w", err)
	}
	w.spawned++
	w.alive[c] = true
	go func() {
		c.err = c.cmd.Wait()
		w.exits <- c
	}()
	return nil
}

// watch returns once the run has ended and so have this process's workers.
func (w *watcher) watch(ctx context.Context, signals <-chan os.Signal) (pipeline.RunStatus, error) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case s := <-signals:
			if w.asked == nil {
				w.asked = s
				w.out.stopping()
				w.signal(syscall.SIGTERM)
			} else {
				w.signal(syscall.SIGKILL)
			}
			if len(w.alive) == 0 {
				return pipeline.RunStatus{}, w.interrupted()
			}
			continue
		case c := <-w.exits:
			delete(w.alive, c)
			if w.asked != nil {
				if len(w.alive) == 0 {
					return pipeline.RunStatus{}, w.interrupted()
				}
				continue
			}
			if err := w.replace(ctx, c); err != nil {
				return pipeline.RunStatus{}, err
			}
		case <-tick.C:
			if len(w.alive) == 0 { // others work on the run: look after their dead
				if _, err := w.store.Reap(ctx, w.run); err != nil {
					return pipeline.RunStatus{}, environment(err)
				}
			}
		}
		st, err := w.store.Status(ctx, w.run)
		if err != nil {
			return st, environment(err)
		}
		w.out.update(st)
		if !st.State.Final() {
			if len(w.alive) == 0 && len(st.Workers) == 0 && w.asked == nil {
				if err := w.spawn(); err != nil {
					return st, environment(err)
				}
			}
			continue
		}
		w.signal(syscall.SIGTERM) // those that wait for work need not wait on
		for len(w.alive) > 0 {
			delete(w.alive, <-w.exits)
		}
		// What was in progress when a shard failed may have been completed since.
		st, err = w.store.Status(ctx, w.run)
		return st, environment(err)
	}
}

// replace looks at a worker that has ended and starts another one when the run
// still needs it.
func (w *watcher) replace(ctx context.Context, c *child) error {
	if _, err := w.store.Reap(ctx, w.run); err != nil {
		return environment(err)
	}
	st, err := w.store.Status(ctx, w.run)
	if err != nil {
		return environment(err)
	}
	if st.State.Final() {
		return nil
	}
	var steps int64
	for _, t := range st.Tasks {
		steps += t.Completed + t.Retries
	}
	if steps > w.steps {
		w.failed, w.steps = 0, steps
	}
	if c.err != nil {
		w.failed++
		w.out.lostWorker(c)
	}
	if w.failed > 2*w.wanted+4 {
		if len(w.alive) > 0 {
			return nil
		}
		return &failure{code: exitEnvironment, err: fmt.Errorf("workers die before they get anything done: %s (%w)", lastLine(c.log), c.err), hint: "see " + c.log}
	}
	if len(st.Workers) >= w.wanted {
		return nil
	}
	return environment(w.spawn())
}

func (w *watcher) signal(s syscall.Signal) {
	for c := range w.alive {
		_ = c.cmd.Process.Signal(s)
	}
}

func (w *watcher) interrupted() error {
	code := 130
	if w.asked == syscall.SIGTERM {
		code = 143
	}
	return &failure{code: code, err: fmt.Errorf("stopped; run %s is not finished", w.run), hint: "the same command carries on with it"}
}

func lastLine(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	end := len(data)
	for end > 0 && data[end-1] == '\n' {
		end--
	}
	start := end
	for start > 0 && data[start-1] != '\n' {
		start--
	}
	return string(data[start:end])
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// retire archives what the job's retention has let go.
func (r *runner) retire(ctx context.Context) {
	now := time.Now()
	gone, err := r.store.Retire(ctx, now.Add(-r.job.Retention), now.Add(-4*r.job.Retention))
	if err != nil {
		r.say("kq: retention: %v", err)
	}
	for _, run := range gone {
		if err := os.RemoveAll(filepath.Join(r.dir, "runs", run)); err != nil {
			r.say("kq: retention: %v", err)
		}
	}
}
