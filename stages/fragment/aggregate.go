package fragment

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
)

// peelAggregate combines rows in two phases: groups of each shard first, then
// the groups of all shards.
func (s *splitter) peelAggregate(q analysis.Node, name string, by order) (bool, error) {
	selected := q.List("select_list")
	if q.Str("type") != "SELECT_NODE" || hasStar(selected) || numbers(q) {
		return false, nil
	}
	columns, ok := s.bind(q)
	if !ok || len(columns) != len(selected) {
		return false, nil
	}
	p := s.prover(nil, 0, false)
	if _, f := p.statement(q); f != nil || p.rootSel == nil {
		return false, nil
	}
	sel := &selection{}
	for _, k := range []string{"select_list", "having", "qualify", "modifiers"} {
		p.collect(q[k], sel)
	}
	if !grouped(q, sel) {
		return false, nil
	}
	keys, sets := p.groupKeys(q, p.rootSel, selected)
	a := &assembly{s: s, p: p, q: q, parts: map[string]string{}, groups: map[string]int{}}
	for i, k := range keys {
		if k.Str("class") == "CONSTANT" || k.Str("class") == "SUBQUERY" {
			return false, nil
		}
		a.groups[a.key(k)] = i
	}
	if !a.replaceIn(q, sel) {
		return false, nil
	}
	partial, raw, err := a.partial(q, keys)
	if err != nil {
		return false, err
	}
	w, _ := s.rows(q)
	if w == nil {
		return false, nil
	}
	between := s.next()
	reason := "each shard combines its own rows first"
	n := len(s.fragments)
	if err := s.emit(partial, between, w, reason, -1, order{}); err != nil {
		return false, nil
	}
	last := &s.fragments[len(s.fragments)-1]
	if !a.sound(last.Columns) {
		s.fragments = s.fragments[:n]
		return false, nil
	}
	if len(keys) > 0 {
		if last.Raw, err = s.uncombined(raw); err != nil {
			return false, err
		}
		last.Bytes /= 3
	} else {
		last.Bytes = 1 << 10
	}
	s.tables[fold(between)].total = last.Bytes
	final, err := a.final(q, keys, sets, columns, between)
	if err != nil {
		return false, err
	}
	return true, s.planned(final, name, by, false)
}

// rows finds a way to compute the rows of q's FROM and WHERE, cutting what
// stands in the way out of q itself.
func (s *splitter) rows(q analysis.Node) (*way, *failure) {
	if q.Str("type") != "SELECT_NODE" {
		return nil, nil
	}
	for {
		probe, err := s.a.Tree(s.ctx, "SELECT 1 AS one")
		if err != nil {
			return nil, fail(q, "%s", err)
		}
		probe["from_table"], probe["where_clause"], probe["cte_map"] = q["from_table"], q["where_clause"], q["cte_map"]
		w, f := s.distribute(probe, q)
		if w != nil && w.kind != pipeline.Gather {
			return w, nil
		}
		if s.tries++; f == nil || f.cut == nil || s.isFragment(f.cut) || s.tries > 200 {
			return nil, f
		}
		if err := s.cut(f.cut); err != nil {
			return nil, fail(q, "%s", err)
		}
	}
}

// assembly rewrites a grouping into a partial and a final one.
type assembly struct {
	s        *splitter
	p        *prover
	q        analysis.Node     // the statement
	groups   map[string]int    // index of a group key by its canonical text
	parts    map[string]string // final expression of an aggregate by its canonical text
	partials []string          // SQL of the partial aggregates
	raws     []string          // SQL of the same for a single row
	within   bool              // what is renamed stands in a subquery
	check    []bool            // whether the i-th partial must be a number
}

// key is an expression's canonical text: columns by the relation they stand in.
func (a *assembly) key(e analysis.Node) string {
	c := analysis.Clone(e).(analysis.Node)
	analysis.Walk(c, func(n analysis.Node) bool {
		if n.Str("class") == "COLUMN_REF" {
			names := columnNames(n)
			if k, it, depth := a.p.rootSel.lookup(names); depth == 0 && k != nil {
				n["column_names"] = []any{it.alias, k.name}
			}
		}
		return true
	})
	return key(c)
}

// replaceIn examines every expression above FROM and WHERE without changing it:
// whether each column stands in a group key or an aggregate that can be split.
func (a *assembly) replaceIn(q analysis.Node, sel *selection) bool {
	for _, call := range sel.aggregates {
		if !a.split(call) {
			return false
		}
	}
	for _, k := range []string{"select_list", "having", "qualify", "modifiers"} {
		if !a.covered(q[k]) {
			return false
		}
	}
	return true
}

