package postgressink

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/kinequet/kq/pipeline"
)

// duckType is a type of DuckDB, parsed.
type duckType struct {
	name   string // of a leaf such as "DECIMAL", "TIMESTAMP WITH TIME ZONE"; else LIST, STRUCT or MAP
	width  int    // of a DECIMAL
	scale  int
	elem   *duckType // of a LIST (an ARRAY is one too), and of a MAP's values
	key    *duckType // of a MAP
	fields []field   // of a STRUCT
}

type field struct {
	name string
	typ  *duckType
}

// created is the type that a column gets where the sink creates the table.
var created = map[string]string{
	"BOOLEAN": "boolean",
	"TINYINT": "smallint", "SMALLINT": "smallint", "INTEGER": "integer", "BIGINT": "bigint", "HUGEINT": "numeric(39,0)",
	"UTINYINT": "smallint", "USMALLINT": "integer", "UINTEGER": "bigint", "UBIGINT": "numeric(20,0)", "UHUGEINT": "numeric(39,0)",
	"BIGNUM": "numeric", "FLOAT": "real", "DOUBLE": "double precision",
	"VARCHAR": "text", "ENUM": "text", "JSON": "jsonb", "UUID": "uuid", "BLOB": "bytea", "BIT": "bit varying", "NULL": "text",
	"DATE": "date", "TIME": "time", "TIME_NS": "time", "TIME WITH TIME ZONE": "time with time zone", "INTERVAL": "interval",
	"TIMESTAMP": "timestamp", "TIMESTAMP_S": "timestamp", "TIMESTAMP_MS": "timestamp", "TIMESTAMP_NS": "timestamp",
	"TIMESTAMP WITH TIME ZONE": "timestamp with time zone",
}

// postgres is the type that a column gets where the sink creates the table.
func (t *duckType) postgres() string {
	switch {
	case t.name == "DECIMAL":
		return fmt.Sprintf("numeric(%d,%d)", t.width, t.scale)
	case t.array():
		return t.elem.postgres() + "[]"
	case t.nested():
		return "jsonb"
	}
	return created[t.name]
}

func (t *duckType) nested() bool { return t.elem != nil || t.fields != nil }

// array reports whether the type is sent as an array of PostgreSQL: a list of
// what isn't nested itself. Lists of lists need not be rectangular, as arrays must.
func (t *duckType) array() bool { return t.name == "LIST" && !t.elem.nested() }

// parseType reads a type as DuckDB writes it, such as STRUCT(a HUGEINT, "b c"
// MAP(VARCHAR, INTERVAL)[]).
func parseType(s string) (*duckType, error) {
	s = strings.TrimSpace(s)
	if i := strings.LastIndexByte(s, '['); i >= 0 && strings.HasSuffix(s, "]") {
		elem, err := parseType(s[:i])
		return &duckType{name: "LIST", elem: elem}, err
	}
	head, inner, nested := strings.Cut(s, "(")
	if nested && !strings.HasSuffix(inner, ")") {
		return nil, fmt.Errorf("unknown type %s", s)
	}
	inner = strings.TrimSuffix(inner, ")")
	switch {
	case nested && head == "STRUCT":
		return parseStruct(inner)
	case nested && head == "MAP":
		parts := pipeline.SplitTypes(inner)
		if len(parts) != 2 {
			return nil, fmt.Errorf("unknown type %s", s)
		}
		k, err := parseType(parts[0])
		if err != nil {
			return nil, err
		}
		v, err := parseType(parts[1])
		return &duckType{name: "MAP", key: k, elem: v}, err
	case nested && head == "DECIMAL":
		w, sc, _ := strings.Cut(inner, ",")
		width, err1 := strconv.Atoi(strings.TrimSpace(w))
		scale, err2 := strconv.Atoi(strings.TrimSpace(sc))
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("unknown type %s", s)
		}
		return &duckType{name: "DECIMAL", width: width, scale: scale}, nil
	case nested && head == "ENUM":
		return &duckType{name: "ENUM"}, nil
	}
	leaf := strings.Trim(s, `"`)
	if created[leaf] == "" || nested {
		return nil, fmt.Errorf("unknown type %s", s)
	}
	return &duckType{name: leaf}, nil
}

func parseStruct(inner string) (*duckType, error) {
	t := &duckType{name: "STRUCT"}
	for _, part := range pipeline.SplitTypes(inner) {
		name, typ := cutField(part)
		f, err := parseType(typ)
		if err != nil {
			return nil, err
		}
		t.fields = append(t.fields, field{name, f})
	}
	return t, nil
}

// cutField splits a struct's field into its name and its type.
func cutField(f string) (name, typ string) {
	if strings.HasPrefix(f, `"`) {
		if name, rest, err := cutQuoted(f); err == nil {
			return name, strings.TrimSpace(rest)
		}
	}
	name, typ, _ = strings.Cut(f, " ")
	return name, strings.TrimSpace(typ)
}

// cutQuoted takes a name in double quotes off the beginning of s.
func cutQuoted(s string) (name, rest string, err error) {
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			i++
			continue
		}
		return strings.ReplaceAll(s[1:i], `""`, `"`), s[i+1:], nil
	}
	return "", "", errors.New("a quote is not closed")
}
