package fragment

import (
	"slices"
	"strings"

	"github.com/kinequet/kq/stages/analysis"
)

// group is relations that are joined already.
type group struct {
	items  []*item
	parted bool
	query  analysis.Node // the subquery that it is, if it is one
}

func (g *group) cols() (all []*col) {
	for _, it := range g.items {
		all = append(all, it.cols...)
	}
	return all
}

// cluster is a tree of inner joins, flattened: groups and what must be equal.
type cluster struct {
	groups []*group
	equal  [][2]*col
}

// from proves a FROM clause and makes its relations known to sc. where are the
// conditions that every row of it satisfies in the end.
func (p *prover) from(n analysis.Node, sc *scope, with *cte, where []analysis.Node) *failure {
	var c cluster
	if f := p.flatten(n, sc, with, &c); f != nil {
		return f
	}
	g, f := p.unify(n, &c, sc, where)
	if f != nil {
		return f
	}
	sc.parted = g.parted
	return nil
}

// flatten collects a tree of inner joins; everything else in it is a group.
func (p *prover) flatten(n analysis.Node, sc *scope, with *cte, c *cluster) *failure {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > 200 {
		return fail(n, "it is nested too deeply")
	}
	if n.Has("sample") {
		return fail(n, "a sample is drawn from all rows")
	}
	inner := n.Str("type") == "JOIN" && n.Str("join_type") == "INNER" && slices.Contains([]string{"REGULAR", "CROSS", "NATURAL"}, n.Str("ref_type"))
	if !inner {
		g, f := p.single(n, sc, with)
		if f != nil {
			return f
		}
		c.groups = append(c.groups, g)
		sc.parted = sc.parted || g.parted
		return nil
	}
	start := len(sc.items)
	if f := p.flatten(n.Child("left"), sc, with, c); f != nil {
		return f
	}
	middle := len(sc.items)
	if f := p.flatten(n.Child("right"), sc, with, c); f != nil {
		return f
	}
	names, ok := p.using(n, sc.items[start:middle], sc.items[middle:])
	if !ok {
		return fail(n, "the columns of a NATURAL JOIN are not known")
	}
	for _, name := range names {
		l, r := visible(sc.items[start:middle], name), visible(sc.items[middle:], name)
		if l == nil || r == nil {
			return fail(n, "the columns of USING are not known")
		}
		c.equal = append(c.equal, [2]*col{l, r})
		sc.merge(r)
		hide(sc.items[middle:], name)
	}
	// Its condition sees what it joins and nothing else of this FROM.
	all := sc.items
	sc.items = all[start:]
	defer func() { sc.items = all }()
	for _, e := range conjuncts(n.Child("condition")) {
		if l, r := p.equal(e, sc); l != nil {
			c.equal = append(c.equal, [2]*col{l, r})
		}
		if f := p.exprs(e, sc, with, e); f != nil {
			return f
		}
	}
	return nil
}

// equal are the plain columns of sc that a condition equates, if it does.
func (p *prover) equal(e analysis.Node, sc *scope) (left, right *col) {
	if e.Str("type") != "COMPARE_EQUAL" {
		return nil, nil
	}
	a, _, x := p.column(e.Child("left"), sc)
	b, _, y := p.column(e.Child("right"), sc)
	if a == nil || b == nil || x != 0 || y != 0 {
		return nil, nil
	}
	return a, b
}

// using lists the columns that a join merges.
func (p *prover) using(n analysis.Node, left, right []*item) (names []string, ok bool) {
	raw, _ := n["using_columns"].([]any)
	for _, r := range raw {
		s, _ := r.(string)
		names = append(names, strings.ToLower(s))
	}
	if n.Str("ref_type") != "NATURAL" {
		return names, true
	}
	for _, it := range append(slices.Clone(left), right...) {
		if it.opaque {
			return nil, false
		}
	}
	for _, it := range left {
		for _, c := range it.cols {
			if !it.hidden[c.name] && visible(right, c.name) != nil && !slices.Contains(names, c.name) {
				names = append(names, c.name)
			}
		}
	}
	return names, true
}

func visible(items []*item, name string) *col {
	for _, it := range items {
		if c := it.find(name); c != nil && !it.hidden[name] {
			return c
		}
	}
	return nil
}

func hide(items []*item, name string) {
	for _, it := range items {
		if it.find(name) != nil {
			if it.hidden == nil {
				it.hidden = map[string]bool{}
			}
			it.hidden[name] = true
		}
	}
}

// classes joins columns that are equal.
type classes map[*col]*col

func (u classes) root(c *col) *col {
	for u[c] != nil && u[c] != c {
		c = u[c]
	}
	return c
}

// equate fills classes from equalities of plain columns among cols.
func (p *prover) equate(u classes, cols []*col, equal [][2]*col, conds []analysis.Node, sc *scope) {
	add := func(a, b *col) {
		if common([]string{a.typ, b.typ}) == "" {
			return
		}
		if a.from != (base{}) && b.from != (base{}) {
			p.pairs = append(p.pairs, [2]base{a.from, b.from})
		}
		u.join(a, b)
	}
	for _, e := range equal {
		add(e[0], e[1])
	}
	for _, e := range conds {
		if a, b := p.equal(e, sc); a != nil && slices.Contains(cols, a) && slices.Contains(cols, b) {
			add(a, b)
		}
	}
}

