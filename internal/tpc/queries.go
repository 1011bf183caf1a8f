package tpc

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"strings"
)

//go:embed tpch/*.sql
var tpch embed.FS

// Suite is one benchmark: its tables, each a folder of Parquet files, and its
// queries.
type Suite struct {
	Name    string
	Dir     string // of the tables; absolute
	Tables  []string
	Queries []Query
}

// Query is one query under its name, such as q07.
type Query struct{ Name, SQL string }

// queriesIn reads the queries of a folder, in the order of their names.
func queriesIn(files fs.FS, dir string) (queries []Query, err error) {
	names, err := fs.Glob(files, path.Join(dir, "q*.sql"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		sql, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		text := strings.TrimRight(strings.TrimSpace(string(sql)), "; \n")
		queries = append(queries, Query{strings.TrimSuffix(path.Base(name), ".sql"), text})
	}
	return queries, nil
}

// Folder is where a table's files are.
func (s *Suite) Folder(table string) string { return filepath.Join(s.Dir, table) }

var word = regexp.MustCompile(`\w+`)

// Reads lists the tables that a query names.
func (s *Suite) Reads(q Query) (tables []string) {
	named := map[string]bool{}
	for _, w := range word.FindAllString(strings.ToLower(q.SQL), -1) {
		named[w] = true
	}
	for _, t := range s.Tables {
		if named[t] {
			tables = append(tables, t)
		}
	}
	return tables
}

// Job is the job file of a query: the tables that it reads, one stage, and its
// result as Parquet in the folder out beside the file.
func (s *Suite) Job(q Query) string {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nname: %s-%s\nsources:\n", s.Name, q.Name)
	for _, t := range s.Reads(q) {
		fmt.Fprintf(&b, "  %s: {type: parquet, uri: %q}\n", t, s.Folder(t))
	}
	fmt.Fprintf(&b, "stages:\n  result:\n    sql: |2\n      %s\n", strings.ReplaceAll(q.SQL, "\n", "\n      "))
	fmt.Fprintf(&b, "sinks:\n  out: {type: parquet, from: result, uri: out, overwrite: replace}\n")
	return b.String()
}
