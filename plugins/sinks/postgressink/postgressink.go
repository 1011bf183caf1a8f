// Package postgressink publishes rows to a table of PostgreSQL.
//
// Each part is one transaction. Its first statement inserts a token, a row that
// names the part, into a table beside the target; the rows follow by COPY. So a
// part is there with its token or not at all, and whoever finds the token knows
// that the part has arrived, also when the answer to COMMIT was lost. Attempts of
// one part at the same time queue behind the token's primary key.
//
// The files that COPY takes are written by DuckDB (text.go has the SQL that makes
// of every type a text that PostgreSQL reads back exactly), so that no value of a
// row is touched here.
//
// mode: replace copies into a table of its own first, named after the run, with
// the same tokens; once all parts are there, one transaction puts its rows in the
// place of the target's (replace.go).
package postgressink

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Sink is the type "postgres".
type Sink struct{}

var _ sinks.Remote = Sink{}

// The modes.
const (
	insertMode  = "insert"
	upsertMode  = "upsert"
	replaceMode = "replace"
)

const defaultTokens = "kq_published"

// Spec implements sinks.Remote.
func (Sink) Spec() pipeline.PluginSpec {
	return pipeline.PluginSpec{
		Remote:   true,
		Required: []string{"url", "table"},
		Settings: map[string]pipeline.OptionSpec{
			"url":   {Type: pipeline.StringOption, Secret: true, Doc: "the database: postgres://user:password@host:5432/database?sslmode=verify-full; best ${NAME}, from the environment"},
			"table": {Type: pipeline.StringOption, Doc: "the table, as table or schema.table, quoted as in SQL"},
			"mode": {
				Type: pipeline.StringOption, Values: []string{insertMode, upsertMode, replaceMode},
				Doc: "insert: add rows (default); upsert: rows with a key that is there replace it; replace: the table has this result, then, and nothing else",
			},
			"key":         {Type: pipeline.StringList, Doc: "of mode: upsert: the columns of the key; a primary key or unique index must have exactly these"},
			"create":      {Type: pipeline.BoolOption, Doc: "create the table if it is missing (default: false)"},
			"token_table": {Type: pipeline.StringOption, Doc: "the table that remembers which parts have arrived (default: " + defaultTokens + " in the schema of the table); it is created if missing"},
		},
	}
}

// settings are those of one sink, checked.
type settings struct {
	config  *pgx.ConnConfig
	table   name
	tokens  name
	mode    string
	key     []string // names of columns, as the stage has them
	create  bool
	columns []column
}

// column is one of the stage.
type column struct {
	name string
	duck string // DuckDB's type, for people
	typ  *duckType
}

// Publication implements sinks.Remote.
func (Sink) Publication(s pipeline.Sink, columns []pipeline.Column, _ pipeline.Binder) (*pipeline.Publication, error) {
	set, err := read(s.Settings, columns)
	if err != nil {
		return nil, err
	}
	selected := make([]string, len(set.columns))
	for i, c := range set.columns {
		selected[i] = text(ident(c.name), c.typ) + " AS " + ident(c.name)
	}
	options := "FORMAT csv, HEADER false, DELIMITER ',', QUOTE '\"', ESCAPE '\"', NULLSTR ''"
	if len(columns) == 1 {
		options += ", FORCE_QUOTE *" // a line that is \. alone would end COPY
	}
	p := &pipeline.Publication{
		Select: strings.Join(selected, ", "), Files: true, Copy: options, Extension: ".csv", Last: true,
		Target: fmt.Sprintf("table %s (%s) of %s", sinks.Settings(s.Settings).String("table", ""), set.mode, database(set.config)), Delivery: pipeline.EffectivelyOnce,
		Reason: "each part is one transaction that also inserts a token, by which a later attempt knows it",
	}
	if set.mode == replaceMode {
		p.Reason += "; the parts become the table's content in one more transaction, once all are there"
	}
	return p, nil
}

