package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

// Note is what the planner tells people about a task or a fused stage. Nothing
// of it decides how a run goes, so the digest leaves it out.
type Note struct {
	Does     string `json:"does,omitempty"`     // of a fragment: what it computes
	Decision string `json:"decision,omitempty"` // what was decided about moving rows between workers
	// Means says what columns stand for whose names the planner made up.
	Means map[string]string `json:"means,omitempty"`
	// Words are what the reason speaks of, in the SQL of Stage. Line and Col are
	// their place in the job file; 0: unknown.
	Words string `json:"words,omitempty"`
	Stage string `json:"stage,omitempty"`
	Line  int    `json:"line,omitempty"`
	Col   int    `json:"col,omitempty"`
	// Inputs estimates the task's inputs, in their order.
	Inputs []Estimate `json:"inputs,omitempty"`
}

// Estimate is how much an input is thought to hold; -1 unknown.
type Estimate struct {
	Rows  int64 `json:"rows"`
	Bytes int64 `json:"bytes"` // decoded
}

// unknownWork is above what any input holds: some input's size isn't known.
const unknownWork = 1 << 49

// decision says what became of a statement that isn't row-wise, with the bytes
// that one worker would have to hold and those that it may.
func decision(mode Exchange, r *SplitRequest, fragments []Fragment, split bool) string {
	switch {
	case mode == ExchangeNever:
		return "exchange: never, so that one worker computes it"
	case r.Work == 0 && mode == ExchangeAlways && !split:
		return "exchange: always, but it can't be cut"
	case r.Work == 0:
		return ""
	}
	work, budget := "about "+humanBytes(r.Work), humanBytes(r.Budget)
	if r.Work >= unknownWork {
		work = "an unknown number of bytes"
	}
	ranged := slices.ContainsFunc(fragments, func(f Fragment) bool { return f.Kind == Range })
	held := "one worker would have to hold " + work
	switch {
	case mode == ExchangeAlways && split:
		return fmt.Sprintf("exchange: always; %s, and its budget is %s", held, budget)
	case mode == ExchangeAlways:
		return fmt.Sprintf("exchange: always, but it can't be cut: %s, and its budget is %s", held, budget)
	case r.Budget == 0:
		return ""
	case split && r.Fits():
		return fmt.Sprintf("auto: %s, within its budget of %s, but ranges of a key divide even the reading", held, budget)
	case split && ranged:
		return fmt.Sprintf("auto: %s, more than its budget of %s; ranges of a key divide the reading", held, budget)
	case split:
		return fmt.Sprintf("auto: %s, more than its budget of %s, so rows move between workers", held, budget)
	case r.Fits():
		return fmt.Sprintf("auto: %s, within its budget of %s, so one worker computes it and no rows move", held, budget)
	}
	if len(fragments) == 1 && fragments[0].Sooner {
		return fmt.Sprintf("auto: %s, more than its budget of %s, but it sorts on all cores, with temporary files, before rows would have moved", held, budget)
	}
	if r.tiny() {
		return fmt.Sprintf("auto: %s, more than its budget of %s, but no input holds more than the %s that are read whole", held, budget, humanBytes(r.Small))
	}
	return fmt.Sprintf("auto: %s, more than its budget of %s, but it can't be cut", held, budget)
}

// tiny reports whether every input may be read whole by every shard.
func (r *SplitRequest) tiny() bool {
	return !r.Always && !slices.ContainsFunc(r.Inputs, func(in SplitInput) bool { return in.Total < 0 || in.Total > r.Small })
}

// noteStages explains the stages that are not split.
func (c *compiler) noteStages(g *Graph, order []*stageNode) {
	for _, n := range order {
		note := g.note(n.Name)
		note.Decision = n.decision
		if n.split {
			continue
		}
		if n.driver == "" {
			c.point(note, n.words)
		}
		if t := g.task(n.Name); t != nil {
			c.estimate(g, note, t)
		}
	}
}

// noteFragment explains one fragment.
func (c *compiler) noteFragment(g *Graph, t *Task, f *Fragment) {
	note := g.note(t.Name)
	note.Does, note.Means = f.Does, f.Means
	c.point(note, f.Words)
	c.estimate(g, note, t)
}

func (g *Graph) note(name string) *Note {
	if g.Notes == nil {
		g.Notes = map[string]*Note{}
	}
	if g.Notes[name] == nil {
		g.Notes[name] = &Note{}
	}
	return g.Notes[name]
}

// point makes a note name words of the SQL and their place, unless they hold
// only a part of a secret, which nobody would recognise then.
func (c *compiler) point(note *Note, w Words) {
	i := slices.IndexFunc(c.stages, func(n *stageNode) bool { return n.Name == w.Stage })
	if i < 0 || w.End <= w.Start || w.End > len(c.stages[i].SQL) || c.cutsSecret(c.stages[i].SQL, w) {
		return
	}
	n := c.stages[i]
	note.Words, note.Stage = strings.Join(strings.Fields(n.SQL[w.Start:w.End]), " "), n.Name
	if n.SQLAt != nil {
		at := n.SQLAt(w.Start)
		note.Line, note.Col = at.Line, at.Col
	}
}

func (c *compiler) cutsSecret(sql string, w Words) bool {
	for _, e := range c.job.Env {
		if e.FromFile || e.Value == "" {
			continue
		}
		for i := 0; i+len(e.Value) <= len(sql); i++ {
			if end := i + len(e.Value); strings.HasPrefix(sql[i:], e.Value) && i < w.End && end > w.Start && (i < w.Start || end > w.End) {
				return true
			}
		}
	}
	return false
}

// estimate fills in what is known of a task's inputs.
func (c *compiler) estimate(g *Graph, note *Note, t *Task) {
	for i := range t.Inputs {
		in := &t.Inputs[i]
		e := Estimate{Rows: -1, Bytes: -1}
		switch r := c.rels[fold(in.Source)]; {
		case in.Source == "":
			e = c.written[in.Task]
		case in.Kind == Forward:
			e = Estimate{}
			for _, s := range t.Shards {
				e.Rows, e.Bytes = e.Rows+s.Rows, e.Bytes+s.Bytes
			}
			if r.input.Rows < 0 {
				e.Rows = -1
			}
		default:
			e = Estimate{Rows: r.input.Rows, Bytes: r.decoded(in.Columns)}
		}
		note.Inputs = append(note.Inputs, e)
	}
}

// decoded is the bytes of some columns of a source.
func (r *relation) decoded(columns []Column) (n int64) {
	if len(r.look.Groups) == 0 {
		return r.input.Bytes
	}
	for i, col := range r.look.Columns {
		if !slices.Contains(columns, col) {
			continue
		}
		for _, rg := range r.look.Groups {
			n += rg.Bytes[i]
		}
	}
	return n
}
