package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/sqlstage"
)

// place says which state directory a command is about.
type place struct{ state, job string }

func (p *place) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.state, "state", "", "state directory (default: .kq beside --job, or here)")
	c.Flags().StringVar(&p.job, "job", "", "job file whose state directory is meant")
}

// open opens a state directory that must exist.
func (a *app) open(ctx context.Context, p place) (*coord.Store, string, error) {
	dir := p.state
	if dir == "" && p.job != "" {
		job, err := a.load(p.job, nil)
		if err != nil {
			return nil, "", err
		}
		dir = stateDir("", job)
	} else if dir == "" {
		dir = ".kq"
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, "", environment(err)
	}
	if !exists(filepath.Join(dir, "coord.db")) {
		return nil, "", &failure{code: exitEnvironment, err: fmt.Errorf("there are no runs in %s", dir), hint: "name the state directory with --state, or the job with --job"}
	}
	s, err := openStore(ctx, dir)
	return s, dir, err
}

// find resolves what a user calls a run: its id, the beginning of one, or "latest".
func find(ctx context.Context, s *coord.Store, name string) (string, error) {
	runs, err := s.Runs(ctx)
	if err != nil {
		return "", environment(err)
	}
	var found []string
	for _, r := range runs {
		if r.Run == name || name == "latest" || name == "" {
			return r.Run, nil
		}
		if strings.HasPrefix(r.Run, name) {
			found = append(found, r.Run)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("run %s: %w", name, pipeline.ErrNoRun)
	}
	return "", &failure{code: exitEnvironment, err: fmt.Errorf("%s may be any of %s", name, strings.Join(found, ", "))}
}

func argument(args []string) string {
	if len(args) == 0 {
		return "latest"
	}
	return args[0]
}

func (a *app) statusCommand() *cobra.Command {
	var p place
	var asJSON bool
	c := &cobra.Command{
		Use: "status [RUN]", Short: "Show how a run goes (default: the latest)", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, _, err := a.open(cmd.Context(), p)
			if err != nil {
				return err
			}
			defer s.Close()
			run, err := find(cmd.Context(), s, argument(args))
			if err != nil {
				return err
			}
			st, err := s.Status(cmd.Context(), run)
			if err != nil {
				return environment(err)
			}
			if asJSON {
				return json.NewEncoder(a.stdout).Encode(st)
			}
			fmt.Fprintf(a.stdout, "run %s of %s: %s\n", st.Run, st.Job, st.State)
			if st.Error != "" {
				fmt.Fprintf(a.stdout, "  %s\n", printable(st.Error))
			}
			for _, t := range st.Tasks {
				fmt.Fprintf(a.stdout, "  %s\n", taskLine(t))
			}
			for _, w := range st.Workers {
				fmt.Fprintf(a.stdout, "  worker %d: process %d on %s, %s\n", w.ID, w.PID, w.Host, w.State)
			}
			return nil
		},
	}
	p.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print it as JSON")
	return c
}

func (a *app) runsCommand() *cobra.Command {
	var p place
	var asJSON bool
	c := &cobra.Command{
		Use: "runs", Short: "List the runs, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, _, err := a.open(cmd.Context(), p)
			if err != nil {
				return err
			}
			defer s.Close()
			runs, err := s.Runs(cmd.Context())
			if err != nil {
				return environment(err)
			}
			if asJSON {
				return json.NewEncoder(a.stdout).Encode(runs)
			}
			rows := [][]string{{"run", "job", "state", "started", "took"}}
			for _, r := range runs {
				took := "-"
				if !r.Ended.IsZero() {
					took = timeText(r.Ended.Sub(r.Created))
				}
				rows = append(rows, []string{r.Run, r.Job, r.State.String(), r.Created.Format(time.DateTime), took})
			}
			table(a.stdout, rows)
			return nil
		},
	}
	p.flags(c)
	c.Flags().BoolVar(&asJSON, "json", false, "print them as JSON")
	return c
}

