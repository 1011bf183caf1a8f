package postgressink

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

func TestInsert(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE SCHEMA s; CREATE TABLE s.t (extra int DEFAULT 7, name text, id bigint PRIMARY KEY)")
	p := w.open("r1", "table", "s.t")
	part := w.part("r1", 0, many(1, 1000)...)
	if r := w.publish(p, part); r.Already || r.Bytes != part.Files[0].Bytes {
		t.Errorf("%+v", r)
	}
	if r := w.publish(p, part); !r.Already { // the same again
		t.Errorf("%+v", r)
	}
	if r := w.publish(w.open("r1", "table", "s.t"), part); !r.Already { // by another process
		t.Errorf("%+v", r)
	}
	empty := w.part("r1", 1)
	w.publish(p, empty)
	several := w.part("r1", 2, many(2001, 10)...)
	several.Files = append(several.Files, w.part("r1", 3, many(3001, 5)...).Files...)
	several.Rows = 15
	w.publish(p, several)
	w.want("(1015,1015,7105)", "SELECT (count(*), count(DISTINCT id), sum(extra)) FROM s.t")
	w.want("name 1000", "SELECT name FROM s.t WHERE id = 1000")
	w.want("(3,1015)", "SELECT (count(*), sum(rows)) FROM s.kq_published WHERE run = 'r1' AND sink = 'out' AND target = '\"s\".\"t\"'")
	for range 2 {
		r, err := p.Last(t.Context(), objects(part, empty, several))
		if err != nil || r.Rows != 1015 {
			t.Errorf("%+v, %v", r, err)
		}
	}
	// The same part with other content.
	changed := w.part("r1", 0, many(1, 999)...)
	_, err := p.Publish(t.Context(), changed)
	w.refused(err, true, "arrived already with other content", "1000", "999", "--fresh")
	// Somebody has removed tokens.
	w.exec("DELETE FROM s.kq_published WHERE part = $1", part.ID)
	_, err = p.Last(t.Context(), objects(part, empty, several))
	w.refused(err, true, "1015 rows were sent", "have 15")
	if len(w.said) > 0 {
		t.Error(w.said)
	}
}

// TestText sends what CSV could get wrong.
func TestText(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint, name text)")
	p := w.open("r1")
	w.publish(p, w.partOf("r1", 0, 8, "1,\n2,\"\"\n3,\\.\n4,\"a,\"\"b\"\"\n\\.\nc\r\"\n5,NULL\n6,\\N\n7,\"\"\"\"\n8,héllo 🦆\n"))
	for id, want := range map[int]string{1: "NULL", 2: "", 3: `\.`, 4: "a,\"b\"\n\\.\nc\r", 5: "NULL", 6: `\N`, 7: `"`, 8: "héllo 🦆"} {
		w.want(want, "SELECT name FROM t WHERE id = $1", id)
	}
	w.want("true", "SELECT name IS NULL FROM t WHERE id = 1")
	w.want("false", "SELECT name IS NULL FROM t WHERE id = 5")
	w.exec("CREATE TABLE one (name text)") // a line of \. alone ends COPY, and an empty one is NULL
	one := w.openColumns("r1", idAndName[1:], "table", "one")
	w.publish(one, w.partOf("r1", 1, 4, "\"\\.\"\n\n\"\"\n\"x\"\n"))
	w.want("(4,3)", "SELECT (count(*), count(name)) FROM one")
	_, err := p.Publish(t.Context(), w.partOf("r1", 2, 1, "1,a\x00b\n"))
	w.refused(err, true, "0x00", "zero byte")
	_, err = p.Publish(t.Context(), w.partOf("r1", 3, 2, "1,a\nx,b\n"))
	w.refused(err, true, "invalid input syntax for type bigint", "line 2, column id")
	w.want("8", "SELECT count(*) FROM t")
	w.want("2", "SELECT count(*) FROM kq_published")
}

