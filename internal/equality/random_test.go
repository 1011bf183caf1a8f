package equality

import (
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/duckdb/duckdb-go/v2"
)

// Statements run in batches, each the stages of one job: reading the inputs'
// footers and declaring them costs as much as a statement does.
const (
	batch  = 20
	lanes  = 2    // batches at a time
	rows   = 4000 // of a result that is worth comparing
	enough = 5    // failures to report
)

// tally is what became of the random statements.
type tally struct {
	refused, failed, vague, large, compared, empty, cut, shards int
}

func (a *tally) add(b tally) {
	a.refused += b.refused
	a.failed += b.failed
	a.vague += b.vague
	a.large += b.large
	a.compared += b.compared
	a.empty += b.empty
	a.cut += b.cut
	a.shards += b.shards
}

// lane runs batches in a world of its own.
type lane struct {
	*world
	twin   *sql.Conn // has the same rows in another order
	reader *sql.Conn // reads the files
	tally
}

// answer is DuckDB's answer to a statement that can be compared; otherwise what
// is wrong with it is counted.
func (l *lane) answer(s stage, count *tally) (outcome, bool) {
	o := read(l.conn, s.sql, false)
	switch {
	case refused(o.err):
		count.refused++
	case o.err != nil:
		count.failed++
	case len(o.rows) > rows:
		count.large++
	case same(o, read(l.twin, s.sql, false), ordered(s.sql)) != "":
		count.vague++
	default:
		return o, true
	}
	return o, false
}

// refused reports whether an error is about the statement and not about data.
func refused(err error) bool {
	var e *duckdb.Error
	return errors.As(err, &e) && slices.Contains([]duckdb.ErrorType{duckdb.ErrorTypeBinder, duckdb.ErrorTypeParser, duckdb.ErrorTypeCatalog, duckdb.ErrorTypeNotImplemented}, e.Type)
}

// planned reports whether kq's answer is one that DuckDB gives from files, though
// it is not the right one: DuckDB's plan or its threads decide it, and not kq.
func (l *lane) planned(query string, want, got outcome) bool {
	for range 10 {
		files := read(l.reader, query, false)
		if same(want, files, ordered(query)) != "" && same(files, got, ordered(query)) == "" {
			return true
		}
	}
	return false
}

// stand makes stages known to both references until the function is called.
func (l *lane) stand(stages []stage) func() {
	for _, s := range stages {
		for _, conn := range []*sql.Conn{l.conn, l.twin, l.reader} {
			if err := declare(conn, s); err != nil {
				l.t.Fatalf("%s: %v", s.sql, err)
			}
		}
	}
	return func() {
		for _, conn := range []*sql.Conn{l.conn, l.twin, l.reader} {
			drop(conn, stages)
		}
	}
}

// prelude makes the stages that the statements of a batch can read beside the
// sources, which stand when it returns.
func (l *lane) prelude(g *generator) (stages []stage, gone func()) {
	stages = []stage{{name: "typed", sql: typed, materialize: g.chance(50)}}
	_, r := g.source(tables[0])
	s := statement{keys: []string{"id"}, rows: tables[0].rows}
	for _, f := range append(r.fields, field{name: "iv", kind: other}) {
		s.fields = append(s.fields, field{sql: f.name, name: f.name, kind: f.kind})
	}
	g.common = []named{{"typed", s}}
	undo := []func(){l.stand(stages)}
	for range 10 {
		s := g.plain(1)
		next := stage{name: fmt.Sprintf("before%d", len(stages)), sql: s.sql, materialize: g.chance(50)}
		if o, ok := l.answer(next, new(tally)); !ok || len(o.rows) < 5 || len(o.rows) > 200 {
			continue
		}
		s.rows = 40
		g.common = append(g.common, named{next.name, s})
		undo = append(undo, l.stand([]stage{next}))
		if stages = append(stages, next); len(stages) == 3 {
			break
		}
	}
	return stages, func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
}

// randomSettings is how batch n runs.
func randomSettings(g *generator) settings {
	o := settings{
		size:    []int64{1 << 40, 1500, 400, 200, 200, 200, 1}[g.IntN(7)],
		small:   int64(g.IntN(2)), // 1 byte: joins can't read one side whole
		threads: 1 + g.IntN(2),
	}
	if g.chance(30) {
		o.exchange, o.small = "auto", 1
	}
	return o
}

