package postgressink

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Open implements sinks.Remote.
func (Sink) Open(p *pipeline.SinkPlan, o sinks.Options) (sinks.Publisher, error) {
	s, err := read(p.Settings, p.Columns)
	if err != nil {
		return nil, err
	}
	if s.config.ConnectTimeout == 0 {
		s.config.ConnectTimeout = 20 * time.Second
	}
	dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}}
	s.config.DialFunc = dialer.DialContext // a server that is gone is noticed after a minute
	return &publisher{settings: s, options: o, sink: p.Name, patience: 10 * time.Second}, nil
}

// publisher sends over one connection, which it opens on first use and anew after
// every error.
type publisher struct {
	*settings
	options  sinks.Options
	sink     string
	patience time.Duration // for another attempt that holds the token

	conn   *pgx.Conn
	used   time.Time
	table  *table // nil: not looked at yet
	staged bool   // the run's staging table is known to be there
}

// Check implements sinks.Publisher. It creates the table where it should.
func (p *publisher) Check(ctx context.Context) error { return p.end(p.prepare(ctx)) }

// end makes an error one for people, and leaves the connection behind that it
// came on.
func (p *publisher) end(err error) error {
	if err != nil {
		p.disconnect()
	}
	return p.classify(err)
}

// Close implements sinks.Publisher.
func (p *publisher) Close() error {
	p.disconnect()
	return nil
}

// disconnect ends the connection. One that doesn't answer is left after a second.
func (p *publisher) disconnect() {
	if p.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = p.conn.Close(ctx)
	p.conn, p.table, p.staged = nil, nil, false
}

// prepare connects, and looks once per connection at all that must be there.
func (p *publisher) prepare(ctx context.Context) (err error) {
	if p.conn != nil && p.table != nil && p.alive(ctx) {
		return nil
	}
	p.disconnect()
	defer func() { p.used = time.Now() }()
	if p.conn, err = pgx.ConnectConfig(ctx, p.config); err != nil {
		return err
	}
	const oldest = 120000
	var version int
	var readOnly bool
	if err := p.conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int, current_setting('transaction_read_only')::bool").Scan(&version, &readOnly); err != nil {
		return err
	}
	if version < oldest {
		return pipeline.Permanent(fmt.Errorf("the server is PostgreSQL %d; 12 or later is needed", version/10000))
	}
	if readOnly {
		return fmt.Errorf("%s takes no writes: it is a standby, or the role is read-only; name the primary, or several hosts with target_session_attrs=read-write, in url", database(p.config))
	}
	t, err := p.find(ctx)
	if err != nil {
		return err
	}
	if err := t.match(p.settings); err != nil {
		return pipeline.Permanent(err)
	}
	if err := t.checkRights(ctx, p.conn, p.mode); err != nil {
		return err
	}
	switch p.mode {
	case upsertMode:
		err = t.checkKey(ctx, p.conn, p.settings)
	case replaceMode:
		err = t.checkUnreferenced(ctx, p.conn)
	}
	if err != nil {
		return err
	}
	if err := p.findTokens(ctx, t); err != nil {
		return err
	}
	p.table = t
	return nil
}

// alive reports whether the connection can be used again. Servers and poolers end
// those that idle.
func (p *publisher) alive(ctx context.Context) bool {
	idle := time.Since(p.used)
	p.used = time.Now()
	return !p.conn.IsClosed() && (idle < 5*time.Second || p.conn.Ping(ctx) == nil)
}

// find describes the table, or creates it.
func (p *publisher) find(ctx context.Context) (*table, error) {
	t, err := describe(ctx, p.conn, p.settings.table)
	if t != nil || err != nil {
		return t, err
	}
	if !p.create {
		return nil, pipeline.Permanent(fmt.Errorf("table %s does not exist in %s; set create: true, or create it:\n%s", p.settings.table, database(p.config), p.createSQL()))
	}
	if err := createOnce(ctx, p.conn, p.createSQL()); err != nil {
		return nil, fmt.Errorf("create table %s: %w", p.settings.table, err)
	}
	if t, err = describe(ctx, p.conn, p.settings.table); t == nil && err == nil {
		err = fmt.Errorf("table %s was created and is gone", p.settings.table)
	}
	return t, err
}

// createOnce creates something that another process may create at the same time:
// IF NOT EXISTS doesn't look at what isn't committed.
func createOnce(ctx context.Context, c *pgx.Conn, sql string) error {
	_, err := c.Exec(ctx, sql)
	switch sqlstate(err) {
	case duplicateTable, duplicateObject, uniqueViolation:
		return nil
	}
	return err
}

