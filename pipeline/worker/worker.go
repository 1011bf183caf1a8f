package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/kinequet/kq/internal/durable"
	"github.com/kinequet/kq/pipeline"
)

// Coordinator is what a worker asks of the coordinator. The contract of each
// verb stands in package coord.
type Coordinator interface {
	Plan(ctx context.Context, run string) ([]byte, error)
	Join(ctx context.Context, run string, pid int) (pipeline.Worker, error)
	Leave(ctx context.Context, w pipeline.Worker) error
	Heartbeat(ctx context.Context, w pipeline.Worker) error
	Pulse(ctx context.Context, w pipeline.Worker) (pipeline.Pulse, error)
	Claim(ctx context.Context, w pipeline.Worker, lane pipeline.Lane, limit int) ([]pipeline.Claim, error)
	Complete(ctx context.Context, w pipeline.Worker, done []pipeline.Completion) ([]error, error)
	Fail(ctx context.Context, w pipeline.Worker, failed []pipeline.Failure) error
	Release(ctx context.Context, w pipeline.Worker, claims []pipeline.Claim) error
	Reap(ctx context.Context, run string) (int, error)
	Parts(ctx context.Context, run, task string) ([][]pipeline.Part, error)
}

// Session executes shards of one task.
type Session interface {
	Run(ctx context.Context, shard *pipeline.Shard, out string) ([]pipeline.Written, pipeline.Metrics, error)
	Close() error
}

// Sender sends shards of one sink, one at a time.
type Sender interface {
	// Send sends the parts of a shard; what the sink holds of them by then are
	// parts as well. workers is how many processes share the sink.
	Send(ctx context.Context, c pipeline.Claim, parts []pipeline.StoredPart, workers int) ([]pipeline.Part, pipeline.Metrics, error)
	// Last ends the sink's work once all parts are sent.
	Last(ctx context.Context, sent [][]pipeline.Part) (pipeline.Metrics, error)
	Close() error
}

// Config is what a worker needs. All fields but the last ones are required.
type Config struct {
	StateDir    string
	Run         string
	Coordinator Coordinator
	// Open starts a session for a task.
	Open func(ctx context.Context, g *pipeline.Graph, t *pipeline.Task, r pipeline.Resources) (Session, error)
	// Publish makes a sink's files visible, all at once; parts are absolute
	// paths in row order, by shard; nonce is the attempt's. It is idempotent.
	Publish func(ctx context.Context, g *pipeline.Graph, run, nonce string, p *pipeline.SinkPlan, parts [][]pipeline.StoredPart) (pipeline.Metrics, error)
	// Sender starts sending the rows of a sink that is a service.
	Sender func(ctx context.Context, g *pipeline.Graph, t *pipeline.Task, run string, r pipeline.Resources) (Sender, error)
	// Decode turns the stored plan into the graph; nil means JSON as it is.
	Decode func([]byte) (*pipeline.Graph, error)

	// Redact hides secrets in errors before they are stored; nil keeps them.
	Redact func(string) string

	Cores   int             // to share with the other workers of the machine; 0: all
	Among   int             // workers that are expected at least, though they may not have joined yet
	Memory  int64           // bytes to share likewise; 0: the graph's, or 80 % of the machine's
	Lease   time.Duration   // how long the coordinator waits for a heartbeat; 0: 30 s
	Grace   time.Duration   // how long a shard may still run once the worker is asked to stop; 0: 3 s
	Log     *slog.Logger    // nil: discards
	Stopped <-chan struct{} // closed: finish or release what is under way, and leave
}

// errStopped is why work was cancelled; it costs the shard no attempt.
var errStopped = errors.New("the worker was asked to stop")

// Run works until the run has ended, the worker is asked to stop, or it is
// declared dead. It returns nil in the first two cases, whatever the outcome of
// the run.
func Run(ctx context.Context, c Config) error {
	w, err := start(ctx, c)
	if err != nil {
		return err
	}
	defer w.cancel(nil)
	go w.beat()
	go w.watch()
	publishing := w.publishing()
	err = w.loop()
	w.closeSession()
	err = errors.Join(err, publishing())
	if cause := context.Cause(w.ctx); errors.Is(cause, pipeline.ErrWorkerLost) {
		return cause
	}
	leave := context.WithoutCancel(ctx)
	return errors.Join(err, w.co.Leave(leave, w.me))
}

type worker struct {
	Config
	co     Coordinator
	me     pipeline.Worker
	graph  *pipeline.Graph
	parts  string // folder
	log    *slog.Logger
	ctx    context.Context // of the work; its cause says why it ended
	cancel context.CancelCauseFunc
	pulse  atomic.Pointer[pipeline.Pulse]

	session   Session
	task      string // of the session
	resources pipeline.Resources
	average   time.Duration // of a shard, lately
}

