package sqlstage

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kinequet/kq/pipeline"
)

// bench is an engine and a way to run "SELECT * FROM t" over files.
type bench struct {
	t   *testing.T
	e   *Engine
	dir string
}

func newBench(t *testing.T) *bench {
	e, err := NewEngine(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return &bench{t, e, t.TempDir()}
}

// run plans and executes SELECT sql over the files and returns the rows written.
func (b *bench) run(function, args, sql string, files ...string) (rows int64, err error) {
	ctx := context.Background()
	job := &pipeline.Job{
		File: "j.yaml", Name: "j", ShardSize: 1, Positions: map[string]pipeline.Pos{},
		Sources: []pipeline.Source{{Name: "t", Type: "x", URIs: files}},
		Stages:  []pipeline.Stage{{Name: "s", SQL: sql, Materialize: true}},
	}
	g, err := pipeline.Compile(ctx, job, b.e, pipeline.CompileOptions{Open: func(s pipeline.Source) (pipeline.Relation, []string, error) {
		return pipeline.Relation{Function: function, Args: args}, s.URIs, nil
	}})
	if err != nil {
		return 0, err
	}
	s, err := Open(ctx, g, &g.Tasks[0], pipeline.Resources{Threads: 2, Memory: 512 << 20, Spill: filepath.Join(b.dir, "spill"), OutDir: b.dir})
	if err != nil {
		return 0, err
	}
	defer s.Close()
	for i := range g.Tasks[0].Shards {
		_, m, err := s.Run(ctx, &g.Tasks[0].Shards[i], filepath.Join(b.dir, "out.parquet"))
		if err != nil {
			return 0, err
		}
		rows += m.RowsOut
	}
	return rows, nil
}

func (b *bench) file(name string, data []byte) string {
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		b.t.Fatal(err)
	}
	return path
}

// real is a Parquet file with several row groups.
func (b *bench) real() []byte {
	path := filepath.Join(b.dir, "real.parquet")
	if _, err := b.e.scout.Exec("COPY (SELECT i AS id, 'text ' || i % 100 AS s, i / 3.0 AS x FROM range(10000) t(i)) TO '" + path + "' (ROW_GROUP_SIZE 2048)"); err != nil {
		b.t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		b.t.Fatal(err)
	}
	return data
}

// wants requires an error that says where.
func (b *bench) wants(what string, err error, words ...string) {
	b.t.Helper()
	if err == nil {
		b.t.Errorf("%s: no error", what)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			b.t.Errorf("%s: %q is not in: %v", what, w, err)
		}
	}
}

func TestTruncated(t *testing.T) {
	b := newBench(t)
	whole := b.real()
	for n := 0; n < len(whole); n += 1 + len(whole)/60 {
		_, err := b.run("read_parquet", "", "SELECT * FROM t", b.file("cut.parquet", whole[:n]))
		b.wants(fmt.Sprintf("%d of %d bytes", n, len(whole)), err, "cut.parquet")
	}
	// The end is there, the middle isn't.
	_, err := b.run("read_parquet", "", "SELECT * FROM t", b.file("cut.parquet", append(append([]byte{}, whole[:200]...), whole[len(whole)/2:]...)))
	b.wants("without a middle", err, "cut.parquet")
}

// Flipped bits may change values, as Parquet's checksums are optional, but they
// never crash, hang or lose rows silently.
func TestBitFlips(t *testing.T) {
	b := newBench(t)
	whole := b.real()
	rng := rand.New(rand.NewPCG(1, 2))
	failed := 0
	for i := range 400 {
		data := append([]byte{}, whole...)
		at := rng.IntN(len(data))
		if i%2 == 0 { // the footer is where it hurts
			at = len(data) - 1 - rng.IntN(min(len(data), 1500))
		}
		data[at] ^= 1 << rng.IntN(8)
		rows, err := b.run("read_parquet", "", "SELECT * FROM t", b.file("flip.parquet", data))
		switch {
		case err == nil && rows != 10000:
			t.Errorf("bit of byte %d: %d rows of 10000, and no error", at, rows)
		case err != nil:
			failed++
			b.wants(fmt.Sprintf("bit of byte %d", at), err, "flip.parquet")
		}
	}
	if failed < 50 {
		t.Errorf("only %d of 400 flips were noticed", failed)
	}
}

