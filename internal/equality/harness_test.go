package equality

import (
	"cmp"
	"context"
	"database/sql"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"

	_ "github.com/duckdb/duckdb-go/v2"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/pipeline/spec"
	"github.com/kinequet/kq/stages/sqlstage"
)

var (
	count = flag.Int("sql.n", envInt("KQ_SQL_N", 5000), "how many random statements to try")
	seed  = flag.Uint64("sql.seed", uint64(envInt("KQ_SQL_SEED", 1)), "seed of the random statements")
)

// told is whether the log has it that jobs know the exchange.
var told sync.Once

func envInt(name string, fallback int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return fallback
}

// source is a declared input of the tests.
type source struct {
	function, args string
	files          []string
}

// world is the data, DuckDB over all of it, and the compiler.
type world struct {
	t       testing.TB
	dir     string
	db      *sql.DB // the reference: every source is a view over the whole input
	conn    *sql.Conn
	engine  *sqlstage.Engine
	sources map[string]source
	signed  bool // results tell -0.0 from 0.0
}

// stage is one stage of a case.
type stage struct {
	name, sql   string
	materialize bool
}

// newWorld is the world of the table of statements.
func newWorld(t testing.TB) *world {
	w := openWorld(t)
	w.signed = true
	w.data()
	return w
}

// steady makes the references right: DuckDB 1.5 pushes a join's filter below a
// LIMIT when its threads happen to be fast enough (duckdb/duckdb#22924), so that
// SELECT … FROM a JOIN (SELECT … FROM b ORDER BY … LIMIT n) … has two answers.
const steady = "SET disabled_optimizers = 'join_filter_pushdown'"

func openWorld(t testing.TB) *world {
	told.Do(func() {
		t.Logf("jobs have the key that switches the exchange: %v", switchExchange(new(pipeline.Job), "always"))
	})
	ctx := context.Background()
	w := &world{t: t, dir: t.TempDir(), sources: map[string]source{}}
	var err error
	if w.db, err = sql.Open("duckdb", "?threads=2"); err != nil {
		t.Fatal(err)
	}
	if w.conn, err = w.db.Conn(ctx); err != nil {
		t.Fatal(err)
	}
	w.exec(steady)
	if w.engine, err = sqlstage.NewEngine(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.engine.Close(); w.conn.Close(); w.db.Close() })
	return w
}

func (w *world) exec(query string) {
	w.t.Helper()
	if _, err := w.conn.ExecContext(context.Background(), query); err != nil {
		w.t.Fatalf("%s: %v", query, err)
	}
}

// add declares a source over files that a COPY has written.
func (w *world) add(name, function, args string, files ...string) {
	for i := range files {
		files[i] = filepath.Join(w.dir, files[i])
	}
	w.sources[name] = source{function, args, files}
	quoted := make([]string, len(files))
	for i, f := range files {
		quoted[i] = "'" + f + "'"
	}
	more := ""
	if args != "" {
		more = ", " + args
	}
	w.exec(fmt.Sprintf("CREATE VIEW %s AS SELECT * FROM %s([%s]%s)", name, function, strings.Join(quoted, ", "), more))
}