func start(ctx context.Context, c Config) (*worker, error) {
	if c.Lease == 0 {
		c.Lease = 30 * time.Second
	}
	if c.Grace == 0 {
		c.Grace = 3 * time.Second
	}
	if c.Cores == 0 {
		c.Cores = runtime.GOMAXPROCS(0)
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Redact == nil {
		c.Redact = func(s string) string { return s }
	}
	if c.Decode == nil {
		c.Decode = func(data []byte) (*pipeline.Graph, error) {
			g := new(pipeline.Graph)
			return g, json.Unmarshal(data, g)
		}
	}
	plan, err := c.Coordinator.Plan(ctx, c.Run)
	if err != nil {
		return nil, err
	}
	g, err := c.Decode(plan)
	if err != nil {
		return nil, fmt.Errorf("plan of run %s: %w", c.Run, err)
	}
	if c.Memory == 0 {
		c.Memory = g.Memory
	}
	w := &worker{Config: c, co: c.Coordinator, graph: g, parts: filepath.Join(c.StateDir, "runs", c.Run, "parts")}
	if err := durable.MkdirAll(w.parts); err != nil {
		return nil, err
	}
	if w.me, err = c.Coordinator.Join(ctx, c.Run, os.Getpid()); err != nil {
		return nil, err
	}
	w.log = c.Log.With("worker", w.me.ID)
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	return w, nil
}

// beat renews the lease, and gives up when that hasn't worked for so long that
// the lease may end before the work is stopped.
func (w *worker) beat() {
	acknowledged := time.Now()
	tick := time.NewTicker(w.Lease / 3)
	defer tick.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-tick.C:
		}
		sent := time.Now()
		err := w.co.Heartbeat(w.ctx, w.me)
		switch {
		case err == nil:
			acknowledged = sent
		case errors.Is(err, pipeline.ErrWorkerLost):
			w.log.Error("declared dead; leaving")
			w.cancel(pipeline.ErrWorkerLost)
			return
		case time.Since(acknowledged) > w.Lease*5/6:
			w.log.Error("no heartbeat got through", "for", time.Since(acknowledged), "error", err)
			w.cancel(fmt.Errorf("no heartbeat got through for %s: %w", time.Since(acknowledged).Round(time.Second), err))
			return
		}
	}
}

// watch follows the run's state, and ends the work when the run was cancelled
// or when the worker was asked to stop and the grace is over.
func (w *worker) watch() {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-w.ctx.Done():
			return
		case <-w.Stopped:
			select {
			case <-time.After(w.Grace):
				w.cancel(errStopped)
			case <-w.ctx.Done():
			}
			return
		case <-tick.C:
			if p, err := w.co.Pulse(w.ctx, w.me); err == nil {
				w.pulse.Store(&p)
				if p.RunState == pipeline.RunCancelled || p.RunState == pipeline.RunCancelling {
					w.cancel(errStopped)
					return
				}
			}
		}
	}
}

func (w *worker) stopping() bool {
	select {
	case <-w.Stopped:
		return true
	case <-w.ctx.Done():
		return true
	default:
		return false
	}
}

// loop claims and executes until there is nothing left to do.
func (w *worker) loop() error {
	idle := 0
	for !w.stopping() {
		durable.Point("worker.claim.before")
		claims, err := w.co.Claim(w.ctx, w.me, pipeline.Computing, w.batch())
		if err != nil {
			return w.unlessStopped(err)
		}
		durable.Point("worker.claim.after")
		p, err := w.co.Pulse(w.ctx, w.me)
		if err != nil {
			return w.unlessStopped(err)
		}
		w.pulse.Store(&p)
		if len(claims) > 0 {
			idle = 0
			if err := w.execute(claims); err != nil {
				return w.unlessStopped(err)
			}
			continue
		}
		if p.RunState.Final() {
			return nil
		}
		if idle%8 == 0 {
			if _, err := w.co.Reap(w.ctx, w.Run); err != nil {
				return w.unlessStopped(err)
			}
		}
		idle++
		select {
		case <-time.After(min(time.Duration(idle)*5*time.Millisecond, 100*time.Millisecond)):
		case <-w.ctx.Done():
		case <-w.Stopped:
		}
	}
	return nil
}

