package postgressink

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/pipeline"
)

const someURL = "postgres://me:hunter2@db.example.com:5433/sales?sslmode=disable"

func TestSettings(t *testing.T) {
	columns := []pipeline.Column{{Name: "Id", Type: "BIGINT"}, {Name: "name", Type: "VARCHAR"}}
	for _, c := range []struct {
		options []pipeline.Option
		columns []pipeline.Column
		key     string // of the error; "-" none
		says    string
	}{
		{options("url", someURL, "table", "t"), columns, "-", ""},
		{options("url", "host=/tmp dbname=x user=y", "table", "s.t", "mode", "upsert", "key", []any{"ID"}), columns, "-", ""},
		{options("url", someURL, "table", `"A b"."c"""`, "token_table", "x"), columns, "-", ""},
		{options("url", "", "table", "t"), columns, "url", "empty"},
		{options("url", "postgres://me:hunter2@h:port/x", "table", "t"), columns, "url", "no address"},
		{options("url", "postgres://me:hun%zzter2@h/x", "table", "t"), columns, "url", "no address"},
		{options("url", "mysql://me:hunter2@h/x", "table", "t"), columns, "url", "no address"},
		{options("url", someURL+"&sslmode=nonsense", "table", "t"), columns, "url", "no address"},
		{options("url", "postgres://me:hunter2@h/x?sslmode=verify-full&sslrootcert=/no/where", "table", "t"), columns, "url", "/no/where"},
		{options("url", someURL, "table", ""), columns, "table", "empty"},
		{options("url", someURL, "table", "a.b.c"), columns, "table", "3 parts"},
		{options("url", someURL, "table", `"a`), columns, "table", "not closed"},
		{options("url", someURL, "table", "a b"), columns, "table", "no name of a table"},
		{options("url", someURL, "table", strings.Repeat("x", 64)), columns, "table", "63 bytes"},
		{options("url", someURL, "table", "T", "token_table", "t"), columns, "token_table", "rows go to"},
		{options("url", someURL, "table", "t", "token_table", "1"), columns, "token_table", "double quotes"},
		{options("url", someURL, "table", "t", "mode", "upsert"), columns, "mode", "needs a key"},
		{options("url", someURL, "table", "t", "key", []any{"id"}), columns, "key", "no use"},
		{options("url", someURL, "table", "t", "mode", "upsert", "key", []any{"id", "x"}), columns, "key", `no column "x"`},
		{options("url", someURL, "table", "t", "mode", "upsert", "key", []any{"id", "ID"}), columns, "key", "twice"},
		{options("url", someURL, "table", "t"), []pipeline.Column{{Name: "u", Type: "UNION(a INTEGER)"}}, "", `"u" is UNION`},
		{options("url", someURL, "table", "t"), []pipeline.Column{{Name: "g", Type: "STRUCT(a GEOMETRY[])"}}, "", "nothing for"},
		{options("url", someURL, "table", "t"), []pipeline.Column{{Name: strings.Repeat("é", 32), Type: "DATE"}}, "", "63 bytes"},
		{options("url", someURL, "table", "t"), make([]pipeline.Column, 1601), "", "1600"},
	} {
		p, err := Sink{}.Publication(pipeline.Sink{Settings: c.options}, c.columns, nil)
		if c.key == "-" {
			if err != nil || p.Delivery != pipeline.EffectivelyOnce || strings.Contains(p.Target, "hunter2") {
				t.Errorf("%v: %v, %+v", c.options, err, p)
			}
			continue
		}
		var e *pipeline.SettingError
		if !errors.As(err, &e) || e.Key != c.key || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "hun%") {
			t.Errorf("%v: %v; want %s: %s", c.options, err, c.key, c.says)
		}
	}
	p, err := Sink{}.Publication(pipeline.Sink{Settings: options("url", someURL, "table", "Shop.orders", "mode", "replace")}, columns, nil)
	if err != nil || p.Target != "table Shop.orders (replace) of sales at db.example.com:5433" || !p.Files || !p.Last {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestParseName(t *testing.T) {
	for text, want := range map[string]name{
		"Orders":         {"", "orders"},
		"a.B_1$":         {"a", "b_1$"},
		`"A.b"."c "" d"`: {"A.b", `c " d`},
		"größe":          {"", "größe"},
	} {
		if got, err := parseName(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

func FuzzParseName(f *testing.F) {
	for _, s := range []string{"a", "a.b", `"a""b".c`, ".", `"`, "a..b", `""`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseName(text)
		if err != nil {
			return
		}
		again, err := parseName(n.String())
		if err != nil || again != n {
			t.Errorf("%q is %+v, which is %s, which is %+v, %v", text, n, n, again, err)
		}
	})
}

func TestTypes(t *testing.T) {
	for duck, want := range map[string]string{
		"TINYINT": "smallint", "UBIGINT": "numeric(20,0)", "HUGEINT": "numeric(39,0)", "DECIMAL(18,3)": "numeric(18,3)", "DOUBLE": "double precision",
		"TIMESTAMP WITH TIME ZONE": "timestamp with time zone", "TIME WITH TIME ZONE": "time with time zone", "ENUM('a]', 'b,c')": "text",
		"INTEGER[]": "integer[]", "VARCHAR[3]": "text[]", "DECIMAL(4,1)[]": "numeric(4,1)[]", "INTEGER[][]": "jsonb", `STRUCT(a INTEGER, "b "" c" VARCHAR)`: "jsonb",
		"MAP(VARCHAR, STRUCT(x DATE[])[])": "jsonb", "STRUCT(a INTEGER)[]": "jsonb", `"NULL"`: "text", `"NULL"[]`: "text[]", "JSON": "jsonb", "BLOB": "bytea",
		"ENUM('(')[]": "text[]",
	} {
		got, err := parseType(duck)
		if err != nil || got.postgres() != want {
			t.Errorf("%s: %v, %v; want %s", duck, got, err, want)
		}
	}
	for _, duck := range []string{"", "UNION(a INTEGER)", "MAP(INTEGER)", "DECIMAL(x)", "STRUCT(a NOPE)", "GEOMETRY", "INTEGER(", "[]", "BIGINT(3)", "VARIANT"} {
		if got, err := parseType(duck); err == nil {
			t.Errorf("%q: %+v", duck, got)
		}
	}
}

func FuzzParseType(f *testing.F) {
	for _, s := range []string{"STRUCT(a INTEGER, b VARCHAR[])", "MAP(VARCHAR, MAP(DATE, TIME))", "ENUM('x')[2][]", "DECIMAL(3,1)", `STRUCT("" NOPE)`, "STRUCT(0 ] "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if typ, err := parseType(s); err == nil {
			if typ.postgres() == "" || text("e", typ) == "" {
				t.Errorf("%q is %+v", s, typ)
			}
		}
	})
}

func TestClassify(t *testing.T) {
	config, err := connection(someURL)
	if err != nil {
		t.Fatal(err)
	}
	s := &settings{config: config}
	for code, want := range map[string]struct {
		permanent bool
		result    backpressure.Result
	}{
		"40001": {false, backpressure.Failed}, "40P01": {false, backpressure.Failed}, "53300": {false, backpressure.Throttled}, "57P03": {false, backpressure.Throttled},
		"57P01": {false, backpressure.Failed}, "55P03": {false, backpressure.Failed}, "25006": {false, backpressure.Failed}, "XX000": {false, backpressure.Failed},
		"28P01": {true, backpressure.Rejected}, "42P01": {true, backpressure.Rejected}, "22P02": {true, backpressure.Rejected}, "23505": {true, backpressure.Rejected},
		"3D000": {true, backpressure.Rejected}, "42501": {true, backpressure.Rejected}, "0A000": {true, backpressure.Rejected},
	} {
		e := &pgconn.PgError{Severity: "ERROR", Code: code, Message: "no " + someURL + ", no hunter2", Detail: "Key (id)=(1) exists."}
		err := s.classify(errors.Join(errors.New("first"), e))
		if pipeline.IsPermanent(err) != want.permanent || outcome(e).Result != want.result {
			t.Errorf("%s: permanent %v, %v", code, pipeline.IsPermanent(err), outcome(e))
		}
		if strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "Key (id)=(1) exists") || !strings.Contains(err.Error(), code) {
			t.Errorf("%v", err)
		}
	}
	if s.classify(nil) != nil || !pipeline.IsPermanent(s.classify(pipeline.Permanent(errors.New("x")))) {
		t.Error("marks are lost")
	}
}

func TestMisfit(t *testing.T) {
	for _, c := range []struct {
		duck     string
		pg       string // type's name
		array    bool
		modifier int32
		fits     bool
	}{
		{"BIGINT", "int4", false, -1, true},    // out of range is an error of PostgreSQL
		{"BIGINT", "float8", false, -1, false}, // rounds
		{"INTEGER", "float8", false, -1, true},
		{"HUGEINT", "numeric", false, -1, true},
		{"UBIGINT", "text", false, -1, true},
		{"INTEGER", "bool", false, -1, false},
		{"DECIMAL(10,2)", "numeric", false, 4 + 10<<16 + 2, true},
		{"DECIMAL(10,2)", "numeric", false, 4 + 10<<16 + 1, false},
		{"DECIMAL(10,2)", "numeric", false, -1, true},
		{"DECIMAL(10,2)", "int8", false, -1, false},
		{"DECIMAL(10,0)", "int8", false, -1, true},
		{"DECIMAL(10,2)", "float8", false, -1, false},
		{"INTEGER", "numeric", false, 4 + 10<<16 + (2048 - 2), false}, // numeric(10,-2)
		{"DOUBLE", "float4", false, -1, false},
		{"DOUBLE", "numeric", false, 4 + 10<<16 + 1, true},
		{"FLOAT", "float8", false, -1, true},
		{"VARCHAR", "varchar", false, 4 + 10, true},
		{"VARCHAR", "int4", false, -1, false},
		{"VARCHAR", "uuid", false, -1, true},
		{"VARCHAR", "citext", false, -1, true},
		{"ENUM('a')", "mood", false, -1, true},
		{"VARCHAR", "timestamptz", false, -1, false},
		{"TIMESTAMP", "timestamptz", false, -1, false},
		{"TIMESTAMP", "timestamp", false, -1, true},
		{"TIMESTAMP", "timestamp", false, 3, false},
		{"TIMESTAMP_MS", "timestamp", false, 3, true},
		{"TIMESTAMP_S", "timestamp", false, 0, true},
		{"TIMESTAMP", "date", false, -1, false},
		{"DATE", "timestamp", false, 0, true},
		{"TIMESTAMP WITH TIME ZONE", "timestamptz", false, -1, true},
		{"TIMESTAMP WITH TIME ZONE", "timestamp", false, -1, false},
		{"INTERVAL", "interval", false, -1, true},
		{"INTERVAL", "interval", false, 3, false},
		{"BLOB", "bytea", false, -1, true},
		{"BLOB", "jsonb", false, -1, false},
		{"BIT", "varbit", false, -1, true},
		{"JSON", "json", false, -1, true},
		{"STRUCT(a INTEGER)", "jsonb", false, -1, true},
		{"STRUCT(a INTEGER)", "text", false, -1, true},
		{"STRUCT(a INTEGER)", "point", false, -1, false},
		{"INTEGER[]", "int8", true, -1, true},
		{"INTEGER[]", "bool", true, -1, false},
		{"INTEGER[]", "jsonb", false, -1, false},
		{"INTEGER[][]", "jsonb", false, -1, true},
		{"INTEGER[][]", "int4", true, -1, false},
		{"INTEGER", "int4", true, -1, false},
		{`"NULL"`, "int4", false, -1, true},
	} {
		typ, err := parseType(c.duck)
		if err != nil {
			t.Fatal(err)
		}
		if why := typ.misfit(&tableColumn{typ: c.pg, array: c.array, modifier: c.modifier}); (why == "") != c.fits {
			t.Errorf("%s into %s (array %v, modifier %d): %q", c.duck, c.pg, c.array, c.modifier, why)
		}
	}
}
