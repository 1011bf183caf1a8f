package fragment

import (
	"reflect"
	"slices"
	"strings"

	"github.com/kinequet/kq/stages/analysis"
)

// selectNode proves SELECT … FROM … WHERE ….
func (p *prover) selectNode(n analysis.Node, sc *scope, with *cte) (*relation, *failure) {
	if sameNode(n, p.root) {
		p.rootSel = sc
	}
	if n.Has("sample") {
		return nil, fail(n, "a sample is drawn from all rows")
	}
	where := conjuncts(n.Child("where_clause"))
	if f := p.from(n.Child("from_table"), sc, with, where); f != nil {
		return nil, f
	}
	selected := n.List("select_list")
	for _, e := range selected {
		if a := e.Str("alias"); a != "" {
			sc.names[strings.ToLower(a)] = true
		}
	}
	for _, c := range where {
		if f := p.exprs(c, sc, with, c); f != nil {
			return nil, f
		}
	}
	if p.pinned(where, sc) && sc.parted {
		sc.parted = false // every row that the outer row can meet is in its bucket
	}
	s := &selection{}
	for _, key := range []string{"select_list", "group_expressions", "having", "qualify"} {
		p.collect(n[key], s)
		if f := p.exprs(n[key], sc, with, nil); f != nil {
			return nil, f
		}
	}
	lost, f := p.grouping(n, s, sc, selected)
	sc.lost = lost
	if f == nil {
		f = p.windows(s, sc, selected)
	}
	if f != nil {
		return nil, f
	}
	r := p.output(selected, sc, lost)
	r.parted = sc.parted
	if !r.parted { // what pins its rows to a bucket is a query around it
		for _, c := range r.cols {
			c.tag = -1
		}
	}
	return r, nil
}

// pinned reports whether the filter equates every component of the key with
// that of the outer row, so that the outer row's bucket has all it can meet.
func (p *prover) pinned(where []analysis.Node, sc *scope) bool {
	if sc.outer == nil {
		return false
	}
	for i := range max(1, p.comps) {
		found := false
		for _, e := range where {
			if e.Str("type") != "COMPARE_EQUAL" {
				continue
			}
			for _, sides := range [][2]string{{"left", "right"}, {"right", "left"}} {
				in, _, near := p.column(e.Child(sides[0]), sc)
				out, at, far := p.column(e.Child(sides[1]), sc)
				if in == nil || out == nil || near != 0 || far < 1 || common([]string{in.typ, out.typ}) == "" {
					continue
				}
				if in.from != (base{}) && out.from != (base{}) {
					p.pairs = append(p.pairs, [2]base{in.from, out.from})
				}
				found = found || at.parted && in.tag == i && out.tag == i
			}
		}
		if !found {
			return false
		}
	}
	return p.comps > 0
}

// column resolves an expression that is a plain column, with the scope that it
// stands in and how far out that is.
func (p *prover) column(e analysis.Node, sc *scope) (*col, *scope, int) {
	if e.Str("class") != "COLUMN_REF" {
		return nil, nil, -1
	}
	c, _, depth := sc.lookup(columnNames(e))
	at := sc
	for range depth {
		at = at.outer
	}
	return c, at, depth
}

// output lists the columns of the select list.
func (p *prover) output(selected []analysis.Node, sc *scope, lost map[*col]bool) *relation {
	r := &relation{}
	add := func(name string, c *col) {
		out := &col{name: strings.ToLower(name), tag: -1}
		if r.vague { // an unknown column before may have the name
			defer func() { out.name, r.opaque = "", true }()
		}
		if c != nil {
			out.typ, out.from, out.tag, out.exact = c.typ, c.from, c.tag, c.exact
			if name == "" {
				out.name = c.name
			}
			if lost[c] {
				out.from, out.tag = base{}, -1
			}
		}
		r.cols = append(r.cols, out)
		r.opaque = r.opaque || out.name == ""
	}
	for _, e := range selected {
		switch e.Str("class") {
		case "STAR":
			cols, ok := expand(e, sc)
			if !ok {
				r.opaque, r.vague = true, true
			}
			for _, c := range cols {
				add("", c)
			}
		case "COLUMN_REF":
			names := columnNames(e)
			c, _, depth := p.column(e, sc)
			if depth != 0 {
				c = nil
			}
			name := e.Str("alias")
			if name == "" {
				name = names[len(names)-1]
			}
			add(name, c)
		default:
			add(e.Str("alias"), nil)
			if several(e) {
				r.opaque, r.vague = true, true
			}
		}
	}
	r.repeated()
	return r
}

