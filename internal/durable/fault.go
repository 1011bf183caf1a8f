package durable

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// points are the instants at which a test may kill the process. The list is
// complete: a test compares it with the calls.
var points = []string{
	"commit.exchange.after",
	"commit.link.after",
	"commit.manifest.before",
	"commit.rename.after",
	"commit.rename.before",
	"commit.staging.after",
	"finish.rename.after",
	"finish.rename.before",
	"finish.sync.before",
	"part.write.after",
	"part.write.before",
	"publish.last.after",
	"publish.last.before",
	"publish.send.after",
	"publish.send.before",
	"worker.claim.after",
	"worker.claim.before",
	"worker.complete.after",
	"worker.complete.before",
}

// Points lists the named points.
func Points() []string { return slices.Clone(points) }

// fault is what KQ_FAULT asks for; nil in production.
type fault struct {
	mu    sync.Mutex
	point string  // crash at this point
	hit   int     // the hit-th time it is reached
	rate  float64 // or crash at any point with this probability
	rng   *rand.Rand
	errno syscall.Errno // or fail the op-th operation with this error
	op    int
	count int
}

var active atomic.Pointer[fault]

func init() {
	if spec := os.Getenv("KQ_FAULT"); spec != "" {
		if err := SetFault(spec); err != nil {
			fmt.Fprintln(os.Stderr, "kq: error:", err)
			os.Exit(3)
		}
	}
}

// SetFault arranges for a fault in this process; tests use it, and the
// environment variable KQ_FAULT does at start. The forms are
//
//	crash:POINT:N     SIGKILL to itself the N-th time POINT is reached
//	crash:P           the same at any point, with probability P
//	op:ERRNO:N        the N-th file operation of this package fails
//
// and "" for none.
func SetFault(spec string) error {
	if spec == "" {
		active.Store(nil)
		return nil
	}
	f := &fault{rng: rand.New(rand.NewPCG(uint64(os.Getpid()), 1))}
	parts := strings.Split(spec, ":")
	bad := fmt.Errorf("KQ_FAULT=%s is not understood", spec)
	switch {
	case len(parts) == 2 && parts[0] == "crash":
		rate, err := strconv.ParseFloat(parts[1], 64)
		if err != nil {
			return bad
		}
		f.rate = rate
	case len(parts) == 3 && parts[0] == "crash":
		n, err := strconv.Atoi(parts[2])
		if err != nil || !slices.Contains(points, parts[1]) {
			return bad
		}
		f.point, f.hit = parts[1], n
	case len(parts) == 3 && parts[0] == "op":
		n, err := strconv.Atoi(parts[2])
		errnos := map[string]syscall.Errno{"ENOSPC": syscall.ENOSPC, "EIO": syscall.EIO, "EACCES": syscall.EACCES}
		if err != nil || errnos[parts[1]] == 0 {
			return bad
		}
		f.errno, f.op = errnos[parts[1]], n
	default:
		return bad
	}
	active.Store(f)
	return nil
}

// Point is an instant at which a crash test may kill the process. It costs one
// atomic load otherwise.
func Point(name string) {
	f := active.Load()
	if f == nil {
		return
	}
	f.mu.Lock()
	die := f.rate > 0 && f.rng.Float64() < f.rate
	if f.point == name {
		f.hit--
		die = f.hit == 0
	}
	f.mu.Unlock()
	if die {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

// failing returns the error that the current operation shall fail with.
func failing() error {
	f := active.Load()
	if f == nil || f.op == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.count++
	if f.count == f.op {
		return f.errno
	}
	return nil
}