// covered reports whether every column of the FROM clause below v is inside a
// group key or an aggregate.
func (a *assembly) covered(v any) bool {
	ok := true
	inside := func(n analysis.Node) bool {
		if _, found := a.p.refs[reflect.ValueOf(n).Pointer()]; found {
			ok = false
		}
		return ok
	}
	analysis.Walk(v, func(n analysis.Node) bool {
		if n.Str("class") == "SUBQUERY" { // it may not name the rows that are combined
			ok = ok && a.covered(n["child"])
			analysis.Walk(n["subquery"], inside)
			return false
		}
		if n.Str("class") != "" {
			if _, found := a.groups[a.key(n)]; found {
				return false
			}
			if _, found := a.parts[a.key(n)]; found {
				return false
			}
		}
		if n.Str("class") == "FUNCTION" && fold(n.Str("function_name")) == "grouping" || n.Str("type") == "GROUPING_FUNCTION" {
			return true
		}
		if n.Str("class") == "COLUMN_REF" {
			if _, found := a.p.refs[reflect.ValueOf(n).Pointer()]; found {
				ok = false
			}
		}
		return ok
	})
	return ok
}

// split notes how an aggregate is computed in two phases, or reports that it
// can't be.
func (a *assembly) split(call analysis.Node) bool {
	id := a.key(call)
	if _, known := a.parts[id]; known {
		return true
	}
	name := fold(call.Str("function_name"))
	args := call.List("children")
	if len(call.Child("order_bys").List("orders")) > 0 || call.Flag("distinct") && name != "min" && name != "max" || call.Flag("export_state") {
		return false
	}
	render := func(function string) (string, bool) {
		c := analysis.Clone(call).(analysis.Node)
		c["function_name"], c["alias"] = function, ""
		return a.s.expression(c)
	}
	column := func(function, single string, number bool) (string, bool) {
		text, ok := render(function)
		if !ok {
			return "", false
		}
		if filter := call.Child("filter"); filter != nil && single != "" {
			cond, _ := a.s.expression(filter)
			single = "CASE WHEN " + cond + " THEN " + single + " END"
		}
		a.partials, a.raws, a.check = append(a.partials, text), append(a.raws, single), append(a.check, number)
		return fmt.Sprintf("__kq_a%d", len(a.partials)-1), true
	}
	arg := ""
	if len(args) == 1 {
		arg, _ = a.s.expression(args[0])
	} else if len(args) > 1 {
		return false
	}
	var final string
	var c, d string
	ok := false
	switch name {
	case "count_star":
		c, ok = column(name, "1", false)
		final = "CAST(coalesce(sum(" + c + "), 0) AS BIGINT)"
	case "count":
		single := "1"
		if len(args) == 1 {
			single = "CASE WHEN (" + arg + ") IS NOT NULL THEN 1 END"
		}
		c, ok = column(name, single, false)
		final = "CAST(coalesce(sum(" + c + "), 0) AS BIGINT)"
	case "sum":
		c, ok = column(name, arg, true)
		final = "sum(" + c + ")"
		if ok && a.whole(len(a.partials)-1, args[0]) {
			final = "CAST(sum(" + c + ") AS HUGEINT)"
		}
	case "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor":
		c, ok = column(name, arg, false)
		final = name + "(" + c + ")"
	case "avg", "mean":
		if c, ok = column("sum", arg, true); ok {
			a.whole(len(a.partials)-1, args[0])
			d, ok = column("count", "CASE WHEN ("+arg+") IS NOT NULL THEN 1 END", false)
		}
		final = "(CAST(sum(" + c + ") AS DOUBLE) / CAST(sum(" + d + ") AS DOUBLE))"
	default:
		return false
	}
	if len(args) == 0 && !strings.HasPrefix(name, "count") {
		return false
	}
	a.parts[id] = final
	return ok
}

// whole makes the i-th partial, a sum of integers of at most 64 bits, a decimal:
// it can't exceed 38 digits, and Parquet has no integer that wide. It reports
// whether it did.
func (a *assembly) whole(i int, arg analysis.Node) bool {
	probe, err := a.s.a.Tree(a.s.ctx, "SELECT 1")
	if err != nil {
		return false
	}
	c := analysis.Clone(arg).(analysis.Node)
	probe["select_list"] = []any{map[string]any(c)}
	probe["from_table"], probe["cte_map"] = a.q["from_table"], a.q["cte_map"]
	columns, ok := a.s.bind(probe)
	if !ok || len(columns) != 1 || columns[0].Type == "HUGEINT" || family(columns[0].Type) != "number" || strings.HasPrefix(columns[0].Type, "DECIMAL") {
		return false
	}
	a.partials[i] = "CAST(" + a.partials[i] + " AS DECIMAL(38,0))"
	return true
}

// sound checks the types of the partial's columns: a sum must be one that adds
// up without rounding in between, or of floating point.
func (a *assembly) sound(columns []pipeline.Column) bool {
	offset := len(columns) - len(a.check)
	for i, number := range a.check {
		t := columns[offset+i].Type
		if number && t != "HUGEINT" && t != "DOUBLE" && !strings.HasPrefix(t, "DECIMAL(") {
			return false
		}
	}
	return true
}

