package fragment

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/kinequet/kq/stages/analysis"
)

// leaf is one relation of a tree of inner joins.
type leaf struct {
	node  analysis.Node
	alias string
	size  int64
}

// leaves lists the relations and conditions of a tree of inner joins. It
// reports false for a tree that has anything else in it above its relations.
func leaves(n analysis.Node, out *[]leaf, conds *[]analysis.Node) bool {
	if n.Str("type") == "JOIN" && n.Str("join_type") == "INNER" {
		using, _ := n["using_columns"].([]any)
		if kind := n.Str("ref_type"); kind != "REGULAR" && kind != "CROSS" || len(using) > 0 || n.Has("sample") {
			return false
		}
		*conds = append(*conds, conjuncts(n.Child("condition"))...)
		return leaves(n.Child("left"), out, conds) && leaves(n.Child("right"), out, conds)
	}
	alias := n.Str("alias")
	if alias == "" {
		alias = n.Str("table_name")
	}
	*out = append(*out, leaf{node: n, alias: fold(alias)})
	return n.Str("type") == "BASE_TABLE" || n.Str("type") == "SUBQUERY" && !n.Has("sample")
}

// peelJoin computes the join of the smallest two relations that are too large to
// be read whole, and puts its rows in their place, so that the larger ones are
// moved least often. It changes q.
func (s *splitter) peelJoin(q analysis.Node) (bool, error) {
	if q.Str("type") != "SELECT_NODE" || numbers(q) {
		return false, nil
	}
	var all []leaf
	var conds []analysis.Node
	if !leaves(q.Child("from_table"), &all, &conds) || len(all) < 3 {
		return false, nil
	}
	columns, ok := s.bind(q)
	if !ok || !s.unstar(q) || len(columns) != len(q.List("select_list")) {
		return false, nil
	}
	p := s.prover(nil, 0, false)
	if _, f := p.statement(q); f != nil || p.rootSel == nil {
		return false, nil
	}
	conds = append(conds, conjuncts(q.Child("where_clause"))...)
	for _, c := range conds { // they will see other relations than where they stand
		analysis.Walk(c, func(n analysis.Node) bool {
			if r, found := p.refs[reflect.ValueOf(n).Pointer()]; found && r.c != nil && r.c.name != "" && r.it.alias != "" {
				n["column_names"] = []any{r.it.alias, r.c.name}
			}
			return true
		})
	}
	names := mentioned(q)
	for i := range all {
		for _, t := range s.tablesOf(all[i].node) {
			all[i].size += s.size(s.tables[t], names)
		}
	}
	a, b := s.smallestPair(p, all, conds)
	if a < 0 {
		return false, nil
	}
	pair := []string{all[a].alias, all[b].alias}
	within := func(v any) bool { // only columns of the pair
		inside := true
		analysis.Walk(v, func(n analysis.Node) bool {
			if n.Str("class") == "SUBQUERY" {
				inside = false
			}
			if n.Str("class") == "COLUMN_REF" {
				c, it, depth := p.rootSel.lookup(columnNames(n))
				inside = inside && c != nil && depth == 0 && slices.Contains(pair, it.alias)
			}
			return inside
		})
		return inside
	}
	var mine, rest []any
	for _, c := range conds {
		if within(c) {
			mine = append(mine, map[string]any(c))
		} else {
			rest = append(rest, map[string]any(c))
		}
	}
	// The columns of the pair that anything else names.
	var items []string
	renamed := map[*col]string{}
	analysis.Walk([]any{q["select_list"], rest, q["group_expressions"], q["having"], q["qualify"], q["modifiers"]}, func(n analysis.Node) bool {
		r, found := p.refs[reflect.ValueOf(n).Pointer()]
		if !found || !slices.Contains(pair, r.it.alias) {
			return true
		}
		if r.c == nil || r.c.name == "" {
			ok = false
			return false
		}
		if renamed[r.c] == "" {
			renamed[r.c] = fmt.Sprintf("__kq_c%d", len(renamed))
			items = append(items, ident(r.it.alias)+"."+ident(r.c.name)+" AS "+renamed[r.c])
		}
		return true
	})
	if !ok {
		return false, nil
	}
	if len(items) == 0 {
		items = []string{"1 AS __kq_one"}
	}
	sub, err := s.a.Tree(s.ctx, "SELECT "+strings.Join(items, ", ")+" FROM a, b WHERE true AND true")
	if err != nil {
		return false, err
	}
	sub.Child("from_table")["left"], sub.Child("from_table")["right"] = map[string]any(all[a].node), map[string]any(all[b].node)
	setWhere(sub, mine)
	between := s.next()
	if err := s.plan(sub, between, order{}); err != nil {
		return false, err
	}
	alias := fmt.Sprintf("__kq_join_%d", s.named)
	for _, r := range p.refs {
		if renamed[r.c] != "" && r.c != nil {
			r.node["column_names"] = []any{alias, renamed[r.c]}
		}
	}
	for i, item := range q.List("select_list") {
		item["alias"] = columns[i].Name
	}
	from := []string{ident(between) + " AS " + alias}
	for range len(all) - 2 {
		from = append(from, "x")
	}
	template, err := s.a.Tree(s.ctx, "SELECT 1 FROM "+strings.Join(from, ", ")+" WHERE true AND true")
	if err != nil {
		return false, err
	}
	var others []analysis.Node
	for i, l := range all {
		if i != a && i != b {
			others = append(others, l.node)
		}
	}
	fill(template.Child("from_table"), &others)
	q["from_table"] = template["from_table"]
	setWhere(template, rest)
	q["where_clause"] = template["where_clause"]
	return true, nil
}

// fill puts relations in the place of the template's tables named x.
func fill(n analysis.Node, with *[]analysis.Node) {
	for _, side := range []string{"left", "right"} {
		switch c := n.Child(side); {
		case c.Str("type") == "JOIN":
			fill(c, with)
		case c.Str("table_name") == "x":
			n[side] = map[string]any((*with)[0])
			*with = (*with)[1:]
		}
	}
}

// setWhere makes the conjunction of conds the WHERE of a query that has one.
func setWhere(q analysis.Node, conds []any) {
	switch len(conds) {
	case 0:
		q["where_clause"] = nil
	case 1:
		q["where_clause"] = conds[0]
	default:
		q.Child("where_clause")["children"] = conds
	}
}

// smallestPair picks the smallest large relation and the smallest other one
// that it is equated with.
func (s *splitter) smallestPair(p *prover, all []leaf, conds []analysis.Node) (a, b int) {
	linked := func(x, y string) bool {
		return slices.ContainsFunc(conds, func(e analysis.Node) bool {
			if e.Str("type") != "COMPARE_EQUAL" {
				return false
			}
			l, _, dl := p.column(e.Child("left"), p.rootSel)
			r, _, dr := p.column(e.Child("right"), p.rootSel)
			if l == nil || r == nil || dl != 0 || dr != 0 || common([]string{l.typ, r.typ}) == "" {
				return false
			}
			_, li, _ := p.rootSel.lookup(columnNames(e.Child("left")))
			_, ri, _ := p.rootSel.lookup(columnNames(e.Child("right")))
			return li.alias == x && ri.alias == y || li.alias == y && ri.alias == x
		})
	}
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int {
		switch {
		case all[i].size < all[j].size:
			return -1
		case all[i].size > all[j].size:
			return 1
		}
		return 0
	})
	for _, i := range order {
		if all[i].size <= s.r.Small && !s.r.Always {
			continue
		}
		for _, j := range order {
			if i != j && linked(all[i].alias, all[j].alias) {
				return i, j
			}
		}
	}
	return -1, -1
}
