package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// planned is what the planner decides about a stage.
type planned struct {
	driver string // folded name of the input that it is forwarded in; "" means it runs as one
	reason string
	words  Words // what reason speaks of
	// decision is what was decided about moving rows between workers.
	decision string
	fused    *stageNode // the only reader, into whose task it goes; nil: it has a task
	small    bool       // row-wise over one small source: may be read whole by every shard
	bytes    int64      // upper estimate of its decoded size; -1 unknown
	split    bool       // its task is several fragments
}

// plan is the one place that decides edges, fusion, tasks and shards.
func (c *compiler) plan(ctx context.Context, order []*stageNode) (*Graph, error) {
	g := &Graph{Job: c.job.Name, File: c.job.File, Engine: c.e.Version(), Memory: c.job.Memory, Workers: c.job.Workers, ShardSize: c.job.ShardSize}
	for _, r := range c.inputs {
		g.Inputs = append(g.Inputs, *r.input)
	}
	for _, n := range order {
		c.decide(n)
	}
	for _, n := range order {
		n.fused = c.fusesInto(n)
	}
	for _, n := range order {
		if n.fused == nil {
			if err := c.task(ctx, g, n); err != nil {
				return nil, err
			}
		}
	}
	for _, n := range order {
		host := n
		for host.fused != nil {
			host = host.fused
		}
		if host.split {
			n.reason = host.reason
		}
		g.Stages = append(g.Stages, Node{Name: n.Name, Task: host.Name, Columns: n.columns, Reason: n.reason})
		for _, t := range n.st.Tables {
			g.Edges = append(g.Edges, c.edge(g, n, host, t))
		}
	}
	c.noteStages(g, order)
	for _, n := range order {
		if err := c.sinkTasks(g, n); err != nil {
			return nil, err
		}
	}
	return g, nil
}

// size is an upper estimate of what reading r whole costs, and whether that is
// little enough for every shard to do it.
func (c *compiler) size(r *relation) (bytes int64, small bool) {
	if r.input != nil {
		return r.input.Bytes, r.input.Bytes <= c.o.Small
	}
	return r.stage.bytes, r.stage.small
}

// decide chooses the input that n is forwarded in, if there is one: the largest
// one that the statement is row-wise in while all others are small.
func (c *compiler) decide(n *stageNode) {
	n.bytes = -1
	if n.PerShard && n.st.Opaque == "" {
		c.perShard(n)
		return
	}
	switch {
	case n.st.Opaque != "":
		n.reason = n.st.Opaque
		return
	case len(n.st.Tables) == 0:
		n.reason = "it reads no input"
		return
	}
	var large []string
	var why string // of the largest input
	var words Words
	best, most := int64(-1), int64(-1)
	for _, t := range n.st.Tables {
		r := c.rels[fold(t.Name)]
		bytes, small := c.size(r)
		if !small {
			large = append(large, t.Name)
		}
		if bytes < 0 {
			bytes = 1 << 62
		}
		if bytes > most {
			most, why, words = bytes, t.Gather, t.Words
		}
		if t.Gather == "" && bytes > best && c.othersSmall(n, t) {
			best, n.driver = bytes, fold(t.Name)
		}
	}
	switch {
	case n.driver != "":
		r := c.rels[n.driver]
		n.reason = "row-wise in " + r.name
		n.bytes, n.small = c.size(r)
	case why == "" && len(large) > 1:
		n.reason = "it joins inputs that are too large to be read whole by each shard: " + strings.Join(large, ", ")
	case why == "":
		n.reason = "no input can be cut while the others are read whole"
	default:
		words.Stage = n.Name
		n.reason, n.words = why, words
	}
	if n.driver == "" {
		n.bytes = c.inputBytes(n)
	}
}

// inputBytes is a guess at the size of what n computes from all of its inputs:
// as much as they have; -1 when that is unknown.
func (c *compiler) inputBytes(n *stageNode) (total int64) {
	for _, t := range n.st.Tables {
		bytes, _ := c.size(c.rels[fold(t.Name)])
		if bytes < 0 {
			return -1
		}
		total += bytes
	}
	return total
}

func (c *compiler) othersSmall(n *stageNode, driver TableRef) bool {
	for _, t := range n.st.Tables {
		if fold(t.Name) == fold(driver.Name) {
			continue
		}
		if _, small := c.size(c.rels[fold(t.Name)]); !small {
			return false
		}
	}
	return true
}

// perShard forwards n in its largest input because the job asks for it.
func (c *compiler) perShard(n *stageNode) {
	best := int64(-1)
	for _, t := range n.st.Tables {
		bytes, _ := c.size(c.rels[fold(t.Name)])
		if bytes < 0 {
			bytes = 1 << 62
		}
		if bytes > best {
			best, n.driver = bytes, fold(t.Name)
		}
	}
	n.reason = "scope: shard asks for one result per shard, not over the whole input"
}

