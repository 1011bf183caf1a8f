package sqlstage

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
	"github.com/kinequet/kq/stages/fragment"
)

var _ pipeline.Engine = (*Engine)(nil)

// Engine answers the questions of pipeline.Compile. It is not safe for
// concurrent use.
type Engine struct {
	*analysis.Analyzer
	scout   *sql.DB
	version string
	schemas int // made for EXPLAIN so far
}

// NewEngine opens an engine. Close it.
func NewEngine(ctx context.Context) (*Engine, error) {
	db, err := open("")
	if err != nil {
		return nil, err
	}
	e := &Engine{scout: db}
	_, err = db.ExecContext(ctx, `SET autoinstall_known_extensions = false; SET autoload_known_extensions = false; SET threads = 1`)
	if err == nil {
		err = db.QueryRowContext(ctx, "SELECT version()").Scan(&e.version)
	}
	if err == nil {
		e.Analyzer, err = analysis.New(ctx)
	}
	if err != nil {
		db.Close()
		return nil, fmt.Errorf("start DuckDB: %w", err)
	}
	return e, nil
}

// open starts an in-memory DuckDB of one connection.
func open(dsn string) (*sql.DB, error) {
	connector, err := duckdb.NewConnector(dsn, nil)
	if err != nil {
		return nil, fmt.Errorf("start DuckDB: %w", err)
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(1)
	return db, nil
}

// Version implements pipeline.Engine.
func (e *Engine) Version() string { return e.version }

// Split implements pipeline.Engine.
func (e *Engine) Split(ctx context.Context, r *pipeline.SplitRequest) ([]pipeline.Fragment, error) {
	fragments, err := fragment.Split(ctx, e.Analyzer, r)
	// A rewritten statement may meet a bug of DuckDB that ends the database.
	return fragments, errors.Join(err, e.Revive(ctx))
}

// Close frees both databases.
func (e *Engine) Close() error {
	err := e.Analyzer.Close()
	if err2 := e.scout.Close(); err == nil {
		err = err2
	}
	return err
}

// describe returns the columns of a query.
func describe(ctx context.Context, db queryer, query string) ([]pipeline.Column, error) {
	rows, err := db.QueryContext(ctx, "DESCRIBE "+query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var cols []pipeline.Column
	for rows.Next() {
		var c pipeline.Column
		var null, key, fallback, extra any
		if err := rows.Scan(&c.Name, &c.Type, &null, &key, &fallback, &extra); err != nil {
			return nil, err
		}
		cols = append(cols, c)
	}
	return cols, rows.Err()
}

// queryer is a database or one connection of it.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Reads implements pipeline.Engine: it builds the task's views over empty
// tables in a schema of their own and looks into DuckDB's plan for the scan of
// the source. Statistics are left out of it, as they would tell that the
// tables are empty. What can't be explained reads everything.
func (e *Engine) Reads(ctx context.Context, g *pipeline.Graph, t *pipeline.Task, source string) ([]string, error) {
	var all []string
	for _, in := range t.Inputs {
		if in.Name == source {
			for _, c := range in.Columns {
				all = append(all, c.Name)
			}
		}
	}
	e.schemas++
	schema := fmt.Sprintf("kq_explain_%d", e.schemas)
	setup := []string{"CREATE SCHEMA " + schema, "USE " + schema}
	for _, in := range t.Inputs {
		var cols []string
		for _, c := range in.Columns {
			cols = append(cols, ident(c.Name)+" "+c.Type)
		}
		setup = append(setup, "CREATE TABLE "+ident(in.Name)+" ("+strings.Join(cols, ", ")+")")
	}
	for _, v := range t.Views {
		setup = append(setup, "CREATE VIEW "+ident(v.Name)+" AS "+v.SQL)
	}
	setup = append(setup, "SET disabled_optimizers = 'statistics_propagation,empty_result_pullup,filter_pushdown,filter_pullup'")
	defer func() {
		_, _ = e.scout.ExecContext(context.WithoutCancel(ctx), "RESET disabled_optimizers; USE memory.main; DROP SCHEMA "+schema+" CASCADE")
	}()
	for _, s := range setup {
		if _, err := e.scout.ExecContext(ctx, s); err != nil {
			return all, ctx.Err()
		}
	}
	var key, plan string
	last := t.Views[len(t.Views)-1].Name
	if err := e.scout.QueryRowContext(ctx, "EXPLAIN (FORMAT json) SELECT * FROM "+ident(last)).Scan(&key, &plan); err != nil {
		return all, ctx.Err()
	}
	var nodes []planNode
	if err := json.Unmarshal([]byte(plan), &nodes); err != nil {
		return all, nil
	}
	found := map[string]bool{}
	if !scans(nodes, source, found) {
		return all, nil
	}
	return slices.DeleteFunc(all, func(c string) bool { return !found[c] }), nil
}

// planNode is a node of EXPLAIN (FORMAT json).
type planNode struct {
	Name     string                     `json:"name"`
	Children []planNode                 `json:"children"`
	Extra    map[string]json.RawMessage `json:"extra_info"`
}

// scans collects the columns that scans of table project, and reports whether
// there is such a scan.
func scans(nodes []planNode, table string, found map[string]bool) (any bool) {
	for _, n := range nodes {
		var name string
		if raw, ok := n.Extra["Table"]; ok && json.Unmarshal(raw, &name) == nil {
			if i := strings.LastIndexByte(name, '.'); i >= 0 {
				name = name[i+1:]
			}
			if strings.EqualFold(strings.Trim(name, `"`), table) {
				any = true
				var many []string
				var one string
				raw := n.Extra["Projections"]
				if json.Unmarshal(raw, &many) != nil && json.Unmarshal(raw, &one) == nil {
					many = []string{one}
				}
				for _, c := range many {
					found[c] = true
				}
			}
		}
		any = scans(n.Children, table, found) || any
	}
	return any
}

// Prune implements pipeline.Engine. Only columns whose statistics order the way
// comparisons do are used: integers, dates, timestamps and plain strings.
func (e *Engine) Prune(ctx context.Context, in *pipeline.Inspection, predicates []pipeline.Predicate) ([]bool, error) {
	keep := make([]bool, len(in.Groups))
	for i := range keep {
		keep[i] = true
	}
	for _, p := range predicates {
		typ := columnType(in.Columns, p.Column)
		if !prunable(typ) {
			continue
		}
		if err := e.prune(ctx, in, p, typ, keep); err != nil {
			return nil, err
		}
	}
	return keep, nil
}

func columnType(columns []pipeline.Column, name string) string {
	for _, c := range columns {
		if strings.EqualFold(c.Name, name) {
			return c.Type
		}
	}
	return ""
}

func prunable(typ string) bool {
	switch typ {
	case "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
		"DATE", "TIMESTAMP", "TIMESTAMP_NS", "VARCHAR":
		return true
	}
	return false
}

// prune clears keep for row groups whose statistics exclude p.
func (e *Engine) prune(ctx context.Context, in *pipeline.Inspection, p pipeline.Predicate, typ string, keep []bool) error {
	var rows []string
	name := p.Column
	for _, c := range in.Columns {
		if strings.EqualFold(c.Name, name) {
			name = c.Name
		}
	}
	for i, g := range in.Groups {
		low, okLow := g.Min[name]
		high, okHigh := g.Max[name]
		nulls, okNulls := g.Nulls[name]
		switch {
		case !keep[i]:
		case p.Op == "IS NULL":
			keep[i] = !okNulls || nulls > 0
		case p.Op == "IS NOT NULL":
			keep[i] = !okNulls || nulls < g.Rows
		case okNulls && nulls == g.Rows:
			keep[i] = false // no comparison is true of NULL
		case okLow && okHigh:
			rows = append(rows, fmt.Sprintf("(%d, %s, %s)", i, literal(low), literal(high)))
		}
	}
	if len(rows) == 0 {
		return nil
	}
	var tests []string
	for _, v := range p.Values {
		test := map[string]string{
			"=": "lo <= %[1]s AND hi >= %[1]s", "IN": "lo <= %[1]s AND hi >= %[1]s", "<": "lo < %[1]s", "<=": "lo <= %[1]s",
			">": "hi > %[1]s", ">=": "hi >= %[1]s",
		}[p.Op]
		if test == "" {
			return nil
		}
		if typ == "VARCHAR" { // another type would compare by that type's order
			test = "typeof(%[1]s) <> 'VARCHAR' OR (" + test + ")"
		}
		tests = append(tests, "coalesce("+fmt.Sprintf(test, "("+v+")")+", true)")
	}
	query := fmt.Sprintf(`SELECT i FROM (SELECT i, TRY_CAST(a AS %[1]s) AS lo, TRY_CAST(b AS %[1]s) AS hi FROM (VALUES %[2]s) t(i, a, b)) WHERE NOT (%[3]s)`,
		typ, strings.Join(rows, ", "), strings.Join(tests, " OR "))
	found, err := e.scout.QueryContext(ctx, query)
	if err != nil {
		return ctx.Err() // a comparison that can't be made decides nothing
	}
	defer found.Close()
	for found.Next() {
		var i int
		if err := found.Scan(&i); err != nil {
			return err
		}
		keep[i] = false
	}
	return found.Err()
}
