package equality

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// kind is a family of types that compare with each other.
type kind int

const (
	number kind = iota
	text
	moment
	truth
	other // only ever selected
)

// field is a column that expressions can name.
type field struct {
	sql  string
	name string // of the column alone
	kind kind
	// rough: its last bits depend on the order of rows, so nothing may depend on them.
	rough bool
}

// relation is one item of a FROM clause.
type relation struct {
	fields []field
	keys   []string // fields that are unique together
	loose  bool     // has no such fields
	rows   int      // about how many
}

// scope is what an expression can name.
type scope []relation

// keys are the fields that make the rows of a scope unique.
func (sc scope) keys() (all []string, ok bool) {
	for _, r := range sc {
		if r.loose {
			return nil, false
		}
		all = append(all, r.keys...)
	}
	return all, true
}

// statement is a SELECT that has been made.
type statement struct {
	sql     string
	fields  []field // their sql is the name
	keys    []string
	loose   bool
	ordered bool
	rows    int
}

// generator makes random statements of which nearly all bind.
type generator struct {
	*rand.Rand
	names  int
	common []named // CTEs and stages that stand
	// simple statements have no subqueries in their expressions.
	simple bool
}

// named is a statement that can be read by its name.
type named struct {
	name string
	statement
}

func (g *generator) pick(options ...string) string { return options[g.IntN(len(options))] }

func (g *generator) chance(percent int) bool { return g.IntN(100) < percent }

func (g *generator) name(prefix string) string {
	g.names++
	return fmt.Sprintf("%s%d", prefix, g.names)
}

// as puts what is read under an alias.
func (g *generator) as(what string, fields []field, keys []string, loose bool, rows int) (string, relation) {
	alias := g.name("r")
	r := relation{loose: loose, rows: rows}
	for _, f := range fields {
		f.sql = alias + "." + f.name
		r.fields = append(r.fields, f)
	}
	for _, k := range keys {
		r.keys = append(r.keys, alias+"."+k)
	}
	return what + " " + alias, r
}

// table is a source, a stage or a CTE.
func (g *generator) table() (string, relation) {
	if n := len(g.common); n > 0 && g.chance(40) {
		c := g.common[n-1-min(g.IntN(n), g.IntN(n))] // rather the latest
		return g.as(c.name, c.fields, c.keys, c.loose, c.rows)
	}
	d := tables[g.IntN(len(tables)-1)] // big comes by another way
	if d.rows < 10 && g.chance(60) {   // an empty side empties most answers
		d = tables[g.IntN(3)]
	}
	if g.chance(8) {
		return g.as("lines", []field{{name: "id"}, {name: "i"}, {name: "s", kind: text}, {name: "y"}, {name: "v"}}, []string{"id"}, false, 20)
	}
	return g.source(d)
}

func (g *generator) source(d table) (string, relation) {
	fields := []field{{name: "id"}}
	for _, c := range columns(d.span) {
		fields = append(fields, field{name: c.name, kind: c.kind})
	}
	return g.as(d.name, fields, []string{"id"}, false, d.rows)
}

// relation is a table or a subquery.
func (g *generator) relation(depth int) (string, relation) {
	if depth <= 0 || !g.chance(30) {
		return g.table()
	}
	s := g.statement(depth - 1)
	return g.as("("+s.sql+")", s.fields, s.keys, s.loose, s.rows)
}

// field names a field of a kind, or a constant where the scope has none.
func (g *generator) field(sc scope, k kind) string {
	f, ok := g.anyField(sc, k)
	if !ok {
		return g.constant(k)
	}
	return f.sql
}

func (g *generator) anyField(sc scope, k kind) (field, bool) {
	var all []field
	for _, r := range sc {
		for _, f := range r.fields {
			if f.kind == k && !f.rough {
				all = append(all, f)
			}
		}
	}
	if len(all) == 0 {
		return field{}, false
	}
	return all[g.IntN(len(all))], true
}