// data writes the inputs: many row groups, many files, every type.
func (w *world) data() {
	copyTo := func(query, file, options string) {
		path := filepath.Join(w.dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			w.t.Fatal(err)
		}
		w.exec("COPY (" + query + ") TO '" + path + "' (" + options + ")")
	}
	const groups = "FORMAT parquet, ROW_GROUP_SIZE 2048"
	fact := `SELECT i AS id, (i * 7919 %% 101)::INTEGER AS k, CASE WHEN i %% 13 = 0 THEN NULL ELSE (i * 31 %% 1000)::BIGINT END AS v,
		CASE WHEN i %% 17 = 0 THEN NULL ELSE 'name ' || (i * 7 %% 50) END AS s, (i %% 97) / 8.0 AS x,
		DATE '2020-01-01' + (i %% 700)::INTEGER AS d, TIMESTAMP '2020-01-01' + INTERVAL (i * 61) SECOND AS ts, i %% 3 = 0 AS b,
		(i * 100 %% 12345)::DECIMAL(12, 2) / 7 AS m FROM range(%d, %d) t(i)`
	for f := range 3 {
		copyTo(fmt.Sprintf(fact, f*12000, (f+1)*12000), fmt.Sprintf("facts/f%d.parquet", f), groups)
	}
	w.add("facts", "read_parquet", "", "facts/f0.parquet", "facts/f1.parquet", "facts/f2.parquet")
	copyTo("SELECT i AS k, 'dim ' || i AS label, i % 5 AS grp, CASE WHEN i % 4 = 0 THEN NULL ELSE i * 2 END AS w FROM range(0, 140, 2) t(i)", "dims.csv", "FORMAT csv")
	w.add("dims", "read_csv", "", "dims.csv")
	copyTo(fmt.Sprintf(fact, 0, 0), "empty.parquet", groups)
	w.add("nothing", "read_parquet", "", "empty.parquet")
	copyTo(fmt.Sprintf(fact, 0, 1), "one.parquet", groups)
	w.add("one", "read_parquet", "", "one.parquet")
	// Files with columns in another order, and missing ones.
	copyTo("SELECT i AS a, i * 2 AS b, 's' || i AS c FROM range(5000) t(i)", "mixed/1.parquet", groups)
	copyTo("SELECT 't' || i AS c, i AS a, i * 3 AS b FROM range(5000) t(i)", "mixed/2.parquet", groups)
	w.add("mixed", "read_parquet", "", "mixed/1.parquet", "mixed/2.parquet")
	copyTo("SELECT i AS a, i * 0.5 AS d FROM range(4000) t(i)", "union/1.parquet", groups)
	copyTo("SELECT 'u' || i AS c, i::SMALLINT AS a FROM range(4000) t(i)", "union/2.parquet", groups)
	w.add("merged", "read_parquet", "union_by_name = true", "union/1.parquet", "union/2.parquet")
	for _, y := range []int{2019, 2020} {
		copyTo(fmt.Sprintf("SELECT i AS n FROM range(%d, %d) t(i)", y, y+3000), fmt.Sprintf("hive/y=%d/data.parquet", y), groups)
	}
	w.add("hive", "read_parquet", "hive_partitioning = true", "hive/y=2019/data.parquet", "hive/y=2020/data.parquet")
	w.add("named", "read_parquet", "filename = true", "mixed/1.parquet", "mixed/2.parquet")
	copyTo(`SELECT i AS "select", i * 2 AS "a b", 'é' || i AS "ünï", i AS "file_row_number", i % 3 AS "quo""te" FROM range(6000) t(i)`, "odd.parquet", groups)
	w.add("odd", "read_parquet", "", "odd.parquet")
	for f := range 4 {
		copyTo(fmt.Sprintf("SELECT i AS id, 'line, ' || i AS txt, CASE WHEN i %% 5 = 0 THEN NULL ELSE i / 4.0 END AS q FROM range(%d, %d) t(i)", f*500, f*500+500), fmt.Sprintf("lines/%d.csv", f), "FORMAT csv")
		copyTo(fmt.Sprintf("SELECT i AS id, {'a': i, 'b': ['x', 'y' || i]} AS o FROM range(%d, %d) t(i)", f*300, f*300+300), fmt.Sprintf("js/%d.json", f), "FORMAT json")
	}
	w.add("lines", "read_csv", "", "lines/0.csv", "lines/1.csv", "lines/2.csv", "lines/3.csv")
	w.add("js", "read_json", "format = 'newline_delimited'", "js/0.json", "js/1.json", "js/2.json", "js/3.json")
	copyTo(wide, "wide.parquet", groups)
	w.add("wide", "read_parquet", "", "wide.parquet")
}

