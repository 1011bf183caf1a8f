package fragment

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
)

// Tables of the tests. t, u and v are large, s is small; t is clustered by id.
var schema = map[string]string{
	"t": "id BIGINT, k INTEGER, g VARCHAR, x DOUBLE, d DECIMAL(9,2), n INTEGER, l INTEGER[], ts TIMESTAMP",
	"u": "id BIGINT, k BIGINT, g VARCHAR, y DOUBLE, e DECIMAL(12,3), f FLOAT",
	"v": "k INTEGER, w VARCHAR, z INTEGER",
	"s": "k INTEGER, name VARCHAR",
}

func request(t testing.TB, a *analysis.Analyzer, query string) *pipeline.SplitRequest {
	r := &pipeline.SplitRequest{Name: "q", SQL: query, Small: 1 << 20, Budget: 64 << 20}
	for _, name := range []string{"s", "t", "u", "v"} {
		in := pipeline.SplitInput{Name: name, Total: 1 << 30}
		if name == "s" {
			in.Total = 1 << 10
		}
		for _, c := range strings.Split(schema[name], ", ") {
			n, typ, _ := strings.Cut(c, " ")
			in.Columns = append(in.Columns, pipeline.Column{Name: n, Type: typ})
		}
		if err := a.Declare(context.Background(), name, in.Columns); err != nil {
			t.Fatal(err)
		}
		r.Inputs = append(r.Inputs, in)
	}
	return r
}

