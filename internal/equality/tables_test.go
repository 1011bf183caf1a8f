package equality

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// column is one column of every table of the random statements. The integers
// share a small domain around 0, whatever their type, so that they meet in joins.
type column struct {
	name, sql string
	kind      kind
}

// key is the SQL of a number from -2 to span-3 that depends on row r and a salt.
func key(salt string, span int) string {
	return fmt.Sprintf("(hash(r, '%s') %% %d)::INTEGER - 2", salt, span)
}

func columns(span int) []column {
	return []column{
		{"i", key("i", span), number},
		{"b", "(" + key("b", span) + ")::BIGINT", number},
		{"u", "abs(" + key("u", span) + ")::UBIGINT", number},
		{"h", "(" + key("h", span) + ")::DECIMAL(38, 0)", number},
		{"d", "((" + key("d", span) + ") / CASE WHEN r % 3 = 0 THEN 2 ELSE 1 END)::DECIMAL(9, 2)", number},
		{"m", "(" + key("m", span) + ")::DECIMAL(18, 4)", number},
		{"x", "CASE hash(r, 'special') % 9 WHEN 0 THEN 'NaN' WHEN 1 THEN 'inf' WHEN 2 THEN '-0.0' WHEN 3 THEN '0.0' WHEN 4 THEN '-inf' ELSE (" + key("x", span) + ")::VARCHAR END::DOUBLE", number},
		{"y", "(hash(r, 'y') % 200)::DOUBLE / 4 - 25", number},
		{"v", "(hash(r, 'v') % 1000)::INTEGER", number},
		{"s", "['a', 'A', '', 'b', 'B', 'ab', 'é', 'a ', 'name 7'][(hash(r, 's') % 9)::INTEGER + 1]", text},
		{"e", "['', 'A', 'a', 'b'][(hash(r, 'e') % 4)::INTEGER + 1]", text},
		{"dt", "DATE '2020-01-01' + (" + key("dt", span) + ")", moment},
		{"ts", "TIMESTAMP '2020-01-01' + to_hours(12 * (" + key("ts", 2*span) + "))", moment},
		{"o", "hash(r, 'o') % 2 = 0", truth},
	}
}

// table is an input of the random statements: rows cut into row groups, in files.
type table struct {
	name   string
	rows   int
	files  int
	groups int
	span   int    // how many keys
	nulls  int    // per cent of each column
	hot    int    // per cent of the rows that have 1 for their key
	order  string // how rows lie in the files
}

var tables = []table{
	{name: "spread", rows: 48, files: 4, groups: 16, span: 12, nulls: 10, order: "hash(r)"},
	{name: "hot", rows: 32, files: 3, groups: 9, span: 8, nulls: 10, hot: 60, order: "hash(r)"},
	{name: "clustered", rows: 64, files: 4, groups: 16, span: 16, nulls: 5, order: "i, r"},
	{name: "nothing", files: 1, groups: 1, span: 2, order: "r"},
	{name: "tiny", rows: 5, files: 1, groups: 1, span: 4, order: "r"},
	{name: "holes", rows: 20, files: 2, groups: 6, span: 6, nulls: 60, order: "r"},
	{name: "big", rows: 3000, files: 3, groups: 12, span: 500, nulls: 3, order: "b, r"},
}

// query gives the table's rows with their position p in the files.
func (d table) query() string {
	items := []string{"r::INTEGER AS id"}
	for _, c := range columns(d.span) {
		value := c.sql
		if c.kind == number && c.name != "v" && c.name != "y" && d.hot > 0 {
			value = fmt.Sprintf("CASE WHEN hash(r, 'hot') %% 100 < %d THEN 1 ELSE %s END", d.hot, value)
		}
		items = append(items, fmt.Sprintf("CASE WHEN hash(r, 'null %s') %% 100 >= %d THEN %s END AS %[1]s", c.name, d.nulls, value))
	}
	return fmt.Sprintf("SELECT *, row_number() OVER (ORDER BY %s) - 1 AS p FROM (SELECT r, %s FROM range(%d) t(r))", d.order, strings.Join(items, ", "), d.rows)
}

