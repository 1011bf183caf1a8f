package analysis

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// exprProps is what is known about expressions.
type exprProps struct {
	tables   props  // of the subqueries
	inner    int    // where the first of them stands
	reason   reason // why a query that computes this is not row-wise
	unstable reason // why it may give another value each time
	outer    reason // why it may hold an aggregate of the query around it
}

// classes are the kinds of expression that work on one row at a time, given
// that what is inside them does.
var classes = []string{
	"COLUMN_REF", "CONSTANT", "STAR", "COMPARISON", "CONJUNCTION", "BETWEEN", "CASE", "CAST", "OPERATOR",
	"COLLATE", "LAMBDA", "LAMBDA_REF", "POSITIONAL_REFERENCE",
}

// clocks are names that DuckDB takes for functions when no column has them.
var clocks = []string{"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "today"}

// Clock reports whether DuckDB takes a name for the clock when no column has it.
func Clock(name string) bool { return slices.Contains(clocks, strings.ToLower(name)) }

// beyondTheRow lists functions that the catalog calls consistent but whose value
// depends on more than their arguments: the clock, the vector, the dice.
var beyondTheRow = []string{"age", "current_localtime", "current_localtimestamp", "vector_type"}

// listAggregates run an aggregate that they name over the list of one row.
var listAggregates = []string{"list_aggr", "list_aggregate", "array_aggr", "array_aggregate", "aggregate"}

// drawsLots reports whether a call of listAggregates may run a random aggregate.
func drawsLots(n Node) bool {
	args := n.List("children")
	if len(args) < 2 {
		return true
	}
	name, ok := args[1].Child("value")["value"].(string)
	return !ok || strings.Contains(strings.ToLower(name), "reservoir")
}

// stableAggregates don't depend on the order of their input, down to the last bit.
var stableAggregates = []string{"count", "count_star", "min", "max", "bool_and", "bool_or", "bit_and", "bit_or", "bit_xor", "count_if"}

// exprs examines everything below v.
func (w *walker) exprs(v any, sc *scope) (e exprProps) {
	w.depth++
	defer func() { w.depth-- }()
	if w.depth > 500 {
		return exprProps{inner: -1, reason: reason{"it is nested too deeply", -1}, unstable: reason{"it is nested too deeply", -1}}
	}
	e.inner = -1
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			e.merge(w.exprs(item, sc))
		}
	case Node:
		return w.exprs(map[string]any(v), sc)
	case map[string]any:
		n := Node(v)
		switch class := n.Str("class"); {
		case class == "SUBQUERY":
			q := w.query(n.Child("subquery").Child("node"), sc)
			e.inner = near(n, "").at
			e.tables.add(q, reason{subqueryWhy, e.inner})
			e.reason, e.unstable = q.unstable, q.unstable
			if w.aggregates(n["subquery"]) {
				// Over columns of the outer query alone, it would be the outer query's.
				e.outer = reason{"an aggregate in a subquery may be over the outer rows", e.inner}
			}
			e.merge(w.exprs(n["child"], sc))
			return e
		case class == "WINDOW":
			name := n.Str("function_name")
			e.reason = at(n, fmt.Sprintf("%s() OVER is a window over the whole input", name))
			e.unstable = e.reason
		case class == "FUNCTION":
			e = w.call(n)
		case class == "COLUMN_REF":
			names, _ := n["column_names"].([]any)
			if len(names) == 1 {
				if s, _ := names[0].(string); Clock(s) {
					e.reason = at(n, s+" is one value for the whole statement")
					e.unstable = at(n, s+" changes")
				}
			}
			return e
		case class == "CONSTANT":
			return e
		case class != "" && !slices.Contains(classes, class):
			e.reason = near(n, unknown(class))
			e.unstable = e.reason
		}
		// What has no class is a helper of its parent (CASE's checks, ORDER BY's
		// items, a constant's type): only what is inside it counts.
		for key, child := range v {
			if m, ok := child.(map[string]any); ok && (key == "cast_type" || key == "value") && m["class"] == nil {
				continue
			}
			e.merge(w.exprs(child, sc))
		}
	}
	return e
}

func (e *exprProps) merge(f exprProps) {
	e.tables.add(f.tables, reason{})
	if e.inner < 0 {
		e.inner = f.inner
	}
	e.reason = first(e.reason, f.reason)
	e.unstable = first(e.unstable, f.unstable)
	e.outer = first(e.outer, f.outer)
}

// aggregates reports whether an aggregate with arguments stands below v.
func (w *walker) aggregates(v any) bool {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			if w.aggregates(item) {
				return true
			}
		}
	case map[string]any:
		n := Node(v)
		if n.Str("class") == "FUNCTION" && len(n.List("children")) > 0 {
			if f, err := w.a.lookup(w, n.Str("function_name")); err != nil || f.aggregate {
				return true
			}
		}
		for _, child := range v {
			if w.aggregates(child) {
				return true
			}
		}
	}
	return false
}

// function is what DuckDB says about a name.
type function struct {
	aggregate, scalar, table bool
	stability                string // the worst of all overloads; "" is CONSISTENT
	macros                   []string
}

