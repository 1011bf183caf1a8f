package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/kinequet/kq/pipeline"
)

// planText explains a graph: first what is read, then each stage in the order in
// which they run, then how to run it. With a truth it says what became of each.
type planText struct {
	*app
	g     *pipeline.Graph
	truth *truth // nil: before a run
	sql   bool
}

func (p *planText) line(indent int, format string, args ...any) {
	text := p.redact.text(fmt.Sprintf(format, args...)) // before lines are broken
	pad := strings.Repeat("  ", indent)
	fmt.Fprintln(p.stdout, pad+strings.ReplaceAll(printable(text), "\n", "\n"+pad))
}

func (p *planText) gap() { fmt.Fprintln(p.stdout) }

func (p *planText) write(file string) {
	p.line(0, "plan of %s, hash %s", p.g.Job, planHash(p.g))
	if p.truth != nil {
		p.line(0, "run %s: %s", p.truth.Run, p.truth.State)
	}
	p.sources()
	for i := range p.g.Tasks {
		t := &p.g.Tasks[i]
		switch {
		case t.Kind == pipeline.Encode:
			p.encode(t)
		case t.Kind == pipeline.Commit:
			p.sink(t)
		case t.Kind == pipeline.Publish:
			p.service(t)
		case t.Kind == pipeline.Last:
			p.line(1, "when all is sent: %s", plural(int64(len(t.Shards)), "shard"))
			p.became(2, t)
		case t.Stage == "":
			p.whole(t)
		default:
			if i == 0 || p.g.Tasks[i-1].Stage != t.Stage {
				p.stage(t.Stage)
			}
			p.fragment(t)
		}
	}
	if p.truth == nil {
		p.gap()
		p.line(0, "run exactly this: kq run %s --plan-hash %s", file, planHash(p.g))
	}
}

func (p *planText) sources() {
	p.gap()
	p.line(0, "sources")
	for i := range p.g.Inputs {
		in := &p.g.Inputs[i]
		rows := "rows counted while reading"
		if in.Rows >= 0 {
			rows = countText(in.Rows) + " rows"
		}
		p.line(1, "%s: %s, %s, %s, %s", in.Name, in.Type, plural(int64(len(in.Files)), "file"), rows, bytesText(in.OnDisk))
		p.line(2, "columns: %s", columnList(in.Columns))
	}
}

// whole explains a stage that is one task.
func (p *planText) whole(t *pipeline.Task) {
	p.gap()
	p.line(0, "stage %s: %s", t.Name, plural(int64(len(t.Shards)), "shard"))
	p.together(t.Views)
	members := map[string]bool{}
	for _, v := range t.Views {
		members[v.Name] = true
	}
	for _, e := range p.g.Edges {
		if members[e.To] {
			p.line(1, "%s → %s: %s, %s", e.From, e.To, howText[e.Kind], p.because(e))
		}
	}
	if d := p.note(t.Name).Decision; d != "" {
		p.line(1, "%s", d)
	}
	p.reads(t)
	p.line(1, "result: %s", columnList(t.Output.Columns))
	p.statements(1, t)
	p.became(1, t)
}

func (p *planText) together(views []pipeline.View) {
	var fused []string
	for _, v := range views[:len(views)-1] {
		fused = append(fused, v.Name)
	}
	if len(fused) > 0 {
		p.line(1, "together with %s: nothing is written in between", strings.Join(fused, ", "))
	}
}

var howText = map[pipeline.EdgeKind]string{
	pipeline.Forward:   "forward (shard by shard)",
	pipeline.Broadcast: "broadcast (whole, into every shard)",
	pipeline.Gather:    "gather (all of it in one place)",
}

// because keeps an edge's reason from repeating what the line says.
func (p *planText) because(e pipeline.Edge) string {
	switch e.Kind {
	case pipeline.Forward:
		return "because the SQL is " + e.Reason + ": it needs one row of it at a time"
	case pipeline.Gather:
		return p.reason(e.To, e.Reason)
	}
	return "because " + e.Reason
}