// Publish implements sinks.Publisher.
func (p *publisher) Publish(ctx context.Context, part *sinks.Part) (sinks.Result, error) {
	r, err := p.publish(ctx, part)
	if err != nil {
		return sinks.Result{}, p.end(fmt.Errorf("table %s: %w", p.settings.table, err))
	}
	object := pipeline.Part{Name: part.ID, Rows: r.Rows, Bytes: r.Bytes, Checksum: part.Checksum}
	r.Objects = []pipeline.Part{object}
	return r, nil
}

func (p *publisher) publish(ctx context.Context, part *sinks.Part) (sinks.Result, error) {
	if err := p.prepare(ctx); err != nil {
		return sinks.Result{}, err
	}
	if p.mode == replaceMode {
		if err := p.stage(ctx); err != nil {
			return sinks.Result{}, err
		}
	}
	tx, found, err := p.begin(ctx, part)
	if err != nil {
		return sinks.Result{}, err
	}
	defer func() { _ = tx.Rollback(ctx) }() // after a commit it does nothing
	if found != nil {
		if found.rows != part.Rows || found.checksum != part.Checksum {
			return sinks.Result{}, pipeline.Permanent(fmt.Errorf("part %s has arrived already with other content: %d rows with checksum %s, not %d with %s; run it anew with --fresh",
				part.ID, found.rows, found.checksum, part.Rows, part.Checksum))
		}
		return sinks.Result{Rows: part.Rows, Already: true}, nil
	}
	sent, err := p.load(ctx, tx, part)
	if err != nil {
		return sinks.Result{}, err
	}
	return sinks.Result{Rows: part.Rows, Bytes: sent}, settle(ctx, tx)
}

// load puts the part's rows where they belong.
func (p *publisher) load(ctx context.Context, tx pgx.Tx, part *sinks.Part) (sent int64, err error) {
	to := p.table.name.String()
	switch p.mode {
	case replaceMode:
		to = p.staging().String()
	case upsertMode:
		to = "pg_temp." + temporary
		_, err := tx.Exec(ctx, fmt.Sprintf("CREATE TEMP TABLE %s ON COMMIT DROP AS SELECT %s FROM %s WITH NO DATA", temporary, idents(p.table.sent, ""), p.table.name))
		if err == nil {
			_, err = tx.Exec(ctx, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s bigint GENERATED ALWAYS AS IDENTITY", to, ordinal))
		}
		if err != nil {
			return 0, err
		}
	}
	s := newStream(ctx, p.options.Gate, part.Files)
	tag, err := tx.Conn().PgConn().CopyFrom(ctx, s, fmt.Sprintf("COPY %s (%s) FROM STDIN (FORMAT csv, ENCODING 'UTF8')", to, idents(p.table.sent, "")))
	sent, ended := s.end(outcome(err))
	if ended != nil { // COPY's own error only says that there was one
		return 0, ended
	}
	if err != nil {
		return 0, err
	}
	if tag.RowsAffected() != part.Rows {
		return 0, pipeline.Permanent(fmt.Errorf("%d of %d rows were stored: a trigger of the table leaves some out", tag.RowsAffected(), part.Rows))
	}
	if p.mode == upsertMode {
		err = p.merge(ctx, tx)
	}
	return sent, err
}

// The table that rows with keys go to first, and its column that counts them.
const (
	temporary = "kq_rows"
	ordinal   = "__kq_n"
)

// merge moves the rows of the temporary table into the target: the last one of
// each key. They go in the order of the key, so that parts that meet in several
// keys lock these in the same order.
func (p *publisher) merge(ctx context.Context, tx pgx.Tx) error {
	keys := p.table.keys(p.settings)
	for _, k := range keys {
		var missing int64
		if err := tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM pg_temp.%s WHERE %s IS NULL", temporary, ident(k))).Scan(&missing); err != nil {
			return err
		}
		if missing > 0 {
			return pipeline.Permanent(fmt.Errorf("%d rows have NULL in %s, a column of the key: they are no row's; filter them in the stage", missing, ident(k)))
		}
	}
	var set []string
	for _, c := range p.table.sent {
		if !slices.Contains(keys, c) {
			set = append(set, ident(c)+" = EXCLUDED."+ident(c))
		}
	}
	columns, key := idents(p.table.sent, ""), idents(keys, "")
	last := fmt.Sprintf("SELECT DISTINCT ON (%s) %s FROM pg_temp.%s ORDER BY %s, %s DESC", key, columns, temporary, key, ordinal)
	into := fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM ", p.table.name, columns, columns)
	if len(set) == 0 { // nothing but a key: a row that is there is as it should be
		_, err := tx.Exec(ctx, into+"("+last+") q ON CONFLICT ("+key+") DO NOTHING")
		return err
	}
	var want, got int64
	err := tx.QueryRow(ctx, "WITH last AS ("+last+"), put AS ("+into+"last ON CONFLICT ("+key+") DO UPDATE SET "+strings.Join(set, ", ")+" RETURNING 1)"+
		" SELECT (SELECT count(*) FROM last), (SELECT count(*) FROM put)").Scan(&want, &got)
	if err == nil && want != got {
		err = pipeline.Permanent(fmt.Errorf("%d of %d rows were stored: a trigger of the table leaves some out", got, want))
	}
	return err
}

