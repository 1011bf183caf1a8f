package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/spf13/cobra"

	"github.com/kinequet/kq/pipeline"
)

func (a *app) planCommand() *cobra.Command {
	var shardSize, exchange string
	var set []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "plan JOB",
		Short: "Show what a job will do, and why, without doing it",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := overrides(set, shardSize, exchange)
			if err != nil {
				return err
			}
			_, g, engine, err := a.compile(cmd.Context(), args[0], set)
			if err != nil {
				return err
			}
			defer engine.Close()
			if asJSON {
				enc := json.NewEncoder(a.stdout)
				enc.SetIndent("", "  ")
				return enc.Encode(planJSON(g))
			}
			a.planText(g, args[0])
			return nil
		},
	}
	c.Flags().StringVar(&shardSize, "shard-size", "", "decoded bytes that a shard aims at, such as 64MiB")
	c.Flags().StringVar(&exchange, "exchange", "", exchangeHelp)
	c.Flags().StringArrayVar(&set, "set", nil, "override a key of the job")
	c.Flags().BoolVar(&asJSON, "json", false, "print the graph as JSON")
	return c
}

// taskPlan is a task as kq plan --json shows it, with its shards.
type taskPlan struct {
	pipeline.Task
	Shards []pipeline.Shard `json:"shards"`
}

func planJSON(g *pipeline.Graph) any {
	out := struct {
		Hash string `json:"plan_hash"`
		*pipeline.Graph
		Tasks []taskPlan `json:"tasks"`
	}{Hash: planHash(g), Graph: g}
	for _, t := range g.Tasks {
		out.Tasks = append(out.Tasks, taskPlan{t, t.Shards})
	}
	return out
}

// planText explains a graph: first what is read, then each task in the order in
// which they run, then how to run it.
func (a *app) planText(g *pipeline.Graph, file string) {
	w := a.stdout
	fmt.Fprintf(w, "plan of %s, hash %s\n\nsources\n", g.Job, planHash(g))
	for i := range g.Inputs {
		in := &g.Inputs[i]
		rows := "rows counted while reading"
		if in.Rows >= 0 {
			rows = countText(in.Rows) + " rows"
		}
		fmt.Fprintf(w, "  %s: %s, %s, %s, %s\n", in.Name, in.Type, plural(int64(len(in.Files)), "file"), rows, bytesText(in.OnDisk))
		fmt.Fprintf(w, "    columns: %s\n", columnList(in.Columns))
	}
	for i := range g.Tasks {
		t := &g.Tasks[i]
		switch t.Kind {
		case pipeline.Compute:
			computeText(w, g, t)
		case pipeline.Encode:
			fmt.Fprintf(w, "\nencode for sink %s: %s\n  each shard writes rows of %s again as %s; all rows in must come out\n", t.Sink.Name, plural(int64(len(t.Shards)), "shard"), t.Sink.From, t.Sink.Type)
		case pipeline.Commit:
			a.sinkText(w, t.Sink)
		}
	}
	fmt.Fprintf(w, "\nrun exactly this: kq run %s --plan-hash %s\n", file, planHash(g))
}

