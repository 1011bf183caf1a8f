package fragment

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
)

// role is how a bucket sees a table.
type role struct {
	// parted: it sees a part of the rows, each row in exactly one bucket.
	// Otherwise it sees all of them.
	parted bool
	// key is the column (folded) for each component of the key that the bucket
	// is decided by. Empty: rows are divided in some other way.
	key []string
}

// failure says why a statement is not parallel.
type failure struct {
	why    string
	offset int
	// cut is the innermost query around the failure that names nothing outside
	// it, so that it may be computed on its own first.
	cut analysis.Node
	// join: relations that are divided meet without an equality in the key.
	join bool
}

// prover checks that a statement is parallel under given roles: that the union
// of its results over the buckets is its result over everything.
type prover struct {
	ctx    context.Context
	a      *analysis.Analyzer
	tables map[string][]pipeline.Column // by folded name
	roles  map[string]role
	comps  int  // components of the key
	sorted bool // a bucket keeps the order of the input's rows

	root analysis.Node // the statement; it is never a cut
	// What one pass finds that could be a key.
	pairs  [][2]base
	tuples [][]base
	uses   map[string]int // references of each table
	// refs are the column references that resolve to a relation of the root's
	// FROM, by the identity of their node.
	refs    map[uintptr]ref
	rootSel *scope
	depth   int
}

type ref struct {
	node analysis.Node
	it   *item
	c    *col
}

// cte is a name that WITH defines.
type cte struct {
	name    string
	query   analysis.Node // nil: it is being defined (recursion)
	aliases []string
	outer   *cte
	scope   *scope // around the query that defines it
}

func (c *cte) find(name string) *cte {
	for ; c != nil; c = c.outer {
		if c.name == name {
			return c
		}
	}
	return nil
}

// relation is the result of a query.
type relation struct {
	parted bool
	cols   []*col
	opaque bool
	vague  bool // nobody knows which of cols stands where
}

func fail(n analysis.Node, format string, args ...any) *failure {
	return &failure{why: fmt.Sprintf(format, args...), offset: n.Offset()}
}

// statement proves the whole statement.
func (p *prover) statement(n analysis.Node) (*relation, *failure) {
	p.root = n
	p.uses = map[string]int{}
	p.refs = map[uintptr]ref{}
	return p.query(n, nil, nil)
}

// query proves a query node below outer.
func (p *prover) query(n analysis.Node, outer *scope, with *cte) (r *relation, f *failure) {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > 200 {
		return nil, fail(n, "it is nested too deeply")
	}
	sc := &scope{outer: outer, names: map[string]bool{}}
	defer func() {
		if f != nil && f.cut == nil && !sc.correlated && !sameNode(n, p.root) {
			f.cut = n
		}
	}()
	for _, entry := range n.Child("cte_map").List("map") {
		v := entry.Child("value")
		c := &cte{name: strings.ToLower(entry.Str("key")), query: v.Child("query").Child("node"), outer: with, scope: &scope{outer: outer}}
		raw, _ := v["aliases"].([]any)
		for _, a := range raw {
			s, _ := a.(string)
			c.aliases = append(c.aliases, strings.ToLower(s))
		}
		with = c
	}
	switch n.Str("type") {
	case "SELECT_NODE":
		r, f = p.selectNode(n, sc, with)
	case "SET_OPERATION_NODE":
		r, f = p.setOperation(n, sc, with)
	default:
		f = p.wholeBelow(n, sc, with, "a recursive query needs all rows in each step")
		r = &relation{opaque: true}
	}
	if f == nil {
		f = p.modifiers(n, r, sc, with)
	}
	return r, f
}

func sameNode(a, b analysis.Node) bool {
	return a != nil && b != nil && reflect.ValueOf(a).Pointer() == reflect.ValueOf(b).Pointer()
}

// wholeBelow makes sure that nothing below v is divided.
func (p *prover) wholeBelow(v any, sc *scope, with *cte, why string) (f *failure) {
	sc.correlated = true // not examined: it may be
	analysis.Walk(v, func(n analysis.Node) bool {
		if n.Str("type") == "BASE_TABLE" {
			name := strings.ToLower(n.Str("table_name"))
			if c := with.find(name); c != nil {
				if c.query != nil && f == nil {
					q, _ := p.common(c, sc)
					if q == nil || q.parted {
						f = fail(n, "%s", why)
					}
				}
				return true
			}
			if _, known := p.tables[name]; known {
				p.uses[name]++
			}
			if p.roles[name].parted && f == nil {
				f = fail(n, "%s", why)
			}
		}
		return true
	})
	return f
}