// database names what a sink connects to, without secrets.
func database(c *pgx.ConnConfig) string {
	hosts := []string{fmt.Sprintf("%s:%d", c.Host, c.Port)}
	for _, f := range c.Fallbacks { // a host may be there twice: with TLS and without
		if h := fmt.Sprintf("%s:%d", f.Host, f.Port); !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return fmt.Sprintf("%s at %s", c.Database, strings.Join(hosts, ", "))
}

// read checks a sink's settings. The error is SettingErrors, joined.
func read(options []pipeline.Option, columns []pipeline.Column) (*settings, error) {
	set := sinks.Settings(options)
	s := &settings{mode: set.String("mode", insertMode), create: set.Bool("create", false)}
	var err error
	var errs []error
	if s.config, err = connection(set.String("url", "")); err != nil {
		errs = append(errs, err)
	}
	if s.table, err = parseName(set.String("table", "")); err != nil {
		errs = append(errs, &pipeline.SettingError{Key: "table", Message: err.Error(), Hint: "write it as schema.table; names with other characters or capitals stand in double quotes"})
	}
	s.tokens = name{s.table.schema, defaultTokens}
	if set.Has("token_table") {
		if s.tokens, err = parseName(set.String("token_table", "")); err != nil {
			errs = append(errs, &pipeline.SettingError{Key: "token_table", Message: err.Error(), Hint: "write it as schema.table"})
		}
		if s.tokens.schema == "" {
			s.tokens.schema = s.table.schema
		}
	}
	if s.tokens == s.table && s.table.table != "" {
		errs = append(errs, &pipeline.SettingError{Key: "token_table", Message: "it is the table that the rows go to", Hint: "leave token_table out"})
	}
	s.columns, err = stageColumns(columns)
	errs = append(errs, err)
	s.key, err = key(set, s.mode, s.columns)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return s, nil
}

// connection reads a url. Its text is a secret, so that no error has it.
func connection(url string) (*pgx.ConnConfig, error) {
	const hint = "write it like postgres://user:password@host:5432/database?sslmode=verify-full"
	if strings.TrimSpace(url) == "" {
		return nil, &pipeline.SettingError{Key: "url", Message: "it is empty", Hint: hint}
	}
	config, err := pgx.ParseConfig(url)
	if err != nil {
		message := "it is no address of a PostgreSQL database"
		var parse *pgconn.ParseConfigError
		if errors.As(err, &parse) {
			if cause := parse.Unwrap(); cause != nil && !strings.Contains(cause.Error(), url) && strings.Contains(err.Error(), "TLS") {
				message += ": " + cause.Error() // such as a file of certificates that isn't there
			}
		}
		return nil, &pipeline.SettingError{Key: "url", Message: message, Hint: hint}
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // nothing is prepared: connection poolers may stand between
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "kq"
	}
	return config, nil
}

// stageColumns are the stage's columns, or what is wrong with them.
func stageColumns(columns []pipeline.Column) (all []column, err error) {
	const most, longest = 1600, 63 // PostgreSQL's
	var errs []error
	wrong := func(message, hint string) {
		errs = append(errs, &pipeline.SettingError{Message: message, Hint: hint})
	}
	if len(columns) > most {
		wrong(fmt.Sprintf("%d columns are more than the %d that a table can have", len(columns), most), "")
	}
	for _, c := range columns {
		t, err := parseType(c.Type)
		if err != nil {
			wrong(fmt.Sprintf("column %q is %s, which PostgreSQL has nothing for", c.Name, c.Type), "cast it in the stage, such as to VARCHAR")
			continue
		}
		if len(c.Name) > longest {
			wrong(fmt.Sprintf("the name of column %q is longer than %d bytes, where PostgreSQL cuts names", c.Name, longest), "give it a shorter one in the stage")
		}
		all = append(all, column{name: c.Name, duck: c.Type, typ: t})
	}
	return all, errors.Join(errs...)
}

// key is the columns of the key by their names in the stage.
func key(set sinks.Settings, mode string, columns []column) (names []string, err error) {
	given := set.Strings("key")
	switch {
	case mode == upsertMode && len(given) == 0:
		return nil, &pipeline.SettingError{Key: "mode", Message: "upsert needs a key", Hint: "add key: with the columns that name a row"}
	case mode != upsertMode && len(given) > 0:
		return nil, &pipeline.SettingError{Key: "key", Message: "mode: " + mode + " has no use for it", Hint: "set mode: upsert, or leave key out"}
	}
	var errs []error
	for _, k := range given {
		i := slices.IndexFunc(columns, func(c column) bool { return strings.EqualFold(c.name, k) })
		switch {
		case i < 0:
			all := make([]string, len(columns))
			for j, c := range columns {
				all[j] = c.name
			}
			errs = append(errs, &pipeline.SettingError{Key: "key", Message: fmt.Sprintf("there is no column %q", k), Hint: "the columns are " + strings.Join(all, ", ")})
		case slices.Contains(names, columns[i].name):
			errs = append(errs, &pipeline.SettingError{Key: "key", Message: fmt.Sprintf("it has %s twice", k)})
		default:
			names = append(names, columns[i].name)
		}
	}
	return names, errors.Join(errs...)
}
