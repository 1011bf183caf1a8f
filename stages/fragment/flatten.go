package fragment

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
)

// peelFrom computes the rows of FROM and WHERE first, with the columns that the
// rest of the query needs, and exchanges them by what the rest brings together.
func (s *splitter) peelFrom(q analysis.Node, name string, by order) (bool, error) {
	if q.Str("type") != "SELECT_NODE" || q.Child("from_table") == nil || numbers(q) {
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
	a := &assembly{s: s, p: p, q: q, groups: map[string]int{}, parts: map[string]string{}}
	keys, ok := a.computed(q)
	from := q.Child("from_table")
	if !ok || len(keys) == 0 && from.Str("type") == "BASE_TABLE" && q["where_clause"] == nil {
		return false, nil // nothing would be gained
	}
	w, _ := s.rows(q)
	if w == nil {
		return false, nil
	}
	// Names of the rows' columns: one for each column that is referenced.
	var items []string
	names := map[*col]string{}
	rest := []any{q["select_list"], q["group_expressions"], q["having"], q["qualify"], q["modifiers"]}
	for i, k := range keys {
		text, ok := s.expression(k)
		if !ok {
			return false, nil
		}
		items = append(items, fmt.Sprintf("%s AS __kq_g%d", text, i))
	}
	analysis.Walk(rest, func(n analysis.Node) bool {
		r, found := p.refs[reflect.ValueOf(n).Pointer()]
		if !found {
			return true
		}
		if r.c == nil || r.c.name == "" {
			ok = false
			return false
		}
		if names[r.c] == "" {
			text, rendered := s.expression(n)
			ok = ok && rendered
			names[r.c] = fmt.Sprintf("__kq_c%d", len(names))
			items = append(items, text+" AS "+names[r.c])
		}
		return true
	})
	if !ok {
		return false, nil
	}
	if len(items) == 0 {
		items = []string{"1 AS __kq_one"}
	}
	rows, err := s.a.Tree(s.ctx, "SELECT "+strings.Join(items, ", "))
	if err != nil {
		return false, nil
	}
	rows["from_table"], rows["where_clause"], rows["cte_map"] = q["from_table"], q["where_clause"], q["cte_map"]
	between := s.next()
	if err := s.emit(rows, between, w, "its rows are brought together by other columns than they were joined by", -1, order{}); err != nil {
		return false, err
	}
	template, err := s.a.Tree(s.ctx, "SELECT 1 FROM "+ident(between)+" AS __kq_rows")
	if err != nil {
		return false, err
	}
	out := analysis.Clone(q).(analysis.Node)
	for _, k := range []string{"select_list", "group_expressions", "having", "qualify", "modifiers"} {
		out[k] = a.rename(q[k], names)
	}
	out["from_table"], out["where_clause"] = template["from_table"], nil
	for i, item := range out.List("select_list") {
		item["alias"] = columns[i].Name
	}
	return true, s.planned(out, name, by, false)
}

// unstar replaces plain stars of the select list by their columns.
func (s *splitter) unstar(q analysis.Node) bool {
	selected := q.List("select_list")
	if !hasStar(selected) {
		return true
	}
	p := s.prover(nil, 0, false)
	if _, f := p.statement(q); f != nil || p.rootSel == nil {
		return false
	}
	var list []any
	for _, e := range selected {
		if e.Str("class") != "STAR" {
			list = append(list, map[string]any(e))
			continue
		}
		cols, ok := expand(e, p.rootSel)
		if !ok {
			return false
		}
		for _, c := range cols {
			alias := ""
			for _, it := range p.rootSel.items {
				if slices.Contains(it.cols, c) {
					alias = it.alias
				}
			}
			if alias == "" || c.name == "" {
				return false
			}
			list = append(list, columnRef(alias, c.name))
		}
	}
	q["select_list"] = list
	return true
}

// computed lists the expressions, other than plain columns, that the query
// groups or partitions by.
func (a *assembly) computed(q analysis.Node) (keys []analysis.Node, ok bool) {
	selected := q.List("select_list")
	sel := &selection{}
	for _, k := range []string{"select_list", "having", "qualify", "modifiers"} {
		a.p.collect(q[k], sel)
	}
	var all []analysis.Node
	if grouped(q, sel) {
		all, _ = a.p.groupKeys(q, a.p.rootSel, selected)
	}
	for _, w := range sel.windows {
		if !grouped(q, sel) {
			all = append(all, w.List("partitions")...)
		}
	}
	for _, m := range q.List("modifiers") {
		for _, t := range m.List("distinct_on_targets") {
			all = append(all, dereference(t, a.p.rootSel, selected))
		}
	}
	for _, k := range all {
		switch k.Str("class") {
		case "COLUMN_REF":
			continue
		case "CONSTANT", "SUBQUERY", "WINDOW":
			return nil, false
		}
		inside := &selection{}
		a.p.collect(k, inside)
		if len(inside.aggregates)+len(inside.windows) > 0 {
			return nil, false
		}
		id := a.key(k)
		if _, known := a.groups[id]; !known {
			a.groups[id] = len(keys)
			keys = append(keys, k)
		}
	}
	return keys, true
}

// rename copies v with computed keys and columns of FROM replaced by the
// columns of the rows.
func (a *assembly) rename(v any, names map[*col]string) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			out[i] = a.rename(item, names)
		}
		return out
	case map[string]any:
		n := analysis.Node(v)
		if r, found := a.p.refs[reflect.ValueOf(n).Pointer()]; found {
			ref := columnRef("__kq_rows", names[r.c])
			ref["alias"] = n.Str("alias")
			return ref
		}
		if n.Str("class") == "SUBQUERY" && !a.within { // its own columns may have the names of a key's
			b := *a
			b.within = true
			out := b.rename(v, names).(map[string]any)
			out["child"] = a.rename(v["child"], names)
			return out
		}
		if n.Str("class") != "" && !a.within {
			if i, found := a.groups[a.key(n)]; found {
				ref := columnRef("__kq_rows", fmt.Sprintf("__kq_g%d", i))
				ref["alias"] = n.Str("alias")
				return ref
			}
		}
		out := make(map[string]any, len(v))
		for k, child := range v {
			out[k] = a.rename(child, names)
		}
		return out
	}
	return v
}

