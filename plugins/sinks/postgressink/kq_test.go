package postgressink

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests of this file run the real kq: DuckDB is in there and not here.
var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "kq-postgres-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "kq")
	if out, err := exec.Command("go", "build", "-o", path, "../../../cmd/kq").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kq: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built != "" {
		os.RemoveAll(filepath.Dir(built))
	}
	os.Exit(code)
}

var built string

// job is a folder with a job.
type job struct {
	*world
	kq, dir string
}

func (w *world) job(text string, files map[string]string) *job {
	w.Helper()
	kq, err := build()
	if err != nil {
		w.Fatal(err)
	}
	built = kq
	j := &job{w, kq, w.TempDir()}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(j.dir, name), []byte(content), 0o600); err != nil {
			w.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(j.dir, "job.yaml"), []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
	return j
}

// run gives the job to kq; kill, if there is one, is called while it runs.
func (j *job) run(kill func(), env []string, command ...string) (code int, output string) {
	j.Helper()
	cmd := exec.Command(j.kq, append(command, filepath.Join(j.dir, "job.yaml"))...)
	cmd.Env = append(append(os.Environ(), "PG="+j.url, "KQ_LEASE=1500ms"), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Start(); err != nil {
		j.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() {
		for kill != nil && ctx.Err() == nil {
			kill()
		}
	})
	err := cmd.Wait()
	cancel()
	group.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		j.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String()
}

// finish gives the command until it succeeds.
func (j *job) finish() {
	j.Helper()
	for try := 0; ; try++ {
		code, out := j.run(nil, nil, "run", "--workers", "3")
		if code == 0 {
			return
		}
		if try == 10 {
			j.Fatalf("kq run still exits %d:\n%s", code, out)
		}
	}
}

// workers are the processes that work on the job.
func (j *job) workers() (pids []int) {
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		line, err := os.ReadFile(p)
		args := strings.Split(string(line), "\x00")
		if err == nil && len(args) > 2 && args[0] == j.kq && args[1] == "worker" && strings.Contains(string(line), j.dir) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(p)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// values are SQL expressions of DuckDB by their type, and their texts in PostgreSQL.
var values = []struct {
	duck   string
	values [][2]string
}{
	{"BOOLEAN", [][2]string{{"true", "true"}, {"false", "false"}}},
	{"TINYINT", [][2]string{{"-128", "-128"}, {"127", "127"}}},
	{"SMALLINT", [][2]string{{"-32768", "-32768"}}},
	{"INTEGER", [][2]string{{"-2147483648", "-2147483648"}}},
	{"BIGINT", [][2]string{{"-9223372036854775808", "-9223372036854775808"}, {"9223372036854775807", "9223372036854775807"}}},
	{"HUGEINT", [][2]string{{"-170141183460469231731687303715884105728", "-170141183460469231731687303715884105728"}, {"170141183460469231731687303715884105727", "170141183460469231731687303715884105727"}}},
	{"UTINYINT", [][2]string{{"255", "255"}}},
	{"USMALLINT", [][2]string{{"65535", "65535"}}},
	{"UINTEGER", [][2]string{{"4294967295", "4294967295"}}},
	{"UBIGINT", [][2]string{{"18446744073709551615", "18446744073709551615"}}},
	{"UHUGEINT", [][2]string{{"340282366920938463463374607431768211455", "340282366920938463463374607431768211455"}}},
	{"DECIMAL(38,10)", [][2]string{{"'1234567890123456789012345678.0123456789'", "1234567890123456789012345678.0123456789"}, {"'-0.0000000001'", "-0.0000000001"}}},
	{"DECIMAL(4,2)", [][2]string{{"1.5", "1.50"}}},
	{"FLOAT", [][2]string{{"0.1", "0.1"}, {"'nan'", "NaN"}, {"'-inf'", "-Infinity"}, {"3.4028235e38", "3.4028235e+38"}}},
	{"DOUBLE", [][2]string{{"0.1", "0.1"}, {"'nan'", "NaN"}, {"'inf'", "Infinity"}, {"5e-324", "5e-324"}, {"1.7976931348623157e308", "1.7976931348623157e+308"}, {"'-0.0'", "-0"}, {"123456789.12345679", "123456789.12345679"}}},
	{"VARCHAR", [][2]string{{"''", ""}, {"'NULL'", "NULL"}, {`'a,"b"'`, `a,"b"`}, {`'\.'`, `\.`}, {`'\N'`, `\N`}, {"'héllo 🦆'", "héllo 🦆"}, {"'x' || chr(10) || chr(13) || 'y'", "x\n\ry"}, {`chr(10) || '\.' || chr(10)`, "\n\\.\n"}, {"' '", " "}}},
	{"BLOB", [][2]string{{`'\x00\xFF\x0A'`, `\x00ff0a`}, {"''", `\x`}}},
	{"UUID", [][2]string{{"'00112233-4455-6677-8899-aabbccddeeff'", "00112233-4455-6677-8899-aabbccddeeff"}}},
	{"BIT", [][2]string{{"'10101'", "10101"}, {"'0'", "0"}}},
	{"ENUM('a b', 'c,d')", [][2]string{{"'c,d'", "c,d"}}},
	{"DATE", [][2]string{{"'2020-02-29'", "2020-02-29"}, {"'0044-03-15 (BC)'", "0044-03-15 BC"}, {"'infinity'", "infinity"}, {"'-infinity'", "-infinity"}, {"'12345-01-01'", "12345-01-01"}}},
	{"TIME", [][2]string{{"'23:59:59.999999'", "23:59:59.999999"}, {"'24:00:00'", "24:00:00"}}},
	{"TIME WITH TIME ZONE", [][2]string{{"'12:34:56.789+05:30'", "12:34:56.789+05:30"}, {"'12:34:56-15:59:59'", "12:34:56-15:59:59"}}},
	{"TIMESTAMP", [][2]string{{"'2020-01-01 12:34:56.123456'", "2020-01-01 12:34:56.123456"}, {"'infinity'", "infinity"}, {"'0044-03-15 (BC) 12:00:00'", "0044-03-15 12:00:00 BC"}}},
	{"TIMESTAMP_S", [][2]string{{"'2020-01-01 12:34:56'", "2020-01-01 12:34:56"}}},
	{"TIMESTAMP_MS", [][2]string{{"'2020-01-01 12:34:56.123'", "2020-01-01 12:34:56.123"}}},
	{"TIMESTAMP_NS", [][2]string{{"'2020-01-01 12:34:56.123456'", "2020-01-01 12:34:56.123456"}, {"'1900-01-01 00:00:00.1'", "1900-01-01 00:00:00.1"}}},
	{"TIMESTAMP WITH TIME ZONE", [][2]string{{"'2020-01-01 12:34:56.123456+05:30'", "2020-01-01 07:04:56.123456+00"}, {"'-infinity'", "-infinity"}, {"'0044-03-15 (BC) 12:00:00+00'", "0044-03-15 12:00:00+00 BC"}}},
	{"INTERVAL", [][2]string{{"to_months(-14) + to_days(3) + to_microseconds(-500000)", "-1 years -2 mons +3 days -00:00:00.5"}, {"to_microseconds(1000000000000001)", "277777:46:40.000001"}, {"to_days(0)", "00:00:00"}}},
	{"JSON", [][2]string{{`'{"a": 1.10}'`, `{"a": 1.10}`}, {"'null'", "null"}}},
	{"INTEGER[]", [][2]string{{"[1, NULL, 3]", "{1,NULL,3}"}, {"[]", "{}"}}},
	{"DOUBLE[2]", [][2]string{{"[0.5, 'nan'::DOUBLE]", "{0.5,NaN}"}}},
	{"VARCHAR[]", [][2]string{{`['a"b\', NULL, 'NULL', '', 'x,y', '{}']`, `{"a\"b\\",NULL,"NULL","","x,y","{}"}`}}},
	{"BLOB[]", [][2]string{{`['\x00\x22'::BLOB, NULL]`, `{"\\x0022",NULL}`}}},
	{"DATE[]", [][2]string{{"['0044-03-15 (BC)'::DATE]", `{"0044-03-15 BC"}`}}},
	{"INTERVAL[]", [][2]string{{"[to_days(-1)]", `{"-1 days"}`}}},
	{"INTEGER[][]", [][2]string{{"[[1, 2], NULL, [NULL], []]", "[[1, 2], null, [null], []]"}}},
	{"DECIMAL(20,2)[][]", [][2]string{{"[[123456789012345678.10], NULL]", "[[123456789012345678.10], null]"}}},
	{`STRUCT("a ""'b" INTEGER, d DECIMAL(20,2), f FLOAT, b BLOB, t TIMESTAMP, j JSON, n DOUBLE, v VARCHAR)`, [][2]string{
		{
			`row(1, 123456789012345678.10, 0.1, '\x00\xFF'::BLOB, '0044-03-15 (BC) 12:00:00'::TIMESTAMP, '{"x": 1.10}'::JSON, 'nan'::DOUBLE, 'q"\' || chr(10))`,
			`{"b": "\\x00ff", "d": 123456789012345678.10, "f": 0.1, "j": {"x": 1.10}, "n": "NaN", "t": "0044-03-15 12:00:00 BC", "v": "q\"\\\n", "a \"'b": 1}`,
		},
		{"row(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)", `{"b": null, "d": null, "f": null, "j": null, "n": null, "t": null, "v": null, "a \"'b": null}`},
	}},
	{"MAP(VARCHAR, HUGEINT)", [][2]string{{"map {'a': 170141183460469231731687303715884105727, 'b\"': NULL}", `{"a": 170141183460469231731687303715884105727, "b\"": null}`}}},
	{"MAP(DATE, STRUCT(x DOUBLE)[])", [][2]string{{"map {'2020-01-01'::DATE: [{'x': 1e300}, NULL, {'x': '-inf'::DOUBLE}]}", ""}}}, // compared below
	{"STRUCT(a INTEGER, l VARCHAR[])[]", [][2]string{{"[{'a': 1, 'l': ['x', NULL]}, NULL]", `[{"a": 1, "l": ["x", null]}, null]`}}},
}

// TestTypesArrive sends every type of DuckDB by the real kq.
func TestTypesArrive(t *testing.T) {
	w := newWorld(t)
	rows := 1 // the last is all NULL
	for _, v := range values {
		rows = max(rows, len(v.values)+1)
	}
	var columns []string
	seed := "id\n"
	for i, v := range values {
		var list []string
		for _, x := range v.values {
			list = append(list, "CAST("+x[0]+" AS "+v.duck+")")
		}
		columns = append(columns, fmt.Sprintf("list_extract([%s], id + 1) AS c%d", strings.Join(list, ", "), i))
	}
	for i := range rows {
		seed += fmt.Sprintln(i)
	}
	j := w.job(fmt.Sprintf(`version: 1
sources: {seed: {type: csv, uri: seed.csv}}
stages:
  s:
    sql: |
      SELECT id, %s FROM seed
sinks: {o: {type: postgres, from: s, url: "${PG}", table: public.types, create: true, token_table: toks, mode: upsert, key: id, delivery: effectively-once, max_memory_bytes: 1KiB}}
`, strings.Join(columns, ",\n        ")), map[string]string{"seed.csv": seed})
	if code, out := j.run(nil, nil, "run"); code != 0 {
		t.Fatalf("exit %d\n%s", code, out)
	}
	w.exec("SET timezone = 'UTC'; SET intervalstyle = 'postgres'")
	for i, v := range values {
		typ, err := parseType(v.duck)
		if err != nil {
			t.Fatal(err)
		}
		if made := w.get("SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'types'::regclass AND attname = $1", fmt.Sprint("c", i)); strings.Replace(made, " without time zone", "", 1) != typ.postgres() {
			t.Errorf("%s is %s", v.duck, made)
		}
		for row := range rows {
			got, null := w.get(fmt.Sprintf("SELECT c%d FROM types WHERE id = $1", i), row), w.get(fmt.Sprintf("SELECT c%d IS NULL FROM types WHERE id = $1", i), row)
			switch {
			case row >= len(v.values):
				if null != "true" {
					t.Errorf("%s: row %d is %s, not NULL", v.duck, row, got)
				}
			case v.values[row][1] == "" && strings.HasPrefix(v.duck, "MAP"):
				w.want("true", fmt.Sprintf(`SELECT c%d = '{"2020-01-01": [{"x": 1e300}, null, {"x": "-Infinity"}]}'::jsonb FROM types WHERE id = $1`, i), row)
			case got != v.values[row][1] || null != "false":
				t.Errorf("%s: %s is %q (NULL: %s), want %q", v.duck, v.values[row][0], got, null, v.values[row][1])
			}
		}
	}
	j = w.job(`version: 1
sources: {seed: {type: csv, uri: seed.csv}}
stages: {s: {sql: "SELECT '2020-01-01 00:00:00.123456789'::TIMESTAMP_NS AS at FROM seed", retry: {attempts: 1}}}
sinks: {o: {type: postgres, from: s, url: "${PG}", table: ns, create: true}}
`, map[string]string{"seed.csv": "id\n1\n"})
	if code, out := j.run(nil, nil, "run"); code != 1 || !strings.Contains(out, "no whole number of microseconds") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

// TestCommandLine looks at what kq says of a job before it runs.
func TestCommandLine(t *testing.T) {
	w := newWorld(t)
	files := map[string]string{"seed.csv": "id\n1\n"}
	j := w.job(`version: 1
sources: {seed: {type: csv, uri: seed.csv}}
stages: {s: {sql: "SELECT id, union_value(a := 1) AS u FROM seed"}}
sinks:
  a: {type: postgres, from: s, url: "postgres://u:hunter2@h/d?sslmode=no", table: a.b.c, mode: upsert, key: nope}
  b: {type: postgres, from: seed, table: t, url: x, mode: merge}
  c: {type: postgres, from: s, url: "${PG}"}
`, files)
	code, out := j.run(nil, nil, "validate")
	for _, says := range []string{
		"job.yaml:5:", "sinks.a.url: it is no address", "sinks.a.table: \"a.b.c\" has 3 parts", "sinks.a.key: there is no column \"nope\"", "sinks.a: column \"u\" is UNION",
		"sinks.b.mode: \"merge\" is none of insert, upsert, replace", "sinks.c: has no table",
	} {
		if !strings.Contains(out, says) {
			t.Errorf("it doesn't say %s", says)
		}
	}
	if code != 2 || strings.Contains(out, "hunter2") {
		t.Errorf("exit %d\n%s", code, out)
	}
	secret := strings.Replace(w.url, "postgres@", "postgres:hunter2@", 1) + "&application_name=x"
	j = w.job(fmt.Sprintf(`version: 1
sources: {seed: {type: csv, uri: seed.csv}}
stages: {s: {sql: "SELECT id, 'x' AS name FROM seed"}}
sinks: {o: {type: postgres, from: s, url: "%s", table: t}}
`, secret), files)
	for _, format := range []string{"json", "text", "dot"} {
		if code, out := j.run(nil, nil, "plan", "--format", format); code != 0 || strings.Contains(out, "hunter2") || format == "text" && !strings.Contains(out, "effectively-once") {
			t.Errorf("exit %d\n%s", code, out)
		}
	}
	if code, out := j.run(nil, nil, "run"); code != 3 || !strings.Contains(out, `CREATE TABLE "t"`) || strings.Contains(out, "hunter2") {
		t.Errorf("exit %d\n%s", code, out)
	}
}

var rounds = flag.Int("rounds", 3, "rounds of random kills")

const killJob = `version: 1
name: kills
sources: {facts: {type: csv, uri: f*.csv}}
stages:
  s: {sql: "SELECT id, id % 1000 AS k, 'name ' || id AS name FROM facts", retry: {attempts: 100, backoff: 10ms}}
sinks:
  a: {type: postgres, from: s, url: "${PG}", table: a, create: true}
  b: {type: postgres, from: s, url: "${PG}", table: b, create: true, mode: upsert, key: id}
  c: {type: postgres, from: s, url: "${PG}", table: c, create: true, mode: replace}
`

// TestKills ends workers by SIGKILL, at each point of publishing and at random
// moments, and then reads the tables.
func TestKills(t *testing.T) {
	const files, rows = 6, 3000
	w := newWorld(t)
	data := map[string]string{}
	for i := range files {
		var b strings.Builder
		b.WriteString("id\n")
		for k := range rows {
			fmt.Fprintln(&b, i*rows+k)
		}
		data[fmt.Sprintf("f%d.csv", i)] = b.String()
	}
	j := w.job(killJob, data)
	rng := rand.New(rand.NewPCG(1, 2))
	kills := 0
	random := func() {
		time.Sleep(time.Duration(5+rng.IntN(40)) * time.Millisecond)
		for _, pid := range j.workers() {
			if rng.IntN(2) == 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
		}
	}
	check := func(round string) {
		t.Helper()
		j.finish()
		for _, table := range []string{"a", "b", "c"} {
			if got := w.get("SELECT (count(*), count(DISTINCT id), sum(id), count(DISTINCT name)) FROM " + table); got != "(18000,18000,161991000,18000)" {
				t.Fatalf("%s: table %s: %s", round, table, got)
			}
		}
		w.want("0", stagingTables)
		w.exec("DROP TABLE a, b, c, kq_published")
		if err := os.RemoveAll(filepath.Join(j.dir, ".kq")); err != nil {
			t.Fatal(err)
		}
	}
	for _, point := range []string{"publish.send.before:1", "publish.send.before:4", "publish.send.after:1", "publish.send.after:3", "publish.last.before:1", "publish.last.after:1", "worker.complete.before:2"} {
		j.run(nil, []string{"KQ_FAULT=crash:" + point}, "run", "--workers", "3")
		check(point)
	}
	for round := range *rounds {
		j.run(random, nil, "run", "--workers", "3")
		check(fmt.Sprint("round ", round))
	}
	t.Logf("%d random kills beside those at points: 0 lost, 0 duplicated", kills)
}
