package postgressink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/kinequet/kq/pipeline"
)

// table is what the catalog of PostgreSQL says of the target.
type table struct {
	oid     uint32
	name    name // with its schema
	kind    byte // relkind
	columns []tableColumn
	sent    []string // names of the columns that the stage's go to, in the order of these
}

type tableColumn struct {
	name     string
	shown    string // its type for people
	typ      string // its type's name in pg_type; of an array, that of its elements; of a domain, what it is based on
	array    bool
	modifier int32 // atttypmod
	required bool  // NOT NULL without a default
	null     bool  // it may be NULL
	made     bool  // by an expression: nothing can be put there
}

// describe reads the catalog. nil is a table that isn't there.
func describe(ctx context.Context, c *pgx.Conn, n name) (*table, error) {
	t := &table{}
	var kind string
	err := c.QueryRow(ctx, `SELECT c.oid, s.nspname, c.relname, c.relkind::text FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace WHERE c.oid = to_regclass($1)`,
		n.String()).Scan(&t.oid, &t.name.schema, &t.name.table, &kind)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t.kind = kind[0]
	rows, err := c.Query(ctx, `SELECT a.attname, format_type(a.atttypid, a.atttypmod), coalesce(e.typname, b.typname, t.typname)::text, e.oid IS NOT NULL,
		CASE WHEN t.typtype = 'd' THEN t.typtypmod ELSE a.atttypmod END,
		(a.attnotnull OR t.typnotnull) AND NOT (a.atthasdef OR a.attidentity <> '' OR t.typdefault IS NOT NULL),
		NOT (a.attnotnull OR t.typnotnull), a.attgenerated <> ''
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype
		LEFT JOIN pg_type e ON coalesce(b.typcategory, t.typcategory) = 'A' AND e.oid = coalesce(b.typelem, t.typelem)
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, t.oid)
	if err != nil {
		return nil, err
	}
	t.columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (col tableColumn, err error) {
		err = row.Scan(&col.name, &col.shown, &col.typ, &col.array, &col.modifier, &col.required, &col.null, &col.made)
		return col, err
	})
	return t, err
}

// createSQL is the statement that makes the table for the stage's columns.
func (s *settings) createSQL() string {
	lines := make([]string, len(s.columns))
	for i, c := range s.columns {
		lines[i] = "  " + ident(c.name) + " " + c.typ.postgres()
	}
	if len(s.key) > 0 {
		lines = append(lines, "  PRIMARY KEY ("+idents(s.key, "")+")")
	}
	return "CREATE TABLE " + s.table.String() + " (\n" + strings.Join(lines, ",\n") + "\n)"
}

// match finds the table's column for each of the stage's, and tells what doesn't
// fit.
func (t *table) match(s *settings) error {
	if !strings.ContainsRune("rpf", rune(t.kind)) {
		return fmt.Errorf("%s is no table that rows can be copied to (a view, perhaps)", t.name)
	}
	var wrong []string
	var add []string
	t.sent = nil
	for _, c := range s.columns {
		i := slices.IndexFunc(t.columns, func(tc tableColumn) bool { return tc.name == c.name })
		if i < 0 { // SQL folds names that aren't quoted
			i = slices.IndexFunc(t.columns, func(tc tableColumn) bool { return strings.EqualFold(tc.name, c.name) })
		}
		if i < 0 {
			wrong = append(wrong, fmt.Sprintf("it has no column %s", ident(c.name)))
			add = append(add, "ADD COLUMN "+ident(c.name)+" "+c.typ.postgres())
			continue
		}
		tc := t.columns[i]
		t.sent = append(t.sent, tc.name)
		switch why := c.typ.misfit(&tc); {
		case tc.made:
			wrong = append(wrong, fmt.Sprintf("column %s is made by an expression of the table, so that nothing can be put there", ident(tc.name)))
		case why != "":
			wrong = append(wrong, fmt.Sprintf("column %s is %s, and the stage gives %s: %s", ident(tc.name), tc.shown, c.duck, why))
		}
	}
	for _, tc := range t.columns {
		if tc.required && !slices.Contains(t.sent, tc.name) {
			wrong = append(wrong, fmt.Sprintf("column %s must not be NULL and has no default, and the stage doesn't have it", ident(tc.name)))
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	text := fmt.Sprintf("table %s doesn't fit the stage: %s", t.name, strings.Join(wrong, "; "))
	if len(add) > 0 {
		text += fmt.Sprintf(" (to add what is missing: ALTER TABLE %s %s)", t.name, strings.Join(add, ", "))
	}
	return errors.New(text)
}

// column returns the table's name for a column of the stage.
func (t *table) column(s *settings, stage string) string {
	return t.sent[slices.IndexFunc(s.columns, func(c column) bool { return c.name == stage })]
}

// keys are the table's names of the key's columns.
func (t *table) keys(s *settings) (names []string) {
	for _, k := range s.key {
		names = append(names, t.column(s, k))
	}
	return names
}

// checkKey refuses a key that no unique index has.
func (t *table) checkKey(ctx context.Context, c *pgx.Conn, s *settings) error {
	keys := t.keys(s)
	var found bool
	err := c.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
		AND i.indnkeyatts = $2::bigint AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = i.indrelid AND a.attname = ANY($3)
			AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts-1])) = $2::bigint)`, t.oid, len(keys), keys).Scan(&found)
	if err == nil && !found {
		err = pipeline.Permanent(fmt.Errorf("table %s has no primary key or unique index on exactly (%s), which upsert needs: CREATE UNIQUE INDEX ON %s (%s)",
			t.name, idents(keys, ""), t.name, idents(keys, "")))
	}
	return err
}

