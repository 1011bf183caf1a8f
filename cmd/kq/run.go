package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/pipeline/send"
	"github.com/kinequet/kq/pipeline/spec"
	"github.com/kinequet/kq/plugins/sinks/filesink"
	"github.com/kinequet/kq/stages/sqlstage"
)

// runFlags are those of `kq run`.
type runFlags struct {
	workers   int
	state     string
	shardSize string
	exchange  string
	set       []string
	planHash  string
	fresh     bool
	json      bool
	metrics   string // address to serve metrics on
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run JOB",
		Short: "Run a job, or carry on with its run that did not finish",
		Long: "kq run compiles the job, starts worker processes and shows their progress. Nothing of the run lives in\n" +
			"this process: kill it, or any worker, and give the same command again; the run carries on where it was.\n\n" + exitHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.run(cmd.Context(), args[0], f) },
	}
	c.Flags().IntVar(&f.workers, "workers", 0, "worker processes (default: the job's, else one per core)")
	c.Flags().StringVar(&f.state, "state", "", "state directory (default: the job's, else .kq beside it)")
	c.Flags().StringVar(&f.shardSize, "shard-size", "", "decoded bytes that a shard aims at, such as 64MiB")
	c.Flags().StringVar(&f.exchange, "exchange", "", exchangeHelp)
	c.Flags().StringArrayVar(&f.set, "set", nil, "override a key of the job, such as sinks.lake.overwrite=replace")
	c.Flags().StringVar(&f.planHash, "plan-hash", "", "run only if kq plan showed this hash")
	c.Flags().BoolVar(&f.fresh, "fresh", false, "start anew, whatever earlier runs left")
	c.Flags().StringVar(&f.metrics, "metrics", "", "serve Prometheus metrics at http://ADDRESS/metrics while the run lasts, such as 127.0.0.1:9464")
	c.Flags().BoolVar(&f.json, "json", false, "write one event per line to stdout")
	return c
}

const exchangeHelp = "auto, always or never: whether rows move between workers for what isn't row-wise (default: the job's, else auto)"

// exchangeEverywhere marks the flag among overrides: it holds for the job and for
// every stage, whatever they say.
const exchangeEverywhere = "--exchange="

// overrides are the --set of a command, with the flags that are keys of the job
// among them.
func overrides(set []string, shardSize, exchange string) ([]string, error) {
	set = append([]string{}, set...)
	if shardSize != "" {
		if _, err := spec.ParseSize(shardSize); err != nil {
			return nil, &failure{code: exitJob, err: fmt.Errorf("--shard-size %w", err)}
		}
		set = append(set, "shard_size="+shardSize)
	}
	if exchange != "" {
		modes := []string{string(pipeline.ExchangeAuto), string(pipeline.ExchangeAlways), string(pipeline.ExchangeNever)}
		if !slices.Contains(modes, exchange) {
			return nil, &failure{code: exitJob, err: fmt.Errorf("--exchange %q is none of %s", exchange, strings.Join(modes, ", "))}
		}
		set = append(set, exchangeEverywhere+exchange)
	}
	return set, nil
}

func (a *app) run(ctx context.Context, file string, f runFlags) error {
	set, err := overrides(f.set, f.shardSize, f.exchange)
	if err != nil {
		return err
	}
	job, g, engine, err := a.compile(ctx, file, set)
	if err != nil {
		return err
	}
	defer engine.Close()
	if f.planHash != "" && f.planHash != planHash(g) {
		return &failure{
			code: exitJob, err: fmt.Errorf("the plan is now %s, not %s: the job or its inputs have changed", planHash(g), f.planHash),
			hint: "look at kq plan again",
		}
	}
	r := &runner{app: a, flags: f, job: job, graph: g, engine: engine}
	r.out = newReporter(a, g, f.json)
	r.dir, err = filepath.Abs(stateDir(f.state, job))
	if err != nil {
		return environment(err)
	}
	// A run that is not there yet must not cost a state directory when a sink refuses.
	if !exists(filepath.Join(r.dir, "coord.db")) {
		if err := checkSinks(ctx, g); err != nil {
			return err
		}
	}
	if r.store, err = openStore(ctx, r.dir); err != nil {
		return err
	}
	defer r.store.Close()
	done, err := r.choose(ctx)
	if done || err != nil {
		return err
	}
	if f.metrics != "" {
		at, stop, err := serveMetrics(f.metrics, &exporter{store: r.store, graph: r.graph, run: r.run})
		if err != nil {
			return environment(err)
		}
		defer stop()
		r.out.serving(at)
	}
	return r.execute(ctx)
}

// planHash is what people compare.
func planHash(g *pipeline.Graph) string { return g.Digest[:16] }

// checkSinks tells before any work what would keep a sink from publishing.
func checkSinks(ctx context.Context, g *pipeline.Graph) error {
	var errs []error
	for _, t := range g.Tasks {
		switch t.Kind {
		case pipeline.Commit:
			errs = append(errs, filesink.Check(t.Sink))
		case pipeline.Publish:
			errs = append(errs, send.Check(ctx, remoteTypes[t.Sink.Type], t.Sink))
		}
	}
	return environment(errors.Join(errs...))
}

// runner is one `kq run`.
type runner struct {
	*app
	flags  runFlags
	job    *pipeline.Job
	graph  *pipeline.Graph
	engine *sqlstage.Engine
	store  *coord.Store
	dir    string
	run    string
	out    *reporter
}

