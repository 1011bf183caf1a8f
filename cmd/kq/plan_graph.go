package main

import (
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/kinequet/kq/pipeline"
)

// drawing is a plan as boxes and arrows. Their texts are lines.
type drawing struct {
	title  string
	boxes  []box
	arrows []arrow
}

// box is a source, a task or a sink; those of one group stand together.
type box struct {
	id, group string
	shape     shape
	text      []string
}

type arrow struct {
	from, to string
	text     []string
}

type shape int

const (
	sourceShape shape = iota
	taskShape
	sinkShape
)

// draw makes boxes and arrows of a graph. Values of the environment are hidden
// here, before anything is escaped.
func (a *app) draw(g *pipeline.Graph, t *truth) *drawing {
	d := &drawing{title: a.redact.text(g.Job)}
	ids := map[string]string{}
	add := func(key, group string, s shape, text ...string) {
		ids[key] = fmt.Sprintf("n%d", len(d.boxes))
		d.boxes = append(d.boxes, box{ids[key], group, s, a.hideAll(text)})
	}
	for _, in := range g.Inputs {
		rows := in.Type
		if in.Rows >= 0 {
			rows += ", " + countText(in.Rows) + " rows"
		}
		add("source/"+in.Name, "", sourceShape, in.Name, rows, bytesText(in.OnDisk))
	}
	for i := range g.Tasks {
		task := &g.Tasks[i]
		if task.Kind != pipeline.Compute {
			continue
		}
		add("task/"+task.Name, task.Stage, taskShape, taskLines(g, task, t)...)
		for j := range task.Inputs {
			in := &task.Inputs[j]
			from := "source/" + in.Source
			if in.Task != "" {
				from = "task/" + in.Task
			}
			d.arrows = append(d.arrows, arrow{ids[from], ids["task/"+task.Name], a.hideAll(arrowLines(g, task, in, t))})
		}
	}
	for _, task := range g.Tasks {
		s := task.Sink
		switch task.Kind {
		case pipeline.Commit:
			add("sink/"+s.Name, "", sinkShape, s.Name, s.Type+", effectively once", a.relative(s.Target))
		case pipeline.Publish:
			add("sink/"+s.Name, "", sinkShape, s.Name, s.Type+", "+string(s.Publication.Delivery), s.Target)
		default:
			continue
		}
		d.arrows = append(d.arrows, arrow{ids["task/"+s.From], ids["sink/"+s.Name], []string{sinkEdge(s)}})
	}
	return d
}

func (a *app) hideAll(lines []string) []string {
	for i := range lines {
		lines[i] = a.redact.text(lines[i])
	}
	return lines
}

func sinkEdge(s *pipeline.SinkPlan) string {
	if s.Publication != nil {
		return "sent as soon as it is complete"
	}
	if s.Linked {
		return "moved into place"
	}
	return "written again as " + s.Type
}

func taskLines(g *pipeline.Graph, t *pipeline.Task, truth *truth) []string {
	lines := []string{t.Name}
	if t.Stage != "" {
		lines = append(lines, does(g, t))
	}
	lines = append(lines, plural(int64(len(t.Shards)), "shard"))
	if truth == nil || truth.Tasks[t.Name] == nil {
		return lines
	}
	is := truth.Tasks[t.Name]
	lines = append(lines, fmt.Sprintf("%s, %s rows out", is.State, countText(is.Metrics.RowsOut)))
	if is.State == pipeline.TaskComplete {
		lines = append(lines, timeText(took(is)))
	}
	return lines
}

