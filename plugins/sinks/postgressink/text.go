package postgressink

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
)

// text is the SQL, for DuckDB, that makes of an expression of a type the text that
// PostgreSQL's type reads back as the same value; NULL stays NULL. Where DuckDB's
// own text will do, it is the expression itself.
func text(e string, t *duckType) string {
	switch t.name {
	case "BLOB":
		return `('\x' || hex(` + e + "))"
	case "DATE":
		return beforeChrist(e, "DATE", "")
	case "TIMESTAMP":
		return beforeChrist(e, "TIMESTAMP", "")
	case "TIMESTAMP_S", "TIMESTAMP_MS":
		return beforeChrist("CAST("+e+" AS TIMESTAMP)", "TIMESTAMP", "")
	case "TIMESTAMP_NS":
		return whole(e, "TIMESTAMP", t.name, beforeChrist("CAST("+e+" AS TIMESTAMP)", "TIMESTAMP", ""))
	case "TIMESTAMP WITH TIME ZONE":
		return beforeChrist("("+e+" AT TIME ZONE 'UTC')", "TIMESTAMP", "+00")
	case "TIME_NS":
		return whole(e, "TIME", t.name, "CAST(CAST("+e+" AS TIME) AS VARCHAR)")
	case "LIST":
		if t.array() {
			return array(e, t.elem)
		}
	}
	if t.nested() {
		return jsonOf(e, t, 0)
	}
	return e
}

// beforeChrist is a date or timestamp: DuckDB writes 0044-03-15 (BC) 12:00:00
// where PostgreSQL reads 0044-03-15 12:00:00 BC.
func beforeChrist(e, typ, zone string) string {
	out := "CAST(" + e + " AS VARCHAR)"
	if zone != "" {
		zone = " || '" + zone + "'"
	}
	return fmt.Sprintf("(CASE WHEN NOT isfinite(%[1]s) THEN %[2]s WHEN %[1]s < %[3]s '0001-01-01' THEN replace(%[2]s, ' (BC)', '')%[4]s || ' BC' ELSE %[2]s%[4]s END)",
		e, out, typ, zone)
}

// whole refuses values that have fractions of a microsecond, which PostgreSQL
// would round.
func whole(e, coarse, fine, text string) string {
	return fmt.Sprintf("(CASE WHEN CAST(CAST(%[1]s AS %[2]s) AS %[3]s) <> %[1]s THEN error('the %[3]s ' || CAST(%[1]s AS VARCHAR) || "+
		"' is no whole number of microseconds, which is what PostgreSQL keeps; cast it to %[2]s or VARCHAR in the stage') ELSE %[4]s END)", e, coarse, fine, text)
}

// array is the text of an array of one dimension.
func array(e string, elem *duckType) string {
	item := "CAST(" + text("x", elem) + " AS VARCHAR)"
	if !bare(elem) {
		item = `'"' || replace(replace(` + item + `, '\', '\\'), '"', '\"') || '"'`
	}
	return "('{' || array_to_string(list_transform(" + e + ", lambda x: coalesce(" + item + ", 'NULL')), ',') || '}')"
}

// bare reports whether no text of a type needs quotes in an array or in JSON.
func bare(t *duckType) bool {
	switch t.name {
	case "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT", "BIGNUM", "DECIMAL":
		return true
	}
	return false
}

// jsonOf is the text of JSON, as PostgreSQL's own to_jsonb would make it of the
// same value: numbers with all their digits, and NaN, infinities, times and bytes
// as strings. depth keeps the names of nested lambdas apart.
func jsonOf(e string, t *duckType, depth int) string {
	x := fmt.Sprint("x", depth)
	switch {
	case exactJSON(t):
		return "CAST(to_json(" + e + ") AS VARCHAR)"
	case t.name == "LIST":
		return "('[' || array_to_string(list_transform(" + e + ", lambda " + x + ": " + orNull(x, t.elem, depth+1) + "), ',') || ']')"
	case t.name == "MAP":
		return "('{' || array_to_string(list_transform(map_entries(" + e + "), lambda " + x + ": CAST(to_json(CAST(" + text(x+".key", t.key) + " AS VARCHAR)) AS VARCHAR) || ':' || " +
			orNull(x+".value", t.elem, depth+1) + "), ',') || '}')"
	case t.name == "STRUCT":
		items := make([]string, len(t.fields))
		for i, f := range t.fields {
			name := strings.ReplaceAll(jsonString(f.name), "'", "''")
			items[i] = "'" + name + ":' || " + orNull("struct_extract("+e+", '"+strings.ReplaceAll(f.name, "'", "''")+"')", f.typ, depth)
		}
		return "(CASE WHEN " + e + " IS NOT NULL THEN '{' || " + strings.Join(items, " || ',' || ") + " || '}' END)"
	case t.name == "JSON", bare(t):
		return "CAST(" + e + " AS VARCHAR)"
	case t.name == "BLOB":
		return `('"\\x' || lower(hex(` + e + `)) || '"')`
	case t.name == "FLOAT", t.name == "DOUBLE":
		return fmt.Sprintf(`(CASE WHEN isnan(%[1]s) THEN '"NaN"' WHEN %[1]s = CAST('inf' AS DOUBLE) THEN '"Infinity"' WHEN %[1]s = CAST('-inf' AS DOUBLE) THEN '"-Infinity"' ELSE CAST(%[1]s AS VARCHAR) END)`, e)
	}
	return "CAST(to_json(CAST(" + text(e, t) + " AS VARCHAR)) AS VARCHAR)"
}

func orNull(e string, t *duckType, depth int) string {
	return "coalesce(" + jsonOf(e, t, depth) + ", 'null')"
}

// exactJSON reports whether DuckDB's to_json keeps every value of a type. It
// doesn't with decimals, FLOAT, NaN, bytes, and JSON within JSON (1.10 is 1.1 then).
func exactJSON(t *duckType) bool {
	switch t.name {
	case "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "VARCHAR", "ENUM", "UUID", "NULL":
		return true
	case "LIST":
		return exactJSON(t.elem)
	case "MAP":
		return !t.key.nested() && exactJSON(t.key) && exactJSON(t.elem)
	case "STRUCT":
		for _, f := range t.fields {
			if !exactJSON(f.typ) {
				return false
			}
		}
		return true
	}
	return false
}

// jsonString is a text as JSON.
func jsonString(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string can always be encoded
	return strings.TrimSuffix(b.String(), "\n")
}
