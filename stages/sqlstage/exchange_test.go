package sqlstage

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kinequet/kq/pipeline"
)

// Whatever the sizes, every bucket is in exactly one group, or all pieces of it
// are, and there are no more groups than buckets.
func TestDealBuckets(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		bytes := rapid.SliceOfN(rapid.Int64Range(0, 1000), 1, 40).Draw(rt, "bytes")
		split := make([]int64, len(bytes))
		for i := range split {
			split[i] = rapid.Int64Range(0, bytes[i]).Draw(rt, "split")
		}
		groups := dealBuckets(bytes, split, rapid.Int64Range(0, 2000).Draw(rt, "target"))
		if len(groups) == 0 || len(groups) > len(bytes) {
			rt.Fatalf("%d groups of %d buckets", len(groups), len(bytes))
		}
		next := 0
		for i, g := range groups {
			switch {
			case g.piece.of > 1 && g.piece.number > 0:
				if before := groups[i-1]; before.first != g.first || before.piece.number != g.piece.number-1 {
					rt.Fatalf("%v follows %v", g, before)
				}
			case g.first != next || g.last < g.first:
				rt.Fatalf("%v where bucket %d is next", g, next)
			default:
				next = g.last + 1
			}
			if g.piece.of > 1 && (g.first != g.last || g.piece.number == g.piece.of-1 && i+1 < len(groups) && groups[i+1].first != next) {
				rt.Fatalf("%v of %v", g, groups)
			}
		}
		if next != len(bytes) {
			rt.Fatalf("buckets from %d are missing", next)
		}
	})
}

// One large bucket is split, and only as often as shards are to spare.
func TestHotBucketIsSplit(t *testing.T) {
	bytes := []int64{10, 10, 1000, 10, 10, 10, 10, 10}
	groups := dealBuckets(bytes, bytes, 50)
	pieces := 0
	for _, g := range groups {
		if g.first == 2 && g.piece.of > 1 {
			pieces++
		}
	}
	if pieces < 4 || len(groups) > len(bytes) {
		t.Errorf("%d pieces in %v", pieces, groups)
	}
	if groups := dealBuckets(bytes, make([]int64, len(bytes)), 50); len(groups) != 3 {
		t.Errorf("without an input that may be split: %v", groups)
	}
}

// run is a compiled job whose tasks a test executes itself.
type run struct {
	*bench
	g     *pipeline.Graph
	parts map[string][][]pipeline.StoredPart
}

func (b *bench) exchange(sql string, files ...string) *run {
	b.t.Helper()
	job := &pipeline.Job{
		File: "j.yaml", Name: "j", ShardSize: 1, Positions: map[string]pipeline.Pos{}, Exchange: pipeline.ExchangeAlways,
		Sources: []pipeline.Source{{Name: "t", Type: "x", URIs: files}},
		Stages:  []pipeline.Stage{{Name: "s", SQL: sql, Materialize: true, Retry: pipeline.Retry{Attempts: 1}}},
	}
	g, err := pipeline.Compile(context.Background(), job, b.e, pipeline.CompileOptions{Open: func(s pipeline.Source) (pipeline.Relation, []string, error) {
		return pipeline.Relation{Function: "read_parquet"}, s.URIs, nil
	}})
	if err != nil {
		b.t.Fatal(err)
	}
	return &run{bench: b, g: g, parts: map[string][][]pipeline.StoredPart{}}
}

// task executes a task, each shard in so many pieces where it can be.
func (r *run) task(t *pipeline.Task, pieces int) error {
	ctx := context.Background()
	s, err := Open(ctx, r.g, t, pipeline.Resources{
		Threads: 1, Memory: 512 << 20, Spill: filepath.Join(r.dir, "spill"), OutDir: r.dir,
		Parts: func(task string) ([][]pipeline.StoredPart, error) { return r.parts[task], nil },
	})
	if err != nil {
		return err
	}
	defer s.Close()
	if !s.divisible() {
		pieces = 1
	}
	for i := range t.Shards {
		var stored []pipeline.StoredPart
		if !s.idle(&t.Shards[i]) {
			var m pipeline.Metrics
			written, err := s.attempt(ctx, &t.Shards[i], pieces, filepath.Join(r.dir, fmt.Sprintf("%s-%d.parquet", t.Name, i)), &m)
			if err != nil {
				return err
			}
			for _, w := range written {
				stored = append(stored, pipeline.StoredPart{Path: w.Path, Part: pipeline.Part{Rows: w.Rows, Bytes: 1 << 10, Buckets: w.Buckets}})
			}
		}
		r.parts[t.Name] = append(r.parts[t.Name], stored)
	}
	return nil
}

