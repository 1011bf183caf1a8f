package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/pipeline/send"
	"github.com/kinequet/kq/pipeline/spec"
	"github.com/kinequet/kq/pipeline/worker"
	"github.com/kinequet/kq/plugins/sinks"
	"github.com/kinequet/kq/plugins/sinks/csvsink"
	"github.com/kinequet/kq/plugins/sinks/filesink"
	"github.com/kinequet/kq/plugins/sinks/jsonsink"
	"github.com/kinequet/kq/plugins/sinks/kafkasink"
	"github.com/kinequet/kq/plugins/sinks/parquetsink"
	"github.com/kinequet/kq/plugins/sinks/postgressink"
	"github.com/kinequet/kq/plugins/sinks/s3sink"
	"github.com/kinequet/kq/plugins/sinks/sqssink"
	"github.com/kinequet/kq/plugins/sources"
	"github.com/kinequet/kq/plugins/sources/csvsource"
	"github.com/kinequet/kq/plugins/sources/jsonsource"
	"github.com/kinequet/kq/plugins/sources/parquetsource"
	"github.com/kinequet/kq/stages/sqlstage"
)

// The source and sink types of this build.
var (
	sourceTypes = map[string]sources.Source{"parquet": parquetsource.Source{}, "csv": csvsource.Source{}, "json": jsonsource.Source{}}
	remoteTypes = map[string]sinks.Remote{
		"kafka":    kafkasink.Sink{},
		"postgres": postgressink.Sink{},
		"s3":       s3sink.Sink{},
		"sqs":      sqssink.Sink{},
	}
	sinkTypes = map[string]sinks.Sink{"parquet": parquetsink.Sink{}, "csv": csvsink.Sink{}, "json": jsonsink.Sink{}}
)

func catalog() pipeline.Catalog {
	c := pipeline.Catalog{Sources: map[string]pipeline.PluginSpec{}, Sinks: map[string]pipeline.PluginSpec{}}
	for name, s := range sourceTypes {
		c.Sources[name] = s.Spec()
	}
	for name, s := range sinkTypes {
		c.Sinks[name] = s.Spec()
	}
	for name, s := range remoteTypes {
		c.Sinks[name] = s.Spec()
	}
	return c
}

// load decodes a job file, and hides its secrets from here on.
func (a *app) load(file string, set []string) (*pipeline.Job, error) {
	mode := ""
	set = slices.DeleteFunc(slices.Clone(set), func(s string) bool {
		after, found := strings.CutPrefix(s, exchangeEverywhere)
		if found {
			mode = after
		}
		return found
	})
	job, err := spec.Load(file, spec.Options{Set: set, Catalog: catalog()})
	var problems pipeline.Problems
	if err != nil && !errors.As(err, &problems) {
		return nil, &failure{code: exitJob, err: err}
	}
	if job != nil {
		a.redact.hide(job.Env)
		for _, s := range job.Sinks {
			a.redact.hideSettings(s.Type, s.Settings)
		}
		if mode != "" {
			job.Exchange = pipeline.Exchange(mode)
			for i := range job.Stages {
				job.Stages[i].Exchange = ""
			}
		}
	}
	return job, err
}

func compileOptions() pipeline.CompileOptions {
	return pipeline.CompileOptions{
		Open: func(s pipeline.Source) (pipeline.Relation, []string, error) {
			typ := sourceTypes[s.Type]
			files, err := sources.Resolve(s.URIs, typ.Spec().Extensions)
			if err != nil {
				return pipeline.Relation{}, nil, err
			}
			rel, err := typ.Relation(s.Options)
			return rel, files, err
		},
		Copy: func(s pipeline.Sink) (string, error) { return sinkTypes[s.Type].Copy(s) },
		Publication: func(s pipeline.Sink, columns []pipeline.Column, bind pipeline.Binder) (*pipeline.Publication, error) {
			return remoteTypes[s.Type].Publication(s, columns, bind)
		},
		Catalog: catalog(),
		Suggest: spec.Suggest,
	}
}

// planOptions adds to compileOptions what the machine can hold: a statement that
// isn't row-wise needs about as much memory as its inputs, decoded.
func planOptions(job *pipeline.Job) pipeline.CompileOptions {
	o := compileOptions()
	memory := job.Memory
	if memory == 0 {
		memory = worker.MachineMemory() * 8 / 10
	}
	o.Budget = memory * 6 / 10
	if o.Workers = job.Workers; o.Workers == 0 {
		o.Workers = worthwhileWorkers(job.Memory)
	}
	return o
}

