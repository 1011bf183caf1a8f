package analysis

import (
	"encoding/json"
	"regexp"
	"strings"

	"github.com/kinequet/kq/pipeline"
)

// predicates lists the conjuncts of the statement's WHERE that compare a column
// of u's table with literals. The statement is row-wise in the table, so every
// row of it that reaches the result satisfies them. Only the plainest form is
// taken; the rest is DuckDB's to filter.
func predicates(n Node, u use) (out []pipeline.Predicate) {
	if n.Str("type") != "SELECT_NODE" || n["where_clause"] == nil || len(asNodes(n.Child("cte_map")["map"])) > 0 {
		return nil
	}
	names := map[string]bool{} // by which columns of the table may be qualified
	alone := false
	switch from := n.Child("from_table"); from.Str("type") {
	case "BASE_TABLE":
		renamed, _ := from["column_name_alias"].([]any)
		alone = len(renamed) == 0
		fallthrough
	case "JOIN":
		aliases(from, u.name, names)
	}
	taken := map[string]bool{} // select aliases, which WHERE may mean as well
	for _, e := range n.List("select_list") {
		taken[strings.ToLower(e.Str("alias"))] = true
	}
	column := func(e Node) string {
		if e.Str("class") != "COLUMN_REF" {
			return ""
		}
		raw, _ := e["column_names"].([]any)
		var parts []string
		for _, r := range raw {
			s, _ := r.(string)
			parts = append(parts, s)
		}
		switch {
		case len(parts) == 1 && alone && !taken[strings.ToLower(parts[0])]:
			return parts[0]
		case len(parts) == 2 && names[strings.ToLower(parts[0])]:
			return parts[1]
		}
		return ""
	}
	conjuncts(n.Child("where_clause"), func(e Node) {
		out = append(out, predicate(e, column)...)
	})
	return out
}

// aliases collects the names by which the base tables called table go in a
// join tree.
func aliases(n Node, table string, names map[string]bool) {
	switch n.Str("type") {
	case "BASE_TABLE":
		renamed, _ := n["column_name_alias"].([]any)
		if strings.EqualFold(n.Str("table_name"), table) && len(renamed) == 0 {
			name := n.Str("alias")
			if name == "" {
				name = table
			}
			names[strings.ToLower(name)] = true
		}
	case "JOIN":
		aliases(n.Child("left"), table, names)
		aliases(n.Child("right"), table, names)
	}
}

func conjuncts(e Node, visit func(Node)) {
	if e.Str("type") == "CONJUNCTION_AND" {
		for _, c := range e.List("children") {
			conjuncts(c, visit)
		}
		return
	}
	visit(e)
}

var operators = map[string][2]string{ // as written, and with the sides swapped
	"COMPARE_EQUAL": {"=", "="}, "COMPARE_LESSTHAN": {"<", ">"}, "COMPARE_LESSTHANOREQUALTO": {"<=", ">="},
	"COMPARE_GREATERTHAN": {">", "<"}, "COMPARE_GREATERTHANOREQUALTO": {">=", "<="},
}

// predicate reads one conjunct.
func predicate(e Node, column func(Node) string) []pipeline.Predicate {
	one := func(col, op string, values ...string) []pipeline.Predicate {
		for _, v := range values {
			if v == "" {
				return nil
			}
		}
		if col == "" {
			return nil
		}
		return []pipeline.Predicate{{Column: col, Op: op, Values: values}}
	}
	switch e.Str("class") {
	case "COMPARISON":
		op, ok := operators[e.Str("type")]
		if !ok {
			return nil
		}
		left, right := e.Child("left"), e.Child("right")
		if col := column(left); col != "" {
			return one(col, op[0], literalText(right))
		}
		return one(column(right), op[1], literalText(left))
	case "BETWEEN":
		col := column(e.Child("input"))
		return append(one(col, ">=", literalText(e.Child("lower"))), one(col, "<=", literalText(e.Child("upper")))...)
	case "OPERATOR":
		args := e.List("children")
		if len(args) == 0 {
			return nil
		}
		col := column(args[0])
		switch e.Str("type") {
		case "COMPARE_IN":
			var values []string
			for _, a := range args[1:] {
				values = append(values, literalText(a))
			}
			return one(col, "IN", values...)
		case "OPERATOR_IS_NULL":
			return one(col, "IS NULL")
		case "OPERATOR_IS_NOT_NULL":
			return one(col, "IS NOT NULL")
		}
	}
	return nil
}

var plainNumber = regexp.MustCompile(`^-?[0-9]+$`)

// literalText renders an integer, a string, or a DATE or TIMESTAMP of a string.
func literalText(e Node) string {
	switch e.Str("class") {
	case "CONSTANT":
		v := e.Child("value")
		if v.Flag("is_null") {
			return ""
		}
		switch v.Child("type").Str("id") {
		case "INTEGER", "BIGINT":
			if num, ok := v["value"].(json.Number); ok && plainNumber.MatchString(num.String()) {
				return num.String()
			}
		case "VARCHAR":
			if s, ok := v["value"].(string); ok && !strings.ContainsRune(s, 0) {
				return "'" + strings.ReplaceAll(s, "'", "''") + "'"
			}
		}
	case "CAST":
		to := e.Child("cast_type")
		id := to.Str("id")
		if e.Flag("try_cast") || to["type_info"] != nil || id != "DATE" && id != "TIMESTAMP" {
			return ""
		}
		if inner := literalText(e.Child("child")); strings.HasPrefix(inner, "'") {
			return "CAST(" + inner + " AS " + id + ")"
		}
	}
	return ""
}
