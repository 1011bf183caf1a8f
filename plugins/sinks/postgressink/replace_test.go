package postgressink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// sendAll publishes parts of a run, 100 rows each, and returns what Last gets.
func (w *world) sendAll(p *publisher, run string, parts int) (sent [][]pipeline.Part) {
	w.Helper()
	for i := range parts {
		part := w.part(run, i, many(1000*i, 100)...)
		w.publish(p, part)
		sent = append(sent, objects(part)...)
	}
	return sent
}

func (w *world) last(p *publisher, sent [][]pipeline.Part) {
	w.Helper()
	r, err := p.Last(w.Context(), sent)
	if err != nil || r.Rows != total(sent) {
		w.Fatalf("%+v, %v", r, err)
	}
}

const stagingTables = "SELECT count(*) FROM pg_class WHERE relname LIKE 'kq\\_staging%'"

func TestReplace(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint PRIMARY KEY, name text, extra int DEFAULT 7); INSERT INTO t SELECT -i FROM generate_series(1, 50) i; CREATE VIEW v AS SELECT * FROM t")
	p := w.open("20260101-000000-aaaa", "mode", "replace")
	sent := w.sendAll(p, "20260101-000000-aaaa", 3)
	w.want("50", "SELECT count(*) FROM t") // nothing is to be seen yet
	w.want("1", stagingTables)
	w.last(p, sent)
	w.want("(300,2100)", "SELECT (count(*), sum(extra)) FROM v")
	w.want("0", stagingTables)
	w.last(p, sent)
	w.last(w.open("20260101-000000-aaaa", "mode", "replace"), sent)
	w.want("300", "SELECT count(*) FROM t")
	w.want("0", stagingTables)
	// A zombie's part comes late.
	if r := w.publish(w.open("20260101-000000-aaaa", "mode", "replace"), w.part("20260101-000000-aaaa", 1, many(1000, 100)...)); !r.Already {
		t.Errorf("%+v", r)
	}
	// Nothing at all.
	w.last(w.open("20260101-000001-aaaa", "mode", "replace"), nil)
	w.want("0", "SELECT count(*) FROM t")
}

// TestReplaceDead leaves runs unfinished.
func TestReplaceDead(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint, name text)")
	dead := w.open("20260101-000000-aaaa", "mode", "replace")
	sentByDead := w.sendAll(dead, "20260101-000000-aaaa", 2)
	p := w.open("20260101-000001-aaaa", "mode", "replace")
	sent := w.sendAll(p, "20260101-000001-aaaa", 3)
	later := w.open("20260101-000002-aaaa", "mode", "replace")
	sentLater := w.sendAll(later, "20260101-000002-aaaa", 1)
	w.want("3", stagingTables)
	w.last(p, sent)
	w.want("1", stagingTables) // a later run may still be at work
	w.want("0", "SELECT count(*) FROM kq_published WHERE run = '20260101-000000-aaaa'")
	// The dead one wakes up: nothing of it may come to be seen.
	_, err := dead.Last(t.Context(), sentByDead)
	w.refused(err, true, "run 20260101-000001-aaaa, which is later, has replaced it")
	_, err = dead.Publish(t.Context(), w.part("20260101-000000-aaaa", 5, many(1, 10)...))
	w.refused(err, true, "run 20260101-000001-aaaa, which is later, has replaced it")
	w.last(later, sentLater)
	w.want("100", "SELECT count(*) FROM t")
	w.want("0", stagingTables)
	if len(w.said) > 0 {
		t.Error(w.said)
	}
}

func TestReplaceRefuses(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint PRIMARY KEY, name text, parent bigint REFERENCES t); CREATE TABLE child (t bigint REFERENCES t ON DELETE CASCADE)")
	w.refused(w.open("r1", "mode", "replace").Check(t.Context()), true, "foreign keys of child refer to its rows")
	w.exec("DROP TABLE child")
	p := w.open("r1", "mode", "replace")
	sent := w.sendAll(p, "r1", 2)
	staging := p.staging().String()
	w.exec("DELETE FROM " + staging + " WHERE id = 1005")
	_, err := p.Last(t.Context(), sent)
	w.refused(err, true, "200 rows were sent, 199 came")
	w.exec("DROP TABLE " + staging)
	_, err = p.Last(t.Context(), sent) // it makes an empty one, and sees that
	w.refused(err, true, "200 rows were sent, 0 came")
}