// expression renders one expression.
func (s *splitter) expression(e analysis.Node) (string, bool) {
	probe, err := s.a.Tree(s.ctx, "SELECT 1")
	if err != nil {
		return "", false
	}
	c := analysis.Clone(e).(analysis.Node)
	c["alias"] = ""
	probe["select_list"] = []any{map[string]any(c)}
	text, err := s.a.SQL(s.ctx, probe)
	return strings.TrimPrefix(text, "SELECT "), err == nil
}

// partial builds the first phase, and the same columns row by row.
func (a *assembly) partial(q analysis.Node, keys []analysis.Node) (combined, raw analysis.Node, err error) {
	var items, singles, groups []string
	for i, k := range keys {
		text, ok := a.s.expression(k)
		if !ok {
			return nil, nil, fmt.Errorf("a group key can't be rendered")
		}
		items = append(items, fmt.Sprintf("%s AS __kq_g%d", text, i))
		groups = append(groups, fmt.Sprint(i+1))
	}
	singles = slices.Clone(items)
	for i, text := range a.partials {
		items = append(items, fmt.Sprintf("%s AS __kq_a%d", text, i))
		singles = append(singles, fmt.Sprintf("%s AS __kq_a%d", a.raws[i], i))
	}
	build := func(items []string, group bool) (analysis.Node, error) {
		if len(items) == 0 {
			items = []string{"1 AS __kq_one"}
		}
		query := "SELECT " + strings.Join(items, ", ") + " FROM __kq_from"
		if group && len(groups) > 0 {
			query += " GROUP BY " + strings.Join(groups, ", ")
		}
		n, err := a.s.a.Tree(a.s.ctx, query)
		if err != nil {
			return nil, err
		}
		n["from_table"], n["where_clause"], n["cte_map"] = q["from_table"], q["where_clause"], q["cte_map"]
		return n, nil
	}
	if combined, err = build(items, true); err == nil {
		raw, err = build(singles, false)
	}
	return combined, raw, err
}

// uncombined is the first phase without its grouping. Its columns have the types
// of single values, such as BIGINT where sums are DECIMAL(38,0): the second phase
// reads them as what combined ones are.
func (s *splitter) uncombined(raw analysis.Node) (*pipeline.Uncombined, error) {
	text, err := s.a.SQL(s.ctx, raw)
	if err != nil {
		return nil, err
	}
	columns, ok := s.bind(raw)
	if !ok {
		return nil, fmt.Errorf("what is combined can't be bound row by row")
	}
	return &pipeline.Uncombined{SQL: text, Columns: columns}, nil
}

// final builds the second phase over the partial's rows.
func (a *assembly) final(q analysis.Node, keys []analysis.Node, sets [][]int, columns []pipeline.Column, from string) (analysis.Node, error) {
	out := analysis.Clone(q).(analysis.Node)
	template, err := a.s.a.Tree(a.s.ctx, "SELECT 1 FROM "+ident(from))
	if err != nil {
		return nil, err
	}
	out["from_table"], out["where_clause"] = template["from_table"], nil
	for _, k := range []string{"select_list", "having", "qualify", "modifiers"} {
		v, err := a.rewrite(out[k])
		if err != nil {
			return nil, err
		}
		out[k] = v
	}
	for i, item := range out.List("select_list") {
		item["alias"] = columns[i].Name
	}
	groups := []any{}
	for i := range keys {
		groups = append(groups, columnRef(fmt.Sprintf("__kq_g%d", i)))
	}
	all := []any{}
	for _, members := range sets {
		set := []any{}
		for _, m := range members {
			set = append(set, json.Number(strconv.Itoa(m)))
		}
		all = append(all, set)
	}
	if len(keys) == 0 && !hasGroups(q) {
		groups, all = []any{}, []any{}
	}
	out["group_expressions"], out["group_sets"], out["aggregate_handling"] = groups, all, "STANDARD_HANDLING"
	return out, nil
}

func columnRef(names ...string) map[string]any {
	list := make([]any, len(names))
	for i, n := range names {
		list[i] = n
	}
	return map[string]any{"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "query_location": 0, "column_names": list}
}

// rewrite replaces group keys and aggregates below v.
func (a *assembly) rewrite(v any) (any, error) {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i, item := range v {
			var err error
			if out[i], err = a.rewrite(item); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		n := analysis.Node(v)
		if n.Str("class") == "SUBQUERY" {
			out := analysis.Clone(v).(map[string]any)
			child, err := a.rewrite(v["child"])
			out["child"] = child
			return out, err
		}
		if n.Str("class") != "" {
			id := a.key(n)
			if i, ok := a.groups[id]; ok {
				ref := columnRef(fmt.Sprintf("__kq_g%d", i))
				ref["alias"] = n.Str("alias")
				return ref, nil
			}
			if text, ok := a.parts[id]; ok {
				tree, err := a.s.a.Tree(a.s.ctx, "SELECT "+text)
				if err != nil {
					return nil, err
				}
				e := tree.List("select_list")[0]
				e["alias"] = n.Str("alias")
				return map[string]any(e), nil
			}
		}
		out := make(map[string]any, len(v))
		for k, child := range v {
			var err error
			if out[k], err = a.rewrite(child); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}