func TestNotParquet(t *testing.T) {
	b := newBench(t)
	_, err := b.run("read_parquet", "", "SELECT * FROM t", b.file("empty.parquet", nil))
	b.wants("empty", err, "empty.parquet", "0 bytes")
	_, err = b.run("read_parquet", "", "SELECT * FROM t", b.file("text.parquet", []byte("a,b\n1,2\n3,4\n5,6\n")))
	b.wants("text", err, "text.parquet", "PAR1")
	lie := b.real()
	binary.LittleEndian.PutUint32(lie[len(lie)-8:], 1<<31)
	_, err = b.run("read_parquet", "", "SELECT * FROM t", b.file("lie.parquet", lie))
	b.wants("a footer of 2 GiB", err, "lie.parquet", "footer")
	if err := os.Mkdir(filepath.Join(b.dir, "dir.parquet"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = b.run("read_parquet", "", "SELECT * FROM t", filepath.Join(b.dir, "dir.parquet"))
	b.wants("a folder", err, "dir.parquet", "folder")
}

func TestBrokenCSV(t *testing.T) {
	b := newBench(t)
	var text strings.Builder
	text.WriteString("a,b\n")
	for i := range 30000 {
		fmt.Fprintf(&text, "%d,%d\n", i, i)
	}
	good := b.file("good.csv", []byte(text.String()))
	bad := b.file("bad.csv", []byte(text.String()+"oops,3\n"))
	if rows, err := b.run("read_csv", "", "SELECT * FROM t", good); err != nil || rows != 30000 {
		t.Errorf("%d rows, %v", rows, err)
	}
	_, err := b.run("read_csv", "", "SELECT * FROM t", good, bad)
	b.wants("a text among numbers", err, "bad.csv", "30002")
	if rows, err := b.run("read_csv", "ignore_errors = true", "SELECT * FROM t", good, bad); err != nil || rows != 60000 {
		t.Errorf("ignore_errors: %d rows, %v", rows, err)
	}
}

// A source that changes under the run is noticed.
func TestChangedSource(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	path := b.file("t.parquet", b.real())
	job := &pipeline.Job{
		File: "j.yaml", Name: "j", ShardSize: 1, Positions: map[string]pipeline.Pos{},
		Sources: []pipeline.Source{{Name: "t", URIs: []string{path}}}, Stages: []pipeline.Stage{{Name: "s", SQL: "SELECT id FROM t", Materialize: true}},
	}
	g, err := pipeline.Compile(ctx, job, b.e, pipeline.CompileOptions{Open: func(s pipeline.Source) (pipeline.Relation, []string, error) {
		return pipeline.Relation{Function: "read_parquet"}, s.URIs, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	run := func() error {
		s, err := Open(ctx, g, &g.Tasks[0], pipeline.Resources{Threads: 1, Memory: 256 << 20, Spill: filepath.Join(b.dir, "spill"), OutDir: b.dir})
		if err != nil {
			return err
		}
		defer s.Close()
		_, _, err = s.Run(ctx, &g.Tasks[0].Shards[0], filepath.Join(b.dir, "out.parquet"))
		return err
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	b.file("t.parquet", append(b.real(), 0))
	if err := run(); err == nil || !pipeline.IsPermanent(err) && !strings.Contains(err.Error(), "PAR1") {
		t.Errorf("a changed file: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := run(); err == nil || !strings.Contains(err.Error(), "is gone since the run was planned") {
		t.Errorf("a vanished file: %v", err)
	}
}

// The second wall: even SQL that nobody has checked reaches nothing.
func TestWall(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	secret := b.file("secret.csv", []byte("a\n1\n"))
	for _, q := range []string{"SELECT * FROM read_csv('" + secret + "')", "SELECT * FROM '" + secret + "'", "SELECT * FROM glob('" + b.dir + "/*')", "SELECT * FROM read_text('/etc/passwd')"} {
		g := &pipeline.Graph{}
		task := &pipeline.Task{Name: "s", Kind: pipeline.Compute, Views: []pipeline.View{{Name: "s", SQL: q}}, Output: pipeline.Output{Columns: []pipeline.Column{{Name: "a", Type: "BIGINT"}}, Stored: []pipeline.Column{{Name: "a", Type: "BIGINT"}}, Compression: "snappy"}}
		out := filepath.Join(b.dir, "o")
		s, err := Open(ctx, g, task, pipeline.Resources{Threads: 1, Memory: 256 << 20, Spill: filepath.Join(b.dir, "spill"), OutDir: out})
		if err == nil {
			_, _, err = s.Run(ctx, &pipeline.Shard{}, filepath.Join(out, "x.parquet"))
			s.Close()
		}
		b.wants(q, err)
	}
}

func TestTypes(t *testing.T) {
	e := &Engine{}
	for typ, want := range map[string][2]string{
		"BIGINT":               {"BIGINT", "BIGINT"},
		"HUGEINT":              {"VARCHAR", "DECIMAL(38,0)"},
		"HUGEINT[]":            {"VARCHAR[]", "DECIMAL(38,0)[]"},
		"ENUM('a, b', 'c''d')": {"VARCHAR", "VARCHAR"},
		`STRUCT(a HUGEINT, "b, c" MAP(VARCHAR, INTERVAL)[3])`: {`STRUCT(a VARCHAR, "b, c" MAP(VARCHAR, VARCHAR)[3])`, `STRUCT(a DECIMAL(38,0), "b, c" MAP(VARCHAR, INTERVAL)[3])`},
		"DECIMAL(18,3)":            {"DECIMAL(18,3)", "DECIMAL(18,3)"},
		"TIMESTAMP WITH TIME ZONE": {"TIMESTAMP WITH TIME ZONE", "TIMESTAMP WITH TIME ZONE"},
		"TIME WITH TIME ZONE":      {"VARCHAR", "TIME WITH TIME ZONE"},
	} {
		cols := []pipeline.Column{{Name: "x", Type: typ}}
		stored, err := e.Stored(cols)
		if err != nil || stored[0].Type != want[0] || e.Published(cols)[0].Type != want[1] {
			t.Errorf("%s: stored %v, published %v, %v", typ, stored, e.Published(cols), err)
		}
	}
	if _, err := e.Stored([]pipeline.Column{{Name: "u", Type: "UNION(a INTEGER)"}}); err == nil || !strings.Contains(err.Error(), `"u"`) {
		t.Errorf("UNION: %v", err)
	}
}
