package equality

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// query is a random SELECT, kept in pieces so that it can be made smaller.
type query struct {
	with     []string
	distinct bool
	items    []string
	from     string
	joins    []string
	where    []string
	group    []string
	having   []string
	qualify  string
	order    []string
	limit    string
	union    string
}

func (q query) String() string {
	var b strings.Builder
	clause := func(word, sep string, parts []string) {
		if len(parts) > 0 {
			b.WriteString(" " + word + " " + strings.Join(parts, sep))
		}
	}
	clause("WITH", ", ", q.with)
	b.WriteString(" SELECT ")
	if q.distinct {
		b.WriteString("DISTINCT ")
	}
	b.WriteString(strings.Join(q.items, ", ") + " FROM " + q.from)
	clause("", " ", q.joins)
	clause("WHERE", " AND ", q.where)
	clause("GROUP BY", ", ", q.group)
	clause("HAVING", " AND ", q.having)
	if q.qualify != "" {
		b.WriteString(" QUALIFY " + q.qualify)
	}
	b.WriteString(q.union)
	clause("ORDER BY", ", ", q.order)
	b.WriteString(q.limit)
	return strings.TrimSpace(b.String())
}

// smaller lists versions of q with one piece less.
func (q query) smaller() (all []query) {
	drop := func(list *[]string, least int) {
		for i := range *list {
			if len(*list) > least {
				old := *list
				*list = slices.Delete(slices.Clone(old), i, i+1)
				all = append(all, q)
				*list = old
			}
		}
	}
	for _, list := range []*[]string{&q.joins, &q.where, &q.having, &q.order, &q.with} {
		drop(list, 0)
	}
	drop(&q.items, 1)
	for _, s := range []*string{&q.qualify, &q.limit, &q.union} {
		if old := *s; old != "" {
			*s = ""
			all = append(all, q)
			*s = old
		}
	}
	if q.distinct {
		q.distinct = false
		all = append(all, q)
	}
	return all
}

// generator makes random statements over facts (as f), dims and the others.
type generator struct{ *rand.Rand }

func (g generator) pick(options ...string) string { return options[g.IntN(len(options))] }

func (g generator) number(depth int) string {
	if depth <= 0 {
		return g.pick("f.id", "f.k", "f.v", "f.k", fmt.Sprint(g.IntN(200)), "NULL", "length(f.s)", "f.x")
	}
	a, b := g.number(depth-1), g.number(depth-1)
	switch g.IntN(9) {
	case 0:
		return "(" + a + " + " + b + ")"
	case 1:
		return "(" + a + " * 3 - " + b + ")"
	case 2:
		return "coalesce(" + a + ", " + b + ")"
	case 3:
		return "CASE WHEN " + g.boolean(depth-1) + " THEN " + a + " ELSE " + b + " END"
	case 4:
		return "nullif(" + a + ", " + b + ")"
	case 5:
		return "abs(" + a + ")"
	case 6:
		return "greatest(" + a + ", " + b + ")"
	case 7:
		return "(SELECT " + g.pick("max(d.w)", "count(*)", "min(d.k)") + " FROM dims d WHERE d.grp " + g.pick("=", "<", ">") + " " + g.pick("2", "f.k % 5") + ")"
	}
	return a
}

func (g generator) text() string {
	return g.pick("f.s", "upper(f.s)", "f.s || '-' || f.k", "coalesce(f.s, '?')", "substr(f.s, 2, 4)", "f.d::VARCHAR", "CASE WHEN f.b THEN 'yes' END")
}