// definition is a query that the statement names: a CTE, or a stage that is
// read as if it stood within it.
type definition struct {
	name    string
	query   analysis.Node
	aliases []any
	uses    []analysis.Node
	drop    func() // removes it from where it is defined
}

// views puts the stages that the statement reads as if they stood within it
// before its own WITH.
func (s *splitter) views(tree analysis.Node) error {
	entries := tree.Child("cte_map").List("map")
	all := []any{}
	for i, v := range s.r.Views {
		for _, e := range entries {
			if strings.EqualFold(e.Str("key"), v.Name) {
				return fmt.Errorf("WITH hides the stage %s", v.Name)
			}
		}
		query, err := s.a.Tree(s.ctx, v.SQL)
		if err != nil {
			return err
		}
		locate(query, i+1)
		all = append(all, map[string]any{"key": v.Name, "value": map[string]any{
			"aliases": []any{}, "key_targets": []any{}, "materialized": "CTE_MATERIALIZE_DEFAULT",
			"query": map[string]any{"node": map[string]any(query), "named_param_map": []any{}},
		}})
	}
	for _, e := range entries {
		all = append(all, map[string]any(e))
	}
	tree["cte_map"] = map[string]any{"map": all}
	return nil
}

// inline puts every query that the statement names where it is read: once, or
// as often as it only selects and filters. Others are computed first.
func (s *splitter) inline(tree analysis.Node) error {
	var defs []*definition
	collectDefinitions(tree, nil, &defs)
	for _, d := range defs {
		if err := s.place(d); err != nil {
			return err
		}
	}
	return nil
}

// scopeOf is a chain of names in scope; a nil definition hides what is outside.
type scopeOf struct {
	name  string
	def   *definition
	outer *scopeOf
}