// reason is a reason with the words of the SQL that it speaks of.
func (p *planText) reason(name, why string) string {
	n := p.note(name)
	if n.Words == "" {
		return "because " + why
	}
	text := fmt.Sprintf("because of %q", clip(p.redact.text(n.Words), 60))
	if n.Line > 0 {
		text += fmt.Sprintf(" at %s:%d:%d", p.relative(p.g.File), n.Line, n.Col)
	}
	return text + ": " + why
}

func (p *planText) note(name string) *pipeline.Note {
	if n := p.g.Notes[name]; n != nil {
		return n
	}
	return &pipeline.Note{}
}

// reads says how much of its source a task reads.
func (p *planText) reads(t *pipeline.Task) {
	for _, in := range t.Inputs {
		src := p.g.Input(in.Source)
		if src == nil || in.Kind != pipeline.Forward {
			continue
		}
		var bytes, rows int64
		for _, s := range t.Shards {
			bytes += s.OnDisk
			rows += s.Rows
		}
		text := fmt.Sprintf("reads %s of %s of %s", bytesText(bytes), bytesText(src.OnDisk), src.Name)
		if src.Rows >= 0 {
			text += fmt.Sprintf(", %s of %s rows", countText(rows), countText(src.Rows))
		}
		p.line(1, "%s: columns %s", text, strings.Join(t.Reads, ", "))
		if t.Pruned > 0 {
			p.line(1, "skips %s whose statistics exclude the filter", plural(int64(t.Pruned), "row group"))
		}
	}
}

// stage heads the fragments of a stage that was cut.
func (p *planText) stage(name string) {
	var fragments []string
	for _, t := range p.g.Tasks {
		if t.Stage == name {
			fragments = append(fragments, t.Name)
		}
	}
	p.gap()
	p.line(0, "stage %s: %s", name, plural(int64(len(fragments)), "fragment"))
	var fused []string
	for _, n := range p.g.Stages {
		if n.Task == name && n.Name != name {
			fused = append(fused, n.Name)
		}
	}
	if len(fused) > 0 {
		p.line(1, "together with %s", strings.Join(fused, ", "))
	}
	if d := p.note(name).Decision; d != "" {
		p.line(1, "%s", d)
	}
}

func (p *planText) fragment(t *pipeline.Task) {
	p.line(1, "fragment %s: %s%s", t.Name, plural(int64(len(t.Shards)), "shard"), p.amount(t))
	p.line(2, "%s", does(p.g, t))
	for i := range t.Inputs {
		p.line(2, "%s", inputText(p.g, t, i))
		p.spread(3, &t.Inputs[i])
	}
	if r := t.Output.Route; r != nil {
		p.line(2, "%s", routeText(p.g, t.Name, r))
	}
	if t.Raw != nil {
		p.line(2, "a worker passes rows on uncombined once combining doesn't make them much fewer")
	}
	p.line(2, "%s", p.reason(t.Name, why(t)))
	if t.Name == t.Stage {
		p.line(2, "result: %s", columnList(t.Output.Columns))
	}
	p.statements(2, t)
	p.became(2, t)
}

// why is a fragment's reason; one that needs none for its cut is divided by a key.
func why(t *pipeline.Task) string {
	if t.Reason != "" {
		return t.Reason
	}
	for _, in := range t.Inputs {
		if in.Kind == pipeline.Hash || in.Kind == pipeline.Range {
			return "rows that meet agree in the key, so that each shard has all that it needs"
		}
	}
	return "it needs one row of its divided input at a time"
}

// amount estimates what goes into a task.
func (p *planText) amount(t *pipeline.Task) string {
	in := pipeline.Estimate{}
	for _, e := range p.note(t.Name).Inputs {
		in.Rows, in.Bytes = plus(in.Rows, e.Rows), plus(in.Bytes, e.Bytes)
	}
	if text := estimateText(in); text != "" {
		return ", " + text + " in"
	}
	return ""
}

func plus(a, b int64) int64 {
	if a < 0 || b < 0 {
		return -1
	}
	return a + b
}