// TestReplacePartitioned and one with children by inheritance.
func TestReplacePartitioned(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE t (id bigint, name text) PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (-100) TO (1000); CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (1000) TO (9000);
		INSERT INTO t VALUES (-1, 'old'), (5000, 'old'); CREATE TABLE base (id bigint, name text); CREATE TABLE heir () INHERITS (base); INSERT INTO base VALUES (1); INSERT INTO heir VALUES (2)`)
	for _, table := range []string{"t", "base"} {
		p := w.open("r1"+table, "mode", "replace", "table", table)
		w.last(p, w.sendAll(p, "r1"+table, 2))
	}
	w.want("200", "SELECT count(*) FROM t")
	w.want("200", "SELECT count(*) FROM ONLY base")
	w.want("1", "SELECT count(*) FROM heir")
}

// TestReplaceIsSeenWhole reads all the time while the table is replaced: always
// one whole result, without waiting; and a snapshot keeps its own.
func TestReplaceIsSeenWhole(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint, name text); INSERT INTO t SELECT i, 'run 0' FROM generate_series(1, 200) i")
	snapshot, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer snapshot.Close(context.Background())
	old, err := snapshot.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if err := old.QueryRow(t.Context(), "SELECT 1").Scan(&n); err != nil { // takes the snapshot, and no lock of the table
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	seen := map[string]bool{}
	reader, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(context.Background())
	group.Go(func() {
		for ctx.Err() == nil {
			var rows, names int
			var name *string
			if err := reader.QueryRow(context.Background(), "SELECT count(*), count(DISTINCT name), min(name) FROM t").Scan(&rows, &names, &name); err != nil || rows != 200 || names != 1 {
				t.Errorf("%d rows of %d runs: %v", rows, names, err)
				return
			}
			seen[*name] = true
		}
	})
	for i := range 5 {
		run := fmt.Sprintf("r%d", i+1)
		p := w.open(run, "mode", "replace")
		var lines []string
		for id := range 200 {
			lines = append(lines, fmt.Sprintf("%d,run %d", id, i+1))
		}
		part := w.part(run, 0, lines...)
		w.publish(p, part)
		w.last(p, objects(part))
	}
	stop()
	group.Wait()
	if err := old.QueryRow(t.Context(), "SELECT count(*) FROM t WHERE name = 'run 0'").Scan(&n); err != nil || n != 200 {
		t.Errorf("the old snapshot has %d rows: %v", n, err)
	}
	if err := old.Rollback(t.Context()); err != nil {
		t.Error(err)
	}
	if len(seen) < 2 {
		t.Logf("the reader saw only %v", seen)
	}
	w.want("run 5", "SELECT min(name) FROM t")
}

// TestReplaceTogether lets processes repeat Last at the same time.
func TestReplaceTogether(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint, name text)")
	var group sync.WaitGroup
	var parts []*sinks.Part
	for i := range 4 {
		parts = append(parts, w.part("r1", i, many(100*i, 50)...))
	}
	for range 4 {
		p := w.open("r1", "mode", "replace")
		group.Go(func() {
			for _, part := range parts {
				if _, err := p.Publish(t.Context(), part); err != nil {
					t.Error(err)
				}
			}
			if r, err := p.Last(t.Context(), objects(parts...)); err != nil || r.Rows != 200 {
				t.Error(r, err)
			}
		})
	}
	group.Wait()
	w.want("200", "SELECT count(*) FROM t")
	w.want("0", stagingTables)
}

func TestOldTokens(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint, name text)")
	p := w.open("r5")
	sent := w.sendAll(p, "r5", 1)
	w.exec(`INSERT INTO kq_published (part, run, sink, target, rows, checksum, at) VALUES ('a', 'old', 's', 't', 1, '', now() - interval '31 days'),
		('b', 'long', 's', 't', 1, '', now() - interval '31 days'), ('c', 'long', 's', 't', 1, '', now() - interval '29 days'), ('d', 'r5', 'other', 't', 1, '', now() - interval '40 days')`)
	w.last(p, sent)
	w.want("b, c, d, kq/r5/out/0", "SELECT string_agg(part, ', ' ORDER BY part) FROM kq_published")
	// What can't be cleaned is no reason to fail.
	w.exec("CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END'; CREATE TRIGGER no BEFORE DELETE ON kq_published FOR EACH STATEMENT EXECUTE FUNCTION no()")
	w.last(p, sent)
	if len(w.said) != 1 || !strings.Contains(w.said[0], "was not removed") {
		t.Error(w.said)
	}
	if errors.Is(p.classify(context.Canceled), context.Canceled) != true {
		t.Error("causes are hidden")
	}
}
