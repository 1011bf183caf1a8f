package services

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(t.Context()) })
	return conn
}

func TestPostgres(t *testing.T) {
	a, b := Postgres(t), Postgres(t)
	if a.Pid != b.Pid || a.URL == b.URL {
		t.Fatalf("processes %d and %d, databases %s and %s", a.Pid, b.Pid, a.URL, b.URL)
	}
	conn := connect(t, a.URL)
	var durable, encoding, zone string
	err := conn.QueryRow(t.Context(), "SELECT current_setting('fsync'), current_setting('server_encoding'), current_setting('timezone')").Scan(&durable, &encoding, &zone)
	if err != nil || durable != "on" || encoding != "UTF8" || zone != "UTC" {
		t.Errorf("fsync %s, %s, %s: %v", durable, encoding, zone, err)
	}
}

func TestPostgresCredentialsAndTLS(t *testing.T) {
	d := Postgres(t)
	conn := connect(t, d.URL)
	role := strings.ReplaceAll(Name(t), "-", "_")
	if _, err := conn.Exec(t.Context(), "CREATE ROLE "+role+" LOGIN PASSWORD 'right'"); err != nil {
		t.Fatal(err)
	}
	defer conn.Exec(t.Context(), "DROP ROLE "+role)
	as := func(password, mode string) error {
		url := strings.Replace(d.URL, "postgres@", role+":"+password+"@", 1)
		c, err := pgx.Connect(t.Context(), strings.Replace(url, "sslmode=disable", mode, 1))
		if err == nil {
			c.Close(t.Context())
		}
		return err
	}
	if err := as("right", "sslmode=disable"); err != nil {
		t.Error(err)
	}
	if err := as("right", "sslmode=verify-full&sslrootcert="+d.CA()); err != nil {
		t.Error(err)
	}
	var refused *pgconn.PgError
	if err := as("wrong", "sslmode=disable"); !errors.As(err, &refused) || refused.Code != "28P01" {
		t.Errorf("wrong password: %v", err)
	}
}

func TestPostgresCrash(t *testing.T) {
	d := OwnPostgres(t, "max_connections=7")
	conn := connect(t, d.URL)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE t AS SELECT current_setting('max_connections') AS n"); err != nil {
		t.Fatal(err)
	}
	if err := d.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(d.LogTail(50), "automatic recovery in progress") {
		t.Error("it did not crash:\n" + d.LogTail(50))
	}
	var n string
	if err := connect(t, d.URL).QueryRow(t.Context(), "SELECT n FROM t").Scan(&n); err != nil || n != "7" {
		t.Errorf("%q, %v", n, err)
	}
}