func (g *generator) constant(k kind) string {
	switch k {
	case number:
		return g.pick(fmt.Sprint(g.IntN(12)-2), fmt.Sprint(g.IntN(12)-2), fmt.Sprint(g.IntN(12)-2), fmt.Sprint(g.IntN(12)-2), "1.0", "2.50", "0e0", "100::HUGEINT", g.pick("NULL::INTEGER", "'NaN'::DOUBLE"))
	case text:
		return g.pick("'a'", "'A'", "''", "'b'", "'name 7'", "'a'", "'b'", g.pick("'ab'", "NULL::VARCHAR"))
	case moment:
		return g.pick(fmt.Sprintf("DATE '2020-01-0%d'", 1+g.IntN(9)), fmt.Sprintf("TIMESTAMP '2020-01-0%d 12:00:00'", 1+g.IntN(9)))
	}
	return g.pick("true", "true", "false", g.pick("true", "NULL::BOOLEAN"))
}

// expression is one of a kind that is exact: its value depends on its row alone.
func (g *generator) expression(sc scope, k kind, depth int) string {
	if depth <= 0 {
		if g.chance(90) {
			return g.field(sc, k)
		}
		return g.constant(k)
	}
	e := func(k kind) string { return g.expression(sc, k, depth-1) }
	if g.chance(25) {
		switch g.IntN(4) {
		case 0:
			return "coalesce(" + e(k) + ", " + e(k) + ")"
		case 1:
			return "CASE WHEN " + e(truth) + " THEN " + e(k) + g.pick("", " ELSE "+e(k)) + " END"
		case 2:
			return "nullif(" + e(k) + ", " + e(k) + ")"
		default:
			if k != truth {
				return g.pick("greatest", "least") + "(" + e(k) + ", " + e(k) + ")"
			}
		}
	}
	switch k {
	case number:
		switch g.IntN(9) {
		case 0:
			return "(" + e(number) + " + " + e(number) + ")"
		case 1:
			return "(" + e(number) + " * " + fmt.Sprint(g.IntN(5)-1) + ")"
		case 2:
			return "abs(" + e(number) + ")"
		case 3:
			return "length(" + e(text) + ")"
		case 4:
			return "extract(" + g.pick("day", "month", "dow") + " FROM " + g.field(sc, moment) + ")"
		case 5:
			if !g.simple {
				return g.scalar(sc)
			}
		case 6:
			return "(" + e(number) + " % 3)"
		}
	case text:
		switch g.IntN(6) {
		case 0:
			return g.pick("upper(", "lower(", "reverse(", "trim(") + e(text) + ")"
		case 1:
			return "(" + e(text) + " || '-' || " + e(text) + ")"
		case 2:
			return "substr(" + e(text) + ", 1, 1)"
		}
	case moment:
		switch g.IntN(5) {
		case 0:
			return "(" + g.field(sc, moment) + " + INTERVAL " + g.pick("1 DAY", "12 HOUR", "1 MONTH") + ")"
		case 1:
			return "date_trunc('" + g.pick("day", "month") + "', " + g.field(sc, moment) + ")"
		}
	case truth:
		return g.condition(sc, depth)
	}
	return e(k)
}

// condition is a boolean expression.
func (g *generator) condition(sc scope, depth int) string {
	k := g.kind(sc)
	if depth <= 0 {
		f := g.field(sc, k)
		switch g.IntN(9) {
		case 0:
			return f + " IS " + g.pick("", "NOT ") + "NULL"
		case 1:
			return f + " IN (" + g.constant(k) + ", " + g.constant(k) + ", " + g.constant(k) + ")"
		case 2:
			return f + " BETWEEN " + g.constant(k) + " AND " + g.constant(k)
		case 3:
			return g.field(sc, truth)
		case 4, 5:
			return f + g.pick(" <> ", " IS DISTINCT FROM ", " >= ", " <= ") + g.constant(k)
		case 6:
			return g.field(sc, text) + g.pick(" LIKE '%a%'", " LIKE 'a'", " ILIKE 'A%'")
		}
		return f + g.comparison() + g.constant(k)
	}
	switch n := g.IntN(10); {
	case n == 0:
		return "(" + g.condition(sc, depth-1) + " OR " + g.condition(sc, depth-1) + ")"
	case n == 1:
		return "NOT (" + g.condition(sc, depth-1) + ")"
	case n == 2:
		return "(" + g.condition(sc, depth-1) + ") IS " + g.pick("", "NOT ") + g.pick("TRUE", "FALSE", "NULL")
	case n <= 4:
		return g.expression(sc, k, depth-1) + g.comparison() + g.expression(sc, k, depth-1)
	case n <= 8 && !g.simple:
		return g.predicate(sc)
	}
	return g.condition(sc, depth-1)
}

