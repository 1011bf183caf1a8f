package tpc

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"testing"
)

func TestTPCH(t *testing.T) {
	w := newWorld(t, tpchSuite(t))
	if len(w.suite.Queries) != 22 {
		t.Fatalf("%d queries, want 22", len(w.suite.Queries))
	}
	for _, q := range w.suite.Queries {
		t.Run(q.Name, func(t *testing.T) {
			for _, v := range variants(*tpchAll, 1, 3, 16) {
				w.run(t, q, v)
			}
		})
	}
}

func TestTPCDS(t *testing.T) {
	w := newWorld(t, tpcdsSuite(t))
	if len(w.suite.Queries) != 99 {
		t.Fatalf("%d queries, want 99", len(w.suite.Queries))
	}
	shards := []int{3}
	if *tpcdsAll {
		shards = []int{1, 3, 16}
	}
	for _, q := range w.suite.Queries {
		t.Run(q.Name, func(t *testing.T) {
			for _, v := range variants(*tpcdsAll, shards...) {
				w.run(t, q, v)
			}
		})
	}
	rows := 0
	for _, a := range w.answers {
		if len(a.rows) > 0 {
			rows++
		}
	}
	t.Logf("%d of %d answers have rows", rows, len(w.answers))
}

// The sizes that the tests ask for must make the shards that they claim.
func TestShards(t *testing.T) {
	w := newWorld(t, tpchSuite(t))
	q := Query{"probe", "SELECT l_orderkey, l_quantity * 2 AS twice, l_shipdate FROM lineitem WHERE l_tax >= 0"}
	_, file := w.job(t, q)
	for _, n := range []int{1, 3, 16} {
		out, err := exec.Command(kq, "plan", file, "--json", "--shard-size", fmt.Sprintf("%dB", w.shardSize(t, q, n))).Output()
		if err != nil {
			t.Fatal(err)
		}
		var plan struct {
			Tasks []struct{ Shards []any }
		}
		if err := json.Unmarshal(out, &plan); err != nil {
			t.Fatal(err)
		}
		// Whole row groups of one file, so that each of the three files may need one more.
		got := len(plan.Tasks[0].Shards)
		t.Logf("%d shards for %d", got, n)
		if got < n || n > 3 && got > n+6 || n <= 3 && got != n {
			t.Errorf("%d shards planned, want %d", got, n)
		}
	}
}

// Where rows may move, few queries bring an input together in one place that
// would be above 64 MiB at scale factor 1.
func TestGathers(t *testing.T) {
	w := newWorld(t, tpchSuite(t))
	large := int64(*tpchScale * (64 << 20))
	var gathered []string
	for _, q := range w.suite.Queries {
		_, file := w.job(t, q)
		out, err := exec.Command(kq, "plan", file, "--json", "--exchange", "always", "--shard-size", fmt.Sprintf("%dB", w.shardSize(t, q, 16))).Output()
		if err != nil {
			t.Fatal(err)
		}
		var plan struct {
			Tasks []struct {
				Name   string
				Inputs []struct{ Name, Kind string }
			}
			Notes map[string]struct{ Inputs []struct{ Bytes int64 } }
		}
		if err := json.Unmarshal(out, &plan); err != nil {
			t.Fatal(err)
		}
		for _, task := range plan.Tasks {
			for i, in := range task.Inputs {
				if in.Kind != "gather" {
					continue
				}
				// A size that isn't known counts as large.
				if n := plan.Notes[task.Name].Inputs[i].Bytes; n < 0 || n > large {
					t.Logf("%s: %s gathers about %d bytes of %s", q.Name, task.Name, n, in.Name)
					if !slices.Contains(gathered, q.Name) {
						gathered = append(gathered, q.Name)
					}
				}
			}
		}
	}
	if len(gathered) > 3 {
		t.Errorf("%d queries gather what is large: %v", len(gathered), gathered)
	}
}

