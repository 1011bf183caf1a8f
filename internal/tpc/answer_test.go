package tpc

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"strings"
)

// cell is one value: a number that may differ in its last bits, or a text.
type cell struct {
	text  string
	value float64
	float bool
	null  bool
}

func (c cell) String() string {
	switch {
	case c.null:
		return "NULL"
	case c.float:
		return fmt.Sprint(c.value)
	}
	return c.text
}

func (c cell) equal(d cell) bool {
	if c.null || d.null || !c.float || !d.float {
		return c == d
	}
	if c.value == d.value || math.IsNaN(c.value) && math.IsNaN(d.value) {
		return true
	}
	return math.Abs(c.value-d.value) <= 1e-9*max(math.Abs(c.value), math.Abs(d.value))
}

func equalRows(a, b []cell) bool {
	for i := range a {
		if !a[i].equal(b[i]) {
			return false
		}
	}
	return true
}

// relation is a result, in order.
type relation struct {
	columns []string // "name TYPE"
	rows    [][]cell
}

// read runs a query, in the order of the columns c0, c1, … that order names. All
// but floating-point numbers are read as text.
func (w *world) read(query, order string) (r relation, err error) {
	ctx := context.Background()
	probe, err := w.db.QueryContext(ctx, "DESCRIBE "+query)
	if err != nil {
		return r, err
	}
	defer probe.Close()
	var items []string
	for probe.Next() {
		var name, kind string
		var rest [4]any
		if err := probe.Scan(&name, &kind, &rest[0], &rest[1], &rest[2], &rest[3]); err != nil {
			return r, err
		}
		r.columns = append(r.columns, name+" "+kind)
		item := fmt.Sprintf("c%d", len(items))
		if kind != "DOUBLE" && kind != "FLOAT" {
			item += "::VARCHAR"
		} else {
			item += "::DOUBLE"
		}
		items = append(items, item)
	}
	if err := probe.Err(); err != nil {
		return r, err
	}
	names := make([]string, len(items))
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i)
	}
	rows, err := w.db.QueryContext(ctx, fmt.Sprintf("SELECT %s FROM (%s) t(%s) %s", strings.Join(items, ", "), query, strings.Join(names, ", "), order))
	if err != nil {
		return r, err
	}
	defer rows.Close()
	dest := make([]any, len(items))
	for i := range dest {
		dest[i] = new(any)
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return r, err
		}
		row := make([]cell, len(dest))
		for i, d := range dest {
			switch v := (*d.(*any)).(type) {
			case nil:
				row[i] = cell{null: true}
			case float64:
				row[i] = cell{value: v, float: true}
			default:
				row[i] = cell{text: fmt.Sprint(v)}
			}
		}
		r.rows = append(r.rows, row)
	}
	return r, rows.Err()
}

// answer is what DuckDB gives for a query without its LIMIT.
type answer struct {
	relation
	tie     []int // of each row: the first row that ties with it in the ORDER BY
	limit   int   // rows that the query wants at most
	ordered bool
}

// compare says how kq's result differs from the answer, or nothing.
func (a *answer) compare(got relation) string {
	want := make([]string, len(a.columns))
	for i, c := range a.columns {
		if name, huge := strings.CutSuffix(c, " HUGEINT"); huge {
			c = name + " DECIMAL(38,0)" // what a Parquet sink promises
		}
		want[i] = c
	}
	if strings.Join(want, ", ") != strings.Join(got.columns, ", ") {
		return fmt.Sprintf("the columns are %q, want %q", got.columns, want)
	}
	if n := min(a.limit, len(a.rows)); len(got.rows) != n {
		return fmt.Sprintf("%d rows, want %d", len(got.rows), n)
	}
	used := make([]bool, len(a.rows))
rows:
	for i, row := range got.rows {
		for j := a.tie[i]; j < len(a.rows) && a.tie[j] == a.tie[i]; j++ {
			if !used[j] && equalRows(row, a.rows[j]) {
				used[j] = true
				continue rows
			}
		}
		return fmt.Sprintf("row %d is %v; there DuckDB has %v", i, row, a.rows[i])
	}
	return ""
}

// node is a part of DuckDB's syntax tree as JSON.
type node = map[string]any

// answer asks DuckDB for a query without its LIMIT, and for the keys of its ORDER
// BY, which tell the ties.
func (w *world) answer(q Query) (*answer, error) {
	a := &answer{limit: math.MaxInt}
	tree, err := w.parse(q.SQL)
	if err != nil {
		return nil, err
	}
	top := tree["statements"].([]any)[0].(node)["node"].(node)
	var keys []any
	modifiers := []any{}
	for _, m := range top["modifiers"].([]any) {
		switch m := m.(node); m["type"] {
		case "LIMIT_MODIFIER":
			n, constant := number(m["limit"])
			if m["offset"] != nil || !constant {
				return nil, errors.New("LIMIT and OFFSET other than a constant LIMIT: this comparison has no rule for it")
			}
			a.limit = n
			continue
		case "ORDER_MODIFIER":
			a.ordered = true
			for _, o := range m["orders"].([]any) {
				keys = append(keys, o.(node)["expression"])
			}
		case "DISTINCT_MODIFIER":
		default:
			return nil, fmt.Errorf("a %v: this comparison has no rule for it", m["type"])
		}
		modifiers = append(modifiers, m)
	}
	top["modifiers"] = modifiers

	// Keys become expressions over the columns of the result, or further columns.
	var selects []any
	if top["type"] == "SELECT_NODE" {
		selects = top["select_list"].([]any)
	}
	unlimited, err := w.deparse(tree)
	if err != nil {
		return nil, err
	}
	if a.relation, err = w.header(unlimited); err != nil {
		return nil, err
	}
	columns := len(a.columns)
	r := resolver{relation: a.relation}
	if len(selects) == columns { // no star among them
		r.selects = selects
	}
	resolved, further := make([]any, len(keys)), 0
	for i, k := range keys {
		if resolved[i] = r.resolve(k, true); resolved[i] != nil {
			continue
		}
		if selects == nil {
			return nil, fmt.Errorf("the ORDER BY of a set operation names no column: %v", k)
		}
		resolved[i] = column(columns + further)
		further++
		top["select_list"] = append(top["select_list"].([]any), k)
	}
	if unlimited, err = w.deparse(tree); err != nil {
		return nil, err
	}
	if err := w.exec("CREATE OR REPLACE TEMP TABLE answer AS " + unlimited); err != nil {
		return nil, err
	}
	return a, w.fill(a, columns, resolved)
}