// batch compares statements from..to, and reports what is wrong with them until
// there are enough failures.
func (l *lane) batch(t *testing.T, from, to int, failures *atomic.Int64) {
	g := &generator{Rand: rand.New(rand.NewPCG(*seed<<32+uint64(from), 11))}
	before, gone := l.prelude(g)
	defer gone()
	o := randomSettings(g)
	var stages []stage
	want := map[string]outcome{}
	for i := from; i < to; i++ {
		g := &generator{Rand: rand.New(rand.NewPCG(*seed<<32+uint64(i), 7)), common: g.common}
		s := stage{name: fmt.Sprintf("s%d", i), sql: g.root().sql}
		if answer, ok := l.answer(s, &l.tally); ok {
			stages, want[s.name] = append(stages, s), answer
			if len(answer.rows) == 0 {
				l.empty++
			}
		}
	}
	got, plan := l.all(before, stages, o)
	l.compared += len(stages)
	for _, s := range stages {
		why := same(want[s.name], got[s.name], ordered(s.sql))
		if why == "" {
			continue
		}
		if l.planned(s.sql, want[s.name], got[s.name]) {
			l.vague++
			l.compared--
			t.Logf("DuckDB has several answers to this: %s", s.sql)
			continue
		}
		if failures.Add(1) > enough {
			return
		}
		t.Logf("%s differs: %s\n  %s", s.name, why, s.sql)
		t.Error(l.explain(before, s, o, got[s.name], why))
	}
	for _, task := range strings.Split(plan, "; ") {
		var n int
		if name, rest, ok := strings.Cut(task, ": "); ok && strings.HasPrefix(name, "s") {
			if _, err := fmt.Sscanf(rest, "%d shards", &n); err == nil && n > 1 {
				l.cut++
				l.shards += n
			}
		}
	}
}

// all runs the statements as one job. When that does not compile, each is a job.
func (w *world) all(before, stages []stage, o settings) (map[string]outcome, string) {
	var results []string
	for _, s := range stages {
		results = append(results, s.name)
	}
	got, plan := w.runAll(append(before[:len(before):len(before)], stages...), results, o)
	if plan != "" || len(stages) < 2 {
		return got, plan
	}
	for _, s := range stages {
		var one map[string]outcome
		var more string
		one, more = w.runAll(append(before[:len(before):len(before)], s), []string{s.name}, o)
		got[s.name] = one[s.name]
		plan += more
	}
	return got, plan
}

// explain makes a statement that kq answers wrongly, in the same manner, as small
// as it can.
func (l *lane) explain(before []stage, s stage, o settings, first outcome, why string) string {
	plan := "only beside the other statements of its batch"
	deadline := time.Now().Add(time.Minute)
	bad := func(sql string) bool {
		try := stage{name: s.name, sql: sql}
		want, ok := l.answer(try, new(tally))
		if !ok || time.Now().After(deadline) || repeated(want.columns) {
			return false
		}
		got, p := l.run(append(before[:len(before):len(before)], try), o)
		now := same(want, got, ordered(sql))
		if now == "" || l.planned(sql, want, got) || (got.err != nil) != (first.err != nil) {
			return false
		}
		why, plan = now, p
		return true
	}
	text := s.sql
	if bad(text) {
		text = shrink(text, bad)
	}
	for _, b := range before {
		if strings.Contains(text, b.name) {
			text = b.name + ": " + b.sql + "\n  " + text
		}
	}
	return fmt.Sprintf("%s of seed %d (%+v; %s):\n  %s\n  %s", s.name, *seed, o, plan, text, why)
}

// repeated reports whether two columns share a name: kq's parts rename one.
func repeated(columns []string) bool {
	seen := map[string]bool{}
	for _, c := range names(columns) {
		if c = strings.ToLower(c); seen[c] {
			return true
		}
		seen[c] = true
	}
	return false
}

// The twin must find statements that have no single answer.
func TestTwin(t *testing.T) {
	l := randomWorld(t)
	for _, s := range []string{"SELECT id FROM spread LIMIT 3", "SELECT string_agg(s, ',') FROM hot", "SELECT row_number() OVER (ORDER BY o), id FROM spread", "SELECT id FROM tiny ORDER BY o"} {
		if _, ok := l.answer(stage{sql: s}, &l.tally); ok {
			t.Errorf("%s has a single answer", s)
		}
	}
	if l.vague != 4 {
		t.Errorf("%+v", l.tally)
	}
}

func TestRandomStatements(t *testing.T) {
	var all tally
	var mu sync.Mutex
	var next, failures atomic.Int64
	start := time.Now()
	t.Run("lanes", func(t *testing.T) {
		for i := range lanes {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				l := randomWorld(t)
				for failures.Load() < enough {
					from := int(next.Add(batch)) - batch
					if from >= *count {
						break
					}
					l.batch(t, from, min(from+batch, *count), &failures)
				}
				mu.Lock()
				defer mu.Unlock()
				all.add(l.tally)
			})
		}
	})
	n := all.refused + all.failed + all.vague + all.large + all.compared
	if n == 0 {
		return
	}
	t.Logf("%d statements in %v (%.0f/s); compared %d, of which %d give no rows and %d had tasks of several shards (%d in all); "+
		"not compared: DuckDB refuses %d (%.1f %%), fails on %d, has no single answer to %d, gives too many rows to %d",
		n, time.Since(start).Round(time.Second), float64(n)/time.Since(start).Seconds(), all.compared, all.empty, all.cut, all.shards,
		all.refused, 100*float64(all.refused)/float64(n), all.failed, all.vague, all.large)
	if n >= 1000 && (all.refused*5 > n || all.compared*3 < n*2) {
		t.Error("too few statements can be compared: the test does not test")
	}
}