// repeated forgets the names that DuckDB makes others of: of two columns called
// k, the second is k_1 from outside, and what was k_1 something else.
func (r *relation) repeated() {
	seen, twice := map[string]bool{}, map[string]bool{}
	for _, c := range r.cols {
		base := c.name
		if i := strings.LastIndexByte(base, '_'); i >= 0 && strings.Trim(base[i+1:], "0123456789") == "" && twice[base[:i]] {
			base = base[:i]
		}
		if base != "" && (seen[base] || base != c.name) {
			twice[base] = true
			c.name, r.opaque = "", true
		}
		seen[base] = true
	}
}

// several reports whether a select item may be more than one column.
func several(e analysis.Node) (found bool) {
	analysis.Walk(e, func(n analysis.Node) bool {
		name := strings.ToLower(n.Str("function_name"))
		found = found || n.Str("class") == "STAR" || n.Str("class") == "FUNCTION" && (name == "unnest" || name == "unlist")
		return !found && n.Str("class") != "SUBQUERY"
	})
	return found
}

// expand lists the columns of a plain star, or reports that it isn't one.
func expand(e analysis.Node, sc *scope) (cols []*col, ok bool) {
	for _, key := range []string{"exclude_list", "replace_list", "rename_list", "qualified_exclude_list"} {
		if v := reflect.ValueOf(e[key]); v.IsValid() && (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() > 0 {
			return nil, false
		}
	}
	if e.Flag("columns") || e.Has("expr") {
		return nil, false
	}
	of := strings.ToLower(e.Str("relation_name"))
	known := false
	elsewhere := map[*col]bool{}
	for _, c := range sc.shows {
		elsewhere[c] = true
	}
	for _, it := range sc.items {
		if of != "" && it.alias != of {
			continue
		}
		known, ok = true, (ok || !known) && !it.opaque
		for _, c := range it.cols {
			switch {
			case of != "":
			case elsewhere[c]:
				continue
			case sc.shows[c] != nil:
				for sc.shows[c] != nil {
					c = sc.shows[c]
				}
			case it.hidden[c.name]:
				continue
			}
			cols = append(cols, c)
		}
	}
	return cols, ok // not of the fields of a struct
}

// conjuncts splits a condition at its ANDs.
func conjuncts(e analysis.Node) (all []analysis.Node) {
	if e == nil {
		return nil
	}
	if e.Str("type") == "CONJUNCTION_AND" {
		for _, c := range e.List("children") {
			all = append(all, conjuncts(c)...)
		}
		return all
	}
	all = []analysis.Node{e}
	if e.Str("type") == "CONJUNCTION_OR" { // what every branch asks for
		var shared []analysis.Node
		for i, branch := range e.List("children") {
			these := conjuncts(branch)
			if i == 0 {
				shared = these
				continue
			}
			shared = slices.DeleteFunc(shared, func(s analysis.Node) bool {
				return !slices.ContainsFunc(these, func(t analysis.Node) bool { return key(s) == key(t) })
			})
		}
		for _, s := range shared {
			if s.Str("type") == "COMPARE_EQUAL" {
				all = append(all, s)
			}
		}
	}
	return all
}

// exprs proves the expressions below v. conjunct is the condition that v is,
// when a row that doesn't satisfy it is dropped.
func (p *prover) exprs(v any, sc *scope, with *cte, conjunct analysis.Node) *failure {
	var f *failure
	analysis.Walk(v, func(n analysis.Node) bool {
		if f != nil {
			return false
		}
		switch n.Str("class") {
		case "COLUMN_REF":
			f = p.reference(n, sc)
			return false
		case "LAMBDA":
			for _, name := range lambdaNames(n) {
				sc.names[name] = true
			}
		case "SUBQUERY":
			if f = p.exprs(n["child"], sc, with, nil); f == nil {
				f = p.subquery(n, sc, with, conjunct)
			}
			return false
		case "FUNCTION":
			switch c := p.a.Call(p.ctx, n); {
			case !c.Aggregate && c.Reason != "":
				f = fail(n, "%s", c.Reason)
			case c.Aggregate && sc.outer != nil && p.outside(n, sc):
				f = fail(n, "%s is an aggregate of the query around it", shown(n))
			}
		}
		return true
	})
	return f
}

func lambdaNames(n analysis.Node) (names []string) {
	analysis.Walk(n["lhs"], func(m analysis.Node) bool {
		if m.Str("class") == "COLUMN_REF" {
			for _, s := range columnNames(m) {
				names = append(names, strings.ToLower(s))
			}
		}
		return true
	})
	raw, _ := n["named_parameters"].([]any)
	for _, r := range raw {
		if s, ok := r.(string); ok {
			names = append(names, strings.ToLower(s))
		}
	}
	return names
}

// outside reports whether an aggregate may be over columns of the queries around
// alone: then it is theirs, and they group by it.
func (p *prover) outside(call analysis.Node, sc *scope) bool {
	named, own := false, false
	analysis.Walk(call, func(n analysis.Node) bool {
		if n.Str("class") == "COLUMN_REF" {
			named = true
			if _, it, depth := sc.lookup(columnNames(n)); depth == 0 && it != nil {
				own = true
			}
			p.reference(n, sc)
		}
		return true
	})
	return named && !own
}

// reference notes which scope a column stands in.
func (p *prover) reference(n analysis.Node, sc *scope) *failure {
	names := columnNames(n)
	c, it, depth := sc.lookup(names)
	if depth < 0 && len(names) == 1 && analysis.Clock(names[0]) {
		return fail(n, "%s is one value for the whole statement", names[0])
	}
	at := sc
	for d := 0; at != nil && (depth < 0 || d < depth); d++ {
		at.correlated = true
		at = at.outer
	}
	if at == p.rootSel && at != nil && it != nil {
		p.refs[reflect.ValueOf(n).Pointer()] = ref{node: n, it: it, c: c}
	}
	return nil
}

// subquery proves a subquery within an expression: every bucket must see what
// it would see over everything.
func (p *prover) subquery(n analysis.Node, sc *scope, with *cte, conjunct analysis.Node) *failure {
	query := n.Child("subquery").Child("node")
	r, f := p.query(query, sc, with)
	if f != nil {
		return f
	}
	member := n.Str("subquery_type") == "ANY" && n.Str("comparison_type") == "COMPARE_EQUAL" && sameNode(n, conjunct) && len(r.cols) == 1
	if member {
		if c, _, depth := p.column(n.Child("child"), sc); c != nil && depth == 0 && common([]string{c.typ, r.cols[0].typ}) != "" {
			if c.from != (base{}) && r.cols[0].from != (base{}) {
				p.pairs = append(p.pairs, [2]base{c.from, r.cols[0].from})
			}
			if r.parted && sc.parted && p.comps == 1 && c.tag == 0 && r.cols[0].tag == 0 {
				return nil
			}
		}
	}
	if r.parted {
		f := fail(n, "a subquery reads all of its input")
		f.cut, _ = p.alone(query)
		return f
	}
	why := p.a.Unstable(p.ctx, query)
	if why == "" || !p.anyParted() {
		return nil
	}
	cut, correlated := p.alone(query)
	if cut == nil && correlated && sc.parted {
		return nil // evaluated once for each outer row, which is in one bucket
	}
	f = fail(n, "%s", why)
	f.cut = cut
	return f
}

// alone returns the query when it names nothing around it, so that it may be
// computed on its own.
func (p *prover) alone(query analysis.Node) (cut analysis.Node, correlated bool) {
	probe := &prover{ctx: p.ctx, a: p.a, tables: p.tables, root: query, uses: map[string]int{}, refs: map[uintptr]ref{}}
	sc := &scope{}
	_, f := probe.query(query, sc, nil)
	if f == nil && !sc.correlated {
		return query, false
	}
	return nil, sc.correlated
}

func (p *prover) anyParted() bool {
	for _, r := range p.roles {
		if r.parted {
			return true
		}
	}
	return false
}
