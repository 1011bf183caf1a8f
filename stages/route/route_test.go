package route

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/kinequet/kq/jch"
)

// open starts a database that knows kq_bucket.
func open(t testing.TB, threads int) *sql.Conn {
	t.Helper()
	_, conn := openDB(t)
	exec(t, conn, fmt.Sprintf("SET threads = %d", threads))
	if err := Register(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	return conn
}

func openDB(t testing.TB) (*sql.DB, *sql.Conn) {
	t.Helper()
	connector, err := duckdb.NewConnector("", nil)
	if err != nil {
		t.Fatal(err)
	}
	db := sql.OpenDB(connector)
	t.Cleanup(func() { db.Close() })
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return db, conn
}

func exec(t testing.TB, conn *sql.Conn, query string) {
	t.Helper()
	if _, err := conn.ExecContext(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// value returns the only value of a query as text.
func value(t testing.TB, conn *sql.Conn, query string) string {
	t.Helper()
	var v sql.NullString
	if err := conn.QueryRowContext(t.Context(), query).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	if !v.Valid {
		return "NULL"
	}
	return v.String
}

// fails requires that a query runs into the function's own error.
func fails(t *testing.T, conn *sql.Conn, query string, buckets int) {
	t.Helper()
	rows, err := conn.QueryContext(t.Context(), query)
	if err == nil {
		for rows.Next() {
		}
		err = rows.Err()
		rows.Close()
	}
	want := fmt.Sprintf("kq_bucket: buckets must be at least 1, not %d", buckets)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %s", query, err, want)
	}
}

// sample fills table t with hashes and bucket counts, the extremes among them.
func sample(t *testing.T, conn *sql.Conn, rows int) {
	t.Helper()
	exec(t, conn, "CREATE TABLE t (i INTEGER, h UBIGINT, n INTEGER)")
	err := conn.Raw(func(c any) error {
		a, err := duckdb.NewAppenderFromConn(c.(*duckdb.Conn), "", "t")
		if err != nil {
			return err
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		for i := range rows {
			h, n := rnd.Uint64()>>rnd.IntN(64), int32(1+rnd.IntN(100_000)>>rnd.IntN(17))
			switch i % 1000 {
			case 0:
				h = 0
			case 1:
				h = math.MaxUint64
			case 2:
				n = 100_000
			case 3:
				n = math.MaxInt32
			}
			if err := a.AppendRow(int32(i), h, n); err != nil {
				return err
			}
		}
		return a.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// check requires that each row (hash, buckets, result) is what jch says, and
// returns how many rows there are.
func check(t *testing.T, conn *sql.Conn, query string) (seen int) {
	t.Helper()
	rows, err := conn.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	for ; rows.Next(); seen++ {
		var h uint64
		var n int
		var got sql.NullInt64
		if err := rows.Scan(&h, &n, &got); err != nil {
			t.Fatal(err)
		}
		if want := jch.Hash(h, n); !got.Valid || got.Int64 != int64(want) {
			t.Fatalf("%s: kq_bucket(%d, %d) = %v, want %d", query, h, n, got, want)
		}
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return seen
}

func TestSameAsJCH(t *testing.T) {
	conn := open(t, 2)
	const rows = 200_000
	sample(t, conn, rows)
	for _, q := range []struct {
		query string
		rows  int
	}{
		{"SELECT h, n, kq_bucket(h, n) FROM t", rows},
		{"SELECT h, n, kq_bucket(h, n) FROM t WHERE i % 7 = 3", (rows - 3 + 6) / 7}, // a selection of each vector
		{"SELECT h, 64, kq_bucket(h, 64) FROM t", rows},                             // a constant and a flat vector
		{"SELECT 12345678901234567890::UBIGINT, n, kq_bucket(12345678901234567890::UBIGINT, n) FROM t", rows},
		{"SELECT 42::UBIGINT, 57, kq_bucket(42::UBIGINT, 57) FROM t", rows}, // folded
		{"SELECT h, 1 + i % 3, kq_bucket(h, 1 + i % 3) FROM t", rows},
	} {
		if n := check(t, conn, q.query); n != q.rows {
			t.Errorf("%s: %d rows, want %d", q.query, n, q.rows)
		}
	}
	if got := value(t, conn, "SELECT kq_bucket(42, 57)"); got != "43" {
		t.Errorf("kq_bucket(42, 57) = %s", got)
	}
}

// Dictionaries come from Parquet, from joins and from filters.
func TestDictionaries(t *testing.T) {
	conn := open(t, 2)
	file := filepath.Join(t.TempDir(), "d.parquet")
	exec(t, conn, "COPY (SELECT hash(i % 50) AS h, (1 + i % 20)::INTEGER AS n FROM range(100_000) r(i)) TO '"+file+"'")
	from := " FROM read_parquet('" + file + "')"
	check(t, conn, "SELECT h, n, kq_bucket(h, n)"+from)
	check(t, conn, "SELECT h, 64, kq_bucket(h, 64)"+from)
	check(t, conn, "SELECT h, n, kq_bucket(h, n)"+from+" WHERE n > 5")
	exec(t, conn, "CREATE TABLE dim AS SELECT i, hash(i) AS h, (1 + i % 9)::INTEGER AS n FROM range(100) r(i)")
	if n := check(t, conn, "SELECT h, n, kq_bucket(h, n) FROM range(50_000) f(j) JOIN dim ON i = j % 100"); n != 50_000 {
		t.Errorf("%d rows", n)
	}
	// NULLs of an outer join, in turns with vectors that have none.
	if got := value(t, conn, "SELECT count(kq_bucket(h, n)) || ' ' || count(*) FROM range(50_000) f(j) LEFT JOIN dim ON i = j % 200"); got != "25000 50000" {
		t.Errorf("outer join: %s", got)
	}
}

func TestNull(t *testing.T) {
	conn := open(t, 2)
	for _, args := range []string{"NULL, 64", "1::UBIGINT, NULL", "NULL, NULL", "NULL::UBIGINT, 0"} {
		if got := value(t, conn, "SELECT kq_bucket("+args+")"); got != "NULL" {
			t.Errorf("kq_bucket(%s) = %s", args, got)
		}
	}
	exec(t, conn, `CREATE TABLE n AS SELECT i, CASE WHEN i % 3 > 0 THEN hash(i) END AS h, CASE WHEN i % 5 > 0 THEN 64 END AS n FROM range(100_000) r(i)`)
	if got := value(t, conn, "SELECT count(*) FROM n WHERE (kq_bucket(h, n) IS NULL) <> (h IS NULL OR n IS NULL)"); got != "0" {
		t.Errorf("%s rows are NULL and should not be, or the reverse", got)
	}
	if n := check(t, conn, "SELECT h, n, kq_bucket(h, n) FROM n WHERE h IS NOT NULL AND n IS NOT NULL"); n != 53_333 {
		t.Errorf("%d rows", n)
	}
	// One vector with a NULL does not mark rows of the next.
	if got := value(t, conn, "SELECT count(kq_bucket(CASE WHEN i <> 5 THEN h END, 64)) FROM (SELECT i, hash(i) AS h FROM range(10_000) r(i))"); got != "9999" {
		t.Errorf("%s rows are not NULL, want 9999", got)
	}
}

func TestTooFewBuckets(t *testing.T) {
	conn := open(t, 2)
	exec(t, conn, "CREATE TABLE t AS SELECT i, hash(i) AS h, (i - 3)::INTEGER AS n FROM range(10_000) r(i)")
	fails(t, conn, "SELECT kq_bucket(1::UBIGINT, 0)", 0)
	fails(t, conn, "SELECT kq_bucket(1::UBIGINT, -7)", -7)
	fails(t, conn, "SELECT kq_bucket(h, 0) FROM t", 0)
	fails(t, conn, "SELECT kq_bucket(h, (-2147483648)::INTEGER) FROM t", math.MinInt32)
	fails(t, conn, "SELECT * FROM t WHERE kq_bucket(h, n) = 1", -3)
	fails(t, conn, "SELECT * FROM t ORDER BY kq_bucket(h, n)", -3)
	// A row that isn't asked for raises nothing.
	if got := value(t, conn, "SELECT count(CASE WHEN n > 0 THEN kq_bucket(h, n) END) FROM t"); got != "9996" {
		t.Errorf("%s rows, want 9996", got)
	}
	// And the connection goes on.
	if got := value(t, conn, "SELECT kq_bucket(0::UBIGINT, 60)"); got != "0" {
		t.Errorf("after errors: %s", got)
	}
}

func TestTenMillionRows(t *testing.T) {
	rows := uint64(10_000_000)
	if testing.Short() {
		rows /= 10
	}
	var want uint64
	for i := range rows {
		want += uint64(jch.Hash(i, 1000)) * (i % 8191)
	}
	for _, threads := range []int{1, 4} {
		conn := open(t, threads)
		exec(t, conn, fmt.Sprintf("CREATE TABLE t AS SELECT i::UBIGINT AS h FROM range(%d) r(i)", rows))
		if got := value(t, conn, "SELECT sum(kq_bucket(h, 1000) * (h % 8191)::BIGINT)::VARCHAR FROM t"); got != fmt.Sprint(want) {
			t.Errorf("%d threads: sum %s, want %d", threads, got, want)
		}
	}
}

// The function outlives the lock, on every connection of the database, and deals
// the rows of a file.
func TestLocked(t *testing.T) {
	db, conn := openDB(t)
	if err := Register(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	exec(t, conn, "SET threads = 4; SET allowed_directories = ['"+dir+"']; SET enable_external_access = false; SET lock_configuration = true")
	other, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	file := filepath.Join(dir, "x.parquet")
	exec(t, conn, "CREATE TABLE t AS SELECT i AS k, 'row ' || i AS s FROM range(300_000) r(i)")
	exec(t, other, "COPY (SELECT *, kq_bucket(hash(k), 64) AS b FROM t ORDER BY b) TO '"+file+"' (ROW_GROUP_SIZE 8192)")
	from := " FROM read_parquet('" + file + "')"
	if got := value(t, conn, "SELECT count(*)"+from+" WHERE b <> kq_bucket(hash(k), 64)"); got != "0" {
		t.Errorf("%s rows in the wrong bucket", got)
	}
	if got := value(t, conn, "SELECT bool_and(b >= before) FROM (SELECT b, lag(b, 1, 0) OVER (ORDER BY file_row_number) AS before"+
		" FROM read_parquet('"+file+"', file_row_number = true))"); got != "true" {
		t.Errorf("in order: %s", got)
	}
	total := 0
	for b := range 64 {
		total += check(t, conn, fmt.Sprintf("SELECT hash(k), 64, b%s WHERE b = %d AND kq_bucket(hash(k), 64) = %[2]d", from, b))
	}
	if total != 300_000 {
		t.Errorf("%d rows in all buckets", total)
	}
	// A job's macro of this name doesn't get in the way.
	exec(t, conn, "CREATE MACRO kq_bucket(h, n) AS -1")
	if got := value(t, conn, "SELECT "+Function+"(42::UBIGINT, 57)"); got != "43" {
		t.Errorf("beside a macro: %s", got)
	}
	if err := Register(t.Context(), other); err != nil {
		t.Error("again, locked:", err)
	}
}

func TestTwiceAndTogether(t *testing.T) {
	db, conn := openDB(t)
	for range 3 {
		if err := Register(t.Context(), conn); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 8 { // databases of their own, and one that is shared
		own := db
		if i%2 == 0 {
			own, _ = openDB(t)
		}
		wg.Go(func() {
			c, err := own.Conn(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if err := Register(t.Context(), c); err != nil {
				t.Error(err)
			}
			var n int
			if err := c.QueryRowContext(t.Context(), "SELECT sum(kq_bucket(hash(i), 10)) FROM range(100_000) r(i)").Scan(&n); err != nil || n < 400_000 || n > 500_000 {
				t.Error(n, err)
			}
		})
	}
	wg.Wait()
	if got := value(t, conn, "SELECT count(*) FROM duckdb_functions() WHERE function_name = 'kq_bucket'"); got != "1" {
		t.Errorf("%s functions", got)
	}
	_, stranger := openDB(t)
	if _, err := stranger.ExecContext(t.Context(), "SELECT kq_bucket(1::UBIGINT, 1)"); err == nil {
		t.Error("a database knows kq_bucket that nobody told")
	}
}

// Folded: the plan holds the bucket, not the call.
func TestFolds(t *testing.T) {
	conn := open(t, 1)
	plan := ""
	if err := conn.QueryRowContext(t.Context(), "EXPLAIN SELECT * FROM range(300) r(i) WHERE i % 100 = kq_bucket(42::UBIGINT, 57)").Scan(new(string), &plan); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plan, "kq_bucket") || !strings.Contains(plan, "43") {
		t.Error(plan)
	}
}

func TestForeignDriver(t *testing.T) {
	for _, c := range []any{nil, "x", (*duckdb.Conn)(nil)} {
		if _, err := Connection(c); err == nil || !strings.Contains(err.Error(), "not one of DuckDB") {
			t.Errorf("%T: %v", c, err)
		}
	}
	if _, err := Connection(&duckdb.Conn{}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Error("no connection:", err)
	}
	for _, c := range []any{struct{ other int }{}, struct{ conn uintptr }{}} {
		if _, err := field(reflect.ValueOf(c)); err == nil || !strings.Contains(err.Error(), "this version of the driver") {
			t.Errorf("%T: %v", c, err)
		}
	}
	_, conn := openDB(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Register(ctx, conn); !errors.Is(err, context.Canceled) {
		t.Error("cancelled:", err)
	}
	conn.Close()
	if err := Register(context.Background(), conn); err == nil {
		t.Error("registered with a closed connection")
	}
}

// BenchmarkBucket deals 10 million stored hashes, one thread.
func BenchmarkBucket(b *testing.B) {
	const rows = 10_000_000
	conn := open(b, 1)
	exec(b, conn, fmt.Sprintf("CREATE TABLE t AS SELECT i AS x, hash(i) AS h FROM range(%d) r(i)", rows))
	for _, expr := range []string{"x", "hash(x) % 64", "kq_bucket(hash(x), 64)", "kq_bucket(h, 2)", "kq_bucket(h, 64)", "kq_bucket(h, 1024)"} {
		b.Run(expr, func(b *testing.B) {
			start := time.Now()
			for b.Loop() {
				value(b, conn, "SELECT max("+expr+") FROM t")
			}
			b.ReportMetric(rows*float64(b.N)/time.Since(start).Seconds(), "rows/s")
		})
	}
}