func TestUpsert(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint PRIMARY KEY, name text, extra int DEFAULT 7); INSERT INTO t VALUES (1, 'old', 1), (2, 'old', 2)")
	p := w.open("r1", "mode", "upsert", "key", []any{"ID"})
	part := w.part("r1", 0, "2,first", "3,c", "2,second", "4,d", "2,third", "3,")
	w.publish(p, part)
	w.want("1 old 1, 2 third 2, 3  7, 4 d 7", "SELECT string_agg(concat_ws(' ', id, coalesce(name, ''), extra), ', ' ORDER BY id) FROM t")
	if r := w.publish(p, part); !r.Already {
		t.Errorf("%+v", r)
	}
	_, err := p.Publish(t.Context(), w.part("r1", 1, "5,e", ",f", ",g"))
	w.refused(err, true, `2 rows have NULL in "id"`)
	w.want("4", "SELECT count(*) FROM t")
	// Nothing but a key.
	w.exec("CREATE TABLE k (a bigint, b text, UNIQUE (b, a)); INSERT INTO k VALUES (1, 'x')")
	k := w.openColumns("r1", []pipeline.Column{{Name: "b", Type: "VARCHAR"}, {Name: "a", Type: "BIGINT"}}, "table", "k", "mode", "upsert", "key", []any{"a", "b"})
	w.publish(k, w.part("r1", 2, "x,1", "x,2", "x,2"))
	w.want("2", "SELECT count(*) FROM k")
}

