package fragment

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"github.com/kinequet/kq/stages/analysis"
)

// positions replaces what ORDER BY and DISTINCT ON call by the name of a select
// item by its position: other expressions would take it for a column of FROM.
func positions(tree analysis.Node) {
	analysis.Walk(tree, func(n analysis.Node) bool {
		if n.Str("type") != "SELECT_NODE" {
			return true
		}
		for _, e := range orderedBy(n) {
			i, ok := selectedAs(e, n.List("select_list"))
			if num, numbered := e["index"].(json.Number); numbered && e.Str("class") == "POSITIONAL_REFERENCE" {
				n, err := num.Int64()
				i, ok = int(n)-1, err == nil
			}
			if ok && i >= 0 {
				at := e["query_location"]
				clear(e)
				e["class"], e["type"], e["alias"], e["query_location"] = "CONSTANT", "VALUE_CONSTANT", "", at
				e["value"] = map[string]any{
					"type": map[string]any{"id": "INTEGER", "type_info": nil}, "is_null": false, "value": json.Number(strconv.Itoa(i + 1)),
				}
			}
		}
		return true
	})
}

// numbers reports whether an expression of a SELECT names columns of its FROM by
// their numbers, as #1 and ARRAY(SELECT …) do: they hold for that FROM only.
func numbers(q analysis.Node) (found bool) {
	for k, v := range q {
		if k == "from_table" || k == "cte_map" {
			continue
		}
		analysis.Walk(v, func(n analysis.Node) bool {
			found = found || n.Str("class") == "POSITIONAL_REFERENCE"
			return !found && n.Str("type") != "SELECT_NODE"
		})
	}
	return found
}

// orderedBy lists what ORDER BY and DISTINCT ON name.
func orderedBy(n analysis.Node) (all []analysis.Node) {
	for _, m := range n.List("modifiers") {
		all = append(all, m.List("distinct_on_targets")...)
		for _, o := range m.List("orders") {
			all = append(all, o.Child("expression"))
		}
	}
	return all
}

// selectedAs finds the select item that ORDER BY or DISTINCT ON names, -1 for
// none: the last one of that alias, or else the only column of that name. It
// reports false when that isn't known.
func selectedAs(e analysis.Node, selected []analysis.Node) (at int, ok bool) {
	names := columnNames(e)
	if e.Str("class") != "COLUMN_REF" || len(names) != 1 {
		return -1, true
	}
	at, alias, columns := -1, -1, 0
	vague := false
	for i, item := range selected {
		own := columnNames(item)
		switch {
		case item.Str("alias") != "":
			if strings.EqualFold(item.Str("alias"), names[0]) {
				alias = i
			}
		case item.Str("class") == "COLUMN_REF" && strings.EqualFold(own[len(own)-1], names[0]):
			at = i
			columns++
		case item.Str("class") == "STAR" && item.Str("relation_name") != "":
			vague = true
		}
	}
	unknown := slices.ContainsFunc(selected, several) // where the items stand
	switch {
	case alias >= 0:
		return alias, !unknown
	case columns == 1:
		return at, !unknown
	}
	return -1, columns == 0 && !vague
}

// integer reads a constant that is a whole number.
func integer(e analysis.Node) (int64, bool) {
	v := e.Child("value")
	num, ok := v["value"].(json.Number)
	i, err := num.Int64()
	id := v.Child("type").Str("id")
	return i, ok && err == nil && e.Str("class") == "CONSTANT" && (strings.HasSuffix(id, "INT") || strings.HasSuffix(id, "INTEGER"))
}

// reserved finds a name of the kind that fragments give to their own columns.
func reserved(tree analysis.Node, tables map[string]*table) (name string) {
	see := func(s string) {
		if strings.HasPrefix(fold(s), "__kq_") {
			name = s
		}
	}
	analysis.Walk(tree, func(n analysis.Node) bool {
		see(n.Str("alias"))
		for _, key := range []string{"column_name_alias", "aliases"} {
			all, _ := n[key].([]any)
			for _, a := range all {
				s, _ := a.(string)
				see(s)
			}
		}
		return true
	})
	for _, t := range tables {
		for _, c := range t.columns {
			see(c.Name)
		}
	}
	return name
}

// orderKept reports whether the answer may depend on the order of a query
// within, which DuckDB keeps and fragments do not: an aggregate, a window or a
// LIMIT counts on the rows as they come.
func (s *splitter) orderKept(tree analysis.Node) bool {
	ordered, counted := false, false
	analysis.Walk(tree, func(n analysis.Node) bool {
		var order, limit, on bool
		for _, m := range n.List("modifiers") {
			switch m.Str("type") {
			case "ORDER_MODIFIER":
				order = true
			case "LIMIT_MODIFIER", "LIMIT_PERCENT_MODIFIER":
				limit = true
			case "DISTINCT_MODIFIER":
				on = len(m.List("distinct_on_targets")) > 0
			}
		}
		ordered = ordered || order && !limit && !on && !sameNode(n, tree)
		counted = counted || limit && !order || on && !order
		switch n.Str("class") {
		case "FUNCTION":
			c := s.a.Call(s.ctx, n)
			counted = counted || c.Aggregate && c.Reason != ""
		case "WINDOW":
			counted = counted || len(n.List("orders")) == 0 && s.a.Call(s.ctx, n).Reason+positional(n) != ""
		}
		return true
	})
	return ordered && counted
}
