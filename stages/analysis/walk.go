package analysis

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// use is what is known about one table within a part of the tree.
type use struct {
	name   string
	offset int
	count  int
	gather string // why the part is not row-wise in the table
}

// props is what is known about a part of the tree that yields rows.
type props struct {
	uses []use // by first appearance
	// unstable says why the rows may differ between two evaluations over the
	// same tables. Empty: they can't.
	unstable string
}

// add merges the uses of q, each with a further reason to gather.
func (p *props) add(q props, why string) {
	for _, u := range q.uses {
		u.gather = first(u.gather, why)
		i := slices.IndexFunc(p.uses, func(v use) bool { return strings.EqualFold(v.name, u.name) })
		if i < 0 {
			p.uses = append(p.uses, u)
			continue
		}
		p.uses[i].count += u.count
		p.uses[i].gather = first(p.uses[i].gather, u.gather)
	}
	p.unstable = first(p.unstable, q.unstable)
}

// gatherAll adds a reason to every table.
func (p *props) gatherAll(why string) {
	for i := range p.uses {
		p.uses[i].gather = first(p.uses[i].gather, why)
	}
}

func first(reasons ...string) string {
	for _, r := range reasons {
		if r != "" {
			return r
		}
	}
	return ""
}

// scope is the CTEs that a part of the tree can name.
type scope struct {
	name  string // folded
	query Node   // nil while it is being defined (recursion)
	outer *scope // for the CTE's own definition, and for further names
	memo  *props // of the query, once examined
}

func (s *scope) find(name string) (*scope, bool) {
	for ; s != nil; s = s.outer {
		if s.name == strings.ToLower(name) {
			return s, true
		}
	}
	return nil, false
}

type walker struct {
	a     *Analyzer
	ctx   context.Context
	depth int
}

func unknown(what string) string { return fmt.Sprintf("kq doesn't know %q, so it runs whole", what) }

// query examines a query node.
func (w *walker) query(n Node, sc *scope) (p props) {
	w.depth++
	defer func() { w.depth-- }()
	if w.depth > 500 {
		return props{unstable: "it is nested too deeply"}
	}
	var named []string
	for _, entry := range asNodes(n.Child("cte_map")["map"]) {
		name := strings.ToLower(entry.Str("key"))
		sc = &scope{name: name, query: entry.Child("value").Child("query").Child("node"), outer: sc}
		named = append(named, name)
	}
	switch n.Str("type") {
	case "SELECT_NODE":
		p = w.selectNode(n, sc)
	case "SET_OPERATION_NODE":
		why := n.Str("setop_type") + " combines rows of all its inputs"
		for _, key := range []string{"left", "right"} {
			if child := n.Child(key); child != nil {
				p.add(w.query(child, sc), why)
			}
		}
		for _, child := range n.List("children") {
			p.add(w.query(child, sc), why)
		}
	case "RECURSIVE_CTE_NODE":
		inner := &scope{name: strings.ToLower(n.Str("cte_name")), outer: sc}
		why := "a recursive query needs all rows in each step"
		p.add(w.query(n.Child("left"), inner), why)
		p.add(w.query(n.Child("right"), inner), why)
		p.unstable = first(p.unstable, why)
	default:
		p = w.strange(n, sc, unknown(n.Str("type")))
	}
	w.modifiers(n, sc, &p)
	w.unused(n, sc, named, &p)
	return p
}

// unused notes the tables of CTEs that the query never names: they are read by
// nobody, and so the result is not divided by dividing them.
func (w *walker) unused(n Node, sc *scope, named []string, p *props) {
	for ; sc != nil && len(named) > 0; sc = sc.outer {
		if !slices.Contains(named, sc.name) {
			break
		}
		if sc.query == nil {
			continue
		}
		for _, u := range w.query(sc.query, sc.outer).uses {
			if !slices.ContainsFunc(p.uses, func(v use) bool { return strings.EqualFold(v.name, u.name) }) {
				u.gather = "the result does not depend on its rows one by one"
				p.uses = append(p.uses, u)
			}
		}
	}
}

// modifiers examines ORDER BY, LIMIT and DISTINCT.
func (w *walker) modifiers(n Node, sc *scope, p *props) {
	for _, m := range n.List("modifiers") {
		var why string
		switch m.Str("type") {
		case "ORDER_MODIFIER":
			why = "ORDER BY orders all rows"
		case "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER":
			why = "LIMIT counts over all rows"
			p.unstable = first(p.unstable, "LIMIT may pick other rows each time")
		case "DISTINCT_MODIFIER":
			why = "DISTINCT compares all rows"
			if len(m.List("distinct_on_targets")) > 0 {
				p.unstable = first(p.unstable, "DISTINCT ON may pick other rows each time")
			}
		default:
			why = unknown(m.Str("type"))
			p.unstable = first(p.unstable, why)
		}
		e := w.exprs(m, sc)
		p.add(e.tables, "a subquery reads all of it")
		p.unstable = first(p.unstable, e.unstable)
		p.gatherAll(why)
	}
}

