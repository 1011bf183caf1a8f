package services

import (
	"context"
	"strings"
	"testing"

	"github.com/kinequet/kq/internal/services/server"
)

// A Database is one of a running PostgreSQL.
type Database struct {
	*server.Server
	Name string
	URL  string // as the superuser, who needs no password; other roles need theirs
}

// Postgres gives the test an empty database in the PostgreSQL that the tests of
// this process share. It is dropped when the test ends. Roles are shared: name
// them by [Name].
func Postgres(t testing.TB) *Database {
	t.Helper()
	d := database(t, shared(t, "postgres"))
	t.Cleanup(func() {
		if err := d.DropDatabase(context.Background(), d.Name); err != nil {
			t.Error(err)
		}
	})
	return d
}

// OwnPostgres starts a PostgreSQL for this test alone; settings are name=value.
func OwnPostgres(t testing.TB, settings ...string) *Database {
	t.Helper()
	return database(t, Own(t, "postgres", settings...))
}

func database(t testing.TB, s *server.Server) *Database {
	t.Helper()
	name := strings.ReplaceAll(Name(t), "-", "_")
	if err := s.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return &Database{Server: s, Name: name, URL: s.DatabaseURL(name)}
}