func (g generator) boolean(depth int) string {
	if depth <= 0 {
		return g.pick("f.b", "f.v IS NULL", "f.s IS NOT NULL", fmt.Sprintf("f.k < %d", g.IntN(110)), fmt.Sprintf("f.id >= %d", g.IntN(40000)),
			fmt.Sprintf("f.id BETWEEN %d AND %d", g.IntN(20000), g.IntN(40000)), "f.s LIKE '%1%'", "f.d > DATE '2020-06-01'", fmt.Sprintf("f.v IN (%d, 31, NULL)", g.IntN(1000)))
	}
	switch g.IntN(7) {
	case 0:
		return "(" + g.boolean(depth-1) + " OR " + g.boolean(depth-1) + ")"
	case 1:
		return "NOT (" + g.boolean(depth-1) + ")"
	case 2:
		return g.number(depth-1) + g.pick(" < ", " >= ", " = ", " IS DISTINCT FROM ") + g.number(depth-1)
	case 3:
		return "f.k " + g.pick("IN", "NOT IN") + " (SELECT " + g.pick("k", "w", "grp") + " FROM dims WHERE " + g.pick("grp < 3", "w IS NOT NULL", "true") + ")"
	case 4:
		return g.pick("", "NOT ") + "EXISTS (SELECT 1 FROM " + g.pick("dims", "facts") + " e WHERE e.k = f.k AND e.k > " + fmt.Sprint(g.IntN(100)) + ")"
	}
	return g.boolean(depth - 1)
}

func (g generator) aggregate() string {
	arg := g.number(1)
	call := g.pick("count(*)", "count("+arg+")", "sum(f.v)", "min("+arg+")", "max("+arg+")", "avg(f.v)", "count(DISTINCT f.k)", "sum(f.m)", "bool_or(f.b)", "min("+g.text()+")", "stddev(f.v)", "list(f.id ORDER BY f.id)[1:3]")
	if g.IntN(4) == 0 && !strings.Contains(call, "[") {
		call += " FILTER (" + g.boolean(0) + ")"
	}
	return call
}

// statement makes one SELECT; input is the relation that it reads as f.
func (g generator) statement(input string) (q query) {
	q.from = input + " f"
	if g.IntN(8) == 0 {
		q.with = []string{"c AS (SELECT * FROM " + input + " WHERE k > " + fmt.Sprint(g.IntN(90)) + ")"}
		q.from = "c f"
	}
	if g.IntN(8) == 0 {
		q.from = "(SELECT * FROM " + input + " f WHERE " + g.boolean(1) + ") f"
	}
	for i := range g.IntN(3) {
		on := fmt.Sprintf("j%d.k = f.k", i)
		if g.IntN(4) == 0 {
			on = fmt.Sprintf("j%d.k = f.k AND j%[1]d.grp > %d", i, g.IntN(4))
		}
		q.joins = append(q.joins, fmt.Sprintf("%s dims j%d ON %s", g.pick("JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN"), i, on))
	}
	for range g.IntN(3) {
		q.where = append(q.where, g.boolean(2))
	}
	kind := g.IntN(4)
	if kind == 0 {
		if g.IntN(3) > 0 {
			q.group = []string{g.pick("f.k", "f.b", "f.k % 7", "f.s", "ROLLUP (f.b, f.k % 3)")}
			if !strings.HasPrefix(q.group[0], "ROLLUP") {
				q.items = append(q.items, q.group[0]+" AS g")
			}
		}
		for i := range 1 + g.IntN(3) {
			q.items = append(q.items, fmt.Sprintf("%s AS a%d", g.aggregate(), i))
		}
		if g.IntN(3) == 0 {
			q.having = []string{"count(*) > " + fmt.Sprint(g.IntN(400))}
		}
		return q
	}
	q.items = []string{"f.id AS id", "f.k AS k", "f.v AS v", "f.s AS s", "f.b AS b", "f.d AS d", "f.x AS x", "f.m AS m"}
	for i := range 1 + g.IntN(3) {
		q.items = append(q.items, fmt.Sprintf("%s AS e%d", g.pick(g.number(2), g.text(), g.boolean(1)), i))
	}
	for i, j := range q.joins {
		if !strings.Contains(j, "SEMI") && !strings.Contains(j, "ANTI") && g.IntN(2) == 0 {
			q.items = append(q.items, fmt.Sprintf("j%d.label AS l%d", i, i))
		}
	}
	switch {
	case kind == 1 && g.IntN(2) == 0 && len(q.joins) == 0:
		q.items = append(q.items, g.pick("row_number() OVER (PARTITION BY f.k ORDER BY f.id)", "sum(f.v) OVER (PARTITION BY f.b ORDER BY f.id)", "lag(f.k, 2) OVER (ORDER BY f.id)", "count(*) OVER ()")+" AS w")
	case kind == 1 && len(q.joins) == 0:
		q.qualify = fmt.Sprintf("row_number() OVER (PARTITION BY f.k ORDER BY f.id) <= %d", 1+g.IntN(5))
	case kind == 2 && g.IntN(3) == 0:
		q.distinct = true
	case kind == 2 && g.IntN(3) == 0 && len(q.joins) == 0:
		q.order = []string{g.pick("f.id", "f.id DESC", "f.v NULLS FIRST, f.id", "f.s DESC, f.id")}
		if g.IntN(2) == 0 {
			q.limit = fmt.Sprintf(" LIMIT %d", g.IntN(3000))
		}
	}
	return q
}

