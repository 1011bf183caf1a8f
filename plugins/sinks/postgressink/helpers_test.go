package postgressink

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// gate counts what is on its way.
type gate struct {
	mu         sync.Mutex
	limit      int64
	held, most int64
	outcomes   map[backpressure.Result]int
	refuse     error
}

func newGate(limit int64) *gate { return &gate{limit: limit, outcomes: map[backpressure.Result]int{}} }

func (g *gate) Acquire(ctx context.Context, bytes int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := errors.Join(g.refuse, ctx.Err()); err != nil {
		return err
	}
	g.held += bytes
	g.most = max(g.most, g.held)
	return nil
}

func (g *gate) Release(bytes int64, o backpressure.Outcome) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held -= bytes
	g.outcomes[o.Result]++
}

func (g *gate) Limit() int64 { return g.limit }

// world is a database and the sinks that send to it.
type world struct {
	testing.TB
	url  string // of the sinks
	db   *pgx.Conn
	gate *gate
	said []string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOf(t, services.Postgres(t).URL)
}

func newWorldOf(t testing.TB, url string) *world {
	t.Helper()
	db, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, url: url, db: db, gate: newGate(1 << 20)}
	t.Cleanup(func() {
		db.Close(context.Background())
		if w.gate.held != 0 || w.gate.most > w.gate.limit {
			t.Errorf("the gate still holds %d bytes; most was %d", w.gate.held, w.gate.most)
		}
	})
	return w
}

// through is the url with another address.
func (w *world) through(addr string) string {
	w.Helper()
	u, err := url.Parse(w.url)
	if err != nil {
		w.Fatal(err)
	}
	u.Host = addr
	return u.String()
}

func (w *world) exec(sql string, args ...any) {
	w.Helper()
	if _, err := w.db.Exec(w.Context(), sql, args...); err != nil {
		w.Fatalf("%s: %v", sql, err)
	}
}

// get is the text of one value.
func (w *world) get(sql string, args ...any) string {
	w.Helper()
	var s *string
	if err := w.db.QueryRow(w.Context(), "SELECT ("+sql+")::text", args...).Scan(&s); err != nil {
		w.Fatalf("%s: %v", sql, err)
	}
	if s == nil {
		return "NULL"
	}
	return *s
}

func (w *world) want(want, sql string, args ...any) {
	w.Helper()
	if got := w.get(sql, args...); got != want {
		w.Errorf("%s: %s, want %s", sql, got, want)
	}
}

var idAndName = []pipeline.Column{{Name: "id", Type: "BIGINT"}, {Name: "name", Type: "VARCHAR"}}

func options(pairs ...any) (all []pipeline.Option) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, pipeline.Option{Key: pairs[i].(string), Value: pairs[i+1]})
	}
	return all
}

// open opens a sink of the columns id and name.
func (w *world) open(run string, pairs ...any) *publisher {
	w.Helper()
	return w.openColumns(run, idAndName, pairs...)
}

func (w *world) openColumns(run string, columns []pipeline.Column, pairs ...any) *publisher {
	w.Helper()
	p, err := Sink{}.Open(&pipeline.SinkPlan{Name: "out", Columns: columns, Settings: options(append(pairs[:len(pairs):len(pairs)], "url", w.url, "table", "t")...)},
		sinks.Options{Run: run, Gate: w.gate, Warn: func(m string) { w.said = append(w.said, m) }})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(func() { p.Close() })
	return p.(*publisher)
}

// part makes a part of a file of these lines.
func (w *world) part(run string, shard int, lines ...string) *sinks.Part {
	w.Helper()
	return w.partOf(run, shard, int64(len(lines)), strings.Join(append(lines, ""), "\n"))
}

func (w *world) partOf(run string, shard int, rows int64, content string) *sinks.Part {
	w.Helper()
	path := filepath.Join(w.TempDir(), "part.csv")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.Fatal(err)
	}
	sum := fmt.Sprintf("crc32c:%08x", crc32.Checksum([]byte(content), castagnoli))
	return &sinks.Part{
		ID: fmt.Sprintf("kq/%s/out/%d", run, shard), Shard: shard, Rows: rows, Checksum: sum, Attempt: 1,
		Files: []pipeline.StoredPart{{Part: pipeline.Part{Name: "part.csv", Rows: rows, Bytes: int64(len(content)), Checksum: sum}, Path: path}},
	}
}

// many makes n lines with ids from first on.
func many(first, n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf("%d,name %d", first+i, first+i))
	}
	return lines
}

// publish sends a part, which must arrive.
func (w *world) publish(p *publisher, part *sinks.Part) sinks.Result {
	w.Helper()
	r, err := p.Publish(w.Context(), part)
	if err != nil {
		w.Fatal(err)
	}
	if r.Rows != part.Rows || len(r.Objects) != 1 || r.Objects[0].Rows != part.Rows {
		w.Fatalf("result %+v of %d rows", r, part.Rows)
	}
	return r
}

// refused wants an error that says so, and that is permanent or not.
func (w *world) refused(err error, permanent bool, says ...string) {
	w.Helper()
	if err == nil {
		w.Errorf("no error; want one that says %q", says)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			w.Errorf("%v; want %q in it", err, s)
		}
	}
	if pipeline.IsPermanent(err) != permanent {
		w.Errorf("%v: permanent is %v", err, !permanent)
	}
}

// objects are what Last gets of parts.
func objects(parts ...*sinks.Part) (all [][]pipeline.Part) {
	for _, p := range parts {
		all = append(all, []pipeline.Part{{Name: p.ID, Rows: p.Rows}})
	}
	return all
}