// lookup asks DuckDB's catalog about a function.
func (a *Analyzer) lookup(w *walker, name string) (*function, error) {
	key := strings.ToLower(name)
	if f := a.functions[key]; f != nil {
		return f, nil
	}
	rows, err := a.db.QueryContext(w.ctx, `SELECT function_type, coalesce(stability, ''), coalesce(macro_definition, '')
		FROM duckdb_functions() WHERE function_name = ?`, key)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	f := &function{}
	for rows.Next() {
		var typ, stability, macro string
		if err := rows.Scan(&typ, &stability, &macro); err != nil {
			return nil, err
		}
		switch typ {
		case "aggregate":
			f.aggregate = true
		case "scalar":
			f.scalar = true
			if stability != "CONSISTENT" && f.stability != "VOLATILE" {
				f.stability = stability
			}
		case "macro":
			f.macros = append(f.macros, macro)
		default:
			f.table = true
		}
	}
	a.functions[key] = f
	return f, rows.Err()
}

// call examines a function by its name; its arguments are examined by the caller.
func (w *walker) call(n Node) (e exprProps) {
	e.inner = -1
	name := n.Str("function_name")
	f, err := w.a.lookup(w, name)
	switch {
	case err != nil:
		e.reason = at(n, err.Error())
		e.unstable = e.reason
	case strings.EqualFold(name, "unnest") || strings.EqualFold(name, "unlist"):
	case f.aggregate:
		shown := name + "()"
		if name == "count_star" {
			shown = "count(*)"
		}
		e.reason = at(n, shown+" is an aggregate over all rows")
		if !slices.Contains(stableAggregates, strings.ToLower(name)) {
			e.unstable = at(n, shown+" may depend on the order of its input")
		}
	case slices.Contains(beyondTheRow, strings.ToLower(name)), slices.Contains(listAggregates, strings.ToLower(name)) && drawsLots(n):
		e.reason = at(n, name+"() may depend on more than its row")
		e.unstable = e.reason
	case f.stability == "VOLATILE":
		e.reason = at(n, name+"() is volatile: it gives another value on every call")
		e.unstable = e.reason
	case f.stability != "":
		e.reason = at(n, name+"() is one value for the whole statement")
		e.unstable = e.reason
	case len(f.macros) > 0:
		for _, m := range f.macros {
			e.merge(w.macro(n, m))
		}
	case f.scalar:
	case f.table && slices.Contains(tableFunctions, strings.ToLower(name)):
	default:
		e.reason = at(n, unknown(name+"()"))
		e.unstable = e.reason
	}
	return e
}

// macro examines the expression that a macro stands for.
func (w *walker) macro(call Node, definition string) exprProps {
	why := at(call, unknown(call.Str("function_name")+"()"))
	bad := exprProps{inner: -1, reason: why, unstable: why}
	if w.depth > 100 {
		return bad
	}
	var text string
	if err := w.a.db.QueryRowContext(w.ctx, "SELECT json_serialize_sql(?::VARCHAR)::VARCHAR", "SELECT "+definition).Scan(&text); err != nil {
		return bad
	}
	var tree struct {
		Error      bool `json:"error"`
		Statements []struct {
			Node Node `json:"node"`
		} `json:"statements"`
	}
	if json.Unmarshal([]byte(text), &tree) != nil || tree.Error || len(tree.Statements) != 1 {
		return bad
	}
	p := w.query(tree.Statements[0].Node, nil)
	e := w.exprs(tree.Statements[0].Node["select_list"], nil)
	if len(p.uses) > 0 {
		return bad
	}
	e.reason.at, e.unstable.at, e.inner = why.at, why.at, -1 // not places in the macro
	return e
}

// Call is what a call of a function means for an answer computed in pieces.
type Call struct {
	Aggregate bool
	// Reason says why its value depends on more than its arguments; of an
	// aggregate, on the order of its rows. Empty: it doesn't.
	Reason string
}

// Call examines a FUNCTION or WINDOW node by its name, not its arguments.
func (a *Analyzer) Call(ctx context.Context, n Node) Call {
	w := &walker{a: a, ctx: ctx}
	f, err := a.lookup(w, n.Str("function_name"))
	if err == nil && f.aggregate {
		return Call{Aggregate: true, Reason: ordersMatter(n)}
	}
	return Call{Reason: w.call(n).reason.why}
}

// orderedAggregates give another value for another order of their rows.
var orderedAggregates = []string{
	"first", "last", "arbitrary", "any_value", "list", "array_agg", "string_agg", "group_concat", "listagg", "mode", "histogram",
	"arg_min", "arg_max", "argmin", "argmax", "min_by", "max_by", "arg_min_null", "arg_max_null", "reservoir_quantile",
	"approx_quantile", "approx_top_k", "json_group_array", "json_group_object", "json_group_structure",
}

func ordersMatter(n Node) string {
	name := strings.ToLower(n.Str("function_name"))
	if slices.Contains(orderedAggregates, name) && len(n.Child("order_bys").List("orders")) == 0 {
		return name + "() depends on the order of its rows"
	}
	return ""
}

// Unstable says why the rows of a query may differ between two evaluations over
// the same tables. Empty: they can't.
func (a *Analyzer) Unstable(ctx context.Context, query Node) string {
	return (&walker{a: a, ctx: ctx}).query(query, nil).unstable.why
}

// Tree parses one statement, which Parse has accepted.
func (a *Analyzer) Tree(ctx context.Context, query string) (Node, error) {
	var text string
	if err := a.db.QueryRowContext(ctx, "SELECT json_serialize_sql(?::VARCHAR)::VARCHAR", query).Scan(&text); err != nil {
		return nil, err
	}
	var tree struct {
		Message    string `json:"error_message"`
		Statements []struct {
			Node Node `json:"node"`
		} `json:"statements"`
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	if len(tree.Statements) != 1 {
		return nil, fmt.Errorf("not one statement: %s", tree.Message)
	}
	return tree.Statements[0].Node, nil
}