func (g *generator) comparison() string {
	return g.pick(" = ", " = ", " <> ", " < ", " >= ", " <= ", " > ", " IS DISTINCT FROM ", " IS NOT DISTINCT FROM ")
}

// inner is the FROM and WHERE of a subquery that may depend on sc.
func (g *generator) inner(sc scope) (string, scope) {
	was := g.simple
	g.simple = true
	defer func() { g.simple = was }()
	from, r := g.table()
	in := scope{r}
	var where []string
	if g.chance(15) {
		more, s := g.table()
		from += ", " + more
		where = append(where, g.equality(in, s))
		in = append(in, s)
	}
	if g.chance(70) {
		where = append(where, g.equality(sc, r))
	}
	if g.chance(20) {
		where = append(where, g.field(sc, number)+g.comparison()+g.field(in, number))
	}
	if g.chance(25) {
		where = append(where, g.condition(in, 0))
	}
	if len(where) > 0 {
		from += " WHERE " + strings.Join(where, " AND ")
	}
	return from, in
}

// kind is one of which every scope has a field, if there is one.
func (g *generator) kind(scopes ...scope) kind {
	var all []kind
	for _, k := range []kind{number, number, number, text, moment} {
		if !slices.ContainsFunc(scopes, func(sc scope) bool { _, ok := g.anyField(sc, k); return !ok }) {
			all = append(all, k)
		}
	}
	if len(all) == 0 {
		return number
	}
	return all[g.IntN(len(all))]
}

// equality joins something of sc with something of r.
func (g *generator) equality(sc scope, r relation) string {
	k := g.kind(sc, scope{r})
	a, b := g.field(sc, k), g.field(scope{r}, k)
	switch g.IntN(10) {
	case 0:
		return a + " IS NOT DISTINCT FROM " + b
	case 1:
		if k == number {
			return a + " + 1 = " + b
		}
	case 2:
		return b + " = " + a
	}
	return a + " = " + b
}

// scalar is a subquery of one row.
func (g *generator) scalar(sc scope) string {
	from, in := g.inner(sc)
	if f, ok := g.anyField(in, number); ok && g.chance(80) || len(in[0].keys) != 1 {
		if !ok {
			return "(SELECT count(*) FROM " + from + ")"
		}
		return "(SELECT " + g.pick("max(", "min(", "sum(", "count(", "count(", "count(DISTINCT ") + f.sql + ") FROM " + from + ")"
	}
	// A key in the condition: one row at most.
	from, r := g.table()
	if len(r.keys) != 1 {
		return "(SELECT count(*) FROM " + from + ")"
	}
	return "(SELECT " + g.field(scope{r}, number) + " FROM " + from + " WHERE " + r.keys[0] + " = " + g.field(sc, number) + ")"
}

// predicate is a condition with a subquery.
func (g *generator) predicate(sc scope) string {
	from, in := g.inner(sc)
	k := g.kind(sc, in)
	f := g.field(in, k)
	switch g.IntN(7) {
	case 0, 1:
		return g.pick("", "NOT ") + "EXISTS (SELECT " + g.pick("1", "*", f) + " FROM " + from + ")"
	case 2, 3:
		return g.field(sc, k) + g.pick(" IN", " NOT IN") + " (SELECT " + f + " FROM " + from + ")"
	case 4:
		return g.field(sc, k) + g.pick(" = ", " < ", " >= ", " <> ") + g.pick("ANY", "ALL") + " (SELECT " + f + " FROM " + from + ")"
	case 5: // DuckDB has no correlated one
		from, in := g.inner(nil)
		f := g.field(in, k)
		return "(" + g.field(sc, k) + ", " + g.field(sc, text) + ") " + g.pick("IN", "NOT IN") + " (SELECT " + f + ", " + g.field(in, text) + " FROM " + from + ")"
	}
	return g.expression(sc, number, 0) + g.comparison() + g.scalar(sc)
}

