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
			if i, ok := selectedAs(e, n.List("select_list")); ok && i >= 0 {
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
