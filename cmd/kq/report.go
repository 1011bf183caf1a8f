package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/kinequet/kq/pipeline"
)

// reporter tells how a run goes: bars on a terminal, lines elsewhere, events
// with --json.
type reporter struct {
	a     *app
	graph *pipeline.Graph
	json  *json.Encoder // nil without --json
	mu    sync.Mutex    // of state, as bars draw themselves
	bars  *mpb.Progress // nil without a terminal
	bar   map[string]*mpb.Bar
	state map[string]pipeline.TaskStatus // as last shown
}

// event is one line of kq run --json.
type event struct {
	Time    time.Time         `json:"time"`
	Event   string            `json:"event"`
	Run     string            `json:"run,omitempty"`
	Message string            `json:"message,omitempty"`
	Task    string            `json:"task,omitempty"`
	Kind    pipeline.TaskKind `json:"kind,omitempty"`
	State   string            `json:"state,omitempty"`
	Shards  int64             `json:"shards,omitempty"`
	Done    int64             `json:"done,omitempty"`
	Failed  int64             `json:"failed,omitempty"`
	Retries int64             `json:"retries,omitempty"`
	Metrics *pipeline.Metrics `json:"metrics,omitempty"`
}

func newReporter(a *app, g *pipeline.Graph, asJSON bool) *reporter {
	r := &reporter{a: a, graph: g, state: map[string]pipeline.TaskStatus{}, bar: map[string]*mpb.Bar{}}
	if asJSON {
		r.json = json.NewEncoder(a.stdout)
	} else if w, ok := a.stderr.(redacted); ok {
		if f, ok := w.w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			r.bars = mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))
		}
	}
	return r
}

func (r *reporter) emit(e event) {
	e.Time = time.Now().UTC()
	_ = r.json.Encode(e)
}

// line says one thing about the run as a whole.
func (r *reporter) line(name, run, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if r.json != nil {
		r.emit(event{Event: name, Run: run, Message: text})
		return
	}
	r.a.say("%s", text)
}

func (r *reporter) started(run string) { r.line("run_started", run, "run %s of %s", run, r.graph.Job) }

func (r *reporter) upToDate(st pipeline.RunStatus) {
	r.line("up_to_date", st.Run, "the result is up to date: run %s of %s, nothing has changed since", st.Run, st.Ended.Format(time.DateTime))
}

func (r *reporter) carryOn(st pipeline.RunStatus, failed int) {
	var done, all int64
	for _, t := range st.Tasks {
		done += t.Completed
		all += t.Shards
	}
	text := fmt.Sprintf("carrying on with run %s: %d of %d shards are done", st.Run, done, all)
	if failed > 0 {
		text += fmt.Sprintf(", %d that failed are tried again", failed)
	}
	r.line("run_resumed", st.Run, "%s", text)
}

func (r *reporter) superseded(st pipeline.RunStatus, fresh bool) {
	why := "the job or its inputs have changed"
	if fresh {
		why = "--fresh starts anew"
	}
	r.line("run_superseded", st.Run, "run %s, which did not finish, is cancelled: %s", st.Run, why)
}

func (r *reporter) joined(n int) {
	r.line("workers_found", "", "%s at work already", plural(int64(n), "worker"))
}

func (r *reporter) serving(address string) {
	r.line("serving_metrics", "", "metrics at http://%s/metrics", address)
}

func (r *reporter) stopping() {
	r.line("stopping", "", "stopping: workers finish or release their shards (again to kill them)")
}

func (r *reporter) lostWorker(c *child) {
	r.line("worker_lost", "", "a worker (process %d) ended: %v; its log is %s", c.cmd.Process.Pid, c.err, c.log)
}

// update shows what has changed since the last status.
func (r *reporter) update(st pipeline.RunStatus) {
	for _, t := range st.Tasks {
		old, seen := r.state[t.Task]
		if t.State == pipeline.TaskBlocked {
			continue
		}
		r.mu.Lock()
		r.state[t.Task] = t
		r.mu.Unlock()
		if r.bars != nil {
			r.draw(t)
			continue
		}
		if seen && old.State == t.State && old.Completed == t.Completed && old.Retries == t.Retries && old.Failed == t.Failed {
			continue
		}
		if r.json != nil {
			name := "task_progress"
			switch {
			case t.State == pipeline.TaskComplete:
				name = "task_done"
			case t.State == pipeline.TaskFailed:
				name = "task_failed"
			case !seen:
				name = "task_started"
			}
			m := t.Metrics
			r.emit(event{
				Event: name, Run: st.Run, Task: t.Task, Kind: t.Kind, State: t.State.String(), Shards: t.Shards, Done: t.Completed,
				Failed: t.Failed, Retries: t.Retries, Metrics: &m,
			})
			continue
		}
		if !seen || old.State != t.State || t.Completed*10/t.Shards != old.Completed*10/t.Shards || old.Retries != t.Retries {
			r.a.say("%s%s", taskLine(t), r.backlog(t))
		}
	}
}