// most is how many rows a FROM clause is to have at most.
const most = 3000

// from makes a FROM clause.
func (g *generator) from(depth int) (string, scope, []string) {
	if g.chance(4) {
		from, r := g.source(tables[len(tables)-1])
		return from, scope{r}, nil
	}
	from, r := g.relation(depth)
	sc := scope{r}
	var where []string
	rows := r.rows
	for g.chance(45) && len(sc) < 4 {
		next, s := g.relation(depth - 1)
		on := g.equality(sc, s)
		fanout := max(1, s.rows/4)
		switch n := g.IntN(20); {
		case n == 0 && rows*s.rows <= most:
			from += " CROSS JOIN " + next
			fanout = s.rows
		case n == 1 && rows*s.rows <= most:
			from += g.pick(" JOIN ", " LEFT JOIN ") + next + " ON " + g.field(sc, number) + g.pick(" < ", " >= ", " <> ") + g.field(scope{s}, number)
			fanout = s.rows
		case n == 2:
			from += ", " + next
			where = append(where, on)
		case n <= 4:
			from += g.pick(" SEMI JOIN ", " ANTI JOIN ") + next + " ON " + on
			continue
		case n <= 6:
			if shared := sharedField(g, sc, s); shared != "" {
				from += g.pick(" JOIN ", " LEFT JOIN ", " RIGHT JOIN ", " FULL JOIN ") + next + " USING (" + shared + ")"
				// What USING makes of the two can be named alone.
				if len(sc) == 1 {
					s.fields = append(slices.Clone(s.fields), field{sql: shared, name: shared, kind: kindOfField(s, shared)})
				}
			} else {
				from += " JOIN " + next + " ON " + on
			}
		// With a NULL on its left, DuckDB's answer to ASOF depends on its plan.
		case n == 7 && len(s.keys) == 1 && s.keys[0] == s.fields[0].sql:
			from += g.pick(" ASOF JOIN ", " ASOF LEFT JOIN ") + next + " ON " + g.pick(on+" AND ", "") + "coalesce(" + g.field(sc, number) + ", 0)" + g.pick(" >= ", " > ", " <= ", " < ") + s.keys[0]
			fanout = 1
		case n == 8:
			in, inside := g.inner(sc)
			next, s = g.as("LATERAL (SELECT max("+g.field(inside, number)+") AS w, count(*) AS n FROM "+in+")", []field{{name: "w"}, {name: "n"}}, nil, false, 1)
			from += g.pick(", "+next, " JOIN "+next+" ON true", " LEFT JOIN "+next+" ON true")
			fanout = 1
		case n == 9:
			alias := g.name("r")
			from += ", unnest([" + g.field(sc, number) + ", " + g.field(sc, number) + "]) AS " + alias + "(w)"
			s = relation{fields: []field{{sql: alias + ".w", name: "w"}}, loose: true}
			fanout = 2
		default:
			if g.chance(25) {
				on += " AND " + g.condition(append(slices.Clone(sc), s), 0)
			}
			from += g.pick(" JOIN ", " JOIN ", " LEFT JOIN ", " RIGHT JOIN ", " FULL JOIN ") + next + " ON " + on
		}
		sc = append(sc, s)
		if rows *= fanout; rows > most {
			break
		}
	}
	return from, sc, where
}

func kindOfField(r relation, name string) kind {
	for _, f := range r.fields {
		if f.name == name {
			return f.kind
		}
	}
	return other
}

// sharedField is a name that exactly one relation of sc shares with s.
func sharedField(g *generator, sc scope, s relation) string {
	var shared []string
	for _, f := range s.fields {
		n := 0
		for _, r := range sc {
			if kindOfField(r, f.name) == f.kind && f.kind != other && !f.rough {
				n++
			}
		}
		if n == 1 {
			shared = append(shared, f.name)
		}
	}
	if len(shared) == 0 {
		return ""
	}
	return shared[g.IntN(len(shared))]
}