// begin starts the transaction of a part with its token. found is the token that
// an earlier attempt has left.
func (p *publisher) begin(ctx context.Context, part *sinks.Part) (tx pgx.Tx, found *token, err error) {
	for {
		tx, found, err = p.take(ctx, part)
		if sqlstate(err) != lockNotAvailable {
			return tx, found, err
		}
		ended, err := p.endOlder(ctx, part)
		if err != nil {
			return nil, nil, err
		}
		if ended == 0 {
			return nil, nil, fmt.Errorf("another attempt of part %s is still at work", part.ID)
		}
	}
}

// mark is the application_name of those that work on a part.
func mark(part *sinks.Part) string {
	sum := sha256.Sum256([]byte(part.ID)) // ids may be longer than names
	return fmt.Sprintf("kq part %x attempt ", sum[:8])
}

// take begins and inserts the token, which waits for others that do the same.
func (p *publisher) take(ctx context.Context, part *sinks.Part) (tx pgx.Tx, found *token, err error) {
	tx, err = p.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted, AccessMode: pgx.ReadWrite})
	if err != nil {
		return nil, nil, err
	}
	if found, err = p.insertToken(ctx, tx, part); err != nil {
		_ = tx.Rollback(ctx)
		return nil, nil, err
	}
	return tx, found, nil
}

func (p *publisher) insertToken(ctx context.Context, tx pgx.Tx, part *sinks.Part) (found *token, err error) {
	if err := set(ctx, tx, fmt.Sprint(mark(part), part.Attempt)); err != nil {
		return nil, err
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", p.patience.Milliseconds())); err != nil {
		return nil, err
	}
	if found, err = p.putToken(ctx, tx, part.ID, part.Rows, part.Checksum); err != nil {
		return nil, err
	}
	_, err = tx.Exec(ctx, "SET LOCAL lock_timeout TO DEFAULT")
	return found, err
}

// set makes a transaction independent of what the server, database or role have as
// defaults: intervals are read as DuckDB writes them, a commit is on the disk when
// it is answered, and a client whose machine has vanished is noticed after a
// minute, so that it doesn't hold its token for hours.
func set(ctx context.Context, tx pgx.Tx, application string) error {
	_, err := tx.Exec(ctx, `SELECT set_config('application_name', $1, true), set_config('IntervalStyle', 'postgres', true), set_config('TimeZone', 'UTC', true),
		set_config('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'local' ELSE current_setting('synchronous_commit') END, true),
		set_config('tcp_keepalives_idle', '30', true), set_config('tcp_keepalives_interval', '10', true), set_config('tcp_keepalives_count', '3', true)`, application)
	return err
}

// endOlder ends the transactions of earlier attempts of a part, which a process
// that was stopped may hold open for ever: it has lost the part to this attempt.
func (p *publisher) endOlder(ctx context.Context, part *sinks.Part) (ended int64, err error) {
	err = p.conn.QueryRow(ctx, `SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
		AND CASE WHEN application_name ~ ('^' || $1 || '[0-9]+$') THEN substring(application_name FROM '[0-9]+$')::bigint < $2::bigint END`, mark(part), part.Attempt).Scan(&ended)
	if sqlstate(err) == "42501" { // another role's
		return 0, errors.Join(fmt.Errorf("another attempt of part %s is still at work", part.ID), err)
	}
	return ended, err
}