// write makes the files of a query's rows, which lie in order of its column p,
// under dir. DuckDB ends a row group with each branch of the UNION when it need
// not keep the order.
func (w *world) write(dir, query string, rows, files, groups int, leave string) (names []string) {
	if err := os.MkdirAll(filepath.Join(w.dir, dir), 0o755); err != nil {
		w.t.Fatal(err)
	}
	w.exec("SET threads = 1")
	w.exec("SET preserve_insertion_order = false")
	w.exec("CREATE OR REPLACE TEMP TABLE written AS " + query)
	for f := range files {
		var branches []string
		for g := f * groups / files; g < (f+1)*groups/files; g++ {
			branches = append(branches, fmt.Sprintf("(SELECT * EXCLUDE (%s) FROM written WHERE p >= %d AND p < %d ORDER BY p)", leave, g*rows/groups, (g+1)*rows/groups))
		}
		name := fmt.Sprintf("%s/%d.parquet", dir, f)
		w.exec("COPY (" + strings.Join(branches, " UNION ALL ") + ") TO '" + filepath.Join(w.dir, name) + "' (FORMAT parquet, ROW_GROUP_SIZE 1)")
		names = append(names, name)
	}
	w.exec("DROP TABLE written")
	w.exec("RESET preserve_insertion_order")
	w.exec("SET threads = 2")
	return names
}

// source declares a source over files of w.write, and a table of the same rows
// for the reference: reading it costs a tenth of reading files.
func (w *world) source(name, function, args string, files []string) {
	w.sources[name] = source{function: function, args: args, files: files}
	for i, f := range files {
		files[i] = filepath.Join(w.dir, f)
	}
	if args != "" {
		args = ", " + args
	}
	w.exec(fmt.Sprintf("CREATE TABLE %s AS SELECT * FROM %s(['%s']%s)", name, function, strings.Join(files, "', '"), args))
}

// typed is a stage with the types that Parquet lacks.
const typed = "SELECT * REPLACE (h::HUGEINT AS h, e::ENUM ('b', 'a', 'A', '') AS e), to_days(30 * i) AS iv FROM spread"

// randomWorld has the tables of the random statements. Its references are two
// more DuckDBs: a twin with the same rows in another order, and one that reads
// the files. A statement to which they give different answers has no answer that
// could be compared.
func randomWorld(t testing.TB) *lane {
	l := &lane{world: openWorld(t)}
	for _, d := range tables {
		l.source(d.name, "read_parquet", "", l.write(d.name, d.query(), d.rows, d.files, d.groups, "r, p"))
		// The same rows in the same order, cut in another way.
		l.write("again/"+d.name, d.query(), d.rows, max(1, d.files-1), max(1, d.groups/2), "r, p")
	}
	l.exec(fmt.Sprintf("COPY (SELECT id, i, s, y, v FROM spread WHERE id < 20) TO '%s' (FORMAT csv)", filepath.Join(l.dir, "lines.csv")))
	l.source("lines", "read_csv", "columns = {'id': 'INTEGER', 'i': 'INTEGER', 's': 'VARCHAR', 'y': 'DOUBLE', 'v': 'INTEGER'}", []string{"lines.csv"})
	l.twin, l.reader = l.another("CREATE TABLE %s AS %s ORDER BY hash(id, 'twin')"), l.another("CREATE VIEW %s AS %s")
	if _, err := l.twin.ExecContext(context.Background(), steady); err != nil {
		t.Fatal(err)
	}
	return l
}

// another opens a DuckDB that has every source.
func (w *world) another(create string) *sql.Conn {
	db, err := sql.Open("duckdb", "?threads=2")
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close(); db.Close() })
	for name, s := range w.sources {
		args := ""
		if s.args != "" {
			args = ", " + s.args
		}
		query := fmt.Sprintf("SELECT * FROM %s(['%s']%s)", s.function, strings.Join(s.files, "', '"), args)
		if _, err := conn.ExecContext(context.Background(), fmt.Sprintf(create, name, query)); err != nil {
			w.t.Fatal(err)
		}
	}
	return conn
}

// reversed and again are other layouts of the same rows: for settings.files.
func reversed(files []string) []string {
	slices.Reverse(files)
	return files
}

func again(files []string) []string {
	if !strings.HasSuffix(files[0], ".parquet") {
		return files
	}
	dir := filepath.Dir(files[0])
	other, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "again", filepath.Base(dir), "*.parquet"))
	slices.Sort(other)
	return other
}
