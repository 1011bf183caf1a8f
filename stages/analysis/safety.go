package analysis

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/kinequet/kq/pipeline"
)

// tableFunctions are those that compute their rows from their arguments alone.
// All others can reach files, settings, the catalog or other statements.
var tableFunctions = []string{"range", "generate_series", "unnest", "json_each", "json_tree", "repeat", "repeat_row"}

// forbidden functions reach out of the statement: to the environment, settings,
// the catalog, the log, the clock's patience.
var forbidden = []string{
	"getenv", "current_setting", "getvariable", "nextval", "currval", "txid_current", "write_log", "sleep_ms", "setseed",
	"current_query", "current_query_id", "current_connection_id", "current_transaction_id", "in_search_path", "stats", "query", "query_table",
	"json_serialize_sql", "json_serialize_plan", "json_deserialize_sql", "json_execute_serialized_sql", "parse_duckdb_log_message", "which_secret",
	"create_sort_key", "set_bit_secret", "read_text", "read_blob", "read_csv", "read_csv_auto", "read_parquet", "read_json", "glob", "sniff_csv", "parquet_scan", "parquet_metadata",
}

// systemPrefixes are names of functions and tables that show DuckDB's insides.
var systemPrefixes = []string{"duckdb_", "pragma_", "pg_", "sqlite_", "parquet_", "read_", "arrow_", "pandas_", "sql_auto", "test_", "has_", "icu_calendar", "enable_", "disable_", "force_", "inet_"}

// safety looks at every object of the tree, wherever it stands: what it refuses
// does not depend on the proof knowing the syntax around it.
func (a *Analyzer) safety(ctx context.Context, v any) (errs []pipeline.SQLError) {
	switch v := v.(type) {
	case []any:
		for _, item := range v {
			errs = append(errs, a.safety(ctx, item)...)
		}
	case Node:
		return a.safety(ctx, map[string]any(v))
	case map[string]any:
		if e := refuse(Node(v)); e != nil {
			errs = append(errs, *e)
		}
		keys := make([]string, 0, len(v))
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			errs = append(errs, a.safety(ctx, v[k])...)
		}
	}
	return errs
}

const declare = "declare what it shall read under sources:"

// refuse says what is wrong with one object of the tree, if anything.
func refuse(n Node) *pipeline.SQLError {
	at := n.Offset()
	switch n.Str("type") {
	case "BASE_TABLE":
		return refuseTable(n)
	case "TABLE_FUNCTION":
		f := n.Child("function")
		name := strings.ToLower(f.Str("function_name"))
		if !slices.Contains(tableFunctions, name) {
			return &pipeline.SQLError{Offset: max(at, f.Offset()), Message: fmt.Sprintf("%s() is not allowed: a job's SQL reads only what the job declares", name), Hint: declare}
		}
	case "SHOW_REF":
		return &pipeline.SQLError{Offset: at, Message: "SHOW, DESCRIBE and SUMMARIZE are not queries over rows", Hint: "write a SELECT; kq plan shows the columns of every stage"}
	}
	switch n.Str("class") {
	case "FUNCTION", "WINDOW":
		name := strings.ToLower(n.Str("function_name"))
		if forbiddenName(name) {
			return &pipeline.SQLError{
				Offset: at, Message: name + "() is not allowed: a job's SQL sees nothing but its inputs",
				Hint: "${NAME} in the job file takes a value from the environment",
			}
		}
	case "PARAMETER":
		return &pipeline.SQLError{Offset: at, Message: "a parameter has no value here", Hint: "${NAME} in the job file takes a value from the environment"}
	}
	return nil
}

func forbiddenName(name string) bool {
	if slices.Contains(forbidden, name) {
		return true
	}
	for _, p := range systemPrefixes {
		if strings.HasPrefix(name, p) && name != "pg_typeof" {
			return true
		}
	}
	return false
}

func refuseTable(n Node) *pipeline.SQLError {
	name, schema, catalog := n.Str("table_name"), n.Str("schema_name"), n.Str("catalog_name")
	lower := strings.ToLower(name)
	switch {
	case schema != "" || catalog != "":
		return &pipeline.SQLError{
			Offset: n.Offset(), Message: fmt.Sprintf("table %s is named with a schema", strings.TrimPrefix(catalog+"."+schema+"."+name, ".")),
			Hint: "sources and stages have plain names",
		}
	case strings.ContainsAny(name, `./*\:?[`) || strings.HasPrefix(lower, "~"):
		return &pipeline.SQLError{Offset: n.Offset(), Message: fmt.Sprintf("%q reads a file directly: a job's SQL reads only what the job declares", name), Hint: declare}
	case strings.HasPrefix(lower, "duckdb_") || strings.HasPrefix(lower, "pragma_") || strings.HasPrefix(lower, "sqlite_") || strings.HasPrefix(lower, "pg_"):
		return &pipeline.SQLError{Offset: n.Offset(), Message: fmt.Sprintf("%q is DuckDB's own: a job's SQL reads only what the job declares", name), Hint: declare}
	}
	return nil
}

