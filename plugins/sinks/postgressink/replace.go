package postgressink

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Last implements sinks.Publisher: the ledger is compared with the tokens, a
// table that is to be replaced is, and what old runs left goes.
func (p *publisher) Last(ctx context.Context, sent [][]pipeline.Part) (sinks.Result, error) {
	rows, err := p.last(ctx, sent)
	if err != nil {
		return sinks.Result{}, p.end(fmt.Errorf("table %s: %w", p.settings.table, err))
	}
	if err := p.clean(ctx); err != nil { // the next run does it
		p.options.Warn(fmt.Sprintf("what earlier runs left in %s was not removed: %v", database(p.config), p.end(err)))
	}
	return sinks.Result{Rows: rows}, nil
}

func (p *publisher) last(ctx context.Context, sent [][]pipeline.Part) (rows int64, err error) {
	if err := p.prepare(ctx); err != nil {
		return 0, err
	}
	if p.mode == replaceMode {
		if err := p.stage(ctx); err != nil {
			return 0, err
		}
	}
	tx, err := p.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := set(ctx, tx, "kq last "+p.options.Run); err != nil {
		return 0, err
	}
	if p.mode == replaceMode {
		// Readers go on; other writers, and other runs that come here, wait.
		if _, err := tx.Exec(ctx, "LOCK TABLE "+p.table.name.String()+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return 0, err
		}
		if done, err := p.getToken(ctx, tx, p.lastID()); done != nil || err != nil {
			if done != nil {
				rows = done.rows
			}
			return rows, err
		}
		if err := p.superseded(ctx, tx); err != nil {
			return 0, err
		}
	}
	if rows, err = p.published(ctx, tx); err != nil {
		return 0, err
	}
	if want := total(sent); rows != want {
		return 0, pipeline.Permanent(fmt.Errorf("%d rows were sent, the tokens in %s have %d: some of them were removed; run the job anew with --fresh", want, p.tokens, rows))
	}
	if p.mode != replaceMode {
		return rows, nil
	}
	if err := p.swap(ctx, tx, rows); err != nil {
		return 0, err
	}
	return rows, settle(ctx, tx)
}

func total(sent [][]pipeline.Part) (rows int64) {
	for _, parts := range sent {
		for _, part := range parts {
			rows += part.Rows
		}
	}
	return rows
}

// swap puts the rows of the staging table in the place of the target's.
//
// It deletes and inserts. TRUNCATE would block readers, wait for them, and show
// an empty table to those whose snapshot is older; so would another table under
// the target's name, which would also lose the views, rights and keys that hang on
// it. The price is that the old rows' space is free only after a vacuum.
func (p *publisher) swap(ctx context.Context, tx pgx.Tx, rows int64) error {
	target, columns := p.table.name.String(), idents(p.table.sent, "")
	only := "ONLY "
	if p.table.kind == 'p' { // its rows are in its partitions
		only = ""
	}
	if _, err := tx.Exec(ctx, "DELETE FROM "+only+target); err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s", target, columns, columns, p.staging()))
	if err != nil {
		return err
	}
	if tag.RowsAffected() != rows {
		return pipeline.Permanent(fmt.Errorf("%d rows were sent, %d came from %s: a trigger leaves some out, or somebody has changed that table", rows, tag.RowsAffected(), p.staging()))
	}
	if _, err := p.putToken(ctx, tx, p.lastID(), rows, "last"); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "DROP TABLE "+p.staging().String())
	return err
}

// superseded refuses to go on when a later run has replaced the table.
func (p *publisher) superseded(ctx context.Context, tx pgx.Tx) error {
	var later *string
	err := tx.QueryRow(ctx, "SELECT max(run COLLATE \"C\") FROM "+p.tokens.String()+" WHERE target = $1 AND checksum = 'last' AND run COLLATE \"C\" > $2", p.table.name.String(), p.options.Run).Scan(&later)
	if err == nil && later != nil {
		err = pipeline.Permanent(fmt.Errorf("run %s, which is later, has replaced it (if that run's clock was wrong: DELETE FROM %s WHERE run = '%[1]s')", *later, p.tokens))
	}
	return err
}

// staging is the table that the run's rows go to first.
func (p *publisher) staging() name {
	return name{p.table.name.schema, p.stagingPrefix() + stagingRun(p.options.Run)}
}

// stagingPrefix is what the staging tables of all runs of a sink begin with.
func (p *publisher) stagingPrefix() string {
	sum := sha256.Sum256([]byte(p.sink + "/" + p.table.name.String()))
	return fmt.Sprintf("kq_staging_%x_", sum[:4])
}

// stagingRun is a run's id as a part of a name; its order is kept.
func stagingRun(run string) string {
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' || 'a' <= r && r <= 'z' {
			return r
		}
		return '_'
	}, run)[:min(len(run), 43)]
}

// stage makes sure that there is a staging table, unless the run is over.
func (p *publisher) stage(ctx context.Context) error {
	if p.staged {
		return nil
	}
	tx, err := p.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	staging := p.staging().String()
	if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", staging); err != nil {
		return err
	}
	if done, err := p.getToken(ctx, tx, p.lastID()); done != nil || err != nil {
		return err
	}
	if err := p.superseded(ctx, tx); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s AS SELECT %s FROM %s WITH NO DATA", staging, idents(p.table.sent, ""), p.table.name))
	if err != nil {
		return fmt.Errorf("create the run's staging table: %w", err)
	}
	p.staged = true
	return settle(ctx, tx)
}

// clean removes the staging tables of earlier runs, with their tokens, and tokens
// that are old.
func (p *publisher) clean(ctx context.Context) error {
	if err := p.forget(ctx); err != nil || p.mode != replaceMode {
		return err
	}
	prefix := p.stagingPrefix()
	rows, err := p.conn.Query(ctx, "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'"+
		" AND starts_with(c.relname::text, $2) AND c.relname::text COLLATE \"C\" <= $3", p.table.name.schema, prefix, p.staging().table)
	if err != nil {
		return err
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, table := range left {
		if err := p.drop(ctx, name{p.table.name.schema, table}, strings.TrimPrefix(table, prefix)); err != nil {
			return err
		}
	}
	return nil
}

// drop removes the staging table of a run that will not go on. Its tokens go in
// the same transaction: without the rows they would be lies.
func (p *publisher) drop(ctx context.Context, staging name, run string) error {
	tx, err := p.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if _, err := tx.Exec(ctx, "SET LOCAL lock_timeout = 5000"); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+staging.String()); err != nil {
		return err
	}
	if run != stagingRun(p.options.Run) {
		_, err := tx.Exec(ctx, "DELETE FROM "+p.tokens.String()+" WHERE sink = $1 AND target = $2 AND checksum <> 'last' AND left(regexp_replace(run, '[^0-9a-z]', '_', 'g'), 43) = $3",
			p.sink, p.table.name.String(), run)
		if err != nil {
			return err
		}
	}
	return settle(ctx, tx)
}