// unlessStopped drops errors that come from having been stopped.
func (w *worker) unlessStopped(err error) error {
	if errors.Is(err, pipeline.ErrWorkerLost) {
		w.cancel(pipeline.ErrWorkerLost)
		return err
	}
	if w.ctx.Err() == nil {
		return err
	}
	if cause := context.Cause(w.ctx); !errors.Is(cause, errStopped) && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// batch is how many shards to claim at once: about 1.5 s of work.
func (w *worker) batch() int {
	if w.average <= 0 {
		return 1
	}
	return int(max(1, min(64, 1500*time.Millisecond/w.average)))
}

// execute works through claimed shards. Completions are committed together
// where shards are short, but never held back for long.
func (w *worker) execute(claims []pipeline.Claim) error {
	var done []pipeline.Completion
	since := time.Now()
	flush := func() error {
		if len(done) == 0 {
			return nil
		}
		err := w.complete(done)
		done, since = nil, time.Now()
		return err
	}
	for i, c := range claims {
		if w.stopping() || w.pulse.Load().RunState == pipeline.RunFailed {
			return errors.Join(flush(), w.release(claims[i:]))
		}
		completion, err := w.shard(c)
		if err == nil {
			done = append(done, completion)
			if time.Since(since) > 100*time.Millisecond || i == len(claims)-1 {
				if err := flush(); err != nil {
					return err
				}
			}
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if err := w.fail(c, err, claims[i+1:]); err != nil {
			return err
		}
		if w.ctx.Err() != nil {
			return w.ctx.Err()
		}
	}
	return nil
}

// fail reports an attempt that ended in err. An attempt that was stopped is
// released, with the rest of the batch.
func (w *worker) fail(c pipeline.Claim, err error, rest []pipeline.Claim) error {
	if w.ctx.Err() != nil {
		if errors.Is(context.Cause(w.ctx), pipeline.ErrWorkerLost) {
			return pipeline.ErrWorkerLost
		}
		return w.release(append([]pipeline.Claim{c}, rest...))
	}
	if t := w.graph.Task(c.Task); t != nil && t.Lane() == pipeline.Computing {
		w.closeSession() // it may be in a bad state
	}
	w.log.Error("shard failed", "task", c.Task, "shard", c.Shard.Ordinal, "attempt", c.Attempt, "error", err)
	return w.co.Fail(w.ctx, w.me, []pipeline.Failure{{Claim: c, Error: w.Redact(err.Error()), Permanent: pipeline.IsPermanent(err)}})
}

func (w *worker) release(claims []pipeline.Claim) error {
	if len(claims) == 0 {
		return nil
	}
	w.log.Info("released", "shards", len(claims))
	return w.co.Release(context.WithoutCancel(w.ctx), w.me, claims)
}

// complete commits finished shards; those that another attempt holds by now
// are taken back.
func (w *worker) complete(done []pipeline.Completion) error {
	durable.Point("worker.complete.before")
	errs, err := w.co.Complete(context.WithoutCancel(w.ctx), w.me, done)
	if err != nil {
		return err
	}
	durable.Point("worker.complete.after")
	for i, err := range errs {
		c := done[i].Claim
		if err == nil {
			w.log.Info("shard done", "task", c.Task, "shard", c.Shard.Ordinal, "attempt", c.Attempt,
				"rows", done[i].Metrics.RowsOut, "took", done[i].Metrics.Elapsed)
			continue
		}
		if !errors.Is(err, pipeline.ErrFenced) {
			return err
		}
		w.log.Warn("fenced: another attempt holds the shard", "task", c.Task, "shard", c.Shard.Ordinal)
		if t := w.graph.Task(c.Task); t != nil && t.Lane() != pipeline.Computing {
			continue // its parts are what a service holds
		}
		for _, p := range done[i].Parts {
			if err := durable.Remove(filepath.Join(w.parts, p.Name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// shard executes one claim.
func (w *worker) shard(c pipeline.Claim) (pipeline.Completion, error) {
	done := pipeline.Completion{Claim: c}
	t := w.graph.Task(c.Task)
	if t == nil {
		return done, pipeline.Permanent(fmt.Errorf("the plan has no task %q", c.Task))
	}
	w.log.Info("shard started", "task", c.Task, "shard", c.Shard.Ordinal, "attempt", c.Attempt)
	begin := time.Now()
	var err error
	if t.Kind == pipeline.Commit {
		done.Metrics, err = w.publish(t, c)
	} else {
		done.Parts, done.Metrics, err = w.compute(t, c)
	}
	done.Metrics.Elapsed = time.Since(begin)
	done.Metrics.Memory = peakMemory()
	if w.average == 0 {
		w.average = done.Metrics.Elapsed
	}
	w.average = (3*w.average + done.Metrics.Elapsed) / 4
	return done, err
}

// peakMemory is the most resident memory that this process has had, in bytes.
func peakMemory() int64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	const key = "\nVmHWM:"
	for i := 0; i+len(key) < len(data); i++ {
		if string(data[i:i+len(key)]) != key {
			continue
		}
		j := i + len(key)
		for j < len(data) && (data[j] == ' ' || data[j] == '\t') {
			j++
		}
		k := j
		for k < len(data) && data[k] >= '0' && data[k] <= '9' {
			k++
		}
		kib, _ := strconv.ParseInt(string(data[j:k]), 10, 64)
		return kib << 10
	}
	return 0
}