// clauses are the parts of a SELECT.
type clauses struct {
	with, items          []string
	distinct, from       string
	where, group, having []string
	qualify              string
	order                []string
	limit                string
}

func (c clauses) String() string {
	var b strings.Builder
	clause := func(word, sep string, parts []string) {
		if len(parts) > 0 {
			b.WriteString(" " + word + " " + strings.Join(parts, sep))
		}
	}
	clause("WITH", ", ", c.with)
	b.WriteString(" SELECT " + c.distinct + strings.Join(c.items, ", ") + " FROM " + c.from)
	clause("WHERE", " AND ", c.where)
	clause("GROUP BY", ", ", c.group)
	clause("HAVING", " AND ", c.having)
	if c.qualify != "" {
		b.WriteString(" QUALIFY " + c.qualify)
	}
	clause("ORDER BY", ", ", c.order)
	b.WriteString(c.limit)
	return strings.TrimSpace(b.String())
}

// item adds an item to the select list and to the statement's fields.
func (g *generator) item(c *clauses, s *statement, sql string, k kind, rough bool) string {
	name := g.name("c")
	c.items = append(c.items, sql+" AS "+name)
	s.fields = append(s.fields, field{sql: name, name: name, kind: k, rough: rough})
	return name
}

// statement makes a SELECT. Its answer is determined, but for what the twin finds.
func (g *generator) statement(depth int) (s statement) {
	n := g.IntN(100)
	switch {
	case n < 12:
		return g.union(depth)
	case n < 40:
		return g.grouped(depth)
	}
	return g.plain(depth)
}

// root makes the statement of a stage.
func (g *generator) root() statement {
	stand := len(g.common)
	defer func() { g.common = g.common[:stand] }()
	depth := g.IntN(3)
	var with []string
	for range max(0, g.IntN(5)-2) {
		c := g.statement(g.IntN(2))
		name := g.name("q")
		with = append(with, name+" AS"+g.pick("", "", " MATERIALIZED", " NOT MATERIALIZED")+" ("+c.sql+")")
		g.common = append(g.common, named{name, c})
	}
	s := g.statement(depth)
	if len(with) > 0 {
		s.sql = "WITH " + strings.Join(with, ", ") + " " + s.sql
	}
	return s
}

func (g *generator) conditions(sc scope) (all []string) {
	for range max(0, g.IntN(5)-2) {
		all = append(all, g.condition(sc, g.IntN(3)))
	}
	return all
}

// plain makes a SELECT without groups.
func (g *generator) plain(depth int) (s statement) {
	var c clauses
	var sc scope
	c.from, sc, c.where = g.from(depth)
	c.where = append(c.where, g.conditions(sc)...)
	keys, keyed := sc.keys()
	s.loose, s.rows = true, rowsOf(sc)
	if keyed && len(keys) > 0 && g.chance(60) {
		s.loose = false
		for _, k := range keys {
			s.keys = append(s.keys, g.item(&c, &s, k, number, false))
		}
	}
	for range 1 + g.IntN(4) {
		k := kind(g.IntN(4))
		g.item(&c, &s, g.expression(sc, k, g.IntN(3)), k, false)
	}
	if g.chance(10) {
		g.item(&c, &s, "("+g.field(sc, number)+") / 7.0", number, true)
	}
	if g.chance(8) { // an alias in WHERE
		f := s.fields[g.IntN(len(s.fields))]
		if f.kind == number {
			c.where = append(c.where, f.name+" < 7")
		}
	}
	if g.chance(5) {
		g.item(&c, &s, "unnest(["+g.field(sc, number)+", "+g.field(sc, number)+"])", number, false)
		s.loose, s.keys = true, nil
	}
	switch n := g.IntN(20); {
	case n < 4 && keyed && len(keys) > 0:
		for range 1 + g.IntN(2) {
			g.window(&c, &s, sc, keys)
		}
	case n == 4 && keyed && len(keys) > 0:
		c.qualify = g.pick("row_number() OVER (", "rank() OVER (") + g.over(sc, keys) + ") <= " + fmt.Sprint(1+g.IntN(4))
	case n == 5 || n == 6:
		c.distinct = "DISTINCT "
		s.loose = false
		s.keys = allNames(s)
	case n == 7 && keyed && len(keys) > 0:
		f := g.field(sc, kind(g.IntN(3)))
		c.distinct = "DISTINCT ON (" + f + ") "
		c.order = append([]string{f + g.pick("", " DESC")}, shuffled(g, keys)...)
	}
	if len(c.order) == 0 {
		g.order(&c, &s)
	}
	s.sql = c.String()
	return s
}

