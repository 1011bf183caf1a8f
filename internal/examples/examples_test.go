// Package examples proves that the jobs of the folder jobs say what they mean:
// their rows are checked in beside them (jobs/*.expected.csv), DuckDB computes
// them over the whole input by other statements (testdata/*.sql), and kq must
// give them however the work is divided. -update rewrites the checked-in rows by
// those statements, never by kq.
package examples

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	_ "github.com/duckdb/duckdb-go/v2"
)

var update = flag.Bool("update", false, "rewrite the expected rows")

// kq is the real binary, built once.
var kq string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "kq-examples-")
	if err != nil {
		panic(err)
	}
	kq = filepath.Join(dir, "kq")
	if out, err := exec.Command("go", "build", "-o", kq, "../../cmd/kq").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build kq: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var examples = []struct {
	job     string
	stage   string   // the one with an exchange of its own, which --exchange leaves as it is
	outputs []string // a folder of Parquet files, or a CSV file, whose order counts
}{
	{"delays", "", []string{"delays.csv"}},
	{"sessions", "sessions", []string{"sessions", "sessions-daily.csv"}},
	{"dedupe", "", []string{"dedupe", "dedupe-per-day.csv"}},
}

func TestExamples(t *testing.T) {
	statements, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("../../jobs") // the statements name the data as the jobs do
	db, err := sql.Open("duckdb", "?threads=2")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	for _, e := range examples {
		t.Run(e.job, func(t *testing.T) {
			want := map[string]string{}
			for _, out := range e.outputs {
				want[out] = expected(t, db, statements, strings.TrimSuffix(out, ".csv"))
			}
			dir := folder(t, e.job)
			for _, args := range variants(e.job, e.stage) {
				cmd := exec.Command(kq, args...)
				cmd.Dir = dir
				if text, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("kq %s: %v\n%s", strings.Join(args, " "), err, text)
				}
				for _, out := range e.outputs {
					if diff := difference(published(t, db, filepath.Join(dir, "out", out)), want[out]); diff != "" {
						t.Errorf("kq %s: %s: %s", strings.Join(args, " "), out, diff)
					}
				}
				if err := os.RemoveAll(filepath.Join(dir, "out")); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// expected are the rows of an output: as a statement of the tests gives them,
// and as they are checked in.
func expected(t *testing.T, db *sql.DB, statements, name string) string {
	want := rows(t, db, read(t, filepath.Join(statements, name+".sql")))
	golden := name + ".expected.csv"
	if *update {
		if err := os.WriteFile(golden, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := difference(read(t, golden), want); diff != "" {
		t.Errorf("%s: DuckDB says otherwise: %s", golden, diff)
	}
	return want
}

// variants are the command lines that run a job: as it stands, and in every mode
// with shards of its own size, one shard, and many.
func variants(job, stage string) (all [][]string) {
	run := []string{"run", job + ".yaml", "--fresh", "--workers"}
	all = append(all, append(slices.Clone(run), "2"))
	for i, mode := range []string{"auto", "always", "never"} {
		for j, size := range []string{"", "1TiB", "16KiB"} {
			args := append(slices.Clone(run), fmt.Sprint(1+(i+j)%3), "--exchange", mode)
			if stage != "" {
				args = append(args, "--set", "stages."+stage+".exchange="+mode)
			}
			if size != "" {
				args = append(args, "--shard-size", size)
			}
			all = append(all, args)
		}
	}
	return all
}

// folder is an empty one with the job and the data.
func folder(t *testing.T, job string) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, job+".yaml"), []byte(read(t, job+".yaml")), 0o644); err != nil {
		t.Fatal(err)
	}
	data, err := filepath.Abs("data")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(data, filepath.Join(dir, "data")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t *testing.T, file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// rows are those of a query as CSV.
func rows(t *testing.T, db *sql.DB, query string) string {
	file := filepath.Join(t.TempDir(), "rows.csv")
	if _, err := db.ExecContext(context.Background(), fmt.Sprintf("COPY (%s) TO '%s' (FORMAT csv)", query, file)); err != nil {
		t.Fatalf("%v\n%s", err, query)
	}
	return read(t, file)
}

// published is a result of kq as CSV. The rows of a folder have no order of
// their own: its jobs' first two columns give one.
func published(t *testing.T, db *sql.DB, path string) string {
	if strings.HasSuffix(path, ".csv") {
		return read(t, path)
	}
	return rows(t, db, fmt.Sprintf("SELECT * FROM '%s/*.parquet' ORDER BY #1, #2", path))
}

// difference shows the lines that only one has, or "".
func difference(got, want string) string {
	if got == want {
		return ""
	}
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	only := func(a, b []string) string {
		a = slices.DeleteFunc(slices.Clone(a), func(line string) bool { return slices.Contains(b, line) })
		return fmt.Sprintf("%d lines %q", len(a), a[:min(len(a), 5)])
	}
	return fmt.Sprintf("%d lines, want %d\nunexpected: %s\nmissing: %s", len(g), len(w), only(g, w), only(w, g))
}
