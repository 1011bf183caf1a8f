package fragment

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/kinequet/kq/stages/analysis"
)

// selection is what the expressions of one SELECT compute, subqueries left out.
type selection struct {
	aggregates, windows []analysis.Node
}

// collect finds the aggregates and windows of one SELECT.
func (p *prover) collect(v any, s *selection) {
	analysis.Walk(v, func(n analysis.Node) bool {
		switch n.Str("class") {
		case "SUBQUERY":
			p.collect(n["child"], s)
			return false
		case "WINDOW":
			s.windows = append(s.windows, n)
			// Aggregates below are arguments of the window: of the grouping.
		case "FUNCTION":
			if p.a.Call(p.ctx, n).Aggregate {
				s.aggregates = append(s.aggregates, n)
			}
		}
		return true
	})
}

// hasGroups reports whether there is a GROUP BY, be it one by nothing.
func hasGroups(n analysis.Node) bool {
	sets, _ := n["group_sets"].([]any)
	return len(n.List("group_expressions")) > 0 || len(sets) > 0
}

// grouped reports whether a SELECT node groups.
func grouped(n analysis.Node, s *selection) bool {
	return len(s.aggregates) > 0 || hasGroups(n) || n.Has("having") || n.Str("aggregate_handling") == "FORCE_AGGREGATES"
}

// groupKeys are the expressions that a SELECT node groups by, resolved.
func (p *prover) groupKeys(n analysis.Node, sc *scope, selected []analysis.Node) (keys []analysis.Node, sets [][]int) {
	keys = slices.Clone(n.List("group_expressions"))
	raw, _ := n["group_sets"].([]any)
	for _, r := range raw {
		var set []int
		members, _ := r.([]any)
		for _, m := range members {
			if num, ok := m.(json.Number); ok {
				i, _ := num.Int64()
				set = append(set, int(i))
			}
		}
		sets = append(sets, set)
	}
	if n.Str("aggregate_handling") == "FORCE_AGGREGATES" && len(keys) == 0 {
		var set []int
		for _, e := range selected {
			s := &selection{}
			p.collect(e, s)
			if len(s.aggregates) == 0 && len(s.windows) == 0 && !constant(e) {
				set = append(set, len(keys))
				keys = append(keys, e)
			}
		}
		sets = [][]int{set}
	}
	for i := range keys {
		keys[i] = dereference(keys[i], sc, selected)
	}
	if len(sets) == 0 {
		sets = [][]int{{}}
	}
	return keys, sets
}

// constant reports whether an expression names no column: GROUP BY ALL doesn't
// group by it.
func constant(e analysis.Node) bool {
	none := true
	analysis.Walk(e, func(n analysis.Node) bool {
		if c := n.Str("class"); c == "COLUMN_REF" || c == "STAR" || c == "SUBQUERY" || c == "POSITIONAL_REFERENCE" {
			none = false
		}
		return none
	})
	return none
}

// dereference follows a position or an alias to the select list.
func dereference(e analysis.Node, sc *scope, selected []analysis.Node) analysis.Node {
	switch e.Str("class") {
	case "CONSTANT":
		if i, ok := integer(e); ok && i >= 1 && int(i) <= len(selected) && !slices.ContainsFunc(selected, several) {
			return selected[i-1]
		}
	case "COLUMN_REF":
		names := columnNames(e)
		if len(names) != 1 {
			return e
		}
		if c, _, found, _ := sc.local(names); found && c != nil {
			return e
		}
		for _, s := range selected {
			if strings.EqualFold(s.Str("alias"), names[0]) {
				return s
			}
		}
	}
	return e
}

func hasStar(selected []analysis.Node) bool {
	return slices.ContainsFunc(selected, func(e analysis.Node) bool { return e.Str("class") == "STAR" })
}

// grouping proves GROUP BY and the aggregates. lost are the columns that some
// grouping set leaves out, which are NULL there.
func (p *prover) grouping(n analysis.Node, s *selection, sc *scope, selected []analysis.Node) (lost map[*col]bool, f *failure) {
	if !grouped(n, s) {
		return nil, nil
	}
	keys, sets := p.groupKeys(n, sc, selected)
	cols := p.plain(keys, sc, nil)
	p.propose(cols, nil, sc)
	lost = map[*col]bool{}
	for _, set := range sets {
		for i, c := range cols {
			if c != nil && !slices.Contains(set, i) {
				lost[c] = true
			}
		}
	}
	if !sc.parted {
		return lost, nil
	}
	for _, set := range sets {
		var in []*col
		for _, i := range set {
			if i < len(cols) {
				in = append(in, cols[i])
			}
		}
		if p.holds(in) {
			continue
		}
		at := n
		if len(s.aggregates) > 0 {
			at = s.aggregates[0]
		}
		if len(keys) == 0 && len(s.aggregates) > 0 {
			return nil, fail(at, "%s is an aggregate over all rows", shown(at))
		}
		return nil, fail(at, "GROUP BY brings together rows of the whole input")
	}
	if p.sorted {
		return lost, nil
	}
	for _, a := range s.aggregates {
		if why := p.a.Call(p.ctx, a).Reason; why != "" {
			return nil, fail(a, "%s", why)
		}
	}
	return lost, nil
}

func shown(call analysis.Node) string {
	name := call.Str("function_name")
	if name == "count_star" {
		return "count(*)"
	}
	return name + "()"
}

// windows proves window functions.
func (p *prover) windows(s *selection, sc *scope, selected []analysis.Node) *failure {
	for _, w := range s.windows {
		cols := p.plain(w.List("partitions"), sc, nil)
		p.propose(cols, nil, sc)
		if !sc.parted {
			continue
		}
		if !p.holds(cols) {
			return fail(w, "%s() OVER is a window over the whole input", w.Str("function_name"))
		}
		if len(w.List("orders")) == 0 && !p.sorted && p.a.Call(p.ctx, w).Reason+positional(w) != "" {
			return fail(w, "%s() OVER without ORDER BY depends on the order of the rows", w.Str("function_name"))
		}
	}
	return nil
}

// positional says whether a window function counts on the order of its rows.
func positional(w analysis.Node) string {
	switch w.Str("type") {
	case "WINDOW_AGGREGATE", "WINDOW_RANK", "WINDOW_RANK_DENSE", "WINDOW_PERCENT_RANK", "WINDOW_CUME_DIST":
		if w.Str("start") == "UNBOUNDED_PRECEDING" && (w.Str("end") == "CURRENT_ROW_RANGE" || w.Str("end") == "UNBOUNDED_FOLLOWING") {
			return ""
		}
	}
	return "by position"
}