func computeText(w io.Writer, g *pipeline.Graph, t *pipeline.Task) {
	var fused []string
	for _, v := range t.Views[:len(t.Views)-1] {
		fused = append(fused, v.Name)
	}
	fmt.Fprintf(w, "\nstage %s: %s\n", t.Name, plural(int64(len(t.Shards)), "shard"))
	if len(fused) > 0 {
		fmt.Fprintf(w, "  together with %s: nothing is written in between\n", strings.Join(fused, ", "))
	}
	members := map[string]bool{}
	for _, v := range t.Views {
		members[v.Name] = true
	}
	for _, e := range g.Edges {
		if !members[e.To] {
			continue
		}
		how := map[pipeline.EdgeKind]string{
			pipeline.Forward:   "forward (shard by shard)",
			pipeline.Broadcast: "broadcast (whole, into every shard)",
			pipeline.Gather:    "gather (all of it in one place)",
		}[e.Kind]
		fmt.Fprintf(w, "  %s → %s: %s, because %s\n", e.From, e.To, how, reason(e))
	}
	for _, in := range t.Inputs {
		src := g.Input(in.Source)
		if src == nil || in.Kind != pipeline.Forward {
			continue
		}
		var bytes, rows int64
		for _, s := range t.Shards {
			bytes += s.OnDisk
			rows += s.Rows
		}
		fmt.Fprintf(w, "  reads %s of %s of %s", bytesText(bytes), bytesText(src.OnDisk), src.Name)
		if src.Rows >= 0 {
			fmt.Fprintf(w, ", %s of %s rows", countText(rows), countText(src.Rows))
		}
		fmt.Fprintf(w, ": columns %s\n", strings.Join(t.Reads, ", "))
		if t.Pruned > 0 {
			fmt.Fprintf(w, "  skips %s whose statistics exclude the filter\n", plural(int64(t.Pruned), "row group"))
		}
	}
	fmt.Fprintf(w, "  result: %s\n", columnList(t.Output.Columns))
}

// reason keeps an edge's reason from repeating what the line says.
func reason(e pipeline.Edge) string {
	if e.Kind == pipeline.Forward {
		return "the SQL is " + e.Reason + ": it needs one row of it at a time"
	}
	return e.Reason
}

func (a *app) sinkText(w io.Writer, p *pipeline.SinkPlan) {
	fmt.Fprintf(w, "\nsink %s: %s as %s, effectively once\n", p.Name, p.From, p.Type)
	if p.Linked {
		fmt.Fprintln(w, "  the stage's files are the result: they are moved into place, not written again")
	}
	how := "refuses if it exists"
	if p.Replace {
		how = "replaces an earlier result"
	}
	fmt.Fprintf(w, "  to %s (%s), all files at once, the manifest last\n", a.relative(p.Target), how)
}

// relative shortens a path to one from the current folder, where that is
// shorter and hides no more than it should: a part of a secret is one too.
func (a *app) relative(path string) string {
	if hidden := a.redact.text(path); hidden != path {
		return hidden
	}
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}

func columnList(cols []pipeline.Column) string {
	items := make([]string, len(cols))
	for i, c := range cols {
		items[i] = c.Name + " " + c.Type
	}
	return strings.Join(items, ", ")
}

func (a *app) validateCommand() *cobra.Command {
	var set []string
	c := &cobra.Command{
		Use:   "validate FILE|FOLDER...",
		Short: "Check job files, with their SQL and sources, and report every problem",
		Long:  "Problems come one a line, as file:line:column: path: what is wrong; what to do.\nThe exit code is 2 when there is one.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var files []string
			for _, arg := range args {
				if info, err := os.Stat(arg); err == nil && info.IsDir() {
					for _, pattern := range []string{"*.yaml", "*.yml"} {
						found, _ := filepath.Glob(filepath.Join(arg, pattern))
						files = append(files, found...)
					}
					continue
				}
				files = append(files, arg)
			}
			sort.Strings(files)
			if len(files) == 0 {
				return &failure{code: exitJob, err: fmt.Errorf("there is no .yaml file in %s", strings.Join(args, ", "))}
			}
			code := exitOK
			for _, f := range files {
				_, _, engine, err := a.compile(cmd.Context(), f, set)
				if err != nil {
					code = max(code, a.exitCode(err))
					continue
				}
				engine.Close()
				fmt.Fprintf(a.stdout, "%s: ok\n", f)
			}
			if code != exitOK {
				return &failure{code: code, err: fmt.Errorf("invalid"), said: true}
			}
			return nil
		},
	}
	c.Flags().StringArrayVar(&set, "set", nil, "override a key of the jobs")
	return c
}