func TestUpsertNeedsIndex(t *testing.T) {
	w := newWorld(t)
	for _, index := range []string{
		"", "CREATE INDEX ON t (id)", "CREATE UNIQUE INDEX ON t (id, name)", "CREATE UNIQUE INDEX ON t (id) WHERE id > 0", "CREATE UNIQUE INDEX ON t ((id + 1))",
		"ALTER TABLE t ADD UNIQUE (id) DEFERRABLE",
	} {
		w.exec("DROP TABLE IF EXISTS t; CREATE TABLE t (id bigint, name text);" + index)
		w.refused(w.open("r1", "mode", "upsert", "key", []any{"id"}).Check(t.Context()), true, `CREATE UNIQUE INDEX ON "public"."t" ("id")`)
	}
	w.exec("CREATE UNIQUE INDEX ON t (id) INCLUDE (name)")
	if err := w.open("r1", "mode", "upsert", "key", []any{"id"}).Check(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestUpsertTogether lets parts that share keys meet: whoever comes last wins,
// nothing is lost, and a deadlock would only mean another try.
func TestUpsertTogether(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint PRIMARY KEY, name text)")
	var group sync.WaitGroup
	for i := range 6 {
		lines := many(1, 500)
		if i%2 == 1 {
			for a, b := 0, len(lines)-1; a < b; a, b = a+1, b-1 {
				lines[a], lines[b] = lines[b], lines[a]
			}
		}
		part, p := w.part("r1", i, lines...), w.open("r1", "mode", "upsert", "key", []any{"id"})
		group.Go(func() {
			for {
				_, err := p.Publish(t.Context(), part)
				if err == nil {
					return
				}
				if pipeline.IsPermanent(err) {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	w.want("500", "SELECT count(*) FROM t")
	w.want("6", "SELECT count(*) FROM kq_published")
}

// TestTogether lets attempts of the same parts race.
func TestTogether(t *testing.T) {
	w := newWorld(t)
	const parts, attempts = 5, 6
	var all []*sinks.Part
	for i := range parts {
		all = append(all, w.part("r1", i, many(1000*i, 300)...))
	}
	var mu sync.Mutex
	fresh := 0
	var group sync.WaitGroup
	for range attempts {
		p := w.open("r1", "create", true) // all find no table
		group.Go(func() {
			for _, part := range all {
				r, err := p.Publish(t.Context(), part)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if !r.Already {
					fresh++
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	w.want("(1500,1500)", "SELECT (count(*), count(DISTINCT id)) FROM t")
	if fresh != parts {
		t.Errorf("%d parts were sent %d times", parts, fresh)
	}
}

// TestStopped has an earlier attempt that holds its token and says nothing more,
// as that of a stopped process.
func TestStopped(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint, name text)")
	part := w.part("r1", 0, many(1, 10)...)
	part.Attempt = 2
	stopped := w.open("r1")
	if err := stopped.prepare(t.Context()); err != nil {
		t.Fatal(err)
	}
	tx, found, err := stopped.take(t.Context(), part)
	if err != nil || found != nil {
		t.Fatal(found, err)
	}
	p := w.open("r1")
	p.patience = 50 * time.Millisecond
	_, err = p.Publish(t.Context(), part) // the same attempt: nobody can say who has lost it
	w.refused(err, false, "another attempt of part kq/r1/out/0 is still at work")
	later := *part
	later.Attempt = 11 // not 2 as text
	if r := w.publish(p, &later); r.Already {
		t.Errorf("%+v", r)
	}
	if err := tx.Commit(t.Context()); err == nil { // it wakes up
		t.Error("the stopped attempt could commit")
	}
	w.want("10", "SELECT count(*) FROM t")
}

func TestCheck(t *testing.T) {
	w := newWorld(t)
	w.refused(w.open("r1").Check(t.Context()), true, "does not exist", "set create: true", "CREATE TABLE \"t\" (\n  \"id\" bigint,\n  \"name\" text\n)")
	w.refused(w.open("r1", "table", "no.t", "create", true).Check(t.Context()), true, `schema "no" does not exist`)
	for _, c := range []struct {
		table string
		says  []string
	}{
		{"CREATE TABLE t (id bigint)", []string{`no column "name"`, `ALTER TABLE "public"."t" ADD COLUMN "name" text`}},
		{"CREATE TABLE t (id boolean, name int)", []string{`column "id" is boolean, and the stage gives BIGINT`, `column "name" is integer`}},
		{"CREATE TABLE t (id bigint, name text, z int NOT NULL, y int NOT NULL DEFAULT 1, x bigserial, w int)", []string{`column "z" must not be NULL`}},
		{"CREATE TABLE t (id bigint GENERATED ALWAYS AS (1) STORED, name text)", []string{`column "id" is made by an expression`}},
		{"CREATE VIEW t AS SELECT 1::bigint AS id, ''::text AS name", []string{"no table that rows can be copied to"}},
	} {
		w.exec(c.table)
		err := w.open("r1").Check(t.Context())
		w.refused(err, true, c.says...)
		if strings.Contains(c.table, "bigserial") && strings.Contains(fmt.Sprint(err), `"x"`) {
			t.Error(err)
		}
		w.exec("DROP " + strings.Fields(c.table)[1] + " t")
	}
	w.exec(`CREATE TYPE mood AS ENUM ('good'); CREATE DOMAIN feeling AS mood; CREATE TABLE t ("ID" bigint GENERATED ALWAYS AS IDENTITY UNIQUE, name feeling)`)
	for i, mode := range [][]any{{"mode", "insert"}, {"mode", "upsert", "key", []any{"id"}}, {"mode", "replace"}} {
		run := fmt.Sprint("run", i)
		p, part := w.open(run, mode...), w.part(run, 0, fmt.Sprintf("%d,good", 5+i))
		if err := p.Check(t.Context()); err != nil {
			t.Error(err)
		}
		_, err := p.Publish(t.Context(), w.part(run, 1, "5,bad"))
		w.refused(err, true, "invalid input value for enum mood", "column name")
		w.publish(p, part)
		w.last(p, objects(part))
	}
	w.want("(1,7,good)", `SELECT (count(*), min("ID"), min(name::text)) FROM t`)
	w.exec("CREATE TABLE wrong (part text)")
	w.refused(w.open("r1", "token_table", "wrong").Check(t.Context()), true, "no table of tokens", "token_table")
}

func TestCreate(t *testing.T) {
	w := newWorld(t)
	columns := []pipeline.Column{{Name: "Id", Type: "HUGEINT"}, {Name: "a b", Type: "DECIMAL(10,2)[]"}, {Name: "m", Type: "MAP(VARCHAR, DOUBLE)"}, {Name: "at", Type: "TIMESTAMP WITH TIME ZONE"}}
	var group sync.WaitGroup
	for range 5 {
		p := w.openColumns("r1", columns, "table", `"Ta ble"`, "create", true, "mode", "upsert", "key", []any{"id", "at"}, "token_table", "public.tok")
		group.Go(func() {
			if err := p.Check(context.Background()); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	w.want("Id numeric(39,0), a b numeric(10,2)[], m jsonb, at timestamp with time zone",
		`SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '"Ta ble"'::regclass AND attnum > 0`)
	w.want("tok", "SELECT relname FROM pg_class WHERE relname IN ('tok', 'kq_published') AND relkind = 'r'")
	w.publish(w.openColumns("r1", columns, "table", `"Ta ble"`, "mode", "upsert", "key", []any{"id", "at"}, "token_table", "tok"),
		w.part("r1", 0, `1,"{1.25,NULL}","{""x"":""NaN""}",2020-01-01 00:00:00+00`))
	w.want("1", `SELECT count(*) FROM "Ta ble"`)
}

// TestRights has a role that may do less and less.
func TestRights(t *testing.T) {
	w := newWorld(t)
	role := strings.ReplaceAll(services.Name(t), "-", "_")
	w.exec("CREATE TABLE t (id bigint PRIMARY KEY, name text); CREATE ROLE " + role + " LOGIN PASSWORD 'hunter2'")
	t.Cleanup(func() {
		if _, err := w.db.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role); err != nil {
			t.Error(err)
		}
	})
	u, err := url.Parse(w.url)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword(role, "hunter2")
	good := u.String()
	upsert := []any{"url", good, "mode", "upsert", "key", []any{"id"}}
	w.refused(w.open("r1", upsert...).Check(t.Context()), true, "no INSERT right", "GRANT INSERT, SELECT, UPDATE ON")
	w.exec("GRANT INSERT, SELECT ON t TO " + role)
	w.refused(w.open("r1", upsert...).Check(t.Context()), true, "no UPDATE right")
	w.exec("GRANT UPDATE ON t TO " + role)
	w.refused(w.open("r1", upsert...).Check(t.Context()), true, "permission denied for schema public", "CREATE TABLE IF NOT EXISTS")
	admin := w.open("r1")
	if err := admin.Check(t.Context()); err != nil { // makes the table of tokens
		t.Fatal(err)
	}
	w.refused(w.open("r1", upsert...).Check(t.Context()), true, "GRANT SELECT, INSERT, DELETE ON")
	w.exec("GRANT SELECT, INSERT, DELETE ON kq_published TO " + role)
	w.publish(w.open("r1", upsert...), w.part("r1", 0, "1,a"))
	w.refused(w.open("r1", "url", good, "mode", "replace").Check(t.Context()), true, "no DELETE right")
	w.exec("GRANT DELETE ON t TO " + role)
	w.refused(w.open("r1", "url", good, "mode", "replace").Check(t.Context()), true, `GRANT CREATE ON SCHEMA "public" TO`)
	w.exec("REVOKE TEMPORARY ON DATABASE " + w.db.Config().Database + " FROM PUBLIC")
	w.refused(w.open("r1", upsert...).Check(t.Context()), true, "GRANT TEMPORARY ON DATABASE")

	u.User = url.UserPassword(role, "hunter3")
	err = w.open("r1", "url", u.String()).Check(t.Context())
	w.refused(err, true, "password authentication failed", "look at user and password")
	if strings.Contains(err.Error(), "hunter3") {
		t.Error(err)
	}
	u.User, u.Path = url.UserPassword(role, "hunter2"), "/nosuchdatabase"
	w.refused(w.open("r1", "url", u.String()).Check(t.Context()), true, "nosuchdatabase", "look at the database's name")
	u.Host = "127.0.0.1:1"
	w.refused(w.open("r1", "url", u.String()).Check(t.Context()), false, "connection refused")
	q := u.Query()
	q.Set("default_transaction_read_only", "on")
	u.Host, u.Path, u.RawQuery = strings.TrimPrefix(strings.Split(good, "@")[1], "")[:strings.Index(strings.Split(good, "@")[1], "/")], "/"+w.db.Config().Database, q.Encode()
	w.refused(w.open("r1", "url", u.String()).Check(t.Context()), false, "takes no writes", "target_session_attrs")
}

func TestTriggers(t *testing.T) {
	w := newWorld(t)
	w.exec(`CREATE TABLE t (id bigint PRIMARY KEY, name text);
		CREATE FUNCTION skip() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.id % 2 = 0 THEN RETURN NULL; END IF; RETURN NEW; END';
		CREATE TRIGGER skip BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION skip()`)
	for i, mode := range [][]any{{}, {"mode", "upsert", "key", []any{"id"}}} {
		_, err := w.open("r1", mode...).Publish(t.Context(), w.part("r1", i, many(1, 10)...))
		w.refused(err, true, "5 of 10 rows were stored: a trigger")
	}
	replace, part := w.open("r2", "mode", "replace"), w.part("r2", 0, many(1, 10)...)
	w.publish(replace, part)
	_, err := replace.Last(t.Context(), objects(part))
	w.refused(err, true, "10 rows were sent, 5 came")
	w.exec("DROP TRIGGER skip ON t; INSERT INTO t VALUES (3, 'there')")
	_, err = w.open("r1").Publish(t.Context(), w.part("r1", 3, many(1, 10)...))
	w.refused(err, true, "duplicate key", "(id)=(3)", "mode: upsert")
	w.want("1", "SELECT count(*) FROM t")
}

// TestDamaged has files that are not what their checksums say, or gone.
func TestDamaged(t *testing.T) {
	w := newWorld(t)
	w.exec("CREATE TABLE t (id bigint, name text)")
	part := w.part("r1", 0, many(1, 100)...)
	file := part.Files[0].Path
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	p := w.open("r1")
	_, err = p.Publish(t.Context(), part)
	w.refused(err, true, "part part.csv is damaged")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	_, err = p.Publish(t.Context(), part)
	w.refused(err, false, "no such file")
	w.want("0", "SELECT count(*) FROM t")
	w.want("0", "SELECT count(*) FROM kq_published")
	w.gate.refuse = errors.New("the gate is closed")
	_, err = p.Publish(t.Context(), w.part("r1", 1, "1,a"))
	w.refused(err, false, "the gate is closed")
	w.gate.refuse = nil
	w.publish(p, w.part("r1", 1, "1,a"))
}

// TestGate sends more than may be on its way at a time.
func TestGate(t *testing.T) {
	w := newWorld(t)
	w.gate.limit = 1000
	w.exec("CREATE TABLE t (id bigint, name text)")
	part := w.part("r1", 0, many(1, 5000)...)
	w.publish(w.open("r1"), part)
	if w.gate.most != 1000 || int64(w.gate.outcomes[backpressure.Succeeded]) < part.Files[0].Bytes/1000 || len(w.gate.outcomes) != 1 {
		t.Errorf("most %d, %v", w.gate.most, w.gate.outcomes)
	}
	w.want("5000", "SELECT count(*) FROM t")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.open("r1").Publish(ctx, w.part("r1", 1, "1,a")); !errors.Is(err, context.Canceled) || pipeline.IsPermanent(err) {
		t.Error(err)
	}
}

func TestDefaults(t *testing.T) {
	// Defaults of the server that would change what is stored, or lose it.
	d := services.OwnPostgres(t, "intervalstyle=sql_standard", "datestyle=SQL, DMY", "timezone=Asia/Kolkata", "default_transaction_isolation=serializable",
		"synchronous_commit=off", "bytea_output=escape", "extra_float_digits=0")
	w := newWorldOf(t, d.URL)
	w.exec("CREATE TABLE t (i interval, d date, z timestamptz, b bytea)")
	p := w.openColumns("r1", []pipeline.Column{{Name: "i", Type: "INTERVAL"}, {Name: "d", Type: "DATE"}, {Name: "z", Type: "TIMESTAMP WITH TIME ZONE"}, {Name: "b", Type: "BLOB"}})
	w.publish(p, w.part("r1", 0, `-1 year -2 months 3 days -00:00:00.5,2020-02-03,2020-02-03 04:05:06.7+00,\x00FF`))
	w.exec("SET intervalstyle = 'iso_8601'; SET datestyle = 'ISO'; SET timezone = 'UTC'; SET bytea_output = 'hex'")
	w.want(`(P-1Y-2M3DT-0.5S,2020-02-03,"2020-02-03 04:05:06.7+00","\\x00ff")`, "SELECT t FROM t")
}