// collectDefinitions finds every CTE below a query node, in order of
// definition, and who reads it.
func collectDefinitions(q analysis.Node, in *scopeOf, defs *[]*definition) {
	holder := q.Child("cte_map")
	for _, e := range holder.List("map") {
		name := fold(e.Str("key"))
		query := e.Child("value").Child("query").Child("node")
		if query.Str("type") == "RECURSIVE_CTE_NODE" {
			in = &scopeOf{name: name, outer: in}
			collectDefinitions(query, in, defs)
			continue
		}
		collectDefinitions(query, in, defs)
		d := &definition{name: e.Str("key"), query: query}
		d.aliases, _ = e.Child("value")["aliases"].([]any)
		d.drop = func() {
			list, _ := holder["map"].([]any)
			holder["map"] = slices.DeleteFunc(list, func(v any) bool {
				m, _ := v.(map[string]any)
				return m != nil && sameNode(analysis.Node(m).Child("value").Child("query").Child("node"), query)
			})
		}
		*defs = append(*defs, d)
		in = &scopeOf{name: name, def: d, outer: in}
	}
	for k, v := range q {
		if k == "cte_map" {
			continue
		}
		analysis.Walk(v, func(n analysis.Node) bool {
			if n.Has("cte_map") {
				collectDefinitions(n, in, defs)
				return false
			}
			if n.Str("type") == "BASE_TABLE" && n.Str("schema_name") == "" {
				for at := in; at != nil; at = at.outer {
					if at.name == fold(n.Str("table_name")) {
						if at.def != nil {
							at.def.uses = append(at.def.uses, n)
						}
						break
					}
				}
			}
			return true
		})
	}
}

// place puts a definition where it is read, or computes it first.
func (s *splitter) place(d *definition) error {
	p := s.prover(nil, 0, false)
	unstable := s.a.Unstable(s.ctx, d.query)
	switch {
	case len(d.uses) == 1, unstable == "" && simple(d.query) && !s.windowed(p, d.query):
		for i, use := range d.uses {
			query := d.query
			if i > 0 {
				query = analysis.Clone(d.query).(analysis.Node)
			}
			s.replaceUse(d, use, map[string]any{"type": "SUBQUERY", "subquery": map[string]any{"node": map[string]any(query), "named_param_map": []any{}}})
		}
	case len(d.uses) == 0: // to be dropped: it could hide what others name
	default:
		if unstable == "" && s.cheap(d.query) {
			return nil
		}
		if cut, _ := p.alone(d.query); cut == nil {
			return nil
		}
		name := s.next()
		if err := s.plan(d.query, name, order{}); err != nil {
			return err
		}
		for _, use := range d.uses {
			s.replaceUse(d, use, map[string]any{"type": "BASE_TABLE", "schema_name": "", "table_name": name, "catalog_name": "", "at_clause": nil})
		}
	}
	d.drop()
	return nil
}

// hides finds a definition that is still in place and has the name of a table or
// of another one: what was moved below it would name it.
func (s *splitter) hides(tree analysis.Node) (name string) {
	seen := map[string]bool{}
	analysis.Walk(tree, func(n analysis.Node) bool {
		for _, e := range n.Child("cte_map").List("map") {
			k := fold(e.Str("key"))
			if s.tables[k] != nil || seen[k] {
				name = e.Str("key")
			}
			seen[k] = true
		}
		return true
	})
	return name
}

// cheap reports whether every bucket may compute a query by itself.
func (s *splitter) cheap(q analysis.Node) bool {
	if s.r.Always {
		return false
	}
	names := mentioned(q)
	for _, t := range s.tablesOf(q) {
		if s.size(s.tables[t], names) > s.r.Small {
			return false
		}
	}
	return true
}

func (s *splitter) windowed(p *prover, q analysis.Node) bool {
	sel := &selection{}
	p.collect(q["select_list"], sel)
	p.collect(q["qualify"], sel)
	return len(sel.windows)+len(sel.aggregates) > 0
}

// replaceUse turns a reference to a definition into what it stands for.
func (s *splitter) replaceUse(d *definition, use analysis.Node, with map[string]any) {
	alias := use.Str("alias")
	if alias == "" {
		alias = d.name
	}
	renamed, _ := use["column_name_alias"].([]any)
	if len(renamed) < len(d.aliases) {
		renamed = append(slices.Clone(renamed), d.aliases[len(renamed):]...)
	}
	sample, at := use["sample"], use["query_location"]
	clear(use)
	for k, v := range with {
		use[k] = v
	}
	use["alias"], use["sample"], use["query_location"], use["column_name_alias"] = alias, sample, at, renamed
	if renamed == nil {
		use["column_name_alias"] = []any{}
	}
}

// gathered is the one fragment of a statement that runs as one.
func gathered(r *pipeline.SplitRequest, f *failure) []pipeline.Fragment {
	return []pipeline.Fragment{{Name: r.Name, SQL: r.SQL, Kind: pipeline.Gather, Reason: f.why, Offset: f.offset}}
}
