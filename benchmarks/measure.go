package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one timed process, with all its children.
type sample struct {
	Wall   float64 `json:"wall_s"` // until the result is on the disk
	Exit   float64 `json:"exit_s"` // until the process ended
	CPU    float64 `json:"cpu_s"`
	RSS    int64   `json:"peak_rss_bytes"`                  // of the largest single process
	Worker int64   `json:"peak_worker_rss_bytes,omitempty"` // of the largest worker of kq
	Tree   int64   `json:"peak_tree_rss_bytes"`             // of all processes at once, as sampled; pages that they share count for each
}

// adopt makes this process the parent of what its children leave behind, so that
// timed waits for that too.
func adopt() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// timed runs a command to its end, brings the files that a glob then finds to
// the disk, and adds up what the command and its children took.
func timed(ctx context.Context, args []string, output string) (sample, error) {
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_CHILDREN, &before)
	syscall.Sync() // what the system before has not written yet is not this one's to wait for
	cmd := exec.Command(args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return sample{}, err
	}
	// Where memory runs out, the system under test ends, not this process.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid), []byte("900"), 0)
	t := watch(ctx, cmd.Process.Pid)
	err := cmd.Wait()
	s := sample{Exit: time.Since(start).Seconds()}
	if err == nil {
		err = syncAll(output)
	}
	s.Wall = time.Since(start).Seconds()
	left := reap(ctx)
	t.end()
	switch {
	case ctx.Err() != nil:
		return s, context.Cause(ctx)
	case err != nil:
		return s, fmt.Errorf("%w: %s", err, lastLine(out.Bytes()))
	case left != nil:
		return s, left
	}
	_ = syscall.Getrusage(syscall.RUSAGE_CHILDREN, &after)
	cpu := func(r syscall.Rusage) float64 {
		return time.Duration(syscall.TimevalToNsec(r.Utime) + syscall.TimevalToNsec(r.Stime)).Seconds()
	}
	s.CPU = cpu(after) - cpu(before)
	// The kernel knows the largest of those that were waited for, to the end:
	// where that is more than the first process had, it is a worker's.
	top := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	s.RSS, s.Worker = max(t.largest, top), t.worker
	if t.worker > 0 && top > t.first {
		s.Worker = max(t.worker, top)
	}
	s.Tree = max(t.sum, s.RSS)
	return s, nil
}

// syncAll makes files durable, and their folders.
func syncAll(glob string) error {
	files, err := filepath.Glob(glob)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range append(files, filepath.Dir(glob)) {
		h, err := os.Open(f)
		if err != nil {
			return err
		}
		errs = append(errs, h.Sync(), h.Close())
	}
	return errors.Join(errs...)
}

// reap waits for what a process left behind, such as Spark's Java.
func reap(ctx context.Context) error {
	for deadline := time.Now().Add(time.Minute); ; {
		pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
		switch {
		case errors.Is(err, syscall.ECHILD):
			return nil
		case err != nil && !errors.Is(err, syscall.EINTR):
			return err
		case pid > 0:
			continue
		case time.Now().After(deadline) && ctx.Err() == nil:
			return errors.New("it left processes that do not end")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// tree watches the memory of a process and of all that descend from it.
type tree struct {
	known                map[int]bool // by process id; true for a worker of kq
	root                 int
	first                int64 // the peak of the root
	largest, worker, sum int64
	stop, stopped        chan struct{}
}

// watch samples a tree until end, and kills it when the context ends.
func watch(ctx context.Context, root int) *tree {
	t := &tree{root: root, known: map[int]bool{root: false}, stop: make(chan struct{}), stopped: make(chan struct{})}
	go func() {
		defer close(t.stopped)
		start := time.Now()
		for {
			t.sample()
			// A high-water mark is read, so what is missed is what a process took after the last look at it.
			select {
			case <-time.After(min(200*time.Millisecond, 5*time.Millisecond+time.Since(start)/10)):
			case <-t.stop:
				return
			}
			if ctx.Err() != nil {
				for pid := range t.known {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
		}
	}()
	return t
}

func (t *tree) end() {
	close(t.stop)
	<-t.stopped
}

// sample finds new descendants and looks at all.
func (t *tree) sample() {
	parents := map[int]int{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		stat, err := os.ReadFile(d + "/stat")
		if i := bytes.LastIndexByte(stat, ')'); err == nil && i > 0 {
			if fields := strings.Fields(string(stat[i+1:])); len(fields) > 1 {
				parents[pid], _ = strconv.Atoi(fields[1])
			}
		}
	}
	for found := true; found; {
		found = false
		for pid, parent := range parents {
			_, family := t.known[parent]
			if _, have := t.known[pid]; family && !have {
				args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				fields := strings.Split(string(args), "\x00")
				t.known[pid] = len(fields) > 1 && filepath.Base(fields[0]) == "kq" && fields[1] == "worker"
				found = true
			}
		}
	}
	var sum int64
	for pid, worker := range t.known {
		if _, alive := parents[pid]; !alive {
			delete(t.known, pid)
			continue
		}
		now, peak := resident(pid)
		sum += now
		t.largest = max(t.largest, peak)
		if worker {
			t.worker = max(t.worker, peak)
		}
		if pid == t.root {
			t.first = peak
		}
	}
	t.sum = max(t.sum, sum)
}

// resident is the memory that a process has and the most that it had.
func resident(pid int) (now, peak int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for _, l := range strings.Split(string(status), "\n") {
		name, value, _ := strings.Cut(l, ":")
		var kib int64
		switch _, _ = fmt.Sscan(value, &kib); name {
		case "VmRSS":
			now = kib << 10
		case "VmHWM":
			peak = kib << 10
		}
	}
	return now, peak
}

// parseSize reads 256MiB or 1GB; "" is 0.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	number := strings.TrimRight(s, "KMGTiB")
	unit, ok := map[string]float64{
		"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
	}[s[len(number):]]
	n, err := strconv.ParseFloat(number, 64)
	if !ok || err != nil || n <= 0 {
		return 0, fmt.Errorf("%q is no size; write one like 256MiB or 1GB", s)
	}
	return int64(n * unit), nil
}

// lastLine is the one that says what went wrong, as a rule.
func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	for _, l := range lines { // Python's and Spark's last lines say less than the one with the error
		for _, sign := range []string{"OutOfMemoryError", "Out of Memory", "Resources exhausted", "polars.exceptions.", "pyspark.errors.exceptions."} {
			if strings.Contains(l, sign) {
				return clip(l)
			}
		}
	}
	return clip(lines[len(lines)-1])
}

func clip(s string) string {
	if s = strings.TrimSpace(s); len(s) > 300 {
		return strings.ToValidUTF8(s[:300], "") + "…"
	}
	return s
}

func median[T any](items []T, value func(T) float64) float64 {
	if len(items) == 0 {
		return 0
	}
	values := make([]float64, len(items))
	for i, it := range items {
		values[i] = value(it)
	}
	slices.SortFunc(values, func(a, b float64) int { return cmp.Compare(a, b) })
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}
