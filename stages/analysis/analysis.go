// Package analysis finds out what one SQL statement of a job does, from
// DuckDB's own parser (json_serialize_sql): whether it is a single SELECT that
// reads nothing but tables, which tables those are, and in which of them it is
// row-wise, so that it may run shard by shard.
//
// Row-wise in a table T, with every other table whole, means: whichever way T's
// rows are divided, the union of the statement's results over the divisions is
// its result over all of T. That is proven bottom up over the syntax tree. Every
// kind of node, expression, join and modifier that the proof knows is named in
// the code; what is not named is "unknown", and the statement is gathered. A
// new kind of syntax in a new DuckDB therefore costs speed, never the answer.
//
// What every shard reads whole must be the same in each: a relation on the
// other side of a join, or a subquery, is only accepted when its result can't
// depend on scheduling (no volatile function, no LIMIT, no aggregate that
// depends on the order of its input).
package analysis

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	_ "github.com/duckdb/duckdb-go/v2" // the driver

	"github.com/kinequet/kq/pipeline"
)

// Analyzer parses and binds statements. It is not safe for concurrent use.
type Analyzer struct {
	declared  map[string][]pipeline.Column // tables, as Declare was told
	db        *sql.DB
	functions map[string]*function // by lower-case name, looked up so far
	known     map[string]bool      // folded names that the job declares
}

// New starts an in-memory DuckDB that can reach nothing outside it.
func New(ctx context.Context) (*Analyzer, error) {
	db, err := start(ctx)
	if err != nil {
		return nil, err
	}
	return &Analyzer{db: db, functions: map[string]*function{}, known: map[string]bool{}, declared: map[string][]pipeline.Column{}}, nil
}

// Revive starts the database anew, with what was declared, if an internal error
// of DuckDB has ended it.
func (a *Analyzer) Revive(ctx context.Context) error {
	if _, err := a.db.ExecContext(ctx, "SELECT 1"); err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	db, err := start(ctx)
	if err != nil {
		return err
	}
	a.db.Close()
	a.db = db
	for name, columns := range a.declared {
		if err := a.Declare(ctx, name, columns); err != nil {
			return err
		}
	}
	return nil
}

func start(ctx context.Context) (*sql.DB, error) {
	db, err := sql.Open("duckdb", "?threads=1")
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(ctx, `SET autoinstall_known_extensions = false; SET autoload_known_extensions = false; SET errors_as_json = true;
SET enable_external_access = false; SET lock_configuration = true;`)
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Close frees the database.
func (a *Analyzer) Close() error { return a.db.Close() }

// Known tells the names that statements may use as tables. Only statements
// without a syntax tree need it.
func (a *Analyzer) Known(names []string) {
	for _, n := range names {
		a.known[strings.ToLower(n)] = true
	}
}

// Parse implements pipeline.Engine.
func (a *Analyzer) Parse(ctx context.Context, query string) (*pipeline.Statement, []pipeline.SQLError) {
	if i := strings.IndexByte(query, 0); i >= 0 {
		return nil, []pipeline.SQLError{{Offset: i, Message: "the statement holds a NUL byte"}}
	}
	var text string
	if err := a.db.QueryRowContext(ctx, "SELECT json_serialize_sql(?::VARCHAR)::VARCHAR", query).Scan(&text); err != nil {
		return nil, []pipeline.SQLError{a.translate(err)}
	}
	var tree struct {
		Error      bool              `json:"error"`
		Type       string            `json:"error_type"`
		Message    string            `json:"error_message"`
		Position   string            `json:"position"`
		Statements []json.RawMessage `json:"statements"`
	}
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		return nil, []pipeline.SQLError{{Offset: -1, Message: "its syntax tree can't be read: " + err.Error()}}
	}
	switch {
	case tree.Error && tree.Type == "parser":
		// The parser counts characters here, where everything else counts bytes.
		return nil, []pipeline.SQLError{{Offset: byteOffset(query, position(tree.Position)), Message: tree.Message}}
	case tree.Error:
		return a.opaque(query, tree.Message)
	case len(tree.Statements) != 1:
		return nil, []pipeline.SQLError{{
			Offset: -1, Message: fmt.Sprintf("a stage is one SELECT statement; here are %d", len(tree.Statements)),
			Hint: "split it into stages that read each other",
		}}
	}
	var st struct {
		Node Node `json:"node"`
	}
	d := json.NewDecoder(strings.NewReader(string(tree.Statements[0])))
	d.UseNumber()
	if err := d.Decode(&st); err != nil {
		return nil, []pipeline.SQLError{{Offset: -1, Message: "its syntax tree can't be read: " + err.Error()}}
	}
	if errs := a.safety(ctx, st.Node); len(errs) > 0 {
		// A table function is found twice: as a table and as a function.
		return nil, slices.CompactFunc(errs, func(a, b pipeline.SQLError) bool { return a.Offset == b.Offset && a.Offset >= 0 })
	}
	w := &walker{a: a, ctx: ctx}
	p := w.query(st.Node, nil)
	out := &pipeline.Statement{Ordered: ordered(st.Node)}
	for _, u := range p.uses {
		ref := pipeline.TableRef{Name: u.name, Offset: u.offset, Count: u.count, Gather: u.gather.why}
		if u.count > 1 && ref.Gather == "" {
			ref.Gather, u.gather.at = u.name+" is joined with itself", u.offset
		}
		if ref.Gather != "" {
			ref.Words.Start, ref.Words.End = Words(query, ref.Gather, u.gather.at)
		}
		if ref.Gather == "" {
			ref.Predicates = predicates(st.Node, u)
		}
		out.Tables = append(out.Tables, ref)
	}
	return out, nil
}