// selectNode examines SELECT … FROM … WHERE ….
func (w *walker) selectNode(n Node, sc *scope) (p props) {
	from := n.Child("from_table")
	p = w.relation(from, sc)
	var why string
	switch handling := n.Str("aggregate_handling"); {
	case len(n.List("group_expressions")) > 0 || handling == "FORCE_AGGREGATES" || n.Has("group_sets") && len(n["group_sets"].([]any)) > 0:
		why = "GROUP BY brings together rows of the whole input"
	case handling != "STANDARD_HANDLING" && handling != "" && handling != "NO_AGGREGATES_ALLOWED":
		why = unknown(handling)
	case n.Has("having"):
		why = "HAVING filters groups of the whole input"
	case n.Has("qualify"):
		why = "QUALIFY filters by a window over the whole input"
		p.unstable = first(p.unstable, why)
	}
	if n.Has("sample") {
		why = first(why, "a sample is drawn from all rows")
		p.unstable = first(p.unstable, why)
	}
	for _, key := range []string{"select_list", "where_clause", "group_expressions", "having", "qualify"} {
		e := w.exprs(n[key], sc)
		p.add(e.tables, "a subquery reads all of it")
		why = first(why, e.reason)
		if key == "select_list" {
			why = first(why, e.outer)
		}
		p.unstable = first(p.unstable, e.unstable)
	}
	p.gatherAll(why)
	return p
}

// relation examines what stands after FROM.
func (w *walker) relation(n Node, sc *scope) (p props) {
	w.depth++
	defer func() { w.depth-- }()
	if w.depth > 500 {
		return props{unstable: "it is nested too deeply"}
	}
	switch n.Str("type") {
	case "BASE_TABLE":
		p = w.table(n, sc)
	case "SUBQUERY":
		p = w.query(n.Child("subquery").Child("node"), sc)
	case "JOIN":
		p = w.join(n, sc)
	case "EMPTY":
	case "TABLE_FUNCTION", "EXPRESSION_LIST":
		e := w.exprs(first2(n["function"], n["values"]), sc)
		p.add(e.tables, "a subquery reads all of it")
		p.unstable = first(e.unstable, e.reason)
		if n.Str("with_ordinality") == "WITH_ORDINALITY" {
			p.unstable = first(p.unstable, "WITH ORDINALITY numbers all rows")
		}
	case "PIVOT":
		p = w.relation(n.Child("source"), sc)
		e := w.exprs([]any{n["aggregates"], n["pivots"], n["groups"]}, sc)
		p.add(e.tables, "a subquery reads all of it")
		p.gatherAll("PIVOT and UNPIVOT work on the whole input")
		p.unstable = first(p.unstable, "PIVOT and UNPIVOT are not proven to be repeatable")
	default:
		p = w.strange(n, sc, unknown(n.Str("type")))
	}
	if n.Has("sample") {
		p.gatherAll("a sample is drawn from all rows")
		p.unstable = first(p.unstable, "a sample is random")
	}
	return p
}

func first2(a, b any) any {
	if a != nil {
		return a
	}
	return b
}

// table examines a name: a CTE, or a table of the job.
func (w *walker) table(n Node, sc *scope) props {
	name := n.Str("table_name")
	if cte, ok := sc.find(name); ok && n.Str("schema_name") == "" {
		if cte.query == nil {
			return props{} // the recursive reference itself
		}
		if cte.memo == nil {
			p := w.query(cte.query, cte.outer)
			cte.memo = &p
		}
		return props{uses: slices.Clone(cte.memo.uses), unstable: cte.memo.unstable}
	}
	u := use{name: name, offset: n.Offset(), count: 1}
	if n.Has("at_clause") {
		u.gather = unknown("AT")
	}
	return props{uses: []use{u}}
}

// join examines a join: which side may be divided while the other is whole.
func (w *walker) join(n Node, sc *scope) (p props) {
	left, right := w.relation(n.Child("left"), sc), w.relation(n.Child("right"), sc)
	on := w.exprs(n["condition"], sc)
	// Each side is whole for the other one's shards.
	l, r := right.unstable, left.unstable
	switch kind := n.Str("join_type"); n.Str("ref_type") {
	case "REGULAR", "NATURAL", "CROSS":
		switch kind {
		case "INNER":
		case "LEFT":
			r = first(r, "LEFT JOIN keeps rows of the other side once, not once per shard")
		case "RIGHT":
			l = first(l, "RIGHT JOIN keeps rows of the other side once, not once per shard")
		case "SEMI", "ANTI":
			r = first(r, kind+" JOIN asks whether any row of it matches")
		case "OUTER", "FULL":
			l = "FULL JOIN keeps unmatched rows of both sides"
			r = l
		default:
			l = unknown(kind + " JOIN")
			r = l
		}
	default:
		l = n.Str("ref_type") + " JOIN depends on rows of the whole input"
		r = l
		p.unstable = l
	}
	p.add(left, l)
	p.add(right, r)
	p.add(on.tables, "a subquery reads all of it")
	p.gatherAll(on.reason)
	p.unstable = first(p.unstable, on.unstable)
	return p
}

// strange gathers everything below a node that the proof doesn't know.
func (w *walker) strange(v any, sc *scope, why string) (p props) {
	p.unstable = why
	var visit func(v any, sc *scope)
	visit = func(v any, sc *scope) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				visit(item, sc)
			}
		case map[string]any:
			n := Node(v)
			for _, entry := range asNodes(n.Child("cte_map")["map"]) {
				sc = &scope{name: strings.ToLower(entry.Str("key")), outer: sc}
			}
			if n.Str("type") == "BASE_TABLE" {
				p.add(w.table(n, sc), why)
				return
			}
			for _, child := range v {
				visit(child, sc)
			}
		case Node:
			visit(map[string]any(v), sc)
		}
	}
	visit(v, sc)
	p.gatherAll(why)
	return p
}

// ordered reports whether the statement's last step is ORDER BY.
func ordered(n Node) bool {
	for _, m := range n.List("modifiers") {
		if m.Str("type") == "ORDER_MODIFIER" {
			return true
		}
	}
	return false
}