// fusesInto returns the stage whose task n becomes a view of, or nil.
func (c *compiler) fusesInto(n *stageNode) *stageNode {
	if n.Materialize || len(n.sinks) > 0 || n.readers != 1 || n.st.Opaque != "" || n.PerShard {
		return nil
	}
	to := n.consumers[0]
	switch {
	case to.PerShard && to.driver != fold(n.Name): // what a shard sees whole must be whole
		return nil
	case to.driver == "" || to.driver == fold(n.Name):
		return to
	case n.small:
		return to
	}
	return nil
}

// root follows the forward edges inside n's task to what its shards are cut
// from. It returns nil for a task that runs as one.
func (c *compiler) root(n *stageNode) *relation {
	for n.driver != "" {
		r := c.rels[n.driver]
		if r.input != nil || r.stage.fused == nil {
			return r
		}
		n = r.stage
	}
	return nil
}

// members lists the stages of n's task, n last.
func (c *compiler) members(n *stageNode) (all []*stageNode) {
	for _, t := range n.st.Tables {
		if r := c.rels[fold(t.Name)]; r.stage != nil && r.stage.fused != nil {
			all = append(all, c.members(r.stage)...)
		}
	}
	return append(all, n)
}

// task adds the compute task of n and cuts it into shards.
func (c *compiler) task(ctx context.Context, g *Graph, n *stageNode) error {
	t := Task{Name: n.Name, Kind: Compute, Retry: n.Retry, Memory: n.Memory, Opaque: n.st.Opaque != ""}
	root := c.root(n)
	uses := map[*relation]int{}
	var inputs []*relation
	members := c.members(n)
	for _, m := range members {
		t.Views = append(t.Views, View{Name: m.Name, SQL: m.SQL})
		t.Memory = max(t.Memory, m.Memory)
		t.Retry.Attempts = max(t.Retry.Attempts, m.Retry.Attempts)
		for _, ref := range m.st.Tables {
			r := c.rels[fold(ref.Name)]
			if r.stage != nil && r.stage.fused != nil {
				continue
			}
			if uses[r] == 0 {
				inputs = append(inputs, r)
			}
			uses[r] += ref.Count
		}
	}
	if root != nil && uses[root] > 1 && !n.PerShard {
		n.reason, n.driver = fmt.Sprintf("%s is read in two ways at once", root.name), ""
		n.words = Words{}
		root = nil
	}
	if root == nil && n.st.Opaque == "" {
		done, err := c.exchange(ctx, g, n, members, inputs)
		if done || err != nil {
			return err
		}
	}
	for _, r := range inputs {
		in := TaskInput{Name: r.name, Columns: r.columns(), Kind: Gather}
		switch {
		case r == root:
			in.Kind = Forward
		case root != nil:
			in.Kind = Broadcast
		}
		if r.input != nil {
			in.Source = r.name
		} else {
			in.Task = r.stage.Name
			t.Needs = append(t.Needs, in.Task)
		}
		t.Inputs = append(t.Inputs, in)
	}
	if err := c.output(g, n, &t); err != nil {
		return err
	}
	var err error
	t.Shards, err = c.shards(ctx, g, &t, root, members)
	t.Buckets = min(1024, len(t.Shards))
	c.written[t.Name] = Estimate{Rows: -1, Bytes: n.bytes}
	g.Tasks = append(g.Tasks, t)
	return err
}

// output decides what n's parts hold: what the sink publishes where that serves
// every reader, else types that read back as the very same values.
func (c *compiler) output(g *Graph, n *stageNode, t *Task) error {
	t.Output = Output{Columns: n.columns, Compression: "lz4_raw", Ordered: n.st.Ordered, Dynamic: n.st.Opaque != ""}
	stored, err := c.e.Stored(n.columns)
	if err != nil {
		path := "stages." + n.Name + ".sql"
		return Problems{{File: c.job.File, Pos: c.at(path), Path: path, Message: err.Error()}}
	}
	t.Output.Stored = stored
	parquet := 0
	for _, s := range n.sinks {
		if !c.asParquet(s) {
			continue
		}
		if parquet == 0 {
			t.Output.Compression = c.compression(s)
		}
		parquet++
	}
	if parquet > 0 && parquet == len(n.sinks) && n.readers == 0 {
		t.Output.Stored = c.e.Published(n.columns)
	}
	return nil
}

// compression is the sink's, or the default of its type.
func (c *compiler) compression(s *Sink) string {
	if s.Compression != "" {
		return s.Compression
	}
	if all := c.o.Catalog.Sinks[s.Type].Compressions; len(all) > 0 {
		return all[0]
	}
	return ""
}

// edge explains one reference of a stage.
func (c *compiler) edge(g *Graph, n, host *stageNode, t TableRef) Edge {
	r := c.rels[fold(t.Name)]
	e := Edge{From: r.name, To: n.Name, Kind: Gather, Reason: n.reason}
	e.Fused = r.stage != nil && r.stage.fused == n
	switch {
	case host.split && e.Fused:
		e.Kind = Forward
	case host.split:
		e.Kind = fragmentsRead(g, host.Name, r.name)
	case n.driver == fold(t.Name):
		e.Kind = Forward
	case n.driver != "":
		e.Kind = Broadcast
		bytes, _ := c.size(r)
		e.Reason = fmt.Sprintf("small (%s): every shard reads it whole", humanBytes(bytes))
	}
	return e
}

