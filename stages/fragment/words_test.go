package fragment

import (
	"context"
	"strings"
	"testing"

	"github.com/kinequet/kq/pipeline"
)

// Each line: the words that make the last fragment gather, then the statement;
// [brackets] mark where they stand.
const culprits = `
SELECT id, [random()] AS r FROM t ORDER BY r
SELECT k, x + (SELECT [random()]) FROM t
SELECT k, [list(x)] FROM t GROUP BY k
SELECT * FROM t [LIMIT 5]
SELECT k, [list(x)] FROM t GROUP BY k ORDER BY k
SELECT t.k FROM [t], u WHERE t.n = u.f
SELECT * FROM t [ORDER BY x] DESC LIMIT 5
SELECT *, [row_number() OVER ()] FROM t
SELECT *, 'row_number() OVER ()', -- row_number()
	[row_number() OVER (PARTITION BY k)] FROM t
WITH c AS (SELECT *, [random()] AS r FROM t), d AS (SELECT k FROM t) SELECT list(x) FROM c JOIN d USING (k)
SELECT t.k FROM t [JOIN u] ON t.n = u.f
SELECT * FROM t [FULL JOIN u] ON t.x < u.y
SELECT k, count(*) FROM t GROUP BY k, [g] COLLATE NOCASE
`

func TestWordsOfReasons(t *testing.T) {
	a := newAnalyzer(t)
	for _, marked := range strings.Split(strings.ReplaceAll(strings.TrimSpace(culprits), "\n\t", "\t"), "\n") {
		before, rest, _ := strings.Cut(marked, "[")
		want, after, _ := strings.Cut(rest, "]")
		query := strings.ReplaceAll(before+want+after, "\t", "\n\t")
		fragments, err := Split(context.Background(), a, request(t, a, query))
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		last := fragments[len(fragments)-1]
		if got := query[last.Words.Start:last.Words.End]; got != want || last.Words.Stage != "q" {
			t.Errorf("%s: %s: %q, want %q", query, last.Reason, got, want)
		}
	}
}

// Words within a stage that is read as if it stood within the statement are in
// that stage's SQL.
func TestWordsOfViews(t *testing.T) {
	a := newAnalyzer(t)
	r := request(t, a, "SELECT k, x FROM w WHERE x > 1")
	r.Views = []pipeline.View{{Name: "z", SQL: "SELECT k, x FROM t"}, {Name: "w", SQL: "SELECT k, sum(random()) AS x FROM z GROUP BY k"}}
	for _, v := range r.Views {
		if err := a.Declare(context.Background(), v.Name, []pipeline.Column{{Name: "k", Type: "INTEGER"}, {Name: "x", Type: "DOUBLE"}}); err != nil {
			t.Fatal(err)
		}
	}
	fragments, err := Split(context.Background(), a, r)
	if err != nil {
		t.Fatal(err)
	}
	f := fragments[len(fragments)-1]
	if f.Words.Stage != "w" || r.Views[1].SQL[f.Words.Start:f.Words.End] != "random()" || f.Offset != -1 {
		t.Errorf("%s: %+v", f.Reason, f.Words)
	}
}