// The comparison must be able to fail, and to tell what ORDER BY leaves open from
// what it says.
func TestComparison(t *testing.T) {
	w := newWorld(t, tpchSuite(t))
	// Ten rows, of which the last six tie.
	const rows = `(SELECT i AS id, least(i, 4) AS k, i / 3 AS x, i::HUGEINT AS h FROM range(10) r(i)) t`
	for _, c := range []struct{ query, order string }{
		{"SELECT id, k, x, h FROM " + rows + " ORDER BY k LIMIT 6", "k"},
		{"SELECT id, k AS kk, x, h FROM " + rows + " ORDER BY t.k LIMIT 6", "k"},
		{"SELECT id, k, x, h FROM " + rows + " ORDER BY 2 LIMIT 6", "k"},
		{"SELECT id, k, x, h FROM " + rows + " ORDER BY CASE WHEN k < 4 THEN k ELSE 99 END LIMIT 6", "k"},
		{"SELECT id, x, h FROM " + rows + " ORDER BY least(t.id, 4) LIMIT 6", "id"},
		{"SELECT id, x, h FROM " + rows + " ORDER BY k LIMIT 6", "a column that is not in the result"},
		{"SELECT * FROM " + rows + " ORDER BY k LIMIT 6", "k behind a star"},
	} {
		a, err := w.answer(Query{"q", c.query})
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		right := relation{columns: slices.Clone(a.columns), rows: slices.Clone(a.rows[:6])}
		right.columns[len(right.columns)-1] = "h DECIMAL(38,0)"
		with := func(change func(*relation)) relation {
			r := relation{slices.Clone(right.columns), nil}
			for _, row := range right.rows {
				r.rows = append(r.rows, slices.Clone(row))
			}
			change(&r)
			return r
		}
		x := slices.Index(a.columns, "x DOUBLE")
		for name, same := range map[string]relation{
			"itself":         right,
			"ties swapped":   with(func(r *relation) { r.rows[4], r.rows[5] = r.rows[5], r.rows[4] }),
			"others cut off": with(func(r *relation) { r.rows[4], r.rows[5] = a.rows[9], a.rows[7] }),
			"last bits":      with(func(r *relation) { r.rows[1][x].value *= 1 + 1e-12 }),
		} {
			if diff := a.compare(same); diff != "" {
				t.Errorf("%s: %s: %s", c.query, name, diff)
			}
		}
		for name, wrong := range map[string]relation{
			"a row less":    with(func(r *relation) { r.rows = r.rows[:5] }),
			"a row more":    with(func(r *relation) { r.rows = append(r.rows, a.rows[6]) }),
			"a row twice":   with(func(r *relation) { r.rows[5] = r.rows[4] }),
			"order":         with(func(r *relation) { r.rows[0], r.rows[1] = r.rows[1], r.rows[0] }),
			"top row lost":  with(func(r *relation) { r.rows = append(r.rows[1:], a.rows[6]) }),
			"a value":       with(func(r *relation) { r.rows[2][0].text = "77" }),
			"a double":      with(func(r *relation) { r.rows[1][x].value *= 1 + 1e-8 }),
			"NULL":          with(func(r *relation) { r.rows[1][x] = cell{null: true} }),
			"a column name": with(func(r *relation) { r.columns[0] = "other BIGINT" }),
			"a type":        with(func(r *relation) { r.columns[0] = "id INTEGER" }),
		} {
			if a.compare(wrong) == "" {
				t.Errorf("%s: %s passes", c.query, name)
			}
		}
	}
	for _, query := range []string{"SELECT 1 AS a ORDER BY a LIMIT 2 OFFSET 1", "SELECT 1 AS a LIMIT 50 %", "SELECT 1 AS a LIMIT 1 + 1"} {
		if _, err := w.answer(Query{"q", query}); err == nil {
			t.Errorf("%s: this comparison has no rule for it", query)
		}
	}
}
