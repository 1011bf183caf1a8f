package postgressink

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// faulty is a world whose sinks go through a proxy.
func faulty(t *testing.T, url string) (*world, *faultproxy.Postgres) {
	t.Helper()
	w := newWorldOf(t, url)
	config, err := pgconn.ParseConfig(w.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := faultproxy.NewPostgres(fmt.Sprintf("%s:%d", config.Host, config.Port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	w.url = w.through(proxy.Addr())
	return w, proxy
}

func isCommit(r *faultproxy.PostgresRequest) bool { return r.Type == 'Q' && r.SQL == "commit" }

func TestLostAnswers(t *testing.T) {
	w, proxy := faulty(t, services.Postgres(t).URL)
	w.exec("CREATE TABLE t (id bigint, name text)")
	lost, unsent := faultproxy.Fault{Answer: faultproxy.Cut(0)}, faultproxy.Fault{Request: faultproxy.Cut(0)}
	for i, c := range []struct {
		name    string
		match   func(*faultproxy.PostgresRequest) bool
		fault   faultproxy.Fault
		already bool // the second attempt finds the part
	}{
		{"commit's answer", isCommit, lost, true},
		{"commit", isCommit, unsent, false},
		{"copy's answer", faultproxy.MessageType("c"), lost, false},
		{"the middle of copy's data", faultproxy.MessageType("d"), faultproxy.Fault{Request: faultproxy.Reset(20)}, false},
		{"the token's answer", faultproxy.SQL("ON CONFLICT (part)"), lost, false},
	} {
		p := w.open("r1")
		part := w.part("r1", i, many(1000*i, 100)...)
		if err := p.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		proxy.Set(faultproxy.PostgresRule{Match: c.match, Times: 1, Fault: c.fault})
		_, err := p.Publish(t.Context(), part)
		w.refused(err, false)
		if len(proxy.Hits()) != 1 {
			t.Errorf("%s: hits %v", c.name, proxy.Hits())
		}
		proxy.Set()
		if r := w.publish(w.open("r1"), part); r.Already != c.already {
			t.Errorf("%s: %+v", c.name, r)
		}
		w.want(fmt.Sprint(100*(i+1)), "SELECT count(*) FROM t")
	}
}

// TestErrorsOfServer answers in place of the server.
func TestErrorsOfServer(t *testing.T) {
	w, proxy := faulty(t, services.Postgres(t).URL)
	w.exec("CREATE TABLE t (id bigint, name text)")
	for i, c := range []struct {
		code, sql string
		permanent bool
	}{
		{"40001", "commit", false}, {"40P01", "COPY", false}, {"53300", "begin", false}, {"57P01", "begin", false}, {"53100", "COPY", false}, {"23514", "commit", true},
	} {
		p := w.open("r1")
		if err := p.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		part := w.part("r1", i, many(1000*i, 100)...)
		proxy.Set(faultproxy.PostgresRule{Match: func(r *faultproxy.PostgresRequest) bool { return r.Type == 'Q' && strings.HasPrefix(r.SQL, c.sql) }, Times: 1, Reply: faultproxy.PostgresError(c.code, "made up")})
		_, err := p.Publish(t.Context(), part)
		w.refused(err, c.permanent, "made up", c.code)
		proxy.Set()
		w.publish(p, part)
		w.want(fmt.Sprint(100*(i+1)), "SELECT count(*) FROM t")
	}
}

var sweep = flag.Int("sweep", 8, "TestSweep: of how many messages one is hit; 1 is all of them")

// TestSweep lets a fault hit each message of a run in turn, in each mode: the run
// goes on with the same command until it is done, and every row is there once.
func TestSweep(t *testing.T) {
	w, proxy := faulty(t, services.OwnPostgres(t, "fsync=off").URL) // no power is cut here
	w.exec("CREATE TABLE t (id bigint PRIMARY KEY, name text)")
	modes := map[string][]any{"insert": nil, "upsert": {"mode", "upsert", "key", []any{"id"}}, "replace": {"mode", "replace"}}
	runs, attempts := 0, 0
	for mode, settings := range modes {
		for i, fault := range []faultproxy.Fault{{Request: faultproxy.Cut(0)}, {Answer: faultproxy.Cut(0)}, {Answer: faultproxy.Reset(1)}, {Request: faultproxy.Cut(3)}} {
			for n, more := 1+i%*sweep, true; more; n += *sweep {
				w.exec("DELETE FROM t")
				run := fmt.Sprintf("r%05d", runs)
				runs++
				parts := []*sinks.Part{w.part(run, 0, many(1, 20)...), w.part(run, 1, many(101, 30)...)}
				proxy.Set(faultproxy.PostgresRule{From: n, Times: 1, Fault: fault})
				for !w.attempt(run, parts, settings...) {
					attempts++
				}
				more = len(proxy.Hits()) > 0
				if got := w.get("SELECT (count(*), count(DISTINCT id), sum(id)) FROM t"); got != "(50,50,3675)" {
					t.Fatalf("%s, %v at message %d (%v): %s", mode, fault, n, proxy.Hits(), got)
				}
				if n > 200 {
					t.Fatal("no end")
				}
			}
		}
	}
	w.want("0", stagingTables)
	t.Logf("%d runs, %d attempts were cut: 0 lost, 0 duplicated", runs, attempts)
	if attempts < runs/2 {
		t.Error("faults hit nothing")
	}
}

// attempt does all that a run has to do, as far as it comes.
func (w *world) attempt(run string, parts []*sinks.Part, settings ...any) bool {
	p := w.open(run, settings...)
	defer p.Close()
	for _, part := range parts {
		if _, err := p.Publish(w.Context(), part); err != nil {
			if pipeline.IsPermanent(err) {
				w.Fatal(err)
			}
			return false
		}
	}
	r, err := p.Last(w.Context(), objects(parts...))
	if pipeline.IsPermanent(err) || err == nil && r.Rows != 50 {
		w.Fatal(r, err)
	}
	return err == nil
}

// TestServerKilled kills the server under a part, and starts it again.
func TestServerKilled(t *testing.T) {
	d := services.OwnPostgres(t)
	w := newWorld(t)
	w.url = d.URL
	p := w.open("r1", "create", true)
	w.publish(p, w.part("r1", 0, many(1, 1000)...))
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	part := w.part("r1", 1, many(2001, 1000)...)
	_, err := p.Publish(t.Context(), part)
	w.refused(err, false)
	_, err = p.Publish(t.Context(), part)
	w.refused(err, false)
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.publish(p, part)
	if r := w.publish(p, w.part("r1", 0, many(1, 1000)...)); !r.Already {
		t.Errorf("%+v: a commit that was answered is gone", r)
	}
}
