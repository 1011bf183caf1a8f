package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
	"github.com/kinequet/kq/plugins/sinks/filesink"
)

func (a *app) retryCommand() *cobra.Command {
	var p place
	c := &cobra.Command{
		Use: "retry RUN", Short: "Make the failed shards of a run ready to be tried again",
		Long: "kq retry gives the failed shards of a run fresh attempts; what is done stays done. kq run JOB (or kq worker) then carries on.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, _, err := a.open(cmd.Context(), p)
			if err != nil {
				return err
			}
			defer s.Close()
			run, err := find(cmd.Context(), s, args[0])
			if err != nil {
				return err
			}
			st, err := s.Status(cmd.Context(), run)
			if err != nil {
				return environment(err)
			}
			if st.State == pipeline.RunSucceeded {
				fmt.Fprintf(a.stdout, "run %s is done; there is nothing to retry\n", run)
				return nil
			}
			n, err := s.Retry(cmd.Context(), run)
			if err != nil {
				return environment(err)
			}
			fmt.Fprintf(a.stdout, "run %s: %s ready again; kq run %s carries on\n", run, plural(int64(n), "shard"), a.relative(st.File))
			return nil
		},
	}
	p.flags(c)
	return c
}

func (a *app) cancelCommand() *cobra.Command {
	var p place
	c := &cobra.Command{
		Use: "cancel RUN", Short: "End a run; its workers stop", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			s, _, err := a.open(cmd.Context(), p)
			if err != nil {
				return err
			}
			defer s.Close()
			run, err := find(cmd.Context(), s, args[0])
			if err != nil {
				return err
			}
			if err := s.Cancel(cmd.Context(), run); err != nil {
				return environment(err)
			}
			st, err := s.Status(cmd.Context(), run)
			if err != nil {
				return environment(err)
			}
			fmt.Fprintf(a.stdout, "run %s: %s\n", run, st.State)
			return nil
		},
	}
	p.flags(c)
	return c
}

func (a *app) gcCommand() *cobra.Command {
	var p place
	var keep time.Duration
	c := &cobra.Command{
		Use: "gc", Short: "Remove what lost attempts left behind, and runs past their retention", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, dir, err := a.open(cmd.Context(), p)
			if err != nil {
				return err
			}
			defer s.Close()
			now := time.Now()
			retired, err := s.Retire(cmd.Context(), now.Add(-keep), now.Add(-4*keep))
			if err != nil {
				return environment(err)
			}
			g := &collector{app: a, s: s, dir: dir}
			for _, run := range retired {
				g.remove(filepath.Join(dir, "runs", run))
			}
			err = g.collect(cmd.Context())
			fmt.Fprintf(a.stdout, "%s archived, %s removed, %s freed\n", plural(int64(len(retired)), "run"), plural(int64(g.files), "file"), bytesText(g.bytes))
			return environment(errors.Join(append(g.errs, err)...))
		},
	}
	p.flags(c)
	c.Flags().DurationVar(&keep, "keep", 7*24*time.Hour, "how long finished runs keep their shards and parts")
	return c
}

// collector removes files that no completion names.
type collector struct {
	*app
	s     *coord.Store
	dir   string
	files int
	bytes int64
	errs  []error
}

func (g *collector) remove(path string) {
	err := filepath.WalkDir(path, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := e.Info(); err == nil && !e.IsDir() {
			g.files++
			// A second name means that the bytes live on in a published result.
			if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Nlink == 1 {
				g.bytes += info.Size()
			}
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err := errors.Join(err, os.RemoveAll(path)); err != nil {
		g.errs = append(g.errs, err)
	}
}

func (g *collector) collect(ctx context.Context) error {
	runs, err := g.s.Runs(ctx)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, r := range runs {
		known[r.Run] = true
		if _, err := g.s.Reap(ctx, r.Run); err != nil {
			return err
		}
		if err := g.sweep(ctx, r.Run); err != nil {
			return err
		}
	}
	folders, err := os.ReadDir(filepath.Join(g.dir, "runs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range folders {
		if !known[f.Name()] {
			g.remove(filepath.Join(g.dir, "runs", f.Name()))
		}
	}
	return nil
}

// sweep removes the orphans of one run: while a worker lives, what it writes is
// not an orphan yet, so only runs without one are swept.
func (g *collector) sweep(ctx context.Context, run string) error {
	st, err := g.s.Status(ctx, run)
	if err != nil {
		return err
	}
	if len(st.Workers) > 0 {
		g.say("kq: run %s has workers; its files are left alone", run)
		return nil
	}
	named := map[string]bool{}
	for _, t := range st.Tasks {
		parts, err := g.s.Parts(ctx, run, t.Task)
		if err != nil {
			return err
		}
		for _, shard := range parts {
			for _, p := range shard {
				named[p.Name] = true
			}
		}
	}
	folder := filepath.Join(g.dir, "runs", run, "parts")
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !named[e.Name()] {
			g.remove(filepath.Join(folder, e.Name()))
		}
	}
	g.remove(filepath.Join(g.dir, "runs", run, "spill"))
	return g.staged(ctx, run)
}

// staged removes what the run's attempts left beside its targets.
func (g *collector) staged(ctx context.Context, run string) error {
	data, err := g.s.Plan(ctx, run)
	if err != nil || len(data) == 0 {
		return err
	}
	graph, err := unseal(data, g.redact)
	if err != nil { // it can't be known where it published, which must not keep the rest from being removed
		g.say("kq: what run %s left at its sinks is not looked for: %v", run, err)
		return nil
	}
	for _, t := range graph.Tasks {
		switch t.Kind {
		case pipeline.Commit:
			removed, err := filesink.Sweep(t.Sink, func(other string) bool { return other != run })
			if err != nil {
				return err
			}
			g.files += len(removed)
		case pipeline.Publish:
			sweeper, ok := remoteTypes[t.Sink.Type].(sinks.Sweeper)
			if !ok {
				continue
			}
			removed, err := sweeper.Sweep(ctx, t.Sink, func(other string) bool { return other == run })
			if err != nil {
				g.say("kq: %s", g.redact.text(err.Error()))
			}
			g.files += len(removed)
		}
	}
	return nil
}