// unify joins the groups of a cluster. Divided ones must meet by an equality in
// every component of the key.
func (p *prover) unify(n analysis.Node, c *cluster, sc *scope, where []analysis.Node) (*group, *failure) {
	out := &group{}
	var parted []*group
	for _, g := range c.groups {
		out.items = append(out.items, g.items...)
		if g.parted {
			parted = append(parted, g)
		}
	}
	out.parted = len(parted) > 0
	u := classes{}
	p.equate(u, out.cols(), c.equal, where, sc)
	// A divided group that meets others without an equality in the key.
	for i := range p.comps {
		if len(parted) == 0 {
			break
		}
		met := map[*col]int{}
		for _, g := range parted {
			seen := map[*col]bool{}
			for _, k := range g.cols() {
				if k.tag == i && !seen[u.root(k)] {
					seen[u.root(k)] = true
					met[u.root(k)]++
				}
			}
		}
		together := len(parted) == 1
		for _, count := range met {
			together = together || count == len(parted)
		}
		if !together {
			f := fail(located(n), "it joins inputs that have no key in common, and are too large to be read whole by each shard")
			f.join = true
			f.cut = heaviest(p, parted)
			return nil, f
		}
	}
	for i := range p.comps {
		tagged := map[*col]bool{}
		for _, g := range parted {
			for _, k := range g.cols() {
				if k.tag == i {
					tagged[u.root(k)] = true
				}
			}
		}
		for _, k := range out.cols() {
			if r := u.root(k); tagged[r] && (u[k] != nil || linked(u, k)) && (k.tag == i || k.tag < 0) {
				k.tag, k.exact = i, true
			}
		}
	}
	return out, nil
}

// heaviest picks the group that is a query doing more than reading.
func heaviest(p *prover, groups []*group) analysis.Node {
	for _, g := range groups {
		if g.query != nil && !simple(g.query) {
			return g.query
		}
	}
	for _, g := range groups {
		if g.query != nil {
			return g.query
		}
	}
	return nil
}

// simple reports whether a query only selects and filters.
func simple(q analysis.Node) bool {
	if q.Str("type") != "SELECT_NODE" || len(q.List("modifiers")) > 0 {
		return false
	}
	return !hasGroups(q) && !q.Has("having") && q.Str("aggregate_handling") == "STANDARD_HANDLING"
}

// single proves one relation of a FROM clause that is not an inner join.
func (p *prover) single(n analysis.Node, sc *scope, with *cte) (*group, *failure) {
	it := &item{alias: strings.ToLower(n.Str("alias"))}
	g := &group{items: []*item{it}}
	var r *relation
	var f *failure
	switch n.Str("type") {
	case "BASE_TABLE":
		name := strings.ToLower(n.Str("table_name"))
		if it.alias == "" {
			it.alias = name
		}
		if c := with.find(name); c != nil && n.Str("schema_name") == "" {
			r, f = p.common(c, sc)
		} else {
			r, f = p.table(n, name)
		}
	case "SUBQUERY":
		g.query = n.Child("subquery").Child("node")
		// What stands beside it is only seen when it is lateral.
		if r, f = p.query(g.query, sc, with); f == nil && !r.parted {
			if why := p.a.Unstable(p.ctx, g.query); why != "" && p.anyParted() {
				if cut, correlated := p.alone(g.query); cut != nil || !correlated || !sc.parted {
					f = fail(n, "%s", why)
					f.cut = cut
				}
			}
		}
	case "TABLE_FUNCTION", "EXPRESSION_LIST":
		f = p.exprs([]any{n["function"], n["values"]}, sc, with, nil)
		r = &relation{opaque: true}
		it.alias = strings.ToLower(n.Str("alias"))
	case "EMPTY", "":
		r = &relation{}
	case "JOIN":
		return p.join(n, sc, with)
	default:
		f = p.wholeBelow(n, sc, with, "PIVOT and UNPIVOT work on the whole input")
		r = &relation{opaque: true}
	}
	if f != nil {
		return nil, f
	}
	raw, _ := n["column_name_alias"].([]any)
	names := make([]string, len(raw))
	for i, a := range raw {
		names[i], _ = a.(string)
	}
	r.rename(names)
	it.cols, it.opaque = r.cols, r.opaque
	g.parted = r.parted
	sc.items = append(sc.items, it)
	return g, nil
}

// rename gives the first columns other names.
func (r *relation) rename(names []string) {
	if r.vague && len(names) > 0 {
		r.cols, r.opaque = nil, true
	}
	for i, name := range names {
		if i < len(r.cols) {
			r.cols[i].name = strings.ToLower(name)
		}
	}
}

// common proves a reference to what WITH defines.
func (p *prover) common(c *cte, sc *scope) (*relation, *failure) {
	if c.query == nil {
		return &relation{opaque: true}, nil
	}
	r, f := p.query(c.query, c.scope, c.outer)
	if c.scope.correlated {
		for at := sc; at != nil; at = at.outer {
			at.correlated = true
		}
	}
	if f != nil {
		return nil, f
	}
	if why := p.a.Unstable(p.ctx, c.query); why != "" && p.anyParted() {
		return nil, fail(lead(c.query), "%s", why)
	}
	r.rename(c.aliases)
	return r, nil
}

// table is a declared table under its role.
func (p *prover) table(n analysis.Node, name string) (*relation, *failure) {
	columns, ok := p.tables[name]
	if !ok || n.Has("at_clause") {
		return nil, fail(n, "kq doesn't know the table %q", name)
	}
	p.uses[name]++
	role := p.roles[name]
	r := &relation{parted: role.parted}
	for _, c := range columns {
		k := &col{name: strings.ToLower(c.Name), typ: c.Type, tag: -1}
		k.from = base{name, k.name}
		if i := slices.Index(role.key, k.name); i >= 0 && role.parted {
			k.tag, k.exact = i, true
		}
		r.cols = append(r.cols, k)
	}
	return r, nil
}