func (a *app) logsCommand() *cobra.Command {
	var p place
	c := &cobra.Command{
		Use: "logs RUN [TASK/SHARD]", Short: "Show what the workers of a run logged, or the attempts of one shard",
		Long: "kq logs RUN prints the logs of the run's workers. With a shard, such as clean/3 (or 3, for the shard 3 of every task),\n" +
			"it prints the shard's attempts with their errors, and the log lines about it.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, dir, err := a.open(cmd.Context(), p)
			if err != nil {
				return err
			}
			defer s.Close()
			run, err := find(cmd.Context(), s, args[0])
			if err != nil {
				return err
			}
			match := func(string) bool { return true }
			if len(args) == 2 {
				if match, err = a.attempts(cmd.Context(), s, run, args[1]); err != nil {
					return err
				}
			}
			return environment(a.logLines(filepath.Join(dir, "runs", run, "logs"), match))
		},
	}
	p.flags(c)
	return c
}

// attempts prints what became of a shard's attempts and returns a filter for
// log lines about it.
func (a *app) attempts(ctx context.Context, s *coord.Store, run, name string) (func(string) bool, error) {
	task, number, ok := strings.Cut(name, "/")
	if !ok {
		task, number = "", name
	}
	ordinal, err := strconv.Atoi(number)
	if err != nil {
		return nil, &failure{code: exitJob, err: fmt.Errorf("%q names no shard; write it like clean/3", name)}
	}
	st, err := s.Status(ctx, run)
	if err != nil {
		return nil, environment(err)
	}
	found := false
	for _, t := range st.Tasks {
		if task != "" && t.Task != task {
			continue
		}
		shards, err := s.Shards(ctx, run, t.Task)
		if err != nil {
			return nil, environment(err)
		}
		for _, sh := range shards {
			if sh.Shard.Ordinal != ordinal {
				continue
			}
			found = true
			fmt.Fprintf(a.stdout, "%s, shard %d: %s\n", t.Task, ordinal, sh.State)
			for _, e := range sh.Errors {
				fmt.Fprintf(a.stdout, "  attempt %d, worker %d, %s: %s: %s\n", e.Epoch, e.Worker, e.Ended.Format(time.DateTime), e.Outcome, printable(e.Error))
			}
		}
	}
	if !found {
		return nil, &failure{code: exitEnvironment, err: fmt.Errorf("run %s has no shard %s", run, name)}
	}
	return func(line string) bool {
		return strings.Contains(line, "shard="+number+" ") && (task == "" || strings.Contains(line, "task="+task+" "))
	}, nil
}

func (a *app) logLines(dir string, match func(string) bool) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err
	}
	var lines []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		for _, l := range strings.Split(strings.TrimSpace(string(data)), "\n") {
			if l != "" && match(l) {
				lines = append(lines, l)
			}
		}
	}
	sort.Strings(lines) // they begin with their time
	for _, l := range lines {
		fmt.Fprintln(a.stdout, printable(l))
	}
	return nil
}

func (a *app) showCommand() *cobra.Command {
	var p place
	var n int
	c := &cobra.Command{
		Use: "show RUN STAGE", Short: "Print the first rows of a stage's output", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, dir, err := a.open(ctx, p)
			if err != nil {
				return err
			}
			defer s.Close()
			run, err := find(ctx, s, args[0])
			if err != nil {
				return err
			}
			g, err := a.stored(ctx, s, run)
			if err != nil {
				return err
			}
			t := g.Task(args[1])
			if t == nil || t.Kind != pipeline.Compute {
				return &failure{code: exitJob, err: notStored(g, args[1])}
			}
			e, err := sqlstage.NewEngine(ctx)
			if err != nil {
				return environment(err)
			}
			defer e.Close()
			return environment(a.head(ctx, e, s, g, dir, run, args[1], n))
		},
	}
	p.flags(c)
	c.Flags().IntVarP(&n, "rows", "n", 20, "how many rows")
	return c
}

// notStored explains why a stage has no output to show.
func notStored(g *pipeline.Graph, name string) error {
	var stored []string
	for _, t := range g.Tasks {
		if t.Kind == pipeline.Compute {
			stored = append(stored, t.Name)
		}
	}
	for _, n := range g.Stages {
		if n.Name == name {
			return fmt.Errorf("stage %s runs as part of %s and is not stored; materialize: true would keep it", name, n.Task)
		}
	}
	return fmt.Errorf("the run has no stage %q; there are %s", name, strings.Join(stored, ", "))
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			version := "devel"
			if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
				version = info.Main.Version
			}
			e, err := sqlstage.NewEngine(cmd.Context())
			if err != nil {
				return environment(err)
			}
			defer e.Close()
			fmt.Fprintf(a.stdout, "kq %s, DuckDB %s\n", version, e.Version())
			return nil
		},
	}
}