// checkUnreferenced refuses to replace the rows of a table that others refer to:
// deleting them could delete those, too.
func (t *table) checkUnreferenced(ctx context.Context, c *pgx.Conn) error {
	var others *string
	err := c.QueryRow(ctx, `SELECT string_agg(DISTINCT conrelid::regclass::text, ', ') FROM pg_constraint WHERE contype = 'f' AND confrelid = $1 AND conrelid <> $1`, t.oid).Scan(&others)
	if err == nil && others != nil {
		err = pipeline.Permanent(fmt.Errorf("table %s can't be replaced: foreign keys of %s refer to its rows; use mode: upsert", t.name, *others))
	}
	return err
}

// checkRights refuses what the role may not do.
func (t *table) checkRights(ctx context.Context, c *pgx.Conn, mode string) error {
	needs := []string{"INSERT"}
	switch mode {
	case upsertMode:
		needs = append(needs, "SELECT", "UPDATE")
	case replaceMode:
		needs = append(needs, "SELECT", "DELETE")
	}
	for _, right := range needs {
		query := "SELECT has_any_column_privilege($1::oid, $2), current_user::text"
		if right == "DELETE" {
			query = "SELECT has_table_privilege($1::oid, $2), current_user::text"
		}
		var may bool
		var user string
		if err := c.QueryRow(ctx, query, t.oid, right).Scan(&may, &user); err != nil {
			return err
		}
		if !may {
			return pipeline.Permanent(fmt.Errorf("role %s has no %s right on table %s: GRANT %s ON %s TO %s", user, right, t.name, strings.Join(needs, ", "), t.name, ident(user)))
		}
	}
	return t.checkRoom(ctx, c, mode)
}

// checkRoom refuses a mode whose own table the role may not create.
func (t *table) checkRoom(ctx context.Context, c *pgx.Conn, mode string) error {
	var may bool
	var user, where string
	var err error
	grant := ""
	switch mode {
	case upsertMode:
		grant = "TEMPORARY ON DATABASE"
		err = c.QueryRow(ctx, "SELECT has_database_privilege(current_database(), 'TEMPORARY'), current_user::text, current_database()::text").Scan(&may, &user, &where)
	case replaceMode:
		grant, where = "CREATE ON SCHEMA", t.name.schema
		err = c.QueryRow(ctx, "SELECT has_schema_privilege($1, 'CREATE'), current_user::text", where).Scan(&may, &user)
	default:
		return nil
	}
	if err == nil && !may {
		err = pipeline.Permanent(fmt.Errorf("role %s may not create the table that rows go to first in mode %s: GRANT %s %s TO %s", user, mode, grant, ident(where), ident(user)))
	}
	return err
}
