package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	value := func(f float64) float64 { return f }
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.in, value); got != c.want {
			t.Errorf("median of %v is %v", c.in, got)
		}
	}
}

func TestTimed(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	s, err := timed(t.Context(), []string{"sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo > " + out}, out)
	if err != nil || s.Wall <= 0 || s.Wall < s.Exit || s.CPU <= 0 || s.RSS <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := timed(t.Context(), []string{"sh", "-c", "echo why >&2; exit 3"}, out); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a failing command gives %v", err)
	}
}

// A grandchild that outlives its parent belongs to the measurement: its time,
// its memory and its end.
func TestTimedWaitsForAll(t *testing.T) {
	if err := adopt(); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(t.TempDir(), "mark")
	// tail keeps what has no end of a line.
	grow := "{ head -c 104857600 /dev/zero; sleep 0.7; } | tail -n 1 | wc -c >" + mark + " 2>&1 &"
	s, err := timed(t.Context(), []string{"sh", "-c", grow + " sleep 0.3"}, mark)
	if _, missing := os.Stat(mark); err != nil || missing != nil || s.RSS < 100<<20 || s.Tree < s.RSS {
		t.Errorf("%+v, %v, %v", s, err, missing)
	}
}

func TestTimedEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), 200*time.Millisecond, errors.New("too long"))
	defer cancel()
	start := time.Now()
	_, err := timed(ctx, []string{"sh", "-c", "sleep 60 & sleep 60"}, "")
	if err == nil || err.Error() != "too long" || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestWorkloads(t *testing.T) {
	all := names(workloads, func(w workload) string { return w.name })
	for _, w := range workloads {
		if q := w.with(func(s string) string { return "T_" + s }); strings.Contains(q, "{") || !strings.Contains(q, "T_") {
			t.Errorf("%s: %s", w.name, q)
		}
		if w.even != "" && !slices.Contains(all, w.even) {
			t.Errorf("%s: there is no %s", w.name, w.even)
		}
		for _, table := range w.tables {
			if w.data != "tpch" && (synthetic(w.data, table, 1) == "" || strings.Contains(synthetic(w.data, table, 1), "{")) {
				t.Errorf("%s: %s", w.name, synthetic(w.data, table, 1))
			}
		}
		script, err := os.ReadFile("peers/run_polars.py")
		if err != nil || !strings.Contains(string(script), "def "+w.name+"(") && !strings.Contains(string(script), w.name+", ") && !strings.Contains(string(script), ", "+w.name+" = ") {
			t.Errorf("%s is not in run_polars.py (%v)", w.name, err)
		}
	}
}

func TestChoose(t *testing.T) {
	self := func(s string) string { return s }
	all := []string{"a", "b", "c"}
	for which, want := range map[string]string{"c,a": "a,c", "all": "a,b,c", "b": "b"} {
		if got, err := choose(all, strings.Split(which, ","), self); err != nil || strings.Join(got, ",") != want {
			t.Errorf("%s gives %v, %v", which, got, err)
		}
	}
	if _, err := choose(all, []string{"a", "x"}, self); err == nil || !strings.Contains(err.Error(), "a, b, c") {
		t.Errorf("what is unknown gives %v", err)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "256MiB": 256 << 20, "1GiB": 1 << 30, "1GB": 1e9, "1.5KiB": 1536, "7": 7} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"1gb", "GiB", "-1GiB", "1iGB", "x"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q is %d", text, got)
		}
	}
}

func TestAnswersDiffer(t *testing.T) {
	ref := answer{Rows: 3, Hash: "7", Doubles: []float64{1000}}
	if err := (answer{Rows: 3, Hash: "7", Doubles: []float64{1000.0000001}}).differs(ref); err != nil {
		t.Error(err)
	}
	for _, a := range []answer{{Rows: 3, Hash: "7", Doubles: []float64{1001}}, {Rows: 3, Hash: "8", Doubles: []float64{1000}}, {Rows: 2, Hash: "7", Doubles: []float64{1000}}, {Rows: 3, Hash: "7"}} {
		if err := a.differs(ref); !errors.Is(err, errWrong) {
			t.Errorf("%v: %v", a, err)
		}
	}
}

// Every way in which a result can be wrong is seen, and only those.
func TestAnswer(t *testing.T) {
	b := &bench{settings: settings{threads: 2}, tmp: t.TempDir(), duckdb: filepath.Join(t.TempDir(), "duckdbrun")}
	t.Chdir("..")
	if err := goBuild(b.duckdb, "./benchmarks/duckdbrun"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, sql string) string {
		file := filepath.Join(dir, name+".parquet")
		if _, err := b.query("COPY (" + sql + ") TO '" + file + "' (FORMAT parquet)"); err != nil {
			t.Fatal(err)
		}
		return file
	}
	rows := func(columns, order string) string {
		return "SELECT " + columns + " FROM range(10000) t(i) ORDER BY " + order
	}
	ref, err := b.answer(write("ref", rows("i // 2 AS a, (i / 3)::DECIMAL(20, 2) AS b, i / 7 AS c", "i")), nil)
	if err != nil || ref.Rows != 10000 || len(ref.Doubles) != 1 {
		t.Fatalf("%+v, %v", ref, err)
	}
	for name, c := range map[string]struct {
		sql   string
		wrong bool
	}{
		"types and ties": {rows("(i // 2)::INTEGER AS a, (i / 3)::DECIMAL(20, 2)::DECIMAL(38, 4) AS b, i / 7 + 1e-12 AS c", "a, i DESC"), false},
		"a row less":     {rows("i // 2 AS a, (i / 3)::DECIMAL(20, 2) AS b, i / 7 AS c", "i") + " LIMIT 9999", true},
		"a value":        {rows("i // 2 AS a, (i / 3)::DECIMAL(20, 2) + (i = 7)::INT / 100 AS b, i / 7 AS c", "i"), true},
		"a null":         {rows("i // 2 AS a, nullif(i / 3, 1)::DECIMAL(20, 2) AS b, i / 7 AS c", "i"), true},
		"a double":       {rows("i // 2 AS a, (i / 3)::DECIMAL(20, 2) AS b, i / 7 * 1.001 AS c", "i"), true},
		"a name":         {rows("i // 2 AS a, (i / 3)::DECIMAL(20, 2) AS bb, i / 7 AS c", "i"), true},
		"the order":      {rows("i // 2 AS a, (i / 3)::DECIMAL(20, 2) AS b, i / 7 AS c", "(i + 500) % 10000"), true},
		"values swapped": {rows("(i + 2) % 10000 // 2 AS a, (i / 3)::DECIMAL(20, 2) AS b, i / 7 AS c", "a"), true},
	} {
		file := write(name, c.sql)
		got, err := b.answer(file, ref.Columns)
		if err == nil {
			err = errors.Join(got.differs(ref), b.rising("a", file))
		}
		if wrong := errors.Is(err, errWrong); wrong != c.wrong || err != nil && !wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := b.answer(filepath.Join(dir, "none"), ref.Columns); !errors.Is(err, errWrong) {
		t.Errorf("no file: %v", err)
	}
}

func TestSkew(t *testing.T) {
	var r report
	r.add([]series{{Workload: "skewjoin", System: "kq", Wall: 3}})
	r.add([]series{{Workload: "evenjoin", System: "kq", Wall: 2}})
	if !slices.Equal(r.Skew, []skew{{"skewjoin", "kq", 1.5}}) {
		t.Errorf("%+v", r.Skew)
	}
}
