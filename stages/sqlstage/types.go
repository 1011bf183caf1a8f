package sqlstage

import (
	"fmt"
	"strings"

	"github.com/kinequet/kq/pipeline"
)

// Stored implements pipeline.Engine: types of which Parquet keeps every value,
// or VARCHAR, for which DuckDB's casts there and back are exact.
func (e *Engine) Stored(columns []pipeline.Column) ([]pipeline.Column, error) {
	return mapColumns(columns, func(leaf string) (string, error) {
		switch {
		case leaf == "HUGEINT", leaf == "UHUGEINT", leaf == "INTERVAL", leaf == "BIT", leaf == "BIGNUM",
			leaf == "TIME WITH TIME ZONE", strings.HasPrefix(leaf, "ENUM("):
			return "VARCHAR", nil
		case leaf == "NULL":
			return "INTEGER", nil
		case strings.HasPrefix(leaf, "UNION("):
			return "", fmt.Errorf("a part between stages can't hold a UNION; select its members with union_extract, or cast it")
		}
		return leaf, nil
	})
}

// Published implements pipeline.Engine. DuckDB writes integers wider than 64
// bits as DOUBLE, which rounds silently; a decimal of 38 digits is exact, and a
// value beyond it is an error.
func (e *Engine) Published(columns []pipeline.Column) []pipeline.Column { return published(columns) }

func published(columns []pipeline.Column) []pipeline.Column {
	out, _ := mapColumns(columns, func(leaf string) (string, error) {
		switch {
		case leaf == "HUGEINT", leaf == "UHUGEINT":
			return "DECIMAL(38,0)", nil
		case leaf == "NULL":
			return "INTEGER", nil
		case leaf == "BIT", leaf == "BIGNUM", strings.HasPrefix(leaf, "ENUM("):
			return "VARCHAR", nil
		}
		return leaf, nil
	})
	return out
}

func mapColumns(columns []pipeline.Column, leaf func(string) (string, error)) ([]pipeline.Column, error) {
	out := make([]pipeline.Column, len(columns))
	for i, c := range columns {
		t, err := mapType(c.Type, leaf)
		if err != nil {
			return nil, fmt.Errorf("column %q of type %s: %w", c.Name, c.Type, err)
		}
		out[i] = pipeline.Column{Name: c.Name, Type: t}
	}
	return out, nil
}

// mapType replaces the leaves of a type as DuckDB writes it, such as
// STRUCT(a HUGEINT, "b c" MAP(VARCHAR, INTERVAL)[]). UNION and ENUM are leaves.
func mapType(t string, leaf func(string) (string, error)) (string, error) {
	t = strings.TrimSpace(t)
	if strings.HasSuffix(t, "]") {
		i := strings.LastIndexByte(t, '[')
		inner, err := mapType(t[:i], leaf)
		return inner + t[i:], err
	}
	for _, kind := range []string{"STRUCT(", "MAP("} {
		if !strings.HasPrefix(t, kind) || !strings.HasSuffix(t, ")") {
			continue
		}
		fields := pipeline.SplitTypes(t[len(kind) : len(t)-1])
		for i, f := range fields {
			name, typ := "", f
			if kind == "STRUCT(" {
				name, typ = cutName(f)
			}
			inner, err := mapType(typ, leaf)
			if err != nil {
				return "", err
			}
			fields[i] = name + inner
		}
		return kind + strings.Join(fields, ", ") + ")", nil
	}
	return leaf(strings.Trim(t, `"`))
}

// cutName splits a struct's field into its name, with the blank, and its type.
func cutName(f string) (name, typ string) {
	if strings.HasPrefix(f, `"`) {
		for i := 1; i < len(f); i++ {
			if f[i] == '"' {
				if i+1 < len(f) && f[i+1] == '"' {
					i++
					continue
				}
				return f[:i+1] + " ", strings.TrimSpace(f[i+1:])
			}
		}
	}
	if i := strings.IndexByte(f, ' '); i > 0 {
		return f[:i+1], strings.TrimSpace(f[i+1:])
	}
	return "", f
}

// ident quotes an SQL identifier.
func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// literal quotes an SQL string.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// list renders strings as an SQL list of strings.
func list(items []string) string {
	quoted := make([]string, len(items))
	for i, s := range items {
		quoted[i] = literal(s)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// casts renders a select list that casts columns from one list of types to
// another; the lists have the same names.
func casts(from, to []pipeline.Column) string {
	items := make([]string, len(to))
	for i := range to {
		items[i] = ident(to[i].Name)
		if from == nil || from[i].Type != to[i].Type {
			items[i] = fmt.Sprintf("CAST(%s AS %s) AS %s", items[i], to[i].Type, items[i])
		}
	}
	return strings.Join(items, ", ")
}
