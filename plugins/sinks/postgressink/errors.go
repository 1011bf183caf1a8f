package postgressink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/pipeline"
)

// SQLSTATEs, https://www.postgresql.org/docs/current/errcodes-appendix.html.
const (
	lockNotAvailable = "55P03"
	duplicateTable   = "42P07"
	duplicateObject  = "42710"
	uniqueViolation  = "23505"
)

// passing are classes and codes of errors that trying again may mend; all other
// errors of the server are about the statement, the rows or the role.
var passing = []string{
	"08",    // the connection
	"25006", // read-only: a standby, until another server is found
	"40",    // deadlocks, serialization failures
	"53",    // disk, memory, connections are used up
	"55",    // somebody else holds a lock
	"57",    // the server is told to stop, starts, or ends a statement
	"58",    // the system below it
	"XX",    // its own mistakes
}

// sqlstate is the code of an error of the server, or "".
func sqlstate(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// classify makes an error one for people, and permanent where trying again
// doesn't help.
func (s *settings) classify(err error) error {
	if err == nil {
		return nil
	}
	permanent := pipeline.IsPermanent(err)
	message := err.Error()
	var e *pgconn.PgError
	if errors.As(err, &e) {
		permanent = permanent || !slices.ContainsFunc(passing, func(p string) bool { return strings.HasPrefix(e.Code, p) })
		message = strings.Replace(message, e.Error(), explain(e), 1)
	}
	shown := &hidden{s.hide(message), err}
	if permanent {
		return pipeline.Permanent(shown)
	}
	return shown
}

// explain is an error of the server with what it says beside the message.
func explain(e *pgconn.PgError) string {
	text := fmt.Sprintf("%s (SQLSTATE %s)", e.Message, e.Code)
	if e.Detail != "" {
		text += ": " + strings.TrimSuffix(e.Detail, ".")
	}
	if i := strings.LastIndex(e.Where, "COPY "); i >= 0 { // table, line and column
		text += ", at " + e.Where[i:]
	}
	if hint := hints[e.Code]; hint != "" {
		text += "; " + hint
	} else if e.Hint != "" {
		text += "; " + strings.TrimSuffix(e.Hint, ".")
	}
	return text
}

var hints = map[string]string{
	"22021":         "PostgreSQL's text has no zero bytes: replace them in the stage, or send a BLOB",
	"22P05":         "PostgreSQL's text has no zero bytes, and its database may know fewer characters than UTF-8 has: replace them in the stage",
	uniqueViolation: "mode: upsert replaces rows that are there",
	"28P01":         "look at user and password of url",
	"28000":         "the server's pg_hba.conf doesn't let this user in from here, or not without TLS (sslmode)",
	"3D000":         "look at the database's name in url",
	"25006":         "this server is a standby; name the primary, or several hosts with target_session_attrs=read-write in url",
}

// hidden is an error whose text has no secrets.
type hidden struct {
	text string
	err  error
}

func (h *hidden) Error() string { return h.text }
func (h *hidden) Unwrap() error { return h.err }

// hide takes secrets out of a text.
func (s *settings) hide(text string) string {
	for _, secret := range []string{s.config.ConnString(), s.config.Password} {
		if len(secret) >= 3 {
			text = strings.ReplaceAll(text, secret, "…")
		}
	}
	return text
}

// outcome tells the gate what an error says about the server.
func outcome(err error) backpressure.Outcome {
	var e *pgconn.PgError
	switch {
	case err == nil:
		return backpressure.Outcome{}
	case errors.Is(err, context.Canceled):
		return backpressure.Outcome{Result: backpressure.Abandoned}
	case errors.As(err, &e) && (strings.HasPrefix(e.Code, "53") || e.Code == "57P03"):
		return backpressure.Outcome{Result: backpressure.Throttled}
	case errors.As(err, &e) && !slices.ContainsFunc(passing, func(p string) bool { return strings.HasPrefix(e.Code, p) }):
		return backpressure.Outcome{Result: backpressure.Rejected}
	}
	return backpressure.Outcome{Result: backpressure.Failed}
}

// settle ends a transaction that may have been committed.
func settle(ctx context.Context, tx pgx.Tx) error {
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	return nil
}
