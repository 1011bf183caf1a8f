package tpc

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	_ "github.com/duckdb/duckdb-go/v2"
)

var (
	tpchScale  = flag.Float64("tpch.sf", 0.1, "scale factor of TPC-H")
	tpchAll    = flag.Bool("tpch.all", false, "TPC-H at every number of shards in every mode of exchange")
	tpcdsScale = flag.Float64("tpcds.sf", 0.1, "scale factor of TPC-DS")
	tpcdsAll   = flag.Bool("tpcds.all", false, "TPC-DS likewise")
	seed       = flag.Uint64("seed", 1, "seed of the kills")
	kills      = flag.Int("kills", 2, "how many workers of a query to kill")
)

// dataRoot is shared with the benchmarks.
const dataRoot = "../../benchmarks/data"

// kq is the real binary, built once.
var kq string

// modes are those of kq run --exchange, or one empty one where it has none.
var modes = []string{""}

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "kq-tpc-")
	if err != nil {
		panic(err)
	}
	kq = filepath.Join(dir, "kq")
	if out, err := exec.Command("go", "build", "-o", kq, "../../cmd/kq").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build kq: %v\n%s", err, out)
		os.Exit(1)
	}
	help, err := exec.Command(kq, "run", "--help").CombinedOutput()
	if err != nil {
		fmt.Fprintf(os.Stderr, "kq run --help: %v\n%s", err, help)
		os.Exit(1)
	}
	if strings.Contains(string(help), "--exchange") {
		modes = []string{"auto", "always", "never"}
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func tpchSuite(t testing.TB) *Suite {
	needPython(t)
	s, err := TPCH(dataRoot, *tpchScale)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func tpcdsSuite(t testing.TB) *Suite {
	needPython(t)
	s, err := TPCDS(dataRoot, *tpcdsScale)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func needPython(t testing.TB) {
	if _, err := exec.LookPath("python3"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("the data is made with Python's packages: ", err)
	}
}

// world is a suite, DuckDB over all of it, and what DuckDB answered.
type world struct {
	suite   *Suite
	db      *sql.Conn
	answers map[string]*answer
}

func newWorld(t testing.TB, s *Suite) *world {
	db, err := sql.Open("duckdb", "?threads=2")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := db.Conn(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); db.Close() })
	w := &world{suite: s, db: conn, answers: map[string]*answer{}}
	for _, table := range s.Tables {
		if err := w.exec(fmt.Sprintf("CREATE VIEW %s AS SELECT * FROM read_parquet('%s/*.parquet')", table, s.Folder(table))); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) exec(query string) error {
	_, err := w.db.ExecContext(context.Background(), query)
	return err
}

// variant is one way to run a query.
type variant struct {
	shards, workers int
	exchange        string // empty: kq has no such flag
}

func (v variant) String() string {
	s := fmt.Sprintf("%d shards, %d workers", v.shards, v.workers)
	if v.exchange != "" {
		s += ", exchange " + v.exchange
	}
	return s
}

// variants cuts the biggest table into each number of shards: all of them in all
// modes; or each in one, where 1 shard runs as kq decides, more of them with an
// exchange wherever there can be one.
func variants(all bool, shards ...int) (vs []variant) {
	for i, n := range shards {
		one := modes[min(len(modes)-1, n-1, 1)]
		for j, mode := range modes {
			if all || mode == one {
				vs = append(vs, variant{n, 1 + (i+j)%3, mode})
			}
		}
	}
	return vs
}

// shardSize is the number of decoded bytes that cuts the biggest table of a query
// into n shards, going by the columns that the query names.
func (w *world) shardSize(t testing.TB, q Query, n int) int64 {
	t.Helper()
	if n == 1 {
		return 1 << 40
	}
	var columns []string
	for _, c := range word.FindAllString(strings.ToLower(q.SQL), -1) {
		columns = append(columns, "'"+c+"'")
	}
	var most int64
	for _, table := range w.suite.Reads(q) {
		var size int64
		err := w.db.QueryRowContext(context.Background(), fmt.Sprintf(`SELECT coalesce(sum(greatest(total_uncompressed_size,
				num_values * CASE type WHEN 'INT32' THEN 4 WHEN 'BYTE_ARRAY' THEN 16 ELSE 8 END)), 0)::BIGINT
			FROM parquet_metadata('%s/*.parquet') WHERE path_in_schema IN (%s)`, w.suite.Folder(table), strings.Join(columns, ", "))).Scan(&size)
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, size)
	}
	return most/int64(n)*51/50 + 1 // this and kq weigh columns a little differently
}

// job writes the job file of a query into an empty folder, and returns both.
func (w *world) job(t testing.TB, q Query) (dir, file string) {
	dir = t.TempDir()
	file = filepath.Join(dir, "job.yaml")
	if err := os.WriteFile(file, []byte(w.suite.Job(q)), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir, file
}

// arguments of kq run for a job file.
func (w *world) arguments(t testing.TB, q Query, file string, v variant) []string {
	args := []string{"run", file, "--json", "--workers", strconv.Itoa(v.workers), "--shard-size", fmt.Sprintf("%dB", w.shardSize(t, q, v.shards))}
	if v.exchange != "" {
		args = append(args, "--exchange", v.exchange)
	}
	return args
}

// run gives a query to kq and compares.
func (w *world) run(t testing.TB, q Query, v variant) {
	t.Helper()
	dir, file := w.job(t, q)
	args := w.arguments(t, q, file, v)
	if out, err := exec.Command(kq, args...).CombinedOutput(); err != nil {
		t.Fatalf("kq %s: %v\n%s\n%s", strings.Join(args, " "), err, out, q.SQL)
	}
	w.check(t, q, v, dir)
}

// check compares what a job in dir has published with DuckDB's answer.
func (w *world) check(t testing.TB, q Query, v variant, dir string) {
	t.Helper()
	want := w.answers[q.Name]
	if want == nil {
		var err error
		if want, err = w.answer(q); err != nil {
			t.Fatalf("DuckDB: %v\n%s", err, q.SQL)
		}
		w.answers[q.Name] = want
	}
	got, err := w.published(filepath.Join(dir, "out"))
	if err != nil {
		t.Fatalf("%s: %v", v, err)
	}
	if diff := want.compare(got); diff != "" {
		t.Errorf("%s with %s: %s\n%s", q.Name, v, diff, q.SQL)
	}
}

// published reads a sink's folder in the order of its files.
func (w *world) published(dir string) (relation, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.parquet"))
	if err != nil || len(files) == 0 {
		return relation{}, fmt.Errorf("no files in %s: %w", dir, errors.Join(err, os.ErrNotExist))
	}
	slices.Sort(files)
	return w.read("SELECT * FROM read_parquet(['"+strings.Join(files, "', '")+"'], hive_partitioning = false)", "")
}