// fragmentsRead is how the fragments of a stage read an input: the way that
// divides it least, as a small input may also be read whole.
func fragmentsRead(g *Graph, stage, input string) EdgeKind {
	kind := Broadcast
	for _, t := range g.Tasks {
		for _, in := range t.Inputs {
			if t.Stage != stage || in.Source != input && in.Task != input {
				continue
			}
			if in.Kind == Gather {
				return Gather
			}
			if in.Divided() {
				kind = in.Kind
			}
		}
	}
	return kind
}

// humanBytes renders a size with binary units.
func humanBytes(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n), "KMGTPE"
	i := -1
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.1f %ciB", f, units[i])
}

// sinkTasks adds the tasks that publish n's parts.
func (c *compiler) sinkTasks(g *Graph, n *stageNode) error {
	from := g.task(n.Name)
	for _, s := range n.sinks {
		if c.sent[s.Name] != nil {
			c.publishTasks(g, n, s)
			from = g.task(n.Name) // the slice may have moved
			continue
		}
		options, err := c.o.Copy(*s)
		if err != nil {
			return errors.Join(err)
		}
		spec := c.o.Catalog.Sinks[s.Type]
		p := &SinkPlan{
			Name: s.Name, Type: s.Type, From: n.Name, Target: s.URI, Replace: s.Replace, Copy: options,
			Columns: n.columns, Compression: c.compression(s),
		}
		p.Extension, p.SingleFile = extension(s.URI, spec.Extensions)
		if s.Type == "parquet" {
			p.Columns = c.e.Published(n.columns)
			p.Linked = (from.Output.Dynamic || slices.Equal(p.Columns, from.Output.Stored)) && p.Compression == from.Output.Compression &&
				len(s.Options) == 0 && (!p.SingleFile || len(from.Shards) == 1)
		}
		commit := Task{
			Name: s.Name + ":commit", Kind: Commit, Needs: []string{n.Name}, Sink: p, Retry: n.Retry, Buckets: 1,
			Shards: []Shard{{Key: s.Name, Rows: -1}},
		}
		if !p.Linked {
			encode := c.encodeTask(n, from, p)
			p.Encode = encode.Name
			commit.Needs = []string{encode.Name}
			g.Tasks = append(g.Tasks, encode)
			from = g.task(n.Name) // the slice may have moved
		}
		g.Tasks = append(g.Tasks, commit)
		g.Edges = append(g.Edges, Edge{From: n.Name, To: s.Name, Kind: Forward, Fused: p.Linked, Reason: sinkReason(p)})
	}
	return nil
}

// encodeTask rewrites each shard's part into the sink's format, or all parts
// into the one file that the sink wants.
func (c *compiler) encodeTask(n *stageNode, from *Task, p *SinkPlan) Task {
	in := TaskInput{Name: n.Name, Kind: Forward, Task: n.Name, Columns: n.columns}
	t := Task{
		Name: p.Name + ":encode", Kind: Encode, Needs: []string{n.Name}, Sink: p, Retry: n.Retry,
		Output: Output{Columns: n.columns, Stored: p.Columns, Dynamic: from.Output.Dynamic},
	}
	count := len(from.Shards)
	if p.SingleFile {
		in.Kind, count = Gather, 1
	}
	t.Inputs = []TaskInput{in}
	for i := range count {
		t.Shards = append(t.Shards, Shard{Ordinal: i, Key: fmt.Sprintf("%s/%d", t.Name, i), Rows: -1})
	}
	t.Buckets = min(1024, count)
	return t
}

func sinkReason(p *SinkPlan) string {
	switch {
	case p.Linked:
		return "the parts are the result: moved into place, not written again"
	case p.SingleFile:
		return "all parts are written into one " + p.Type + " file"
	}
	return "each part is written again as " + p.Type
}

// extension returns the extension that a sink's files get, and whether the
// target names one file.
func extension(uri string, known []string) (string, bool) {
	for _, e := range known {
		if strings.HasSuffix(strings.ToLower(uri), e) {
			return e, true
		}
	}
	if len(known) == 0 {
		return "", false
	}
	return known[0], false
}

// task finds a task by name.
func (g *Graph) task(name string) *Task {
	for i := range g.Tasks {
		if g.Tasks[i].Name == name {
			return &g.Tasks[i]
		}
	}
	return nil
}

// Task returns the task of that name, or nil.
func (g *Graph) Task(name string) *Task { return g.task(name) }

// Input returns the source of that name, or nil.
func (g *Graph) Input(name string) *Input {
	for i := range g.Inputs {
		if g.Inputs[i].Name == name {
			return &g.Inputs[i]
		}
	}
	return nil
}