func newAnalyzer(t testing.TB) *analysis.Analyzer {
	a, err := analysis.New(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// Each line: how the fragments read their inputs, the last one last, then the
// statement. Producers of a hash edge are left out.
const verdicts = `
hash t(k) | SELECT k, median(x) FROM t GROUP BY k
hash t(k,g) | SELECT k, g, count(DISTINCT x) FROM t GROUP BY k, g
forward t; hash q#1(__kq_g0) | SELECT k, sum(n), avg(d), count(*) FILTER (x > 1) FROM t GROUP BY k
forward t; gather q#1 | SELECT count(*), sum(x), min(g) FROM t
forward t; hash q#1(__kq_g0) | SELECT n % 7 AS m, max(x) FROM t GROUP BY m HAVING count(*) > 1
forward t; hash q#1(__kq_g0) | SELECT n % 7 AS m, median(x) FROM t GROUP BY m
hash t(k) u(k) | SELECT * FROM t JOIN u USING (k)
hash t(k) u(k) | SELECT * FROM t, u WHERE t.k = u.k AND t.x < u.y
hash t(k) u(k) | SELECT t.k, u.y FROM t LEFT JOIN u ON t.k = u.k
hash t(k) u(k) | SELECT k, count(*) FROM t FULL JOIN u USING (k) GROUP BY k HAVING median(x) > 1
hash t(d) u(e) | SELECT count(DISTINCT x) FROM t JOIN u ON t.d = u.e GROUP BY t.d
hash t(k) u(k) | SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND u.y > t.x)
hash t(k) u(k) | SELECT * FROM t WHERE k IN (SELECT k FROM u)
hash t(k) u(k) | SELECT *, (SELECT max(y) FROM u WHERE u.k = t.k) FROM t
hash t(k) u(k) v(k) | SELECT t.id FROM t JOIN u ON t.k = u.k JOIN v ON v.k = u.k
hash t(k) | SELECT *, rank() OVER (PARTITION BY k ORDER BY x) FROM t
hash t(k) | SELECT *, rank() OVER (PARTITION BY k ORDER BY x), sum(x) OVER (PARTITION BY g, k) FROM t
hash t(k) | SELECT * FROM t QUALIFY row_number() OVER (PARTITION BY k ORDER BY x, id) = 1
hash t(k,g) | SELECT DISTINCT k, g FROM t
hash t(k) | SELECT DISTINCT ON (k) * FROM t
hash t(k,g) u(k,g) | SELECT k, g FROM t EXCEPT SELECT k, g FROM u
forward t; gather q#1 | SELECT * FROM t LIMIT 5
forward t; gather q#1 | SELECT * FROM t ORDER BY x DESC LIMIT 5 OFFSET 2
gather t | SELECT * FROM t ORDER BY x
gather s t | SELECT * FROM t JOIN s USING (k) ORDER BY x
hash t(k); gather q#1 | SELECT k, median(x) AS m FROM t GROUP BY k ORDER BY m
always forward t; forward t; sort q#1 | SELECT * FROM t ORDER BY x
always hash t(k); forward q:rows; forward q:rows; sort q#1 | SELECT k, median(x) AS m FROM t GROUP BY k ORDER BY m
forward s t | SELECT * FROM t JOIN s USING (k)
forward s t; gather q#1 | SELECT count(*) FROM t JOIN s USING (k)
forward u; gather q#2; forward q#1 t | SELECT * FROM t WHERE x > (SELECT avg(y) FROM u)
forward u; hash q#2(__kq_g0); gather q#1 t | SELECT * FROM t JOIN (SELECT k, avg(y) a FROM u GROUP BY k) q ON t.x > q.a
`

func TestVerdicts(t *testing.T) {
	a := newAnalyzer(t)
	for _, line := range strings.Split(strings.TrimSpace(verdicts), "\n") {
		want, query, _ := strings.Cut(line, " | ")
		r := request(t, a, query)
		want, r.Always = strings.CutPrefix(want, "always ")
		fragments, err := Split(context.Background(), a, r)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		if got := shapes(fragments); got != want {
			t.Errorf("%s\n  is %s\nwant %s (%s)", query, got, want, fragments[len(fragments)-1].Reason)
		}
	}
}

// shapes renders how fragments read their inputs.
func shapes(fragments []pipeline.Fragment) string {
	producers := map[string]bool{}
	for _, f := range fragments {
		for _, in := range f.Inputs {
			producers[in.From] = true
		}
	}
	var all []string
	for _, f := range fragments {
		if producers[f.Name] {
			continue
		}
		var inputs []string
		for _, in := range f.Inputs {
			text := in.Name
			if len(in.Key) > 0 {
				text += "(" + strings.Join(in.Key, ",") + ")"
			}
			inputs = append(inputs, text)
		}
		sort.Strings(inputs)
		all = append(all, string(f.Kind)+" "+strings.Join(inputs, " "))
	}
	return strings.Join(all, "; ")
}

// Each statement runs whole, because of these words.
const refusals = `
uuid() | SELECT uuid(), k FROM t
now() | SELECT count(DISTINCT c) FROM (SELECT now() AS c FROM t UNION ALL SELECT now() FROM u)
collation | SELECT k, count(*) FROM t GROUP BY k, g COLLATE NOCASE
sample | SELECT * FROM t USING SAMPLE 10
row_number() OVER is a window | SELECT *, row_number() OVER () FROM t
without ORDER BY | SELECT *, row_number() OVER (PARTITION BY k) FROM t
list() depends on the order | SELECT k, list(x) FROM t GROUP BY k
divided without an equality | SELECT * FROM t FULL JOIN u ON t.x < u.y
no key in common | SELECT * FROM t JOIN u ON t.n = u.f
POSITIONAL | SELECT * FROM t POSITIONAL JOIN u
recursive | WITH RECURSIVE r AS (SELECT id FROM t UNION ALL SELECT id + 1 FROM r WHERE id < 3) FROM r
`

func TestRefusals(t *testing.T) {
	a := newAnalyzer(t)
	for _, line := range strings.Split(strings.TrimSpace(refusals), "\n") {
		want, query, _ := strings.Cut(line, " | ")
		fragments, err := Split(context.Background(), a, request(t, a, query))
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		last := fragments[len(fragments)-1]
		if last.Kind != pipeline.Gather || !strings.Contains(last.Reason, want) {
			t.Errorf("%s: %s, because %q; want %q", query, shapes(fragments), last.Reason, want)
		}
	}
}

// Outer joins end equality: above one, the key of the side that may be missing
// brings nothing together any more.
func TestOuterJoinsEndEquality(t *testing.T) {
	a := newAnalyzer(t)
	for query, parallel := range map[string]bool{
		"SELECT t.k, median(y) FROM t LEFT JOIN u ON t.k = u.k GROUP BY t.k":  true,
		"SELECT u.k, median(y) FROM t LEFT JOIN u ON t.k = u.k GROUP BY u.k":  false,
		"SELECT t.k, median(y) FROM t RIGHT JOIN u ON t.k = u.k GROUP BY t.k": false,
		"SELECT u.k, median(y) FROM t RIGHT JOIN u ON t.k = u.k GROUP BY u.k": true,
		"SELECT t.k, median(y) FROM t FULL JOIN u ON t.k = u.k GROUP BY t.k":  false,
		"SELECT k, median(y) FROM t FULL JOIN u USING (k) GROUP BY k":         true,
		// A filter that drops the missing rows restores it.
		"SELECT u.k, median(y) FROM t LEFT JOIN u ON t.k = u.k WHERE u.k = t.k GROUP BY u.k": true,
	} {
		fragments, err := Split(context.Background(), a, request(t, a, query))
		if err != nil {
			t.Fatal(err)
		}
		got := shapes(fragments) == "hash t(k) u(k)"
		if got != parallel {
			t.Errorf("%s: %s", query, shapes(fragments))
		}
	}
}

func TestCommonType(t *testing.T) {
	for _, c := range []struct{ types, want string }{
		{"INTEGER INTEGER", "INTEGER"},
		{"INTEGER BIGINT", "BIGINT"},
		{"INTEGER UBIGINT", "HUGEINT"},
		{"INTEGER HUGEINT", "HUGEINT"},
		{"DECIMAL(9,2) DECIMAL(12,3)", "DECIMAL(38,3)"},
		{"DECIMAL(9,2) INTEGER", "DECIMAL(38,2)"},
		{"DECIMAL(38,30) BIGINT", ""},
		{"INTEGER DOUBLE", ""},
		{"FLOAT DOUBLE", ""},
		{"DATE TIMESTAMP", "TIMESTAMP"},
		{"TIMESTAMP TIMESTAMP_NS", ""},
		{"VARCHAR ENUM('a','b')", "VARCHAR"},
		{"VARCHAR INTEGER", ""},
		{"INTEGER[] INTEGER[]", ""},
		{"INTERVAL INTERVAL", ""},
		{"UUID UUID", "UUID"},
	} {
		if got := common(strings.Fields(c.types)); got != c.want {
			t.Errorf("common(%s) = %q, want %q", c.types, got, c.want)
		}
	}
}

func ExampleSplit() {
	ctx := context.Background()
	a, err := analysis.New(ctx)
	if err != nil {
		panic(err)
	}
	defer a.Close()
	orders := []pipeline.Column{{Name: "customer", Type: "BIGINT"}, {Name: "total", Type: "DECIMAL(9,2)"}}
	if err := a.Declare(ctx, "orders", orders); err != nil {
		panic(err)
	}
	fragments, err := Split(ctx, a, &pipeline.SplitRequest{
		Name: "spent", SQL: "SELECT customer, sum(total) AS spent FROM orders GROUP BY customer", Always: true,
		Inputs: []pipeline.SplitInput{{Name: "orders", Columns: orders, Total: 1 << 40}},
	})
	if err != nil {
		panic(err)
	}
	for _, f := range fragments {
		fmt.Printf("%s (%s): %s\n", f.Name, f.Kind, f.SQL)
	}
	// Output:
	// spent#1 (forward): SELECT customer AS __kq_g0, sum(total) AS __kq_a0 FROM orders GROUP BY 1
	// spent (hash): SELECT __kq_g0 AS customer, sum(__kq_a0) AS spent FROM "spent#1" GROUP BY __kq_g0
}