// wide has every type that Parquet keeps, with NULLs and extreme values.
const wide = `SELECT i AS id, CASE WHEN i % 7 = 0 THEN NULL ELSE i % 120 END::TINYINT AS t1, (i % 200)::UTINYINT AS t2, (i - 3000)::SMALLINT AS t3,
	CASE i WHEN 0 THEN -9223372036854775808 WHEN 1 THEN 9223372036854775807 ELSE i END::BIGINT AS t4, (i * 3)::UBIGINT AS t5,
	CASE i % 6 WHEN 0 THEN 'NaN' WHEN 1 THEN 'inf' WHEN 2 THEN '-inf' WHEN 3 THEN '-0.0' ELSE (i / 3.0)::VARCHAR END::DOUBLE AS f8, (i / 7.0)::FLOAT AS f4,
	(i * 1.5)::DECIMAL(18, 3) AS dec, (i % 100)::DECIMAL(4, 1) AS dec4, i::DECIMAL(38, 10) AS dec38,
	CASE i % 5 WHEN 0 THEN NULL WHEN 1 THEN '' WHEN 2 THEN 'ünïcødé ' || i WHEN 3 THEN 'nul' || chr(0) || 'x' ELSE repeat('z', (i % 50)::INTEGER) END AS str,
	encode('b' || i) AS blb, DATE '1970-01-01' + (i * 7 - 20000)::INTEGER AS dt, TIME '00:00:00' + INTERVAL (i) SECOND AS tm,
	TIMESTAMP '1969-12-31 23:59:59.999999' + INTERVAL (i * 1001) MILLISECOND AS ts, (TIMESTAMP '2000-01-01' + INTERVAL (i) HOUR)::TIMESTAMPTZ AS tz,
	make_timestamp_ns(i * 1000003) AS tns, md5(i::VARCHAR)::UUID AS u, i % 2 = 0 AS bool,
	CASE WHEN i % 9 = 0 THEN NULL WHEN i % 9 = 1 THEN [] ELSE [i, NULL, i + 1] END AS lst, {'a': i, 'b': {'c': 'x' || i, 'd': [i]}} AS st,
	MAP {'k' || (i % 3): i, 'z': NULL} AS mp, [[i], [], NULL] AS nested, [{'p': i}, NULL] AS los, '{"j": ' || i || '}' AS js
	FROM range(6200) t(i)`

// outcome is a result, or the error instead.
type outcome struct {
	columns []string // "name TYPE"
	rows    []row
	err     error
	// untyped: kq learns the columns by running, and writes integers wider than
	// 64 bits as Parquet can hold them.
	untyped bool
}

// row is one row as text that tells apart what differs. The floats stand beside
// the text: the order of a sum decides their last bits, nothing else may.
type row struct {
	text   string
	floats []float64
}

func (r row) String() string {
	text := r.text
	for _, f := range r.floats {
		text = strings.Replace(text, "#", strconv.FormatFloat(f, 'g', -1, 64), 1)
	}
	return text
}

// reference runs the stages as views over the whole input.
func (w *world) reference(stages []stage) outcome { return reference(w.conn, stages, w.signed) }

func reference(conn *sql.Conn, stages []stage, signed bool) outcome {
	for i, s := range stages[:len(stages)-1] {
		if err := declare(conn, s); err != nil {
			drop(conn, stages[:i])
			return outcome{err: err}
		}
	}
	defer drop(conn, stages[:len(stages)-1])
	return read(conn, stages[len(stages)-1].sql, signed)
}

func kindOf(s stage) string {
	if s.materialize {
		return "TABLE"
	}
	return "VIEW"
}

func declare(conn *sql.Conn, s stage) error {
	_, err := conn.ExecContext(context.Background(), fmt.Sprintf("CREATE TEMP %s %s AS %s", kindOf(s), s.name, s.sql))
	return err
}

func drop(conn *sql.Conn, stages []stage) {
	for _, s := range slices.Backward(stages) {
		_, _ = conn.ExecContext(context.Background(), "DROP "+kindOf(s)+" IF EXISTS "+s.name)
	}
}

