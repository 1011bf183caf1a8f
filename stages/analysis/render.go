package analysis

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// SQL renders a query node. DuckDB's renderer loses the brackets around some
// joins and the type of some constants; those are written in another way. The
// text is parsed again, and if its tree is another one, that is an error.
func (a *Analyzer) SQL(ctx context.Context, query Node) (string, error) {
	query = Clone(query).(Node)
	bracket(query, false)
	Walk(query, constant)
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
	if where := difference(query, again, ""); where != "" {
		return "", fmt.Errorf("rendered as %s: that is another statement, at %s", text, where)
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
			n["condition"] = literalNode("BOOLEAN", true)
		}
		for k, child := range v {
			// A cross join on the left of another one keeps its place.
			side := join && (k == "left" && (!cross || joined) || k == "right")
			bracket(child, side)
		}
	}
}

// literalNode is a constant that stands nowhere.
func literalNode(typ string, value any) map[string]any {
	return map[string]any{
		"class": "CONSTANT", "type": "VALUE_CONSTANT", "alias": "", "query_location": 0,
		"value": map[string]any{"type": map[string]any{"id": typ, "type_info": nil}, "is_null": false, "value": value},
	}
}

// constant writes constants as casts of text that have no literal of their own:
// DOUBLE would be rendered as a DECIMAL is, BOOLEAN is rendered so anyway.
func constant(n Node) bool {
	value := n.Child("value")
	typ := value.Child("type").Str("id")
	if n.Str("class") != "CONSTANT" || typ != "DOUBLE" && typ != "BOOLEAN" || value.Flag("is_null") {
		return true
	}
	text := fmt.Sprint(value["value"])
	if typ == "BOOLEAN" {
		text = text[:1]
	}
	n["class"], n["type"], n["cast_type"], n["try_cast"] = "CAST", "OPERATOR_CAST", value["type"], false
	n["child"] = literalNode("VARCHAR", text)
	delete(n, "value")
	return false
}

// difference is the path to the first difference between two trees, positions
// in the text left out, or "".
func difference(a, b any, path string) string {
	switch a := a.(type) {
	case Node:
		return difference(map[string]any(a), b, path)
	case []any:
		other, _ := b.([]any)
		if len(a) != len(other) {
			return path
		}
		for i, item := range a {
			if where := difference(item, other[i], fmt.Sprintf("%s[%d]", path, i)); where != "" {
				return where
			}
		}
		return ""
	case map[string]any:
		other := asNode(b)
		both := maps.Clone(a) // what is absent is null
		maps.Copy(both, other)
		delete(both, "query_location")
		for _, key := range slices.Sorted(maps.Keys(both)) {
			if where := difference(a[key], other[key], path+"."+key); where != "" {
				return where
			}
		}
		return ""
	}
	if fmt.Sprint(a) != fmt.Sprint(b) {
		return path
	}
	return ""
}
