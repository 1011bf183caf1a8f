package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// CompileOptions is what Compile needs beside the job and the engine.
type CompileOptions struct {
	// Open returns how DuckDB reads a source, and its files in reading order.
	// An error is a problem of the source's uri.
	Open func(Source) (Relation, []string, error)
	// Copy returns the options of DuckDB's COPY that write a sink's format.
	Copy func(Sink) (string, error)
	// Publication tells how a sink that is a service sends a stage's columns. An
	// error may be SettingErrors, joined.
	Publication func(s Sink, columns []Column, bind Binder) (*Publication, error)
	// Catalog tells the file extension and compressions of sink types.
	Catalog Catalog
	// Small is the number of decoded bytes up to which an input may be read
	// whole by every shard. 0 means 64 MiB.
	Small int64
	// Budget is the number of decoded bytes up to which one worker computes a
	// statement that isn't row-wise by itself. 0 means any number.
	Budget int64
	// Workers is the number of worker processes that the plan counts on; 0 means 1.
	Workers int
	// Suggest returns what is near to a misspelt name, or "". May be nil.
	Suggest func(name string, known []string) string
}

// Compile checks everything about a job that can be known before it runs and
// decides how to run it. It reads footers and schemas, no data. The error is
// [Problems] when the job is wrong.
func Compile(ctx context.Context, job *Job, e Engine, o CompileOptions) (*Graph, error) {
	if o.Small == 0 {
		o.Small = 64 << 20
	}
	if o.Suggest == nil {
		o.Suggest = func(string, []string) string { return "" }
	}
	c := &compiler{job: job, e: e, o: o, rels: map[string]*relation{}, written: map[string]Estimate{}, sent: map[string]*Publication{}}
	for _, name := range job.Broken {
		c.rels[fold(name)] = &relation{name: name, broken: true}
	}
	c.sources(ctx)
	c.parse(ctx)
	order := c.order()
	c.bind(ctx, order)
	c.sinks(ctx)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if len(c.problems) > 0 || job.Wrong {
		c.problems.Sort()
		return nil, c.problems
	}
	g, err := c.plan(ctx, order)
	if err != nil {
		return nil, err
	}
	g.Digest, err = digest(g)
	return g, err
}

// relation is a name that SQL can use: a source or a stage.
type relation struct {
	name   string
	input  *Input      // of a source
	look   *Inspection // of a source
	stage  *stageNode  // of a stage
	broken bool        // has a problem of its own; what reads it isn't bound
}

func (r *relation) columns() []Column {
	if r.input != nil {
		return r.input.Columns
	}
	return r.stage.columns
}

// stageNode is a stage on its way through the compiler.
type stageNode struct {
	*Stage
	rel       *relation
	st        *Statement
	columns   []Column
	consumers []*stageNode // stages that read it, once each
	readers   int          // references from stages, each counted
	sinks     []*Sink
	planned
}

type compiler struct {
	job      *Job
	e        Engine
	o        CompileOptions
	rels     map[string]*relation // by folded name
	inputs   []*relation
	stages   []*stageNode // in file order
	problems Problems
	sent     map[string]*Publication // by sink
	written  map[string]Estimate     // by task: its output
}

// fold is how SQL compares names.
func fold(name string) string { return strings.ToLower(name) }

func (c *compiler) problem(path string, pos Pos, message, hint string) {
	c.problems = append(c.problems, Problem{File: c.job.File, Pos: pos, Path: path, Message: message, Hint: hint})
}

// broken reports whether the declaration of name has problems already.
func (c *compiler) broken(name string) bool {
	return slices.Contains(c.job.Broken, name)
}

func (c *compiler) at(path string) Pos { return c.job.Positions[path] }