// position reads DuckDB's byte offset.
func position(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

// byteOffset turns an offset in characters into one in bytes.
func byteOffset(s string, characters int) int {
	if characters < 0 {
		return -1
	}
	for i := range s {
		if characters == 0 {
			return i
		}
		characters--
	}
	return len(s)
}

// Declare implements pipeline.Engine. The name is a view, as it will be when
// the statement runs: it has no rowid.
func (a *Analyzer) Declare(ctx context.Context, name string, columns []pipeline.Column) error {
	items := make([]string, len(columns))
	for i, c := range columns {
		items[i] = "CAST(NULL AS " + c.Type + ") AS " + ident(c.Name)
	}
	_, err := a.db.ExecContext(ctx, "CREATE OR REPLACE VIEW "+ident(name)+" AS SELECT "+strings.Join(items, ", ")+" LIMIT 0")
	if err != nil {
		return errors.New(a.translate(err).Message)
	}
	a.declared[name] = columns
	return nil
}

func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

const prefix = "SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM ("

// Bind implements pipeline.Engine.
func (a *Analyzer) Bind(ctx context.Context, query string) ([]pipeline.Column, *pipeline.SQLError) {
	query = trim(query)
	// A view tells columns of nothing but NULLs, which take the type of what they
	// meet, from integers; DESCRIBE doesn't, but knows what can't be a view: PIVOT.
	const view = "CREATE OR REPLACE TEMP VIEW kq_bound AS SELECT * FROM ("
	asked := "SELECT name, type FROM pragma_table_info('kq_bound') ORDER BY cid"
	if _, err := a.db.ExecContext(ctx, view+query+"\n)"); err != nil {
		asked = prefix + query + "\n))"
	}
	rows, err := a.db.QueryContext(ctx, asked)
	if err != nil {
		e := a.translate(err)
		if e.Offset >= len(prefix) {
			e.Offset = min(e.Offset-len(prefix), len(query))
		} else {
			e.Offset = -1
		}
		return nil, &e
	}
	defer rows.Close()
	var columns []pipeline.Column
	for rows.Next() {
		var c pipeline.Column
		if err := rows.Scan(&c.Name, &c.Type); err != nil {
			return nil, &pipeline.SQLError{Offset: -1, Message: err.Error()}
		}
		columns = append(columns, c)
	}
	if err := rows.Err(); err != nil {
		return nil, &pipeline.SQLError{Offset: -1, Message: err.Error()}
	}
	return columns, nil
}

// trim removes what ends a statement, so that it can stand in brackets.
func trim(query string) string {
	toks := lex(query)
	end := len(query)
	for i := len(toks) - 1; i >= 0; i-- {
		if toks[i].text != ";" {
			break
		}
		end = toks[i].offset
	}
	return query[:end]
}

// translate makes one of our errors of DuckDB's, which come as JSON.
func (a *Analyzer) translate(err error) pipeline.SQLError {
	text := err.Error()
	e := pipeline.SQLError{Offset: -1, Message: text}
	i := strings.IndexByte(text, '{')
	if i < 0 {
		return e
	}
	var d struct {
		Message    string `json:"exception_message"`
		Position   string `json:"position"`
		Candidates string `json:"candidates"`
		Subtype    string `json:"error_subtype"`
	}
	if json.NewDecoder(strings.NewReader(text[i:])).Decode(&d) != nil || d.Message == "" {
		return e
	}
	message, rest, _ := strings.Cut(d.Message, "\n")
	e.Message, e.Offset = strings.TrimSuffix(message, "!"), position(d.Position)
	switch {
	case d.Subtype == "COLUMN_NOT_FOUND" && d.Candidates != "":
		e.Hint = "did you mean " + strings.ReplaceAll(d.Candidates, ",", ", ") + "?"
	case strings.HasPrefix(rest, "Did you mean"), strings.HasPrefix(rest, "Candidate"):
		first, _, _ := strings.Cut(rest, "\n")
		if strings.HasPrefix(rest, "Did you mean") {
			e.Hint = "d" + first[1:]
		}
	}
	return e
}