// read runs a query. signed tells -0.0 from 0.0.
func read(conn *sql.Conn, query string, signed bool) (o outcome) {
	rows, err := conn.QueryContext(context.Background(), query)
	if err != nil {
		return outcome{err: err}
	}
	defer rows.Close()
	types, err := rows.ColumnTypes()
	if err != nil {
		return outcome{err: err}
	}
	for _, t := range types {
		o.columns = append(o.columns, t.Name()+" "+t.DatabaseTypeName())
	}
	dest := make([]any, len(types))
	for i := range dest {
		dest[i] = new(any)
	}
	for rows.Next() {
		if err := rows.Scan(dest...); err != nil {
			return outcome{err: err}
		}
		r := renderer{signed: signed}
		for _, d := range dest {
			r.value(*d.(*any))
			r.WriteByte('|')
		}
		o.rows = append(o.rows, row{r.String(), r.floats})
	}
	o.err = rows.Err()
	return o
}

// renderer makes a row of values.
type renderer struct {
	strings.Builder
	floats []float64
	signed bool
}

func (r *renderer) value(v any) {
	switch v := v.(type) {
	case float32:
		r.value(float64(v))
	case float64:
		if r.signed && v == 0 && math.Signbit(v) {
			r.WriteString("-0")
			return
		}
		r.WriteByte('#')
		r.floats = append(r.floats, v)
	case []any:
		r.WriteByte('[')
		for _, e := range v {
			r.value(e)
			r.WriteByte(',')
		}
		r.WriteByte(']')
	case map[string]any:
		for _, k := range slices.Sorted(maps.Keys(v)) {
			r.WriteString(strconv.Quote(k) + ":")
			r.value(v[k])
		}
	case string:
		r.WriteString(strings.ReplaceAll(strconv.Quote(v), "#", `\x23`))
	default:
		fmt.Fprintf(r, "%v", v)
	}
}

// settings is how a job runs, as opposed to what it computes.
type settings struct {
	size     int64                         // decoded bytes a shard aims at
	small    int64                         // bytes up to which shards may read an input whole; 0: the default
	threads  int                           // 0: 2
	exchange string                        // the job's key of that name; "": always; auto has a budget that nothing fits
	files    func(files []string) []string // the files of a source; nil: as declared
}

// switchExchange sets the job's key, if there is one.
func switchExchange(job *pipeline.Job, to string) bool {
	f := reflect.ValueOf(job).Elem().FieldByName("Exchange")
	if !f.IsValid() || f.Kind() != reflect.String {
		return false
	}
	f.SetString(to)
	return true
}

// run executes the stages with kq, with shards of about size decoded bytes, and
// returns what the last one gives.
func (w *world) run(stages []stage, o settings) (outcome, string) {
	last := stages[len(stages)-1].name
	outcomes, plan := w.runAll(stages, []string{last}, o)
	return outcomes[last], plan
}