// rows is a hash of the result's rows.
func (r *run) rows(query string) (s string) {
	r.t.Helper()
	if err := r.e.scout.QueryRow("SELECT count(*) || ' ' || sum(hash(q::VARCHAR)) FROM (" + query + ") q").Scan(&s); err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *run) result() string {
	var files []string
	for _, shard := range r.parts["s"] {
		for _, p := range shard {
			files = append(files, p.Path)
		}
	}
	return "FROM " + readParts(files)
}

func (b *bench) keyed() string {
	path := filepath.Join(b.dir, "keyed.parquet")
	if _, err := b.e.scout.Exec(`COPY (SELECT (i * 7919) % 20000 AS id, CASE WHEN i % 10 < 6 THEN 7 ELSE i % 300 END AS k, i % 17 AS g
		FROM range(20000) t(i)) TO '` + path + `' (ROW_GROUP_SIZE 2048)`); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// A shard that doesn't fit into memory is computed in pieces: their rows
// together are the same, for hash and for range inputs.
func TestPieces(t *testing.T) {
	for name, sql := range map[string]string{
		"window": "SELECT id, k, rank() OVER (PARTITION BY k ORDER BY id) AS r FROM t",
		"join":   "SELECT a.id, b.id AS other FROM t a JOIN t b ON a.k = b.k AND a.g = b.g WHERE a.id < b.id AND a.id % 10 = 0",
		"sums":   "SELECT g, count(*) AS n, sum(id) AS total FROM t WHERE k > 3 GROUP BY g",
		"order":  "SELECT id, k FROM t ORDER BY id DESC",
		"group":  "SELECT k, median(id) AS m, count(DISTINCT g) AS n FROM t GROUP BY k",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			path := b.keyed()
			want := ""
			for _, pieces := range []int{1, 3} {
				r := b.exchange(sql, path)
				for i := range r.g.Tasks {
					if err := r.task(&r.g.Tasks[i], pieces); err != nil {
						t.Fatal(err)
					}
				}
				got := r.rows(r.result())
				if pieces == 1 {
					want = b.rowsOf(sql, path)
				}
				if got != want {
					t.Errorf("%d pieces: %s, want %s", pieces, got, want)
				}
			}
		})
	}
}

func (b *bench) rowsOf(sql, path string) string {
	if _, err := b.e.scout.Exec("CREATE OR REPLACE VIEW t AS FROM '" + path + "'"); err != nil {
		b.t.Fatal(err)
	}
	return (&run{bench: b}).rows(sql)
}

// The ledger of a hash edge is checked while it runs: a part that lost rows, or
// a record that is wrong, is an error that names both counts.
func TestEdgeIsCounted(t *testing.T) {
	b := newBench(t)
	r := b.exchange("SELECT id, k, rank() OVER (PARTITION BY k ORDER BY id) AS r FROM t", b.keyed())
	var last *pipeline.Task
	for i := range r.g.Tasks {
		if last = &r.g.Tasks[i]; last.Name == "s" {
			break
		}
		if err := r.task(last, 1); err != nil {
			t.Fatal(err)
		}
	}
	producer := r.parts[last.Inputs[0].Task]
	for b := range producer[0][0].Buckets {
		producer[0][0].Buckets[b]++
	}
	err := r.task(last, 1)
	if err == nil || !strings.Contains(err.Error(), "rows were sent to") || !strings.Contains(err.Error(), "arrived") {
		t.Errorf("a wrong record: %v", err)
	}
	if err := os.Remove(producer[0][0].Path); err != nil {
		t.Fatal(err)
	}
	if err := r.task(last, 1); err == nil {
		t.Error("a part that is gone is no error")
	}
}

// Out of memory is told from other errors through all that is wrapped around it.
func TestOutOfMemory(t *testing.T) {
	b := newBench(t)
	db, err := open("")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec("SET memory_limit = '16MB'; SET temp_directory = ''; SET threads = 1"); err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("CREATE TEMP TABLE x AS SELECT i % 2 AS k, list(repeat(i::VARCHAR, 50)) FROM range(400000) t(i) GROUP BY ALL")
	s := &Session{t: &pipeline.Task{}}
	if err == nil || !outOfMemory(classify(err, s.explain(&pipeline.Shard{}, &cause{readError(err), err}))) {
		t.Errorf("not seen as out of memory: %v", err)
	}
	_, err = b.e.scout.Exec("SELECT 'x'::INTEGER")
	if err == nil || outOfMemory(classify(err, s.explain(&pipeline.Shard{}, &cause{readError(err), err}))) {
		t.Errorf("seen as out of memory: %v", err)
	}
}
