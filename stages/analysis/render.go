package analysis

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
)

// SQL renders a query node. DuckDB's renderer loses the brackets around some
// joins; what it would get wrong is rendered in another way, or an error.
func (a *Analyzer) SQL(ctx context.Context, query Node) (string, error) {
	query = Clone(query).(Node)
	bracket(query, false)
	data, err := json.Marshal(map[string]any{"error": false, "statements": []any{map[string]any{"node": query, "named_param_map": []any{}}}})
	if err != nil {
		return "", err
	}
	var text string
	if err := a.db.QueryRowContext(ctx, "SELECT json_deserialize_sql(?::VARCHAR::JSON)", string(data)).Scan(&text); err != nil {
		return "", err
	}
	again, err := a.Tree(ctx, text)
	if err != nil {
		return "", fmt.Errorf("rendered as %s: %w", text, err)
	}
	if want, got := skeleton(query), skeleton(again); want != got {
		return "", fmt.Errorf("rendered as %s: its joins would be others: %s, not %s", text, got, want)
	}
	return text, nil
}

// bracket turns the cross joins below other joins into inner joins on true: as a
// comma they would bind less tightly than what is around them.
func bracket(v any, joined bool) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			bracket(item, false)
		}
	case Node:
		bracket(map[string]any(v), joined)
	case map[string]any:
		n := Node(v)
		join := n.Str("type") == "JOIN"
		cross := join && n.Str("ref_type") == "CROSS"
		if cross && joined {
			n["ref_type"], n["join_type"] = "REGULAR", "INNER"
			n["condition"] = map[string]any{
				"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "query_location": 0,
				"value": map[string]any{"type": map[string]any{"id": "BOOLEAN", "type_info": nil}, "is_null": false, "value": true},
			}
		}
		for k, child := range v {
			// A cross join on the left of another one keeps its place.
			side := join && (k == "left" && (!cross || joined) || k == "right")
			bracket(child, side)
		}
	}
}

// skeleton is the shape of a statement's relations: which joins which.
func skeleton(v any) string {
	var b strings.Builder
	var visit func(v any)
	visit = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				visit(item)
			}
		case Node:
			visit(map[string]any(v))
		case map[string]any:
			n := Node(v)
			switch n.Str("type") {
			case "JOIN":
				fmt.Fprintf(&b, "(%s %s ", n.Str("join_type"), n.Str("ref_type"))
				visit(v["left"])
				b.WriteByte(',')
				visit(v["right"])
				b.WriteByte(')')
				return
			case "SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE":
				fmt.Fprintf(&b, "{%s %s ", n.Str("type"), n.Str("setop_type"))
				for _, key := range []string{"left", "right", "children", "from_table"} {
					visit(v[key])
				}
				b.WriteByte('}')
				return
			case "SUBQUERY":
				if n.Str("class") == "" {
					visit(n["subquery"])
				}
				return
			case "BASE_TABLE":
				b.WriteString(n.Str("table_name"))
				return
			}
			visit(v["node"])
		}
	}
	visit(v)
	return b.String()
}