// compile loads and compiles a job. The engine is the caller's to close.
func (a *app) compile(ctx context.Context, file string, set []string) (*pipeline.Job, *pipeline.Graph, *sqlstage.Engine, error) {
	type started struct {
		e   *sqlstage.Engine
		err error
	}
	engine := make(chan started, 1)
	go func() { // starting DuckDB takes longer than reading the file
		e, err := sqlstage.NewEngine(ctx)
		engine <- started{e, err}
	}()
	job, err := a.load(file, set)
	s := <-engine
	if s.err != nil {
		return nil, nil, nil, environment(s.err)
	}
	var problems, more pipeline.Problems
	if errors.As(err, &problems) && job != nil {
		// The rest of the job is checked as well, so that all is said at once.
		if _, err := pipeline.Compile(ctx, job, s.e, compileOptions()); errors.As(err, &more) {
			problems = append(problems, more...)
			problems.Sort()
		}
		err = problems
	}
	if err != nil {
		s.e.Close()
		return nil, nil, nil, err
	}
	g, err := pipeline.Compile(ctx, job, s.e, planOptions(job))
	if err != nil {
		s.e.Close()
		return nil, nil, nil, err
	}
	for _, e := range job.Env {
		if !e.FromFile {
			g.Env = append(g.Env, e.Name)
		}
	}
	if g.File, err = filepath.Abs(file); err != nil {
		return nil, nil, nil, environment(err)
	}
	return job, g, s.e, nil
}

// stateDir is where a job's runs are kept.
func stateDir(flag string, job *pipeline.Job) string {
	switch {
	case flag != "":
		return flag
	case job != nil && job.State != "":
		return job.State
	case job != nil:
		return filepath.Join(filepath.Dir(job.File), ".kq")
	}
	return ".kq"
}

// openStore opens the coordinator of a state directory.
func openStore(ctx context.Context, dir string) (*coord.Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, environment(err)
	}
	s, err := coord.Open(ctx, dir, &coord.Options{Lease: lease()})
	return s, environment(err)
}

// openSession is how workers execute tasks.
func openSession(ctx context.Context, g *pipeline.Graph, t *pipeline.Task, r pipeline.Resources) (worker.Session, error) {
	return sqlstage.Open(ctx, g, t, r)
}

// openSender is how workers send to sinks that are services.
func openSender(store *coord.Store, log *slog.Logger) func(context.Context, *pipeline.Graph, *pipeline.Task, string, pipeline.Resources) (worker.Sender, error) {
	return func(ctx context.Context, g *pipeline.Graph, t *pipeline.Task, run string, r pipeline.Resources) (worker.Sender, error) {
		st, err := store.Status(ctx, run)
		if err != nil {
			return nil, err
		}
		return send.Open(ctx, g, t, r, send.Options{
			Run: run, Started: st.Created, Type: remoteTypes[t.Sink.Type],
			Warn: func(message string) { log.Warn(message, "sink", t.Sink.Name) },
		})
	}
}

// publish is how workers commit sinks. It checks the ledger: every row of the
// stage is in the manifest.
func publish(_ context.Context, g *pipeline.Graph, run, nonce string, p *pipeline.SinkPlan, parts [][]pipeline.StoredPart) (pipeline.Metrics, error) {
	var files []filesink.File
	var m pipeline.Metrics
	for _, shard := range parts {
		for _, part := range shard {
			files = append(files, filesink.File{Path: part.Path, Part: part.Part})
			m.RowsIn += part.Rows
		}
	}
	if len(files) == 0 {
		return m, fmt.Errorf("sink %s: %s has no parts", p.Name, p.From)
	}
	manifest, err := filesink.Commit(p, filesink.Meta{Run: run, Job: g.Job, JobHash: g.Digest, Nonce: nonce}, files)
	if err != nil {
		return m, err
	}
	m.RowsOut, m.BytesOut = manifest.Rows, manifest.Bytes
	if m.RowsOut != m.RowsIn {
		return m, fmt.Errorf("sink %s: %d rows came in, the manifest has %d", p.Name, m.RowsIn, m.RowsOut)
	}
	return m, nil
}
