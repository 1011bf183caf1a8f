package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/pipeline"
)

// planFlags are those of kq plan.
type planFlags struct {
	shardSize, exchange string
	set                 []string
	format              string
	json, sql           bool
	run, state          string
}

var planFormats = []string{"text", "json", "dot", "mermaid"}

func (a *app) planCommand() *cobra.Command {
	var f planFlags
	c := &cobra.Command{
		Use:   "plan JOB",
		Short: "Show what a job will do, and why, without doing it",
		Long: "kq plan explains what will run where, and why. With --run it shows the plan of a run as it was made then, with\n" +
			"what became of it so far: rows, bytes, time, memory and how evenly rows were spread.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.plan(cmd.Context(), args[0], f) },
	}
	c.Flags().StringVar(&f.shardSize, "shard-size", "", "decoded bytes that a shard aims at, such as 64MiB")
	c.Flags().StringVar(&f.exchange, "exchange", "", exchangeHelp)
	c.Flags().StringArrayVar(&f.set, "set", nil, "override a key of the job")
	c.Flags().StringVar(&f.format, "format", "text", strings.Join(planFormats, ", "))
	c.Flags().BoolVar(&f.json, "json", false, "short for --format json")
	c.Flags().BoolVar(&f.sql, "sql", false, "show the SQL of each task as well")
	c.Flags().StringVar(&f.run, "run", "", "a run of the job, by its id, the beginning of it, or last")
	c.Flags().StringVar(&f.state, "state", "", "state directory of --run (default: the job's, else .kq beside it)")
	return c
}

func (a *app) plan(ctx context.Context, file string, f planFlags) error {
	if f.json {
		f.format = "json"
	}
	if !slices.Contains(planFormats, f.format) {
		return &failure{code: exitJob, err: fmt.Errorf("--format %q is none of %s", f.format, strings.Join(planFormats, ", "))}
	}
	if f.run != "" {
		g, t, err := a.planOfRun(ctx, file, f)
		if err != nil {
			return err
		}
		return a.showPlan(g, t, file, f)
	}
	set, err := overrides(f.set, f.shardSize, f.exchange)
	if err != nil {
		return err
	}
	_, g, engine, err := a.compile(ctx, file, set)
	if err != nil {
		return err
	}
	defer engine.Close()
	return a.showPlan(g, nil, file, f)
}

// showPlan writes a plan; t is what became of it, or nil.
func (a *app) showPlan(g *pipeline.Graph, t *truth, file string, f planFlags) error {
	switch f.format {
	case "json":
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(planJSON(g, t))
	case "dot":
		a.draw(g, t).dot(a.stdout)
	case "mermaid":
		a.draw(g, t).mermaid(a.stdout)
	default:
		p := &planText{app: a, g: g, truth: t, sql: f.sql}
		p.write(file)
	}
	return nil
}

// taskPlan is a task as kq plan --json shows it, with its shards.
type taskPlan struct {
	pipeline.Task
	Shards []pipeline.Shard `json:"shards"`
}

func planJSON(g *pipeline.Graph, t *truth) any {
	out := struct {
		Hash string `json:"plan_hash"`
		*pipeline.Graph
		Tasks []taskPlan `json:"tasks"`
		Truth *truth     `json:"truth,omitempty"`
	}{Hash: planHash(g), Graph: g, Truth: t}
	for _, t := range g.Tasks {
		out.Tasks = append(out.Tasks, taskPlan{t, t.Shards})
	}
	return out
}

// truth is what became of a plan.
type truth struct {
	Run   string                `json:"run"`
	State string                `json:"state"`
	Tasks map[string]*taskTruth `json:"tasks"`
}

// taskTruth is what became of a task. Memory and spill are those of its worst shard.
type taskTruth struct {
	pipeline.TaskStatus
	Slowest int64   // nanoseconds
	Buckets []int64 `json:",omitempty"` // rows that it sent to each
}

// planOfRun reads the plan that a run was submitted with, and how it went.
func (a *app) planOfRun(ctx context.Context, file string, f planFlags) (*pipeline.Graph, *truth, error) {
	s, _, err := a.open(ctx, place{state: f.state, job: file})
	if err != nil {
		return nil, nil, err
	}
	defer s.Close()
	run, err := findOfJob(ctx, s, file, f.run)
	if err != nil {
		return nil, nil, err
	}
	g, err := a.stored(ctx, s, run)
	if err != nil {
		return nil, nil, err
	}
	t, err := truthOf(ctx, s, g, run)
	return g, t, environment(err)
}

// findOfJob resolves what a user calls a run of a job.
func findOfJob(ctx context.Context, s *coord.Store, file, name string) (string, error) {
	if name != "last" && name != "latest" {
		return find(ctx, s, name)
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return "", environment(err)
	}
	st, err := s.Latest(ctx, path)
	if errors.Is(err, pipeline.ErrNoRun) {
		return "", fmt.Errorf("run of %s: %w", file, err)
	}
	return st.Run, environment(err)
}

// stored reads the plan that a run was submitted with.
func (a *app) stored(ctx context.Context, s *coord.Store, run string) (*pipeline.Graph, error) {
	plan, err := s.Plan(ctx, run)
	if err != nil {
		return nil, environment(err)
	}
	if len(plan) == 0 {
		return nil, &failure{code: exitEnvironment, err: fmt.Errorf("run %s is archived: its parts are gone", run)}
	}
	g, err := unseal(plan, a.redact)
	return g, environment(err)
}

// truthOf reads how a run went, and puts the shards back into its plan.
func truthOf(ctx context.Context, s *coord.Store, g *pipeline.Graph, run string) (*truth, error) {
	st, err := s.Status(ctx, run)
	if err != nil {
		return nil, err
	}
	t := &truth{Run: run, State: st.State.String(), Tasks: map[string]*taskTruth{}}
	for _, status := range st.Tasks {
		shards, err := s.Shards(ctx, run, status.Task)
		if err != nil {
			return nil, err
		}
		one := &taskTruth{TaskStatus: status}
		for _, sh := range shards {
			one.add(sh)
			if task := g.Task(status.Task); task != nil {
				task.Shards = append(task.Shards, sh.Shard)
			}
		}
		t.Tasks[status.Task] = one
	}
	return t, nil
}

func (t *taskTruth) add(sh pipeline.ShardStatus) {
	t.Slowest = max(t.Slowest, int64(sh.Metrics.Elapsed))
	for _, p := range sh.Parts {
		for b, rows := range p.Buckets {
			if b >= len(t.Buckets) {
				t.Buckets = append(t.Buckets, make([]int64, b+1-len(t.Buckets))...)
			}
			t.Buckets[b] += rows
		}
	}
}

// skew is the largest bucket, and how many times the mean that is.
func (t *taskTruth) skew() (largest int64, times float64) {
	var rows int64
	for _, n := range t.Buckets {
		rows += n
		largest = max(largest, n)
	}
	if rows == 0 {
		return 0, 1
	}
	return largest, float64(largest) * float64(len(t.Buckets)) / float64(rows)
}