func rowsOf(sc scope) int {
	n := 1
	for i, r := range sc {
		if i == 0 {
			n = r.rows
		} else {
			n *= max(1, r.rows/5)
		}
	}
	return min(n, most)
}

func allNames(s statement) (names []string) {
	for _, f := range s.fields {
		names = append(names, f.name)
	}
	return names
}

func shuffled(g *generator, list []string) []string {
	list = slices.Clone(list)
	g.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// order adds an ORDER BY over all columns, and perhaps a LIMIT.
func (g *generator) order(c *clauses, s *statement) {
	if !g.chance(30) || slices.ContainsFunc(s.fields, func(f field) bool { return f.rough || f.kind == other }) {
		return
	}
	for _, n := range g.Perm(len(s.fields)) {
		by := g.pick(fmt.Sprint(n+1), s.fields[n].name)
		c.order = append(c.order, by+g.pick("", "", " DESC", " NULLS FIRST", " DESC NULLS LAST", " ASC NULLS LAST"))
	}
	s.ordered = true
	if g.chance(60) {
		c.limit = fmt.Sprintf(" LIMIT %d", 1+g.IntN(20))
		if s.rows > 10 && g.chance(40) {
			c.limit += fmt.Sprintf(" OFFSET %d", g.IntN(6))
		}
	}
}

// over is a window whose order is total.
func (g *generator) over(sc scope, keys []string) string {
	partition := ""
	if g.chance(75) {
		partition = "PARTITION BY " + g.expression(sc, kind(g.IntN(4)), g.IntN(2))
		if g.chance(25) {
			partition += ", " + g.field(sc, kind(g.IntN(3)))
		}
	}
	order := " ORDER BY "
	if g.chance(60) {
		order += g.field(sc, kind(g.IntN(3))) + g.pick("", " DESC", " NULLS FIRST", " DESC NULLS LAST") + ", "
	}
	return partition + order + strings.Join(shuffled(g, keys), ", ")
}

// window adds a window function.
func (g *generator) window(c *clauses, s *statement, sc scope, keys []string) {
	n, over := g.field(sc, number), g.over(sc, keys)
	peers := "PARTITION BY " + g.field(sc, kind(g.IntN(3))) + " ORDER BY " + g.field(sc, number)
	frame := g.pick("", " ROWS BETWEEN 2 PRECEDING AND CURRENT ROW", " ROWS BETWEEN UNBOUNDED PRECEDING AND 1 FOLLOWING", " ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE CURRENT ROW")
	switch g.IntN(9) {
	case 0:
		g.item(c, s, g.pick("row_number()", "ntile(3)", "rank()")+" OVER ("+over+")", number, false)
	case 1:
		g.item(c, s, g.pick("lag", "lead")+"("+n+", "+fmt.Sprint(1+g.IntN(2))+g.pick("", " IGNORE NULLS")+") OVER ("+over+")", number, false)
	case 2:
		g.item(c, s, g.pick("first_value", "last_value")+"("+n+g.pick("", " IGNORE NULLS")+") OVER ("+over+frame+")", number, false)
	case 3:
		g.item(c, s, g.pick("sum", "min", "max", "count")+"("+n+") OVER ("+over+frame+")", number, false)
	case 4:
		g.item(c, s, g.pick("rank()", "dense_rank()", "count(*)")+" OVER ("+peers+")", number, false)
	case 5:
		g.item(c, s, g.pick("percent_rank()", "cume_dist()", "avg("+n+")")+" OVER ("+peers+")", number, true)
	case 6:
		g.item(c, s, g.pick("count(*)", "max("+n+")", "sum("+n+")")+" OVER ("+g.pick("", "PARTITION BY "+g.field(sc, text))+")", number, false)
	case 7:
		g.item(c, s, "count(*) FILTER ("+g.condition(sc, 0)+") OVER ("+over+")", number, false)
	default:
		f := g.field(sc, number)
		g.item(c, s, "sum("+n+") OVER (ORDER BY "+f+" RANGE BETWEEN 2 PRECEDING AND 1 FOLLOWING)", number, false)
	}
}

// aggregate adds an aggregate.
func (g *generator) aggregate(c *clauses, s *statement, sc scope) {
	keys, keyed := sc.keys()
	keyed = keyed && len(keys) > 0
	n, m := g.expression(sc, number, g.IntN(2)), g.field(sc, number)
	call, k, rough := "", number, false
	switch i := g.IntN(20); {
	case i < 2:
		call = "count(*)"
	case i < 5:
		call = g.pick("sum", "count", "min", "max") + "(" + n + ")"
	case i == 5:
		call, rough = "avg("+n+")", true
	case i == 6:
		call = g.pick("count", "count", "sum") + "(DISTINCT " + g.field(sc, number) + ")"
	case i == 7:
		call = "count(DISTINCT " + g.field(sc, kind(g.IntN(3))) + ")"
	case i == 8:
		call, rough = g.pick("stddev", "var_pop", "stddev_pop", "var_samp")+"("+tame(g, sc)+")", true
	case i == 9:
		call, rough = g.pick("covar_pop", "covar_samp", "corr", "regr_slope", "regr_intercept", "regr_r2", "regr_count", "regr_avgx")+"("+tame(g, sc)+", "+tame(g, sc)+")", true
	case i == 10:
		call, rough = g.pick("median("+m+")", "quantile_cont("+m+", 0.3)", "quantile_disc("+m+", 0.6)", "mad("+m+")"), true
	case i == 11:
		call, k = g.pick("bool_and", "bool_or")+"("+g.condition(sc, 0)+")", truth
	case i == 12:
		call = g.pick("bit_xor", "bit_and", "bit_or") + "(" + g.fieldNamed(sc, "v", "id", "i") + ")"
	case i == 13 && keyed:
		call, k = "string_agg("+g.field(sc, text)+", ',' ORDER BY "+strings.Join(shuffled(g, keys), ", ")+g.pick("", " DESC")+")", text
	case i == 14 && keyed:
		call, k = "list("+g.field(sc, kind(g.IntN(4)))+" ORDER BY "+strings.Join(shuffled(g, keys), ", ")+")", other
	case i == 15 && keyed && len(keys) == 1:
		call = g.pick("arg_max", "arg_min") + "(" + m + ", " + keys[0] + ")"
	case i == 16 && keyed:
		call = g.pick("first", "last", "any_value") + "(" + m + " ORDER BY " + strings.Join(shuffled(g, keys), ", ") + ")"
	case i == 17:
		k = kind(1 + g.IntN(2))
		call = g.pick("min", "max") + "(" + g.expression(sc, k, 1) + ")"
	case i == 18:
		call, k = "histogram("+g.fieldNamed(sc, "i", "b", "v", "id")+")", other
	default:
		call = "count_if(" + g.condition(sc, 0) + ")"
	}
	if g.chance(20) {
		call += " FILTER (" + g.pick("", "WHERE ") + g.condition(sc, 0) + ")"
	}
	g.item(c, s, call, k, rough)
}

// tame is a number without infinities, of which moments can be taken.
func tame(g *generator, sc scope) string { return g.fieldNamed(sc, "y", "v", "i", "id", "d") }

func (g *generator) fieldNamed(sc scope, names ...string) string {
	for range 20 {
		f, ok := g.anyField(sc, number)
		if ok && slices.Contains(names, f.name) {
			return f.sql
		}
	}
	return "7"
}

// grouped makes a SELECT with aggregates.
func (g *generator) grouped(depth int) (s statement) {
	var c clauses
	var sc scope
	c.from, sc, c.where = g.from(depth)
	c.where = append(c.where, g.conditions(sc)...)
	was := g.simple
	g.simple = true
	defer func() { g.simple = was }()
	var by []string
	for range g.IntN(4) {
		k := kind(g.IntN(4))
		e := g.expression(sc, k, g.IntN(2))
		by = append(by, e)
		g.item(&c, &s, e, k, false)
	}
	s.keys = allNames(s)
	s.rows = 1
	if len(by) > 0 {
		s.rows = max(1, rowsOf(sc)/4)
	}
	for range 1 + g.IntN(3) {
		g.aggregate(&c, &s, sc)
	}
	sets := false
	switch n := g.IntN(12); {
	case len(by) == 0 && n == 0:
		c.group = []string{"()"}
	case len(by) == 0:
	case n < 3:
		c.group = []string{"ALL"}
	case n < 5:
		for i := range by {
			c.group = append(c.group, g.pick(fmt.Sprint(i+1), s.fields[i].name))
		}
	case n < 7:
		sets = true
		list := strings.Join(by, ", ")
		switch g.IntN(3) {
		case 0:
			c.group = []string{g.pick("ROLLUP", "CUBE") + " (" + list + ")"}
		case 1:
			c.group = []string{"GROUPING SETS ((" + list + "), (" + by[0] + "), ())"}
		default:
			c.group = []string{by[0], "ROLLUP (" + list + ")"}
		}
		if g.chance(50) {
			g.item(&c, &s, "grouping("+by[g.IntN(len(by))]+")", number, false)
		}
		s.loose, s.keys = true, nil
	default:
		c.group = by
	}
	if g.chance(25) {
		c.having = []string{g.pick("count(*) > "+fmt.Sprint(g.IntN(5)), "max("+g.field(sc, number)+") > "+fmt.Sprint(g.IntN(9)), "sum("+g.fieldNamed(sc, "v", "id", "i", "b")+") IS NOT NULL")}
		if last := s.fields[len(by)]; g.chance(30) && last.kind == number && !last.rough {
			c.having = append(c.having, last.name+" > 1")
		}
	}
	if !sets && len(by) > 0 && g.chance(10) { // a window over groups
		g.item(&c, &s, "rank() OVER (ORDER BY count(*) DESC)", number, false)
	}
	g.order(&c, &s)
	s.sql = c.String()
	return s
}

// union makes a set operation.
func (g *generator) union(depth int) (s statement) {
	for len(s.fields) == 0 || g.chance(50) {
		name := g.name("c")
		s.fields = append(s.fields, field{sql: name, name: name, kind: kind(g.IntN(4))})
	}
	side := func(reorder bool) string {
		var c clauses
		var sc scope
		c.from, sc, c.where = g.from(depth - 1)
		c.where = append(c.where, g.conditions(sc)...)
		s.rows += rowsOf(sc)
		for _, f := range s.fields {
			c.items = append(c.items, g.expression(sc, f.kind, g.IntN(2))+" AS "+f.name)
		}
		if reorder {
			c.items = shuffled(g, c.items)
		}
		return c.String()
	}
	op := g.pick(" UNION ALL ", " UNION ", " EXCEPT ", " EXCEPT ALL ", " INTERSECT ", " INTERSECT ALL ", " UNION BY NAME ", " UNION ALL BY NAME ")
	s.sql = side(false) + op + side(strings.Contains(op, "BY NAME"))
	if g.chance(20) {
		s.sql = "(" + s.sql + ")" + g.pick(" UNION ALL ", " EXCEPT ", " INTERSECT ", " UNION ") + side(false)
	}
	s.loose = true
	var c clauses
	if g.order(&c, &s); len(c.order) > 0 {
		s.sql += " ORDER BY " + strings.Join(c.order, ", ") + c.limit
	}
	return s
}