// sources opens and inspects every source.
func (c *compiler) sources(ctx context.Context) {
	for i := range c.job.Sources {
		s := &c.job.Sources[i]
		if c.broken(s.Name) {
			continue
		}
		r := &relation{name: s.Name, input: &Input{Name: s.Name, Type: s.Type}}
		c.rels[fold(s.Name)] = r
		c.inputs = append(c.inputs, r)
		path := "sources." + s.Name + ".uri"
		rel, files, err := c.o.Open(*s)
		if err == nil {
			r.look, err = c.e.Inspect(ctx, rel, files)
		}
		if err == nil {
			err = c.e.Declare(ctx, s.Name, r.look.Columns)
		}
		if err != nil {
			r.broken = true
			c.problem(path, c.at(path), err.Error(), "")
			continue
		}
		in := r.input
		in.Relation, in.Files, in.Columns, in.Uniform = rel, r.look.Files, r.look.Columns, r.look.Uniform
		for _, f := range in.Files {
			in.OnDisk += f.Size
			if in.Rows >= 0 && f.Rows >= 0 {
				in.Rows += f.Rows
			} else {
				in.Rows = -1
			}
		}
		for _, g := range r.look.Groups {
			in.Bytes += sum(g.Bytes)
		}
		if len(r.look.Groups) == 0 {
			in.Bytes = in.OnDisk
		}
	}
}

func sum(ns []int64) (total int64) {
	for _, n := range ns {
		total += n
	}
	return total
}

// parse checks every statement on its own and resolves the tables it names.
func (c *compiler) parse(ctx context.Context) {
	for i := range c.job.Stages {
		if c.broken(c.job.Stages[i].Name) {
			continue
		}
		n := &stageNode{Stage: &c.job.Stages[i]}
		n.rel = &relation{name: n.Name, stage: n}
		c.rels[fold(n.Name)] = n.rel
		c.stages = append(c.stages, n)
	}
	c.copies()
	c.e.Known(c.names())
	for _, n := range c.stages {
		st, errs := c.e.Parse(ctx, n.SQL)
		for _, e := range errs {
			c.sqlProblem(n, e)
		}
		if st == nil || len(errs) > 0 {
			n.rel.broken = true
			n.st = &Statement{}
			continue
		}
		n.st = st
		for _, t := range st.Tables {
			r := c.rels[fold(t.Name)]
			if r == nil {
				n.rel.broken = true
				c.sqlProblem(n, SQLError{
					Offset: t.Offset, Message: fmt.Sprintf("no source or stage is named %q", t.Name),
					Hint: c.suggestion(t.Name),
				})
				continue
			}
			if r.stage != nil {
				r.stage.consumers = append(r.stage.consumers, n)
				r.stage.readers += t.Count
			}
		}
	}
}

// copies gives each sink that publishes a source as it is a stage that reads
// all of it, under the sink's name.
func (c *compiler) copies() {
	for i := range c.job.Sinks {
		s := &c.job.Sinks[i]
		if r := c.rels[fold(s.From)]; r != nil && r.input != nil && !c.broken(s.Name) {
			n := &stageNode{Stage: &Stage{Name: s.Name, SQL: "FROM " + quote(r.name), Retry: Retry{Attempts: 4, Backoff: time.Second}}}
			n.rel = &relation{name: n.Name, stage: n}
			n.sinks = append(n.sinks, s)
			c.stages = append(c.stages, n)
		}
	}
}

// quote makes an SQL identifier of name.
func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func (c *compiler) sqlProblem(n *stageNode, e SQLError) {
	path := "stages." + n.Name + ".sql"
	pos := c.at(path)
	if e.Offset >= 0 && n.SQLAt != nil {
		pos = n.SQLAt(min(e.Offset, len(n.SQL)))
	}
	c.problem(path, pos, e.Message, e.Hint)
}