func estimateText(e pipeline.Estimate) string {
	var parts []string
	if e.Rows >= 0 {
		parts = append(parts, countText(e.Rows)+" rows")
	}
	if e.Bytes >= 0 && e.Bytes < 1<<49 {
		parts = append(parts, "about "+bytesText(e.Bytes))
	}
	return strings.Join(parts, ", ")
}

// does is a fragment's work in a sentence.
func does(g *pipeline.Graph, t *pipeline.Task) string {
	if n := g.Notes[t.Name]; n != nil && n.Does != "" {
		return n.Does
	}
	for _, other := range g.Tasks {
		if r := other.Output.Route; r != nil && r.Bounds == t.Name {
			return "draws a sample of the order's values"
		}
	}
	from := t.Inputs[0].Name
	switch {
	case t.Inputs[0].Kind == pipeline.Sort:
		return "sorts what falls into its range of the order"
	case t.Output.Route != nil:
		return "reads " + from + " and sends each row to its bucket"
	case t.Output.Ordered:
		return "orders the rows of " + from
	}
	return "reads the rows of " + from
}

// inputText is one input of a fragment: how its rows come, and about how many.
func inputText(g *pipeline.Graph, t *pipeline.Task, i int) string {
	in := &t.Inputs[i]
	text := in.Name + ": " + edgeText(g, t, in)
	if in.Task != "" && in.Task != in.Name {
		text += ", from " + in.Task
	}
	if in.Split {
		text += ", of which a large one may be divided further"
	}
	if in.Where != "" {
		text += ", only rows where " + in.Where
	}
	if n := g.Notes[t.Name]; n != nil && i < len(n.Inputs) {
		if e := estimateText(n.Inputs[i]); e != "" {
			text += " (" + e + ")"
		}
	}
	return text
}

// edgeText says how rows travel along an edge.
func edgeText(g *pipeline.Graph, t *pipeline.Task, in *pipeline.TaskInput) string {
	key := meant(g, in.Task, in.Key)
	switch in.Kind {
	case pipeline.Hash:
		return fmt.Sprintf("by hash of %s, %s", key, bucketsText(g, in))
	case pipeline.Sort:
		return "by ranges of the order, " + bucketsText(g, in)
	case pipeline.Range:
		return fmt.Sprintf("ranges of %s, %s, each byte read %.2f times (from the statistics of its row groups)",
			key, plural(int64(len(t.Shards)), "shard"), t.Overlap)
	case pipeline.Broadcast:
		return "whole, into every shard"
	case pipeline.Gather:
		return "gathered, all of it into one shard"
	}
	return "forward, shard by shard"
}

// meant renders a key of a task's rows. Columns whose names the planner made up
// go by what they stand for.
func meant(g *pipeline.Graph, task string, key []string) string {
	text := plainName.ReplaceAllString(strings.Join(key, ", "), "$1")
	n := g.Notes[task]
	if n == nil {
		return text
	}
	for name, means := range n.Means {
		text = wholeWord(name).ReplaceAllLiteralString(text, means)
	}
	return text
}

// plainName is a quoted name that needs no quotes.
var plainName = regexp.MustCompile(`"([a-z_][a-z0-9_]*)"`)

func wholeWord(name string) *regexp.Regexp {
	return regexp.MustCompile(`"?\b` + regexp.QuoteMeta(name) + `\b"?`)
}

func bucketsText(g *pipeline.Graph, in *pipeline.TaskInput) string {
	if t := g.Task(in.Task); t != nil && t.Output.Route != nil {
		return plural(int64(t.Output.Route.Buckets), "bucket")
	}
	return "buckets"
}

func routeText(g *pipeline.Graph, task string, r *pipeline.Route) string {
	if r.Bounds != "" {
		return fmt.Sprintf("sends its rows to %s of the order, as the sample of %s divides it", plural(int64(r.Buckets), "range"), r.Bounds)
	}
	return fmt.Sprintf("sends its rows by hash of %s to %s", meant(g, task, r.Key), plural(int64(r.Buckets), "bucket"))
}