// choose decides between a new run, an earlier one that did not finish, and
// nothing to do.
func (r *runner) choose(ctx context.Context) (done bool, err error) {
	last, err := r.store.Latest(ctx, r.graph.File)
	if errors.Is(err, pipeline.ErrNoRun) {
		return false, r.submit(ctx)
	}
	if err != nil {
		return false, environment(err)
	}
	same := last.Digest == r.graph.Digest && !r.flags.fresh
	switch {
	case same && last.State == pipeline.RunSucceeded:
		published, err := r.published(last.Run)
		if err != nil {
			return false, environment(err)
		}
		if published {
			r.run = last.Run
			r.out.upToDate(last)
			return true, r.summary(ctx, last)
		}
	case same:
		r.run = last.Run
		if last.State.Final() {
			n, err := r.store.Retry(ctx, last.Run)
			if err != nil {
				return false, environment(err)
			}
			r.out.carryOn(last, n)
		} else {
			r.out.carryOn(last, 0)
		}
		return false, nil
	case !last.State.Final():
		if err := r.store.Cancel(ctx, last.Run); err != nil {
			return false, environment(err)
		}
		r.out.superseded(last, r.flags.fresh)
	}
	return false, r.submit(ctx)
}

// published reports whether all sinks of files still hold the run's result. What
// services have got is taken from the ledger.
func (r *runner) published(run string) (bool, error) {
	for _, t := range r.graph.Tasks {
		if t.Kind != pipeline.Commit {
			continue
		}
		if ok, err := filesink.Published(t.Sink, run); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (r *runner) submit(ctx context.Context) error {
	if err := checkSinks(ctx, r.graph); err != nil {
		return err
	}
	b := make([]byte, 2)
	_, _ = rand.Read(b)
	r.run = time.Now().UTC().Format("20060102-150405") + "-" + hex.EncodeToString(b)
	plan, err := seal(r.graph, r.redact)
	if err != nil {
		return environment(err)
	}
	err = r.store.Submit(ctx, pipeline.Submission{Run: r.run, Job: r.job.Name, File: r.graph.File, Digest: r.graph.Digest, Plan: plan, Tasks: r.graph.Tasks})
	if err != nil {
		return environment(err)
	}
	r.out.started(r.run)
	return nil
}

// summary is the end of a run: how it went, and where the result is.
func (r *runner) summary(ctx context.Context, st pipeline.RunStatus) error {
	switch st.State {
	case pipeline.RunSucceeded:
		r.out.succeeded(st)
		if !r.flags.json {
			r.heads(ctx)
		}
		return nil
	case pipeline.RunCancelled:
		r.out.ended(st)
		return &failure{code: exitRun, err: fmt.Errorf("run %s was cancelled", r.run), hint: "the same command carries on with it"}
	}
	r.out.ended(st)
	r.failures(ctx, st)
	return &failure{code: exitRun, err: errors.New("failed"), said: true}
}

// failures tells every failed shard, what it was reading and why it failed.
func (r *runner) failures(ctx context.Context, st pipeline.RunStatus) {
	r.say("kq: error: run %s failed: %s", r.run, st.Error)
	for _, t := range st.Tasks {
		if t.Failed == 0 {
			continue
		}
		shards, err := r.store.Shards(ctx, r.run, t.Task)
		if err != nil {
			r.say("kq: error: %v", err)
			return
		}
		for _, s := range shards {
			if s.State != pipeline.ShardFailed || len(s.Errors) == 0 {
				continue
			}
			text, place := s.Errors[len(s.Errors)-1].Error, where(r.graph, t.Task, &s.Shard)
			if strings.Contains(text, strings.Trim(place, " ()")) {
				place = ""
			}
			r.say("  %s, shard %d%s: %s", t.Task, s.Shard.Ordinal, place, text)
		}
	}
	r.say("kq: hint: mend the cause and give the same command again, or kq retry %s; kq logs %s tells more", r.run, r.run)
}

// where names the input of a shard.
func where(g *pipeline.Graph, task string, s *pipeline.Shard) string {
	t := g.Task(task)
	if t == nil {
		return ""
	}
	for _, in := range t.Inputs {
		if in.Kind == pipeline.Forward && in.Source != "" {
			if text := sqlstage.Describe(g.Input(in.Source), s); text != "" {
				return " (" + text + ")"
			}
		}
	}
	return ""
}

// heads prints the first rows of every sink.
func (r *runner) heads(ctx context.Context) {
	for _, t := range r.graph.Tasks {
		if t.Kind == pipeline.Commit || t.Kind == pipeline.Publish {
			fmt.Fprintf(r.stdout, "\n%s: %s\n", t.Sink.Name, r.redact.text(t.Sink.Target))
			if err := r.head(ctx, r.engine, r.store, r.graph, r.dir, r.run, t.Sink.From, 8); err != nil {
				r.say("kq: %v", err)
			}
		}
	}
}

// head prints the first rows of a task's parts.
func (a *app) head(ctx context.Context, e *sqlstage.Engine, store *coord.Store, g *pipeline.Graph, dir, run, task string, n int) error {
	shards, err := store.Parts(ctx, run, task)
	if err != nil {
		return err
	}
	var paths []string
	var rows int64
	for _, parts := range shards {
		for _, p := range parts {
			if rows < int64(n) && (p.Rows > 0 || len(paths) == 0) {
				paths = append(paths, filepath.Join(dir, "runs", run, "parts", p.Name))
			}
			rows += p.Rows
		}
	}
	if len(paths) == 0 {
		return fmt.Errorf("%s has no output in run %s", task, run)
	}
	t := g.Task(task)
	found, err := e.Head(ctx, t, paths, n)
	if err != nil {
		return err
	}
	for _, row := range found {
		for i := range row {
			row[i] = clip(row[i], 30)
		}
	}
	table(a.stdout, found)
	if more := rows - int64(len(found)-1); more > 0 {
		fmt.Fprintf(a.stdout, "… and %s\n", countText(more)+" more rows")
	}
	return nil
}