func arrowLines(g *pipeline.Graph, t *pipeline.Task, in *pipeline.TaskInput, truth *truth) []string {
	lines := []string{string(in.Kind)}
	if len(in.Key) > 0 {
		lines[0] += " of " + meant(g, in.Task, in.Key)
	}
	if in.Bucketed() {
		lines = append(lines, bucketsText(g, in))
	}
	if in.Kind == pipeline.Range {
		lines = append(lines, fmt.Sprintf("%s, each byte %.2f times", plural(int64(len(t.Shards)), "shard"), t.Overlap))
	}
	if truth == nil || truth.Tasks[in.Task] == nil {
		return lines
	}
	from := truth.Tasks[in.Task]
	lines = append(lines, countText(from.Metrics.RowsOut)+" rows")
	if in.Bucketed() && len(from.Buckets) > 0 {
		_, times := from.skew()
		lines = append(lines, fmt.Sprintf("largest bucket %.2f times the mean", times))
	}
	return lines
}

// groups lists the groups in order of their first box.
func (d *drawing) groups() (names []string, members map[string][]box) {
	members = map[string][]box{}
	for _, b := range d.boxes {
		if members[b.group] == nil {
			names = append(names, b.group)
		}
		members[b.group] = append(members[b.group], b)
	}
	return names, members
}

// dot writes the drawing for Graphviz.
func (d *drawing) dot(w io.Writer) {
	fmt.Fprintf(w, "digraph {\n  label=%s; labelloc=t; rankdir=LR; fontname=sans;\n  node [fontname=sans]; edge [fontname=sans, fontsize=10];\n", dotText(d.title))
	shapes := map[shape]string{sourceShape: "cylinder", taskShape: "box", sinkShape: "folder"}
	names, members := d.groups()
	for i, name := range names {
		if name != "" {
			fmt.Fprintf(w, "  subgraph cluster_%d {\n  label=%s; style=rounded;\n", i, dotText("stage "+name))
		}
		for _, b := range members[name] {
			fmt.Fprintf(w, "  %s [shape=%s, label=%s];\n", b.id, shapes[b.shape], dotText(b.text...))
		}
		if name != "" {
			fmt.Fprintln(w, "  }")
		}
	}
	for _, e := range d.arrows {
		fmt.Fprintf(w, "  %s -> %s [label=%s];\n", e.from, e.to, dotText(e.text...))
	}
	fmt.Fprintln(w, "}")
}

var dotEscapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `&`, `&amp;`)

// dotText is a quoted string of Graphviz, whose labels know HTML's entities.
func dotText(lines ...string) string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = dotEscapes.Replace(oneLine(l))
	}
	return `"` + strings.Join(out, `\n`) + `"`
}

// mermaid writes the drawing for Mermaid.
func (d *drawing) mermaid(w io.Writer) {
	fmt.Fprintf(w, "flowchart LR\n  accTitle: plan of %s\n", mermaidEscape(d.title))
	names, members := d.groups()
	for i, name := range names {
		if name != "" {
			fmt.Fprintf(w, "  subgraph g%d[%s]\n", i, mermaidText("stage "+name))
		}
		for _, b := range members[name] {
			open, shut := "[", "]"
			switch b.shape {
			case sourceShape:
				open, shut = "[(", ")]"
			case sinkShape:
				open, shut = "[/", "/]"
			}
			fmt.Fprintf(w, "  %s%s%s%s\n", b.id, open, mermaidText(b.text...), shut)
		}
		if name != "" {
			fmt.Fprintln(w, "  end")
		}
	}
	for _, e := range d.arrows {
		fmt.Fprintf(w, "  %s -->|%s| %s\n", e.from, mermaidText(e.text...), e.to)
	}
}

// mermaidText is a quoted text of Mermaid.
func mermaidText(lines ...string) string {
	out := make([]string, len(lines))
	for i, l := range lines {
		out[i] = mermaidEscape(l)
	}
	return `"` + strings.Join(out, "<br/>") + ` "` // an empty one is no text to it
}

// mermaidEscape writes what Mermaid, its Markdown or HTML could take for
// something else as Mermaid's entities, which are numbers.
func mermaidEscape(s string) string {
	var b strings.Builder
	for _, r := range oneLine(s) {
		if strings.ContainsRune("\"#&<>`\\;*_|{}[]()%~$", r) {
			fmt.Fprintf(&b, "#%d;", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// oneLine replaces what would break a line, or a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r):
			return '·'
		}
		return r
	}, s)
}