// statements shows a task's SQL.
func (p *planText) statements(indent int, t *pipeline.Task) {
	if !p.sql {
		return
	}
	for _, v := range t.Views {
		p.line(indent, "SQL of %s:", v.Name)
		p.line(indent+1, "%s", strings.TrimSpace(v.SQL))
	}
	if t.Raw != nil {
		p.line(indent, "SQL of %s, uncombined:", t.Name)
		p.line(indent+1, "%s", t.Raw.SQL)
	}
}

func (p *planText) encode(t *pipeline.Task) {
	p.gap()
	p.line(0, "encode for sink %s: %s", t.Sink.Name, plural(int64(len(t.Shards)), "shard"))
	as := t.Sink.Type
	if t.Sink.Publication != nil { // what it is sent as
		as = strings.TrimPrefix(t.Sink.Extension, ".")
	}
	p.line(1, "each shard writes rows of %s again as %s; all rows in must come out", t.Sink.From, as)
	p.became(1, t)
}

func (p *planText) sink(t *pipeline.Task) {
	s := t.Sink
	p.gap()
	p.line(0, "sink %s: %s as %s, effectively once", s.Name, s.From, s.Type)
	if s.Linked {
		p.line(1, "the stage's files are the result: they are moved into place, not written again")
	}
	how := "refuses if it exists"
	if s.Replace {
		how = "replaces an earlier result"
	}
	p.line(1, "to %s (%s), all files at once, the manifest last", p.relative(s.Target), how)
	p.became(1, t)
}

// service explains a sink that sends rows somewhere.
func (p *planText) service(t *pipeline.Task) {
	s, pub := t.Sink, t.Sink.Publication
	p.gap()
	p.line(0, "sink %s: %s to %s, %s", s.Name, s.From, s.Type, pub.Delivery)
	p.line(1, "because %s", pub.Reason)
	p.line(1, "to %s", pub.Target)
	how := "rows"
	if pub.Files {
		how = "files"
	}
	p.line(1, "%s: each shard's %s are sent as soon as it is complete, at most %s on their way", plural(int64(len(t.Shards)), "shard"), how, bytesText(s.InFlight()))
	if p.sql && pub.Select != "" {
		p.line(1, "SQL of what is sent:")
		p.line(2, "SELECT %s FROM %s", pub.Select, s.From)
	}
	p.became(1, t)
}

// became says what a task has done.
func (p *planText) became(indent int, t *pipeline.Task) {
	if p.truth == nil {
		return
	}
	is := p.truth.Tasks[t.Name]
	if is == nil || is.State == pipeline.TaskBlocked {
		p.line(indent, "in the run: not begun")
		return
	}
	m := is.Metrics
	p.line(indent, "in the run: %s, %d of %s in %s, the slowest shard %s, %s", is.State, is.Completed, plural(is.Shards, "shard"),
		timeText(took(is)), timeText(time.Duration(is.Slowest)), retriesText(is.Retries))
	p.line(indent, "            %s rows in, %s rows out, read %s, wrote %s, spilled %s, peak memory %s", countText(m.RowsIn),
		countText(m.RowsOut), bytesText(m.BytesRead), bytesText(m.BytesOut), bytesText(m.Spilled), bytesText(m.Memory))
}

func took(t *taskTruth) time.Duration {
	if t.Ended.IsZero() {
		return time.Since(t.Started)
	}
	return t.Ended.Sub(t.Started)
}

func retriesText(n int64) string {
	if n == 0 {
		return "no retries"
	}
	return plural(n, "retry")
}

// spread says how much came along an edge, and how evenly.
func (p *planText) spread(indent int, in *pipeline.TaskInput) {
	if p.truth == nil || p.truth.Tasks[in.Task] == nil {
		return
	}
	from := p.truth.Tasks[in.Task]
	text := fmt.Sprintf("in the run: %s rows, %s", countText(from.Metrics.RowsOut), bytesText(from.Metrics.BytesOut))
	if in.Bucketed() && len(from.Buckets) > 0 {
		largest, times := from.skew()
		text += fmt.Sprintf("; the largest of %s has %s rows, %.2f times the mean", plural(int64(len(from.Buckets)), "bucket"), countText(largest), times)
	}
	p.line(indent, "%s", text)
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
