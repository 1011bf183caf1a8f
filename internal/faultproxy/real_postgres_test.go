package faultproxy_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
)

// postgresPair gives a proxy, the address of a database through it, and a
// connection past it, with an empty table t(n).
func postgresPair(t *testing.T) (*faultproxy.Postgres, string, *pgx.Conn) {
	t.Helper()
	d := services.Postgres(t)
	p, err := faultproxy.NewPostgres(d.Addr(""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = p.Addr()
	u.RawQuery = "sslmode=prefer" // the proxy refuses it
	direct, err := pgx.Connect(t.Context(), d.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { direct.Close(context.Background()) })
	if _, err := direct.Exec(t.Context(), "CREATE TABLE t (n bigint)"); err != nil {
		t.Fatal(err)
	}
	return p, u.String(), direct
}

// load copies rows in one transaction, with a statement that has parameters.
func load(ctx context.Context, url string, rows int) error {
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "INSERT INTO t SELECT $1::bigint WHERE false", 1); err != nil {
		return err
	}
	_, err = tx.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"n"}, pgx.CopyFromSlice(rows, func(i int) ([]any, error) { return []any{int64(i)}, nil }))
	if err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func count(t *testing.T, direct *pgx.Conn) (n int) {
	t.Helper()
	if err := direct.QueryRow(t.Context(), "SELECT count(*) FROM t").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRealPostgres(t *testing.T) {
	p, url, direct := postgresPair(t)
	p.Set(faultproxy.PostgresRule{Name: "late", Match: faultproxy.SQL("COMMIT"), Fault: faultproxy.Fault{DelayAnswer: 30 * time.Millisecond}})
	at := time.Now()
	if err := load(t.Context(), url, 100_000); err != nil {
		t.Fatal(err)
	}
	if n := count(t, direct); n != 100_000 || time.Since(at) < 30*time.Millisecond || len(p.Hits()) != 1 {
		t.Errorf("%d rows, %v, hits %v", n, time.Since(at), p.Hits())
	}
}

// TestRealPostgresLost loses requests and answers at points that have a name.
func TestRealPostgresLost(t *testing.T) {
	p, url, direct := postgresPair(t)
	lost, unsent := faultproxy.Fault{Answer: faultproxy.Cut(0)}, faultproxy.Fault{Request: faultproxy.Cut(0)}
	for _, c := range []struct {
		name  string
		match func(*faultproxy.PostgresRequest) bool
		fault faultproxy.Fault
		rows  int // that are there although the client got an error
	}{
		{"commit's answer", faultproxy.SQL("commit"), lost, 50},
		{"commit", faultproxy.SQL("commit"), unsent, 0},
		{"a prepared statement's answer", faultproxy.SQL("where false"), lost, 0},
		{"copy's answer", faultproxy.MessageType("c"), lost, 0},
		{"the middle of copy's data", faultproxy.MessageType("d"), faultproxy.Fault{Request: faultproxy.Reset(20)}, 0},
		{"login", faultproxy.MessageType("\x00"), lost, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := direct.Exec(t.Context(), "TRUNCATE t"); err != nil {
				t.Fatal(err)
			}
			p.Set(faultproxy.PostgresRule{Match: c.match, Times: 1, Fault: c.fault})
			if err := load(t.Context(), url, 50); err == nil {
				t.Error("the client saw nothing")
			}
			if hits := p.Hits(); len(hits) != 1 {
				t.Errorf("hits %v", hits)
			}
			if n := count(t, direct); n != c.rows {
				t.Errorf("%d rows, want %d", n, c.rows)
			}
		})
	}
}

// TestRealPostgresSweep cuts at each message: all rows are there or none, and an
// error is never hidden.
func TestRealPostgresSweep(t *testing.T) {
	p, url, direct := postgresPair(t)
	for _, fault := range []faultproxy.Fault{{Request: faultproxy.Cut(0)}, {Answer: faultproxy.Cut(0)}, {Answer: faultproxy.Reset(1)}, {Request: faultproxy.Cut(3)}} {
		for n, more := 1, true; more; n++ {
			if _, err := direct.Exec(t.Context(), "TRUNCATE t"); err != nil {
				t.Fatal(err)
			}
			p.Set(faultproxy.PostgresRule{From: n, Times: 1, Fault: fault})
			err := load(t.Context(), url, 10)
			more = len(p.Hits()) > 0
			rows := count(t, direct)
			if rows != 0 && rows != 10 || err == nil && rows != 10 {
				t.Errorf("%v at message %d (%v): %d rows, %v", fault, n, p.Hits(), rows, err)
			}
			if !more && err != nil || n > 100 {
				t.Fatalf("message %d: %v", n, err)
			}
		}
	}
}

func TestRealPostgresError(t *testing.T) {
	p, url, direct := postgresPair(t)
	p.Set(faultproxy.PostgresRule{Match: faultproxy.SQL("begin"), Times: 1, Reply: faultproxy.PostgresError("53300", "too many clients")})
	var refused *pgconn.PgError
	if err := load(t.Context(), url, 1); !errors.As(err, &refused) || refused.Code != "53300" {
		t.Errorf("%v", err)
	}
	if err := load(t.Context(), url, 1); err != nil || count(t, direct) != 1 {
		t.Error(err)
	}
	if fmt.Sprint(p.Hits()) == "[]" {
		t.Error("no hit")
	}
}