// opaque handles what the parser takes but can't serialize: PIVOT with values
// found in the data, which may run, and everything that isn't a SELECT, which
// may not. Without a tree it is checked word by word, and refused when in doubt.
func (a *Analyzer) opaque(query, why string) (*pipeline.Statement, []pipeline.SQLError) {
	toks := lex(query)
	for len(toks) > 0 && toks[len(toks)-1].text == ";" {
		toks = toks[:len(toks)-1]
	}
	begin, _ := firstWord(toks)
	pivots := false
	for _, t := range toks {
		pivots = pivots || t.kind == 'w' && slices.Contains([]string{"PIVOT", "PIVOT_WIDER"}, strings.ToUpper(t.text))
	}
	if !slices.Contains([]string{"PIVOT", "PIVOT_WIDER", "WITH", "SELECT", "FROM"}, begin) || !pivots {
		at := -1
		if len(toks) > 0 {
			at = toks[0].offset
		}
		return nil, []pipeline.SQLError{{
			Offset: at, Message: fmt.Sprintf("%s is not allowed: a stage is one SELECT", begin),
			Hint: "kq itself writes the result; use sinks: to publish it",
		}}
	}
	st := &pipeline.Statement{Opaque: "PIVOT takes its columns from the values of the whole input"}
	var errs []pipeline.SQLError
	refused := func(t token, message string) {
		errs = append(errs, pipeline.SQLError{Offset: t.offset, Message: message, Hint: declare})
	}
	ctes := cteNames(toks)
	for i, t := range toks {
		lower := strings.ToLower(t.text)
		next, prev := "", ""
		if i+1 < len(toks) {
			next = toks[i+1].text
		}
		if i > 0 {
			prev = strings.ToUpper(toks[i-1].text)
		}
		source := slices.Contains([]string{"FROM", "JOIN", "PIVOT", "PIVOT_WIDER", "UNPIVOT"}, prev)
		switch {
		case t.kind == 'p' && t.text == ";":
			refused(t, "a stage is one statement")
		case t.kind == 's' && source, t.kind == 'q' && strings.ContainsAny(t.text, "./*"):
			refused(t, fmt.Sprintf("%q reads a file directly: a job's SQL reads only what the job declares", t.text))
		case (t.kind == 'w' || t.kind == 'q') && next == "(" && (forbiddenName(lower) || source && !slices.Contains(tableFunctions, lower) && t.kind == 'w' && lower != "values"):
			refused(t, lower+"() is not allowed here")
		case (t.kind == 'w' || t.kind == 'q') && forbiddenName(lower):
			refused(t, fmt.Sprintf("%q is not allowed here", t.text))
		case (t.kind == 'w' || t.kind == 'q') && a.known[lower] && !ctes[lower]:
			if !slices.ContainsFunc(st.Tables, func(r pipeline.TableRef) bool { return strings.EqualFold(r.Name, t.text) }) {
				st.Tables = append(st.Tables, pipeline.TableRef{Name: t.text, Offset: t.offset, Count: 1, Gather: st.Opaque})
			}
		case t.kind == 'w' && slices.Contains([]string{"INSERT", "UPDATE", "DELETE", "CREATE", "COPY", "ATTACH", "SET", "PRAGMA", "INSTALL", "LOAD", "CALL", "EXPORT"}, strings.ToUpper(t.text)) && (i == 0 || prev == "(" || prev == "AS"):
			refused(t, strings.ToUpper(t.text)+" is not allowed: a stage is one SELECT")
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	return st, nil
}

// firstWord is the statement's first word, past brackets.
func firstWord(toks []token) (string, int) {
	for i, t := range toks {
		if t.text != "(" {
			return strings.ToUpper(t.text), i
		}
	}
	return "an empty statement", 0
}

// cteNames are the words that stand before AS (.
func cteNames(toks []token) map[string]bool {
	names := map[string]bool{}
	for i := 0; i+2 < len(toks); i++ {
		if strings.EqualFold(toks[i+1].text, "AS") && toks[i+2].text == "(" {
			names[strings.ToLower(toks[i].text)] = true
		}
	}
	return names
}