// runAll executes the stages as one job and returns what those in results give.
func (w *world) runAll(stages []stage, results []string, o settings) (outcomes map[string]outcome, plan string) {
	outcomes = map[string]outcome{}
	g, err := w.compile(stages, results, o)
	if err != nil {
		for _, name := range results {
			outcomes[name] = outcome{err: err}
		}
		return outcomes, ""
	}
	dir, err := os.MkdirTemp(w.dir, "parts")
	if err != nil {
		w.t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	parts, failed := map[string][][]pipeline.StoredPart{}, map[string]error{}
	for i := range g.Tasks {
		t := &g.Tasks[i]
		plan += fmt.Sprintf("%s: %d shards; ", t.Name, len(t.Shards))
		for _, need := range t.Needs {
			if failed[t.Name] == nil {
				failed[t.Name] = failed[need]
			}
		}
		if failed[t.Name] == nil {
			failed[t.Name] = w.task(g, t, dir, parts, o)
		}
	}
	for _, name := range results {
		if err := failed[name]; err != nil {
			outcomes[name] = outcome{err: err}
			continue
		}
		o := read(w.conn, resultOf(g.Task(name), parts[name]), w.signed)
		o.untyped = g.Task(name).Output.Dynamic
		outcomes[name] = o
	}
	return outcomes, plan
}

// compile makes the graph of the stages over the sources that they name.
func (w *world) compile(stages []stage, results []string, o settings) (*pipeline.Graph, error) {
	job := &pipeline.Job{File: "job.yaml", Name: "case", ShardSize: o.size, Positions: map[string]pipeline.Pos{}}
	switchExchange(job, cmp.Or(o.exchange, "always"))
	for name, s := range w.sources {
		used := false
		for _, st := range stages {
			used = used || strings.Contains(strings.ToLower(st.sql), name)
		}
		if used {
			files := s.files
			if o.files != nil {
				files = o.files(slices.Clone(files))
			}
			job.Sources = append(job.Sources, pipeline.Source{Name: name, Type: s.function, URIs: files})
		}
	}
	sort.Slice(job.Sources, func(i, j int) bool { return job.Sources[i].Name < job.Sources[j].Name })
	for _, s := range stages {
		job.Stages = append(job.Stages, pipeline.Stage{
			Name: s.name, SQL: s.sql, Materialize: s.materialize || slices.Contains(results, s.name), Retry: pipeline.Retry{Attempts: 1},
		})
	}
	budget := int64(0)
	if o.exchange == "auto" {
		budget = 1 // nothing fits
	}
	return pipeline.Compile(context.Background(), job, w.engine, pipeline.CompileOptions{
		Budget: budget,
		Open: func(s pipeline.Source) (pipeline.Relation, []string, error) {
			return pipeline.Relation{Function: s.Type, Args: w.sources[s.Name].args}, s.URIs, nil
		},
		Small:   o.small,
		Suggest: spec.Suggest,
	})
}

// resultOf is the query that reads a task's parts.
func resultOf(t *pipeline.Task, parts [][]pipeline.StoredPart) string {
	var files []string
	for _, shard := range parts {
		for _, f := range shard {
			files = append(files, "'"+f.Path+"'")
		}
	}
	items := []string{}
	if t.Output.Dynamic {
		items = []string{"*"}
	}
	for _, c := range t.Output.Columns {
		if t.Output.Dynamic {
			break
		}
		name := `"` + strings.ReplaceAll(c.Name, `"`, `""`) + `"`
		items = append(items, fmt.Sprintf("CAST(%s AS %s) AS %[1]s", name, c.Type))
	}
	return "SELECT " + strings.Join(items, ", ") + " FROM read_parquet([" + strings.Join(files, ", ") + "], hive_partitioning = false)"
}

func (w *world) task(g *pipeline.Graph, t *pipeline.Task, dir string, parts map[string][][]pipeline.StoredPart, o settings) error {
	ctx := context.Background()
	s, err := sqlstage.Open(ctx, g, t, pipeline.Resources{
		Threads: cmp.Or(o.threads, 2), Memory: 1 << 30, Spill: filepath.Join(dir, "spill"), OutDir: dir,
		Parts: func(task string) ([][]pipeline.StoredPart, error) { return parts[task], nil },
	})
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range t.Shards {
		out := filepath.Join(dir, fmt.Sprintf("%s-%05d.parquet", t.Name, i))
		written, _, err := s.Run(ctx, &t.Shards[i], out)
		if err != nil {
			return err
		}
		var stored []pipeline.StoredPart
		for _, f := range written {
			info, err := os.Stat(f.Path)
			if err != nil {
				return err
			}
			// Its bytes decide how the buckets are dealt: without them, one shard has all.
			stored = append(stored, pipeline.StoredPart{Path: f.Path, Part: pipeline.Part{Rows: f.Rows, Bytes: info.Size(), Buckets: f.Buckets}})
		}
		parts[t.Name] = append(parts[t.Name], stored)
	}
	return nil
}

// same compares outcomes: names and types of columns, and rows, in order where
// asked. It returns what differs, or "".
func same(want, got outcome, ordered bool) string {
	if want.err != nil || got.err != nil {
		if (want.err == nil) != (got.err == nil) {
			return fmt.Sprintf("DuckDB's error is %v, kq's is %v", want.err, got.err)
		}
		return ""
	}
	if got.untyped {
		want.columns, got.columns = names(want.columns), names(got.columns)
	}
	if !slices.Equal(want.columns, got.columns) {
		return fmt.Sprintf("columns are %q, want %q", got.columns, want.columns)
	}
	a, b := slices.Clone(want.rows), slices.Clone(got.rows)
	if !ordered {
		slices.SortFunc(a, compareRows)
		slices.SortFunc(b, compareRows)
	}
	if len(a) != len(b) {
		return fmt.Sprintf("%d rows, want %d; the first that differs is %s", len(b), len(a), firstDifference(a, b))
	}
	for i := range a {
		if alike(a[i], b[i]) {
			continue
		}
		// Rows whose floats differ in the last bits may have changed places.
		j := i + 1
		for !ordered && j < len(b) && b[j].text == a[i].text && !alike(a[i], b[j]) {
			j++
		}
		if ordered || j == len(b) || !alike(a[i], b[j]) {
			return fmt.Sprintf("row %d is %s, want %s", i, b[i], a[i])
		}
		b[i], b[j] = b[j], b[i]
	}
	return ""
}

func names(columns []string) []string {
	out := slices.Clone(columns)
	for i, c := range out {
		out[i] = c[:strings.LastIndexByte(c, ' ')]
	}
	return out
}

func firstDifference(want, got []row) string {
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(want):
			return got[i].String() + ", which is too much"
		case i >= len(got):
			return want[i].String() + ", which is missing"
		case !alike(want[i], got[i]):
			return fmt.Sprintf("%s, want %s", got[i], want[i])
		}
	}
	return "none"
}

