package crash

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/plugins/sinks/kafkasink/kafkatest"
)

// messageTypes is a value of each type that a message can hold exactly, then its
// least and largest where it has such, and NULLs.
var messageTypes = []struct{ typ, some, low, high string }{
	{"BOOLEAN", "true", "false", "true"},
	{"TINYINT", "7", "-128", "127"},
	{"SMALLINT", "7", "-32768", "32767"},
	{"INTEGER", "7", "-2147483648", "2147483647"},
	{"BIGINT", "7", "-9223372036854775808", "9223372036854775807"},
	{"HUGEINT", "7", "-170141183460469231731687303715884105728", "170141183460469231731687303715884105727"},
	{"UTINYINT", "7", "0", "255"},
	{"USMALLINT", "7", "0", "65535"},
	{"UINTEGER", "7", "0", "4294967295"},
	{"UBIGINT", "7", "0", "18446744073709551615"},
	{"UHUGEINT", "7", "0", "340282366920938463463374607431768211455"},
	{"FLOAT", "0.1", "-3.4028235e38", "1e-40"},
	{"DOUBLE", "0.1", "-1.7976931348623157e308", "5e-324"},
	{"DECIMAL(4,1)", "1.5", "-999.9", "999.9"},
	{"DECIMAL(18,6)", "0.000001", "-999999999999.999999", "999999999999.999999"},
	{"DECIMAL(38,2)", "12345678901234567890.12", "-999999999999999999999999999999999999.99", "999999999999999999999999999999999999.99"},
	{"DATE", "'2024-02-29'", "'0001-01-01'", "'9999-12-31'"},
	{"TIME", "'12:34:56.789012'", "'00:00:00'", "'23:59:59.999999'"},
	{"TIMESTAMP", "'2024-02-29 12:34:56.789012'", "'0001-01-01 00:00:00'", "'9999-12-31 23:59:59.999999'"},
	{"TIMESTAMPTZ", "'2024-02-29 12:34:56.789012+00'", "'1970-01-01 00:00:00+00'", "'2999-12-31 23:59:59.999999+00'"},
	{"VARCHAR", "'naïve ☃ \U0001F600'", "''", "'a \"quoted\", comma\nand\ttab \\ end'"},
	{"UUID", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", "'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"},
	{"BLOB", "'\\x00\\xFFa'::BLOB", "''::BLOB", "'plain'::BLOB"},
	{"ENUM('a', 'b c')", "'a'", "'b c'", "'a'"},
	{"INTEGER[]", "[1, NULL, 3]", "[]", "[-2147483648]"},
	{"STRUCT(a INTEGER, b VARCHAR)", "{'a': 1, 'b': 'x'}", "{'a': NULL, 'b': ''}", "{'a': 3, 'b': '\"'}"},
}

// typeQuery gives four rows of all types, and column names that need quoting.
func typeQuery() (query string, columns []string) {
	rows := make([][]string, 4)
	for i, t := range messageTypes {
		name := fmt.Sprintf("c%d \"x\", y", i)
		columns = append(columns, name)
		quoted := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		for r, v := range []string{t.some, t.low, t.high, "NULL"} {
			rows[r] = append(rows[r], fmt.Sprintf("CAST(%s AS %s) AS %s", v, t.typ, quoted))
		}
	}
	var selects []string
	for r, row := range rows {
		selects = append(selects, fmt.Sprintf("SELECT %d AS id, %s", r, strings.Join(row, ", ")))
	}
	return strings.Join(selects, " UNION ALL "), columns
}

// asLine makes a line of CSV of an object whose members are to be in an order,
// each as the text that it is: readers of JSON round long numbers.
func asLine(t *testing.T, object []byte, names []string) string {
	t.Helper()
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil || len(members) != len(names) {
		t.Fatalf("%v: %s", err, object)
	}
	fields := make([]string, len(names))
	for i, name := range names {
		text := string(members[name])
		var s string
		if text == "null" {
			continue
		}
		if strings.HasPrefix(text, `"`) {
			if err := json.Unmarshal(members[name], &s); err != nil {
				t.Fatal(err)
			}
			text = s
		}
		fields[i] = `"` + strings.ReplaceAll(text, `"`, `""`) + `"`
	}
	return strings.Join(fields, ",")
}

// TestKafkaFormats sends every type in every format, and has DuckDB read the
// messages back: the rows must be the very same.
func TestKafkaFormats(t *testing.T) {
	broker := services.Kafka(t)
	w := newWorld(t, rand.New(rand.NewPCG(*seed, 12)))
	query, names := typeQuery()
	db, err := openDuckDB()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	types, list := []string{"'id': 'BIGINT'"}, []string{"id"}
	for i, name := range names {
		typ := messageTypes[i].typ
		as := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
		if typ == "BLOB" { // sent in base64
			typ, as = "VARCHAR", "from_base64("+as+") AS "+as
		}
		types = append(types, fmt.Sprintf("'%s': '%s'", name, strings.ReplaceAll(typ, "'", "''")))
		list = append(list, as)
	}
	for _, format := range []string{"json", "csv"} {
		t.Run(format, func(t *testing.T) {
			topic := services.Name(t)
			job := fmt.Sprintf(`version: 1
name: formats
sources:
  one: {type: csv, uri: data/dims.csv}
stages:
  s:
    sql: |
      SELECT t.* FROM (%s) t, (SELECT max(k) AS k FROM one) WHERE k > 0
sinks:
  out: {type: kafka, from: s, brokers: ["%s"], topic: %s, partitions: 3, format: %s, key: id}
`, strings.ReplaceAll(query, "\n", `' || chr(10) || '`), broker.Addr, topic, format)
			if err := os.WriteFile(filepath.Join(w.dir, "job.yaml"), []byte(job), 0o644); err != nil {
				t.Fatal(err)
			}
			if code, out := w.run(nil, "run", filepath.Join(w.dir, "job.yaml"), "--fresh"); code != 0 {
				t.Fatalf("exit %d\n%s", code, out)
			}
			records := kafkatest.ReadAll(t, []string{broker.Addr}, topic, true)
			slices.SortFunc(records, func(a, b *kgo.Record) int { return cmp.Compare(string(a.Key), string(b.Key)) })
			var lines strings.Builder
			for _, r := range records {
				value := string(r.Value)
				if format == "json" {
					value = asLine(t, r.Value, append([]string{"id"}, names...))
				}
				lines.WriteString(value + "\n")
			}
			file := filepath.Join(w.dir, "messages."+format)
			if err := os.WriteFile(file, []byte(lines.String()), 0o644); err != nil {
				t.Fatal(err)
			}
			read := fmt.Sprintf("read_csv('%s', header = false, delim = ',', quote = '\"', escape = '\"', nullstr = '', allow_quoted_nulls = false, new_line = '\\n', columns = {%s})", file, strings.Join(types, ", "))
			got := fmt.Sprintf("SELECT %s FROM %s", strings.Join(list, ", "), read)
			for i := range append([]string{"id"}, names...) {
				name := append([]string{"id"}, names...)[i]
				q := `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
				var want, have string
				for _, x := range []struct {
					to    *string
					query string
				}{{&want, query}, {&have, got}} {
					if err := db.QueryRow(fmt.Sprintf("SELECT string_agg(coalesce(CAST(%s AS VARCHAR), '<null>'), ' | ' ORDER BY id) FROM (%s)", q, x.query)).Scan(x.to); err != nil {
						t.Fatalf("%s: %v\n%s", x.query, err, lines.String())
					}
				}
				if want != have {
					t.Errorf("%s (%s): %s; want %s", name, strings.Join(types, ", "), have, want)
				}
			}
		})
	}
}