// job is a random job of one to three stages; each reads the one before.
func (g generator) job() (queries []query, stages []stage) {
	input := g.pick("facts", "facts", "facts", "facts", "nothing", "one")
	for i := range 1 + g.IntN(3) {
		q := g.statement(input)
		queries = append(queries, q)
		input = fmt.Sprintf("s%d", i)
		if len(q.items) < 8 || !strings.HasPrefix(q.items[0], "f.id") { // an aggregate has other columns
			break
		}
	}
	return queries, toStages(queries, g.IntN(8))
}

func toStages(queries []query, materialized int) (stages []stage) {
	for i, q := range queries {
		stages = append(stages, stage{name: fmt.Sprintf("s%d", i), sql: q.String(), materialize: materialized>>i&1 == 1})
	}
	return stages
}

// wrong reports how kq's answer differs from DuckDB's, or "".
func (w *world) wrong(stages []stage, ordered bool, sizes ...int64) string {
	want := w.reference(stages)
	for _, size := range sizes {
		got, plan := w.run(stages, size)
		if why := same(want, got, ordered); why != "" {
			return fmt.Sprintf("shard size %d (%s): %s", size, plan, why)
		}
	}
	return ""
}

func TestRandomStatements(t *testing.T) {
	w := newWorld(t)
	failures := 0
	for i := range *count {
		s := *seed<<32 + uint64(i)
		g := generator{rand.New(rand.NewPCG(s, 7))}
		queries, stages := g.job()
		sizes := []int64{[]int64{1 << 40, 128 << 10, 1}[i%3]}
		ordered := len(queries[len(queries)-1].order) > 0
		why := w.wrong(stages, ordered, sizes...)
		if why == "" {
			continue
		}
		mask := 0
		for j, st := range stages {
			if st.materialize {
				mask |= 1 << j
			}
		}
		queries, why = w.shrink(queries, mask, why, sizes)
		var text []string
		for _, st := range toStages(queries, mask) {
			text = append(text, st.sql)
		}
		t.Errorf("statement %d of seed %d (again: -run TestRandomStatements -sql.seed %d -sql.n %d):\n  %s\n  %s", i, *seed, *seed, i+1, strings.Join(text, "\n  "), why)
		if failures++; failures == 5 {
			t.FailNow()
		}
	}
}

// shrink drops pieces for as long as the answer stays wrong.
func (w *world) shrink(queries []query, mask int, why string, sizes []int64) ([]query, string) {
	for again := true; again; {
		again = false
		for i := range queries {
			for _, q := range queries[i].smaller() {
				try := slices.Clone(queries)
				try[i] = q
				stages := toStages(try, mask)
				if w.reference(stages).err != nil {
					continue
				}
				if now := w.wrong(stages, len(try[len(try)-1].order) > 0, sizes...); now != "" {
					queries, why, again = try, now, true
					break
				}
			}
		}
	}
	return queries, why
}