func compareRows(a, b row) int {
	return cmp.Or(strings.Compare(a.text, b.text), slices.Compare(a.floats, b.floats))
}

// alike reports whether rows are equal but for the last bits of their floats.
func alike(a, b row) bool {
	return a.text == b.text && slices.EqualFunc(a.floats, b.floats, func(x, y float64) bool {
		return x == y || math.IsNaN(x) && math.IsNaN(y) || math.Abs(x-y) <= 1e-9*max(1, math.Abs(x), math.Abs(y)) && !math.IsInf(x, 0) && !math.IsInf(y, 0)
	})
}

// The comparison must be able to fail: each wrong result is told apart.
func TestComparison(t *testing.T) {
	ints := func(texts ...string) (rows []row) {
		for _, s := range texts {
			rows = append(rows, row{text: s})
		}
		return rows
	}
	floats := func(pairs ...[2]float64) outcome {
		o := outcome{columns: []string{"x DOUBLE", "y DOUBLE"}}
		for _, p := range pairs {
			o.rows = append(o.rows, row{"#|#|", p[:]})
		}
		return o
	}
	right := outcome{columns: []string{"a INTEGER"}, rows: ints("1|", "2|")}
	for _, wrong := range []outcome{
		{columns: []string{"b INTEGER"}, rows: right.rows},
		{columns: []string{"a BIGINT"}, rows: right.rows},
		{columns: right.columns, rows: ints("1|")},
		{columns: right.columns, rows: ints("1|", "2|", "2|")},
		{columns: right.columns, rows: ints("1|", "3|")},
		{err: os.ErrInvalid},
	} {
		if same(right, wrong, false) == "" {
			t.Errorf("%v passes for %v", wrong, right)
		}
	}
	if same(right, outcome{columns: right.columns, rows: ints("2|", "1|")}, true) == "" {
		t.Error("order is not compared")
	}
	for _, wrong := range []outcome{floats([2]float64{1, 2}), floats([2]float64{math.Inf(1), 3}), floats([2]float64{math.NaN(), 3})} {
		if same(floats([2]float64{1, 3}), wrong, false) == "" {
			t.Errorf("%v passes for 1 and 3", wrong)
		}
	}
	third := 1.0 / 3
	a := floats([2]float64{third, 2}, [2]float64{math.Nextafter(third, 1), 1})
	b := floats([2]float64{third, 1}, [2]float64{math.Nextafter(third, 1), 2})
	if why := same(a, b, false); why != "" {
		t.Errorf("the last bits of floats are compared: %s", why)
	}
}