// fill reads the table answer: its first columns are the rows.
func (w *world) fill(a *answer, columns int, keys []any) error {
	all, err := w.header("SELECT * FROM answer")
	if err != nil {
		return err
	}
	names := make([]string, len(all.columns))
	for i := range names {
		names[i] = fmt.Sprintf("c%d", i)
	}
	if err := w.exec(fmt.Sprintf("CREATE OR REPLACE TEMP VIEW numbered AS SELECT rowid AS position, * FROM answer t(%s)", strings.Join(names, ", "))); err != nil {
		return err
	}
	list, err := w.parse("SELECT 1 FROM numbered")
	if err != nil {
		return err
	}
	var items []any
	for i := range columns {
		items = append(items, column(i))
	}
	items = append(append(items, keys...), reference("position"))
	list["statements"].([]any)[0].(node)["node"].(node)["select_list"] = items
	query, err := w.deparse(list)
	if err != nil {
		return err
	}
	found, err := w.read(query, fmt.Sprintf("ORDER BY t.c%d", len(items)-1))
	if err != nil {
		return err
	}
	// CREATE TABLE tells columns of one name apart as kq does: a, a_1.
	a.columns = all.columns[:columns]
	last := len(items) - 1
	for i, row := range found.rows {
		a.rows = append(a.rows, row[:columns])
		if i > 0 && equalRows(row[columns:last], found.rows[i-1][columns:last]) {
			a.tie = append(a.tie, a.tie[i-1])
		} else {
			a.tie = append(a.tie, i)
		}
	}
	return nil
}

func (w *world) header(query string) (relation, error) {
	return w.read("SELECT * FROM ("+query+") LIMIT 0", "")
}

// resolver finds the columns of a result in expressions of its ORDER BY.
type resolver struct {
	relation
	selects []any
}

// resolve rewrites an expression over the columns c0, c1, … of the result; nil
// when it needs more than these.
func (r *resolver) resolve(e any, whole bool) any {
	switch e := e.(type) {
	case node:
		if whole && e["class"] == "CONSTANT" {
			if n, ok := number(e); ok && n >= 1 && n <= len(r.columns) {
				return column(n - 1)
			}
			return nil
		}
		if e["class"] == "COLUMN_REF" {
			if path := e["column_names"].([]any); len(path) == 1 {
				for i, c := range r.columns {
					if strings.EqualFold(c[:strings.LastIndexByte(c, ' ')], fmt.Sprint(path[0])) {
						return column(i)
					}
				}
			}
		}
		if e["class"] != nil && e["class"] != "CONSTANT" {
			for i, s := range r.selects {
				if text(s) == text(e) {
					return column(i)
				}
			}
			if e["class"] == "COLUMN_REF" || e["class"] == "SUBQUERY" || e["class"] == "WINDOW" {
				return nil
			}
		}
		out := maps.Clone(e)
		for k, v := range e {
			if out[k] = r.resolve(v, false); out[k] == nil && v != nil {
				return nil
			}
		}
		return out
	case []any:
		out := make([]any, len(e))
		for i, v := range e {
			if out[i] = r.resolve(v, false); out[i] == nil && v != nil {
				return nil
			}
		}
		return out
	}
	return e
}

// number is the value of a constant.
func number(e any) (int, bool) {
	constant, _ := e.(node)
	value, _ := constant["value"].(node)
	n, ok := value["value"].(json.Number)
	i, err := n.Int64()
	return int(i), ok && err == nil
}

func column(i int) node { return reference(fmt.Sprintf("c%d", i)) }

func reference(name string) node {
	return node{"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", "query_location": 0, "column_names": []any{name}}
}

// text is what an expression says, wherever it stands and whatever its name.
func text(e any) string {
	data, _ := json.Marshal(plain(e))
	return strings.ToLower(string(data))
}

func plain(e any) any {
	switch e := e.(type) {
	case node:
		out := node{}
		for k, v := range e {
			if k != "query_location" && k != "alias" {
				out[k] = plain(v)
			}
		}
		return out
	case []any:
		out := make([]any, len(e))
		for i, v := range e {
			out[i] = plain(v)
		}
		return out
	}
	return e
}

func (w *world) parse(query string) (node, error) {
	var text string
	if err := w.db.QueryRowContext(context.Background(), "SELECT json_serialize_sql(?::VARCHAR)::VARCHAR", query).Scan(&text); err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber() // positions are larger than a float64 holds
	var tree node
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	if tree["error"] != false {
		return nil, fmt.Errorf("%v", tree["error_message"])
	}
	return tree, nil
}

func (w *world) deparse(tree node) (string, error) {
	data, err := json.Marshal(tree)
	if err != nil {
		return "", err
	}
	var query sql.NullString
	err = w.db.QueryRowContext(context.Background(), "SELECT json_deserialize_sql(?::JSON)::VARCHAR", string(data)).Scan(&query)
	return query.String, err
}