// modifiers proves ORDER BY, LIMIT and DISTINCT.
func (p *prover) modifiers(n analysis.Node, r *relation, sc *scope, with *cte) *failure {
	for _, e := range orderedBy(n) {
		if _, ok := selectedAs(e, n.List("select_list")); !ok {
			if _, it, _, unsure := sc.local(columnNames(e)); it != nil || unsure {
				return fail(e, "%s may be a column or the name of another", columnNames(e)[0])
			}
		}
	}
	for _, m := range n.List("modifiers") {
		if f := p.exprs(m, sc, with, nil); f != nil {
			return f
		}
		kind := m.Str("type")
		if kind == "DISTINCT_MODIFIER" {
			targets := m.List("distinct_on_targets")
			keys := r.cols
			if len(targets) > 0 {
				keys = p.plain(targets, sc, nil)
				for i, e := range targets {
					if at, ok := integer(e); ok && !r.vague && at >= 1 && int(at) <= len(r.cols) {
						keys[i] = r.cols[at-1]
					}
				}
			}
			p.propose(keys, nil, sc)
			if !r.parted {
				continue
			}
			if !p.holds(keys) {
				return fail(lead(n["select_list"]), "DISTINCT compares all rows")
			}
			continue
		}
		if !r.parted {
			continue
		}
		switch kind {
		case "ORDER_MODIFIER":
			if sameNode(n, p.root) {
				return fail(first(m.List("orders")).Child("expression"), "ORDER BY orders all rows")
			}
		case "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER":
			return fail(lead(m), "LIMIT counts over all rows")
		default:
			return fail(n, "kq doesn't know %q", kind)
		}
	}
	return nil
}

func first(all []analysis.Node) analysis.Node {
	if len(all) == 0 {
		return nil
	}
	return all[0]
}

// holds reports whether the columns pin down the bucket: rows that agree in all
// of them are in the same one, NULLs included.
func (p *prover) holds(cols []*col) bool {
	for i := range p.comps {
		if !slices.ContainsFunc(cols, func(c *col) bool { return c != nil && c.tag == i && c.exact }) {
			return false
		}
	}
	return p.comps > 0
}

// propose notes the base columns among keys as a key worth trying.
func (p *prover) propose(cols []*col, exprs []analysis.Node, sc *scope) {
	if len(exprs) > 0 {
		cols = p.plain(exprs, sc, nil)
	}
	var tuple []base
	for _, c := range cols {
		if c != nil && c.from != (base{}) && family(c.typ) != "" {
			tuple = append(tuple, c.from)
		}
	}
	if len(tuple) > 0 {
		p.tuples = append(p.tuples, tuple)
	}
}

// plain resolves expressions that are plain columns of sc; others are nil.
// selected are the select list's expressions, for positions and aliases.
func (p *prover) plain(exprs []analysis.Node, sc *scope, selected []analysis.Node) []*col {
	out := make([]*col, len(exprs))
	for i, e := range exprs {
		e = dereference(e, sc, selected)
		if e.Str("class") == "COLUMN_REF" {
			if c, _, depth := sc.lookup(columnNames(e)); depth == 0 && !sc.lost[c] {
				out[i] = c
			}
		}
	}
	return out
}

// setOperation proves UNION, EXCEPT and INTERSECT.
func (p *prover) setOperation(n analysis.Node, sc *scope, with *cte) (*relation, *failure) {
	children := n.List("children")
	for _, key := range []string{"left", "right"} {
		if c := n.Child(key); c != nil {
			children = append(children, c)
		}
	}
	var rels []*relation
	parted := 0
	for _, c := range children {
		r, f := p.query(c, sc, with)
		if f != nil {
			return nil, f
		}
		if r.parted {
			parted++
		}
		rels = append(rels, r)
	}
	name := strings.ReplaceAll(n.Str("setop_type"), "_", " ")
	out := &relation{parted: parted > 0, opaque: rels[0].opaque, vague: rels[0].vague}
	all := n.Flag("setop_all") && n.Str("setop_type") == "UNION"
	byName := n.Str("setop_type") == "UNION_BY_NAME"
	for i, c := range rels[0].cols {
		merged := &col{name: c.name, typ: c.typ, from: c.from, tag: c.tag, exact: c.exact}
		for _, r := range rels[1:] {
			if byName || r.opaque || out.vague || len(r.cols) != len(rels[0].cols) || common([]string{c.typ, r.cols[i].typ}) == "" {
				merged.tag, merged.typ, merged.from = -1, "", base{}
				continue
			}
			d := r.cols[i]
			if d.tag != merged.tag {
				merged.tag = -1
			}
			merged.exact = merged.exact && d.exact
			if c.from != (base{}) && d.from != (base{}) {
				p.pairs = append(p.pairs, [2]base{c.from, d.from})
			}
			if d.typ != c.typ {
				merged.typ, merged.from = "", base{}
			}
		}
		out.cols = append(out.cols, merged)
	}
	if !all {
		for _, r := range rels {
			p.propose(r.cols, nil, sc)
		}
	}
	sc.items = []*item{{cols: out.cols, opaque: out.opaque}}
	switch {
	case parted == 0:
	case parted < len(rels):
		return nil, fail(second(children), "%s combines a divided input with one that every bucket has", name)
	case byName || !all && !p.holds(out.cols):
		return nil, fail(second(children), "%s compares all rows of its inputs", name)
	}
	return out, nil
}
