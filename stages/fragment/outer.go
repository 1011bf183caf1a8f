package fragment

import (
	"slices"

	"github.com/kinequet/kq/stages/analysis"
)

func (u classes) join(a, b *col) {
	if a, b = u.root(a), u.root(b); a != b {
		u[a] = b
	}
}

// linked reports whether a column is equal to another one.
func linked(u classes, c *col) bool {
	for a := range u {
		if a != c && u.root(a) == c {
			return true
		}
	}
	return false
}

// join proves a join that is not a plain inner one.
func (p *prover) join(n analysis.Node, sc *scope, with *cte) (*group, *failure) {
	start := len(sc.items)
	left, f := p.side(n.Child("left"), sc, with)
	if f != nil {
		return nil, f
	}
	middle := len(sc.items)
	right, f := p.side(n.Child("right"), sc, with)
	if f != nil {
		return nil, f
	}
	kind := n.Str("join_type")
	switch n.Str("ref_type") {
	case "REGULAR", "NATURAL", "CROSS":
	case "ASOF":
		if kind != "INNER" && kind != "LEFT" {
			kind = "ASOF " + kind
		} else {
			kind = "ASOF"
		}
	default:
		kind = n.Str("ref_type")
	}
	names, ok := p.using(n, sc.items[start:middle], sc.items[middle:])
	if !ok {
		return nil, fail(n, "the columns of a NATURAL JOIN are not known")
	}
	var equal [][2]*col
	for i, name := range names {
		l, r := visible(left.items, name), visible(right.items, name)
		if l == nil || r == nil {
			return nil, fail(n, "the columns of USING are not known")
		}
		if kind != "SEMI" && kind != "ANTI" {
			sc.merge(r)
		}
		if n.Str("ref_type") == "ASOF" && i == len(names)-1 {
			break // an inequality
		}
		equal = append(equal, [2]*col{l, r})
	}
	cond := conjuncts(n.Child("condition"))
	u := classes{}
	all := sc.items
	sc.items = all[start:] // its condition sees nothing else
	p.equate(u, append(left.cols(), right.cols()...), equal, cond, sc)
	for _, e := range cond {
		if f = p.exprs(e, sc, with, nil); f != nil {
			break
		}
	}
	if sc.items = all; f != nil {
		return nil, f
	}
	linked := p.linked(u, left, right)
	out := &group{items: append(slices.Clone(left.items), right.items...), parted: left.parted || right.parted}
	if why := p.joinFailure(kind, left, right, linked); why != "" {
		f := fail(n, "%s", why)
		f.join = true
		f.cut = heaviest(p, []*group{left, right})
		return nil, f
	}
	wasExact := map[*col]bool{}
	for _, c := range out.cols() {
		wasExact[c] = c.exact
	}
	p.afterJoin(kind, u, left, right)
	switch kind {
	case "SEMI", "ANTI":
		sc.items = sc.items[:middle]
		out.items = left.items
	case "RIGHT":
		for _, e := range equal {
			sc.show(e[0], e[1])
		}
		for _, name := range names {
			hide(left.items, name)
		}
	case "FULL", "OUTER":
		merged := &item{}
		for _, e := range equal {
			c := &col{name: e[0].name, tag: -1}
			if e[0].typ == e[1].typ {
				c.typ = e[0].typ
			}
			if e[0].tag >= 0 && e[0].tag == e[1].tag && left.parted && right.parted && wasExact[e[0]] && wasExact[e[1]] {
				c.tag, c.exact = e[0].tag, true
			}
			merged.cols = append(merged.cols, c)
			sc.show(e[0], c)
			hide(left.items, c.name)
			hide(right.items, c.name)
		}
		if len(merged.cols) > 0 {
			sc.items = slices.Insert(sc.items, start, merged)
			out.items = append([]*item{merged}, out.items...)
		}
	default:
		for _, name := range names {
			hide(right.items, name)
		}
	}
	return out, nil
}

// side is one side of such a join.
func (p *prover) side(n analysis.Node, sc *scope, with *cte) (*group, *failure) {
	var c cluster
	if f := p.flatten(n, sc, with, &c); f != nil {
		return nil, f
	}
	g, f := p.unify(n, &c, sc, nil)
	if f == nil && len(c.groups) == 1 {
		g.query = c.groups[0].query
	}
	return g, f
}

// linked reports whether matching rows of both sides are in the same bucket.
func (p *prover) linked(u classes, left, right *group) bool {
	for i := range p.comps {
		found := false
		for _, l := range left.cols() {
			for _, r := range right.cols() {
				found = found || l.tag == i && r.tag == i && u.root(l) == u.root(r)
			}
		}
		if !found {
			return false
		}
	}
	return p.comps > 0
}

// joinFailure says why a join is not parallel, or nothing.
func (p *prover) joinFailure(kind string, left, right *group, linked bool) string {
	l, r := left.parted, right.parted
	if !l && !r {
		return ""
	}
	apart := kind + " JOIN of inputs that are divided without an equality in the key"
	switch kind {
	case "LEFT", "SEMI", "ANTI", "ASOF":
		if !l {
			return kind + " JOIN keeps rows of its left side once, not once per bucket"
		}
		if r && !linked {
			return apart
		}
	case "RIGHT":
		if !r {
			return "RIGHT JOIN keeps rows of its right side once, not once per bucket"
		}
		if l && !linked {
			return apart
		}
	case "FULL", "OUTER":
		if !l || !r {
			return "FULL JOIN keeps unmatched rows of both sides once, not once per bucket"
		}
		if !linked {
			return apart
		}
	default:
		return kind + " JOIN depends on rows of the whole input"
	}
	return ""
}

// afterJoin adjusts what is known of the columns: the side that may be missing
// is NULL then, in whatever bucket the row is.
func (p *prover) afterJoin(kind string, u classes, left, right *group) {
	weaken := func(g *group, from *group) {
		for _, c := range g.cols() {
			c.exact = false
			if c.tag >= 0 || from == nil {
				continue
			}
			for _, d := range from.cols() { // equal to the preserved side's, or NULL
				if d.tag >= 0 && u.root(c) == u.root(d) {
					c.tag = d.tag
				}
			}
		}
	}
	switch kind {
	case "LEFT":
		weaken(right, left)
	case "ASOF":
		weaken(right, left)
	case "RIGHT":
		weaken(left, right)
	case "FULL", "OUTER":
		weaken(left, nil)
		weaken(right, nil)
	}
}
