package postgressink

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/kinequet/kq/pipeline"
)

// keepTokens is for how long the tokens of other runs are kept. SQL.
const keepTokens = "interval '30 days'"

// token says that a part has arrived.
type token struct {
	rows     int64
	checksum string
}

// tokensSQL creates the table of tokens.
func (p *publisher) tokensSQL() string {
	return "CREATE TABLE IF NOT EXISTS " + p.tokens.String() + ` (part text PRIMARY KEY, run text NOT NULL, sink text NOT NULL, target text NOT NULL,
  rows bigint NOT NULL, checksum text NOT NULL, at timestamptz NOT NULL DEFAULT now())`
}

// findTokens makes sure that the table of tokens is there and can be used.
func (p *publisher) findTokens(ctx context.Context, t *table) error {
	if p.tokens.schema == "" {
		p.tokens.schema = t.name.schema
	}
	var there bool
	if err := p.conn.QueryRow(ctx, "SELECT to_regclass($1) IS NOT NULL", p.tokens.String()).Scan(&there); err != nil {
		return err
	}
	if !there {
		if err := createOnce(ctx, p.conn, p.tokensSQL()); err != nil {
			return fmt.Errorf("create the table of tokens (or create it: %s): %w", p.tokensSQL(), err)
		}
	}
	var may bool
	var user string
	err := p.conn.QueryRow(ctx, "SELECT has_table_privilege($1, 'SELECT') AND has_table_privilege($1, 'INSERT') AND has_table_privilege($1, 'DELETE'), current_user::text",
		p.tokens.String()).Scan(&may, &user)
	if err == nil && !may {
		err = pipeline.Permanent(fmt.Errorf("role %s may not use the table of tokens: GRANT SELECT, INSERT, DELETE ON %s TO %s", user, p.tokens, ident(user)))
	}
	if err != nil {
		return err
	}
	if _, err := p.conn.Exec(ctx, "SELECT part, run, sink, target, rows, checksum, at FROM "+p.tokens.String()+" LIMIT 0"); err != nil {
		return fmt.Errorf("%s is no table of tokens; name another one by token_table: %w", p.tokens, err)
	}
	return nil
}

// putToken inserts a token, or returns the one that is there. It waits for
// transactions that have inserted the same one and not ended yet.
func (p *publisher) putToken(ctx context.Context, tx pgx.Tx, id string, rows int64, checksum string) (found *token, err error) {
	tag, err := tx.Exec(ctx, "INSERT INTO "+p.tokens.String()+" (part, run, sink, target, rows, checksum) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (part) DO NOTHING",
		id, p.options.Run, p.sink, p.table.name.String(), rows, checksum)
	if err != nil || tag.RowsAffected() == 1 {
		return nil, err
	}
	return p.getToken(ctx, tx, id)
}

func (p *publisher) getToken(ctx context.Context, tx pgx.Tx, id string) (*token, error) {
	found := &token{}
	err := tx.QueryRow(ctx, "SELECT rows, checksum FROM "+p.tokens.String()+" WHERE part = $1", id).Scan(&found.rows, &found.checksum)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return found, err
}

// published counts the rows whose tokens this run's sink has.
func (p *publisher) published(ctx context.Context, tx pgx.Tx) (rows int64, err error) {
	err = tx.QueryRow(ctx, "SELECT coalesce(sum(rows), 0)::bigint FROM "+p.tokens.String()+" WHERE run = $1 AND sink = $2 AND part <> $3",
		p.options.Run, p.sink, p.lastID()).Scan(&rows)
	return rows, err
}

// lastID is the token that says that the run has replaced the table.
func (p *publisher) lastID() string { return "kq/" + p.options.Run + "/" + p.sink + "/last" }

// forget removes the tokens of runs that have put none for a while.
func (p *publisher) forget(ctx context.Context) error {
	_, err := p.conn.Exec(ctx, "DELETE FROM "+p.tokens.String()+" WHERE run <> $1 AND run NOT IN (SELECT run FROM "+p.tokens.String()+" WHERE at > now() - "+keepTokens+")", p.options.Run)
	return err
}
