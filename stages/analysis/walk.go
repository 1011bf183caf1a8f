package analysis

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// reason is why something holds, for people, and where in the SQL its cause
// stands: a byte offset, or -1. The zero value is none.
type reason struct {
	why string
	at  int
}

// at is a reason that stands where n does.
func at(n Node, why string) reason { return reason{why, n.Offset()} }

// near is a reason that stands where the first of what is below v does.
func near(v any, why string) reason {
	r := reason{why, -1}
	Walk(v, func(n Node) bool {
		if o := n.Offset(); o >= 0 && (r.at < 0 || o < r.at) {
			r.at = o
		}
		return true
	})
	return r
}

// use is what is known about one table within a part of the tree.
type use struct {
	name   string
	offset int
	count  int
	gather reason // why the part is not row-wise in the table
}

// props is what is known about a part of the tree that yields rows.
type props struct {
	uses []use // by first appearance
	// unstable says why the rows may differ between two evaluations over the
	// same tables. Empty: they can't.
	unstable reason
}

// add merges the uses of q, each with a further reason to gather.
func (p *props) add(q props, why reason) {
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
func (p *props) gatherAll(why reason) {
	for i := range p.uses {
		p.uses[i].gather = first(p.uses[i].gather, why)
	}
}

func first(reasons ...reason) reason {
	for _, r := range reasons {
		if r.why != "" {
			return r
		}
	}
	return reason{}
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
		return props{unstable: at(n, "it is nested too deeply")}
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
		last := any(n["right"])
		if all := n.List("children"); len(all) > 1 {
			last = all[1]
		}
		why := near(last, strings.ReplaceAll(n.Str("setop_type"), "_", " ")+" combines rows of all its inputs")
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
		why := near(n["left"], "a recursive query needs all rows in each step")
		p.add(w.query(n.Child("left"), inner), why)
		p.add(w.query(n.Child("right"), inner), why)
		p.unstable = first(p.unstable, why)
	default:
		p = w.strange(n, sc, at(n, unknown(n.Str("type"))))
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
				u.gather = reason{"the result does not depend on its rows one by one", u.offset}
				p.uses = append(p.uses, u)
			}
		}
	}
}

// modifiers examines ORDER BY, LIMIT and DISTINCT.
func (w *walker) modifiers(n Node, sc *scope, p *props) {
	for _, m := range n.List("modifiers") {
		var why reason
		switch m.Str("type") {
		case "ORDER_MODIFIER":
			why = near(m, "ORDER BY orders all rows")
		case "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER":
			why = near(m, "LIMIT counts over all rows")
			p.unstable = first(p.unstable, near(m, "LIMIT may pick other rows each time"))
		case "DISTINCT_MODIFIER":
			why = near(n["select_list"], "DISTINCT compares all rows")
			if len(m.List("distinct_on_targets")) > 0 {
				p.unstable = first(p.unstable, near(m, "DISTINCT ON may pick other rows each time"))
			}
		default:
			why = near(m, unknown(m.Str("type")))
			p.unstable = first(p.unstable, why)
		}
		e := w.exprs(m, sc)
		p.add(e.tables, reason{subqueryWhy, e.inner})
		p.unstable = first(p.unstable, e.unstable)
		p.gatherAll(why)
	}
}

// selectNode examines SELECT … FROM … WHERE ….
func (w *walker) selectNode(n Node, sc *scope) (p props) {
	from := n.Child("from_table")
	p = w.relation(from, sc)
	var why reason
	switch handling := n.Str("aggregate_handling"); {
	case len(n.List("group_expressions")) > 0 || handling == "FORCE_AGGREGATES" || n.Has("group_sets") && len(n["group_sets"].([]any)) > 0:
		why = near(first2(notEmpty(n.List("group_expressions")), n["select_list"]), "GROUP BY brings together rows of the whole input")
	case handling != "STANDARD_HANDLING" && handling != "" && handling != "NO_AGGREGATES_ALLOWED":
		why = near(n["select_list"], unknown(handling))
	case n.Has("having"):
		why = near(n["having"], "HAVING filters groups of the whole input")
	case n.Has("qualify"):
		why = near(n["qualify"], "QUALIFY filters by a window over the whole input")
		p.unstable = first(p.unstable, why)
	}
	if n.Has("sample") {
		why = first(why, at(n, "a sample is drawn from all rows"))
		p.unstable = first(p.unstable, why)
	}
	for _, key := range []string{"select_list", "where_clause", "group_expressions", "having", "qualify"} {
		e := w.exprs(n[key], sc)
		p.add(e.tables, reason{subqueryWhy, e.inner})
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
		return props{unstable: at(n, "it is nested too deeply")}
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
		p.add(e.tables, reason{subqueryWhy, e.inner})
		p.unstable = first(e.unstable, e.reason)
		if n.Str("with_ordinality") == "WITH_ORDINALITY" {
			p.unstable = first(p.unstable, at(n, "WITH ORDINALITY numbers all rows"))
		}
	case "PIVOT":
		p = w.relation(n.Child("source"), sc)
		e := w.exprs([]any{n["aggregates"], n["pivots"], n["groups"]}, sc)
		p.add(e.tables, reason{subqueryWhy, e.inner})
		p.gatherAll(at(n, "PIVOT and UNPIVOT work on the whole input"))
		p.unstable = first(p.unstable, at(n, "PIVOT and UNPIVOT are not proven to be repeatable"))
	default:
		p = w.strange(n, sc, at(n, unknown(n.Str("type"))))
	}
	if n.Has("sample") {
		p.gatherAll(at(n, "a sample is drawn from all rows"))
		p.unstable = first(p.unstable, at(n, "a sample is random"))
	}
	return p
}

const subqueryWhy = "a subquery reads all of it"

// notEmpty is a list, or nil.
func notEmpty(list []Node) any {
	if len(list) == 0 {
		return nil
	}
	return list[0]
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
		u.gather = at(n, unknown("AT"))
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
			r = first(r, at(n, "LEFT JOIN keeps rows of the other side once, not once per shard"))
		case "RIGHT":
			l = first(l, at(n, "RIGHT JOIN keeps rows of the other side once, not once per shard"))
		case "SEMI", "ANTI":
			r = first(r, at(n, kind+" JOIN asks whether any row of it matches"))
		case "OUTER", "FULL":
			l = at(n, "FULL JOIN keeps unmatched rows of both sides")
			r = l
		default:
			l = at(n, unknown(kind+" JOIN"))
			r = l
		}
	default:
		l = at(n, n.Str("ref_type")+" JOIN depends on rows of the whole input")
		r = l
		p.unstable = l
	}
	p.add(left, l)
	p.add(right, r)
	p.add(on.tables, reason{subqueryWhy, on.inner})
	p.gatherAll(on.reason)
	p.unstable = first(p.unstable, on.unstable)
	return p
}

// strange gathers everything below a node that the proof doesn't know.
func (w *walker) strange(v any, sc *scope, why reason) (p props) {
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
