package analysis

import (
	"context"
	"strings"
	"testing"

	"github.com/kinequet/kq/pipeline"
)

func newAnalyzer(t testing.TB) *Analyzer {
	a, err := New(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	a.Known([]string{"t", "u", "v"})
	return a
}

// Each line: the tables in which the statement is row-wise, then those in which
// it is not, then the statement.
const verdicts = `
t | | SELECT * FROM t
t | | SELECT a + 1 AS b, upper(s), CASE WHEN a > 1 THEN 2 END FROM t WHERE a IN (1, 2) AND s LIKE 'x%'
t | | SELECT * FROM (SELECT a FROM t WHERE a > 1) x WHERE a < 5
t | | WITH c AS (SELECT * FROM t) SELECT a FROM c
t | | SELECT unnest(l) FROM t
t | | SELECT x FROM t, unnest(t.l) q(x)
t | | SELECT list_transform(l, x -> x + 1), list_sum(l), [y FOR y IN l IF y > 1] FROM t
t | | SELECT COLUMNS(*), * EXCLUDE (a) FROM t
t | | SELECT s COLLATE NOCASE, a::VARCHAR, TRY_CAST(s AS INT), l[1:2], st.f FROM t
t u | | SELECT * FROM t JOIN u ON t.a = u.a
t u | | SELECT * FROM t, u WHERE t.a < u.a
t u | | SELECT * FROM t NATURAL JOIN u
t | u | SELECT * FROM t LEFT JOIN u USING (a)
u | t | SELECT * FROM t RIGHT JOIN u USING (a)
t | u | SELECT * FROM t SEMI JOIN u USING (a)
t | u | SELECT * FROM t ANTI JOIN u USING (a)
 | t u | SELECT * FROM t FULL JOIN u USING (a)
 | t u | SELECT * FROM t ASOF JOIN u ON t.a >= u.a
 | t u | SELECT * FROM t POSITIONAL JOIN u
t | u v | SELECT * FROM t LEFT JOIN (SELECT * FROM u JOIN v USING (a)) x USING (a)
t u | v | SELECT * FROM t JOIN u USING (a) LEFT JOIN v USING (a)
t | u | SELECT * FROM t WHERE a IN (SELECT a FROM u)
t | u | SELECT * FROM t WHERE a NOT IN (SELECT a FROM u)
 | t u | SELECT (SELECT max(a) FROM u) FROM t
 | t | SELECT (SELECT min(t.a)) FROM t
 | t | SELECT age(ts) FROM t
 | t | SELECT list_aggr(l, 'reservoir_quantile', 0.5) FROM t
t | u | SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.a = t.a)
t | u | SELECT * FROM t JOIN (SELECT a, count(*) FROM u GROUP BY a) x USING (a)
 | t u | SELECT * FROM t WHERE a > (SELECT avg(a) FROM u)
 | t u | SELECT * FROM t WHERE a IN (SELECT a FROM u LIMIT 3)
 | t u | SELECT * FROM t JOIN (SELECT a, random() r FROM u) x USING (a)
 | t | SELECT * FROM t WHERE a = (SELECT max(a) FROM t)
 | t | SELECT * FROM t x JOIN t y USING (a)
 | t | WITH c AS (SELECT * FROM t) SELECT * FROM c x JOIN c y USING (a)
 | t | SELECT count(*) FROM t
 | t | SELECT a FROM t GROUP BY a
 | t | SELECT a, max(s) FROM t GROUP BY ALL
 | t | SELECT a + sum(a) OVER () FROM t
 | t | SELECT DISTINCT a FROM t
 | t | SELECT DISTINCT ON (a) * FROM t
 | t | SELECT * FROM t ORDER BY a
 | t | SELECT * FROM t LIMIT 1
 | t | SELECT * FROM t LIMIT 10%
 | t | SELECT * FROM t OFFSET 2
 | t | SELECT * FROM t USING SAMPLE 10%
 | t | SELECT * FROM t TABLESAMPLE 10%
 | t | SELECT * FROM t QUALIFY row_number() OVER () = 1
 | t | SELECT a FROM t HAVING count(*) > 1
 | t u | SELECT a FROM t UNION ALL SELECT a FROM u
 | t u | SELECT a FROM t EXCEPT SELECT a FROM u
 | t | SELECT random() FROM t
 | t | SELECT * FROM t WHERE a < random()
 | t | SELECT now() FROM t
 | t | SELECT current_date, a FROM t
 | t | SELECT uuid() FROM t
 | t | SELECT list(a) FROM t
 | t | SELECT any_value(a) FILTER (a > 1) FROM t
 | t | PIVOT t ON a USING sum(b)
 | t | PIVOT t ON a IN (1, 2) USING sum(b)
 | t | UNPIVOT t ON a, b INTO NAME n VALUE v
 | t | WITH RECURSIVE r AS (SELECT a FROM t UNION ALL SELECT a + 1 FROM r WHERE a < 5) SELECT * FROM r
t | | WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM u) SELECT a FROM t
 | t u | WITH unused AS (SELECT * FROM t) SELECT count(*) FROM u
u | t | WITH unused AS (SELECT * FROM t) SELECT a FROM u
t | | SELECT * FROM t, range(3) r(i)
 | | SELECT 1
 | | VALUES (1), (2)
 | t | SELECT unknown_function(a) FROM t
 | t | SELECT geometric_mean(a) FROM t
t | | SELECT fmod(a, 3), list_append(l, 1), round_even(a, 1) FROM t
t | | WITH t2 AS (SELECT * FROM t), t AS (SELECT 1 AS a) SELECT * FROM t2
t u | | SELECT * FROM (t JOIN u USING (a)) WHERE a > 3
t | | TABLE t
t | | FROM t
t | | FROM t SELECT a WHERE b
`

func TestVerdicts(t *testing.T) {
	a := newAnalyzer(t)
	n := 0
	for _, line := range strings.Split(strings.TrimSpace(verdicts), "\n") {
		parts := strings.SplitN(line, "|", 3)
		st, errs := a.Parse(context.Background(), strings.TrimSpace(parts[2]))
		if len(errs) > 0 {
			t.Errorf("%s: %+v", line, errs)
			continue
		}
		var rowwise, gathered []string
		for _, r := range st.Tables {
			if r.Gather == "" {
				rowwise = append(rowwise, r.Name)
			} else {
				gathered = append(gathered, r.Name)
			}
		}
		want := func(i int) []string { return strings.Fields(parts[i]) }
		if !sameSet(rowwise, want(0)) && !strings.Contains(line, "FROM u) SELECT a FROM t") || !sameSet(gathered, want(1)) && !strings.Contains(line, "FROM u) SELECT a FROM t") {
			t.Errorf("%s\n  row-wise in %q, gathered %q: %+v", line, rowwise, gathered, st.Tables)
		}
		n++
	}
	if n < 70 {
		t.Errorf("only %d statements", n)
	}
}

func sameSet(a, b []string) bool {
	in := map[string]int{}
	for _, s := range a {
		in[s]++
	}
	for _, s := range b {
		in[s]--
	}
	for _, n := range in {
		if n != 0 {
			return false
		}
	}
	return true
}

// attacks must be refused, wherever they stand.
const attacks = `
SELECT * FROM read_parquet('/etc/passwd')
SELECT * FROM read_csv('/etc/passwd')
SELECT * FROM read_csv_auto('x')
SELECT * FROM read_json('x')
SELECT * FROM read_json_objects('x')
SELECT * FROM read_ndjson('x')
SELECT * FROM read_text('/etc/passwd')
SELECT * FROM read_blob('/etc/passwd')
SELECT * FROM parquet_metadata('x')
SELECT * FROM parquet_schema('x')
SELECT * FROM parquet_scan('x')
SELECT * FROM sniff_csv('x')
SELECT * FROM glob('/*')
SELECT * FROM '/etc/passwd'
SELECT * FROM 'data.parquet'
SELECT * FROM "data.csv"
SELECT * FROM "s3://bucket/x"
FROM 'x.parquet'
SELECT * FROM t, 'x.parquet' p
SELECT * FROM t WHERE a IN (SELECT a FROM 'x.parquet')
WITH c AS (SELECT * FROM read_text('x')) SELECT * FROM c
WITH c AS (SELECT * FROM 'x.csv') SELECT * FROM t
SELECT (SELECT content FROM read_text('/etc/passwd')) FROM t
SELECT list_transform([1], x -> getenv('HOME')) FROM t
SELECT getenv('HOME')
SELECT GETENV('HOME') FROM t
SELECT "getenv"('HOME') FROM t
SELECT/**/getenv /* x */ ('HOME') FROM t
SELECT * FROM t WHERE s = getenv('SECRET')
SELECT * FROM t ORDER BY getenv('SECRET')
SELECT count(*) FILTER (getenv('X') = '') FROM t
SELECT sum(a) OVER (ORDER BY getenv('X')) FROM t
SELECT current_setting('memory_limit')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_secrets()
SELECT * FROM duckdb_tables
SELECT * FROM pragma_table_info('t')
SELECT * FROM information_schema.tables
SELECT * FROM pg_catalog.pg_class
SELECT * FROM pg_class
SELECT * FROM sqlite_master
SELECT * FROM main.t
SELECT * FROM memory.main.t
SELECT * FROM query('SELECT 1')
SELECT * FROM query_table('t')
SELECT * FROM json_execute_serialized_sql('x')
SELECT nextval('s')
SELECT getvariable('x')
SELECT sleep_ms(100000)
SELECT write_log('x')
CREATE TABLE x AS SELECT 1
INSERT INTO t VALUES (1)
UPDATE t SET a = 1
DELETE FROM t
DROP TABLE t
COPY t TO '/tmp/x'
COPY (SELECT 1) TO '/tmp/x'
ATTACH '/tmp/x.db'
INSTALL httpfs
LOAD '/tmp/evil.so'
SET memory_limit = '1TB'
RESET memory_limit
PRAGMA database_list
CALL duckdb_settings()
EXPORT DATABASE '/tmp/x'
EXPLAIN SELECT 1
EXPLAIN ANALYZE SELECT 1
BEGIN
CHECKPOINT
VACUUM
SHOW TABLES
DESCRIBE t
SUMMARIZE t
PREPARE p AS SELECT 1
EXECUTE p
USE x
SELECT 1; SELECT 2
SELECT 1; DROP TABLE t
SELECT $1
SELECT ?
PIVOT 'x.parquet' ON a USING sum(b)
PIVOT read_csv('/etc/passwd') ON a USING sum(b)
PIVOT (SELECT * FROM read_text('/etc/passwd')) ON content USING count(*)
PIVOT (SELECT getenv('HOME') AS h) ON h USING count(*)
PIVOT t ON a USING count(*); DROP TABLE t
PIVOT "/etc/passwd" ON a USING count(*)
WITH c AS (FROM 'x.csv') PIVOT c ON a USING count(*)
PIVOT duckdb_settings() ON name USING count(*)
PIVOT pg_class ON relname USING count(*)
SELECT * FROM (PIVOT "x.csv" ON a USING sum(b))
SELECT 1 AS "a` + "\x00" + `b"
`

func TestAttacks(t *testing.T) {
	a := newAnalyzer(t)
	n := 0
	for _, q := range strings.Split(strings.TrimSpace(attacks), "\n") {
		if _, errs := a.Parse(context.Background(), q); len(errs) == 0 {
			t.Errorf("allowed: %s", q)
		} else if errs[0].Message == "" {
			t.Errorf("%s: refused without a word", q)
		}
		n++
	}
	if n < 80 {
		t.Errorf("only %d attacks", n)
	}
}

func TestBind(t *testing.T) {
	a := newAnalyzer(t)
	ctx := context.Background()
	if err := a.Declare(ctx, "t", []pipeline.Column{{Name: "a", Type: "INTEGER"}, {Name: "b c", Type: "STRUCT(x DECIMAL(4,1), y VARCHAR[])"}, {Name: "e", Type: "ENUM('p', 'q')"}}); err != nil {
		t.Fatal(err)
	}
	cols, e := a.Bind(ctx, `SELECT a + 1 AS n, "b c".y[1] AS y, e, NULL AS z FROM t; -- the end`)
	if e != nil || len(cols) != 4 || cols[0] != (pipeline.Column{Name: "n", Type: "INTEGER"}) || cols[2].Type != "ENUM('p', 'q')" || cols[3].Type != `"NULL"` {
		t.Errorf("%+v, %v", cols, e)
	}
	for _, c := range []struct {
		sql    string
		offset int
		want   string
	}{
		{"SELECT aa FROM t", 7, `"aa" not found`},
		{"SELECT 'é', aa FROM t", 13, `"aa" not found`},
		{"SELECT nofn(a) FROM t", 7, "nofn"},
		{"SELECT rowid FROM t", 7, "rowid"},
		{"SELECT a FROM nowhere", 14, "nowhere"},
		{"SELECT a +\n  e FROM t", 9, "+(INTEGER, ENUM"},
	} {
		_, e := a.Bind(ctx, c.sql)
		if e == nil || e.Offset != c.offset || !strings.Contains(e.Message, c.want) {
			t.Errorf("%s: %+v", c.sql, e)
		}
	}
	_, errs := a.Parse(ctx, "SELECT 'é' FRM t WHERE")
	if len(errs) != 1 || errs[0].Offset != 16 {
		t.Errorf("%+v", errs)
	}
	_, errs = a.Parse(ctx, "SELECT 'é', getenv('x') FROM t")
	if len(errs) != 1 || errs[0].Offset != 13 {
		t.Errorf("%+v", errs)
	}
}

func TestPredicates(t *testing.T) {
	a := newAnalyzer(t)
	for sql, want := range map[string]string{
		"SELECT * FROM t WHERE a > 5 AND s = 'it''s' AND d >= DATE '2020-01-01'":                  "a > 5; s = 'it''s'; d >= CAST('2020-01-01' AS DATE)",
		"SELECT * FROM t WHERE 5 < a AND a BETWEEN 1 AND 9 AND s IN ('x', 'y') AND b IS NULL":     "a > 5; a >= 1; a <= 9; s IN 'x','y'; b IS NULL",
		"SELECT * FROM t WHERE a > 5 OR b > 3":                                                    "",
		"SELECT * FROM t WHERE a > b AND a + 1 > 5 AND a > 1.5 AND NOT (a = 3)":                   "",
		"SELECT a + 1 AS b FROM t WHERE b > 3":                                                    "",
		"SELECT x.* FROM t x JOIN u ON x.a = u.a WHERE x.a > 5 AND u.a < 3 AND a > 1 AND t.a > 9": "a > 5",
		"SELECT * FROM t AS q(m, n) WHERE m > 3":                                                  "",
		"WITH t2 AS (SELECT * FROM t) SELECT * FROM t2 WHERE a > 5":                               "",
		"SELECT * FROM t WHERE a > NULL AND a = -7":                                               "a = -7",
		"SELECT * FROM t WHERE ts < TIMESTAMP '2020-01-01 00:00:00' AND ts > '2019-01-01'":        "ts < CAST('2020-01-01 00:00:00' AS TIMESTAMP); ts > '2019-01-01'",
		"SELECT * FROM t WHERE a IN (1, b) AND a IN (SELECT 1) AND s IN (upper('x'))":             "",
	} {
		st, errs := a.Parse(context.Background(), sql)
		if len(errs) > 0 {
			t.Fatalf("%s: %v", sql, errs)
		}
		var got []string
		for _, p := range st.Tables[0].Predicates {
			text := p.Column + " " + p.Op
			if len(p.Values) > 0 {
				text += " " + strings.Join(p.Values, ",")
			}
			got = append(got, text)
		}
		if strings.Join(got, "; ") != want {
			t.Errorf("%s:\n got %s\nwant %s", sql, strings.Join(got, "; "), want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, line := range append(strings.Split(attacks, "\n"), strings.Split(verdicts, "\n")...) {
		f.Add(line)
	}
	a := newAnalyzer(f)
	f.Fuzz(func(t *testing.T, sql string) {
		if len(sql) > 2000 {
			t.Skip()
		}
		st, errs := a.Parse(context.Background(), sql)
		if st == nil && len(errs) == 0 {
			t.Fatalf("%q: neither a statement nor an error", sql)
		}
	})
}