// taskLine is one task in one line.
func taskLine(t pipeline.TaskStatus) string {
	text := fmt.Sprintf("%-24s %-8s %d of %s", t.Task, t.State, t.Completed, plural(t.Shards, "shard"))
	if t.Completed > 0 && t.Kind != pipeline.Commit {
		text += fmt.Sprintf(", %s rows", countText(t.Metrics.RowsOut))
	}
	if t.Retries > 0 {
		text += ", " + plural(t.Retries, "retry")
	}
	if t.State == pipeline.TaskComplete {
		text += ", " + timeText(t.Ended.Sub(t.Started))
	}
	return text
}

// backlog says how much waits for a sink, and whether computing waits for it too.
func (r *reporter) backlog(t pipeline.TaskStatus) string {
	task := r.graph.Task(t.Task)
	if task == nil || task.Follows == "" || t.State == pipeline.TaskComplete {
		return ""
	}
	waiting := t.Waiting(r.state[task.Follows])
	switch {
	case waiting > task.Backlog():
		return fmt.Sprintf(", %s wait for it, so that %s is held back", bytesText(waiting), task.Follows)
	case waiting > 0:
		return fmt.Sprintf(", %s wait for it", bytesText(waiting))
	}
	return ""
}

// draw keeps one bar a task.
func (r *reporter) draw(t pipeline.TaskStatus) {
	bar := r.bar[t.Task]
	if bar == nil {
		name := t.Task
		bar = r.bars.AddBar(t.Shards,
			mpb.PrependDecorators(decor.Name(clip(name, 24), decor.WCSyncSpaceR), decor.CountersNoUnit("%d/%d", decor.WCSyncSpace)),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return r.barText(name) })))
		r.bar[t.Task] = bar
	}
	bar.SetCurrent(t.Completed)
}

// barText is what stands behind a bar, which draws itself at any time.
func (r *reporter) barText(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.state[name]
	end := t.Ended
	if end.IsZero() {
		end = time.Now()
	}
	took := end.Sub(t.Started)
	text := fmt.Sprintf(" %s rows  %s", countText(t.Metrics.RowsOut), bytesText(t.Metrics.BytesRead))
	if s := took.Seconds(); s > 0.1 && t.Metrics.RowsIn > 0 {
		text += fmt.Sprintf("  %s rows/s", countText(int64(float64(t.Metrics.RowsIn)/s)))
	}
	switch {
	case t.State == pipeline.TaskComplete:
		text += "  " + timeText(took)
	case t.Completed > 0:
		text += "  " + timeText(time.Duration(float64(took)*float64(t.Shards-t.Completed)/float64(t.Completed))) + " left"
	}
	if t.Retries > 0 {
		text += "  " + plural(t.Retries, "retry")
	}
	return text + r.backlog(t)
}

// close ends the bars.
func (r *reporter) close() {
	if r.bars == nil {
		return
	}
	for _, b := range r.bar {
		if !b.Completed() {
			b.Abort(false)
		}
	}
	r.bars.Wait()
	r.bars = nil
}

func (r *reporter) ended(st pipeline.RunStatus) {
	if r.json != nil {
		r.emit(event{Event: "run_ended", Run: st.Run, State: st.State.String(), Message: r.a.redact.text(st.Error)})
	}
}

// succeeded sums the run up.
func (r *reporter) succeeded(st pipeline.RunStatus) {
	r.ended(st)
	if r.json == nil {
		summaryTable(r.a.stdout, r.graph, st)
	}
}

// summaryTable is one line per task: what went in and out and what it took.
func summaryTable(w io.Writer, g *pipeline.Graph, st pipeline.RunStatus) {
	rows := [][]string{{"stage", "shards", "rows in", "rows out", "read", "of", "time", "peak memory", "spilled", "retries"}}
	var total int64
	for _, t := range st.Tasks {
		there, m := int64(-1), t.Metrics
		if task := g.Task(t.Task); task != nil {
			there = bytesThere(g, task)
		}
		of := "-"
		if there > 0 {
			of = bytesText(there)
		}
		rows = append(rows, []string{
			t.Task, countText(t.Shards), countText(m.RowsIn), countText(m.RowsOut), bytesText(m.BytesRead), of,
			timeText(t.Ended.Sub(t.Started)), bytesText(m.Memory), bytesText(m.Spilled), countText(t.Retries),
		})
		total += t.Retries
	}
	table(w, rows)
	fmt.Fprintf(w, "run %s: done in %s\n", st.Run, timeText(st.Ended.Sub(st.Created)))
}

// bytesThere is the size of the source files that a task reads from.
func bytesThere(g *pipeline.Graph, t *pipeline.Task) (n int64) {
	for _, in := range t.Inputs {
		if src := g.Input(in.Source); src != nil {
			n += src.OnDisk
		}
	}
	return n
}