// suggestion names what is near to name, or what there is.
func (c *compiler) suggestion(name string) string {
	known := c.names()
	if near := c.o.Suggest(name, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "declare it under sources: or stages:; there are " + strings.Join(known, ", ")
}

// names lists what SQL can name.
func (c *compiler) names() (all []string) {
	for _, r := range c.inputs {
		all = append(all, r.name)
	}
	for _, s := range c.job.Stages {
		all = append(all, s.Name)
	}
	return all
}

// order sorts stages so that each comes after what it reads. Stages on a cycle
// are reported and left out, with everything that reads them.
func (c *compiler) order() []*stageNode {
	const visiting, done = 1, 2
	state := map[*stageNode]int{}
	var order, path []*stageNode
	var visit func(n *stageNode)
	visit = func(n *stageNode) {
		state[n] = visiting
		path = append(path, n)
		for _, t := range n.st.Tables {
			r := c.rels[fold(t.Name)]
			if r == nil || r.stage == nil {
				continue
			}
			switch state[r.stage] {
			case 0:
				visit(r.stage)
			case visiting:
				n.rel.broken = true
				c.sqlProblem(n, SQLError{Offset: t.Offset, Message: "stages read each other in a circle: " + circle(path, r.stage)})
			}
			n.rel.broken = n.rel.broken || r.broken
		}
		state[n] = done
		path = path[:len(path)-1]
		order = append(order, n)
	}
	for _, n := range c.stages {
		if state[n] == 0 {
			visit(n)
		}
	}
	return order
}

// circle renders the part of path that starts at n, closed: "a → b → a".
func circle(path []*stageNode, n *stageNode) string {
	var names []string
	for i, p := range path {
		if p == n {
			for _, q := range path[i:] {
				names = append(names, q.Name)
			}
			break
		}
	}
	return strings.Join(append(names, n.Name), " → ")
}

// bind resolves every statement against what it reads.
func (c *compiler) bind(ctx context.Context, order []*stageNode) {
	for _, n := range order {
		for _, t := range n.st.Tables {
			r := c.rels[fold(t.Name)]
			if r == nil || r.broken {
				n.rel.broken = true
			} else if r.stage != nil && r.stage.st.Opaque != "" {
				n.rel.broken = true
				c.sqlProblem(n, SQLError{
					Offset: t.Offset, Message: fmt.Sprintf("the columns of %s are only known once it has run: its PIVOT takes them from the data", r.name),
					Hint: "list the values: PIVOT … ON column IN (…)",
				})
			}
		}
		if n.rel.broken {
			continue
		}
		cols, e := c.e.Bind(ctx, n.SQL)
		if e == nil {
			if err := c.e.Declare(ctx, n.Name, cols); err != nil {
				e = &SQLError{Offset: -1, Message: err.Error()}
			}
		}
		if e != nil {
			n.rel.broken = true
			c.sqlProblem(n, *e)
			continue
		}
		n.columns = cols
	}
}

// sinks resolves what each sink publishes.
func (c *compiler) sinks(ctx context.Context) {
	targets := map[string]string{}
	for i := range c.job.Sinks {
		s := &c.job.Sinks[i]
		if c.broken(s.Name) {
			continue
		}
		path := "sinks." + s.Name
		r := c.rels[fold(s.From)]
		switch {
		case r == nil:
			c.problem(path+".from", c.at(path+".from"), fmt.Sprintf("no source or stage is named %q", s.From), c.suggestion(s.From))
		case r.stage != nil:
			r.stage.sinks = append(r.stage.sinks, s)
		}
		if r != nil && c.o.Catalog.Sinks[s.Type].Remote {
			for _, n := range c.stages { // of a source, the one that copies makes
				if slices.Contains(n.sinks, s) {
					c.publication(ctx, n, s)
				}
			}
		}
		if s.URI == "" { // a problem already
			continue
		}
		if other, taken := targets[s.URI]; taken {
			c.problem(path+".uri", c.at(path+".uri"), fmt.Sprintf("sink %q publishes to the same place", other), "give each sink a folder of its own")
		}
		targets[s.URI] = s.Name
		for _, in := range c.inputs {
			for _, f := range in.input.Files {
				if f.Path == s.URI || strings.HasPrefix(f.Path, strings.TrimSuffix(s.URI, "/")+"/") {
					c.problem(path+".uri", c.at(path+".uri"), fmt.Sprintf("source %q reads from where this sink writes", in.name), "publish to another folder")
					break
				}
			}
		}
	}
}

// digest hashes all that decides a run's result and its shards.
func digest(g *Graph) (string, error) {
	h := sha256.New()
	enc := json.NewEncoder(h)
	d := *g
	d.Digest, d.Workers, d.Memory, d.Env, d.Notes = "", 0, 0, nil, nil
	err := enc.Encode(d)
	for _, t := range g.Tasks {
		err = errors.Join(err, enc.Encode(t.Shards))
	}
	return hex.EncodeToString(h.Sum(nil)), err
}
