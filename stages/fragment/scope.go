package fragment

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kinequet/kq/stages/analysis"
)

// base is a column of a declared table.
type base struct{ table, column string } // folded

// col is a column of a relation, and what is known of its values.
type col struct {
	name string // folded; "" unknown
	typ  string // DuckDB's name; "" unknown
	from base   // the column that it is, unchanged; zero when computed
	// tag is the component of the key that the column equals: the row's bucket
	// is that of its values. -1: none.
	tag int
	// exact: it equals the component in every row; otherwise, in those where it
	// is not NULL.
	exact bool
}

// item is a relation that a scope can name.
type item struct {
	alias  string // folded
	cols   []*col
	opaque bool            // has columns whose names aren't known
	hidden map[string]bool // columns that USING merges: only seen when qualified
}

func (i *item) find(name string) *col {
	for _, c := range i.cols {
		if c.name == name {
			return c
		}
	}
	return nil
}

// scope is what the expressions of one SELECT can name.
type scope struct {
	outer *scope
	items []*item
	// parted: the rows are divided among the buckets; else each has all of them.
	parted bool
	// names are select aliases and lambda parameters.
	names map[string]bool
	// shows are the columns that a star shows in the place of merged ones.
	shows map[*col]*col
	// lost are columns that some grouping set leaves out: NULL there.
	lost map[*col]bool
	// correlated: something inside names a column of a scope around.
	correlated bool
}

// lookup finds a column. depth is how many scopes further out it stands, 0 for
// this one. The column is nil for what is computed from a row of that scope,
// such as the field of a struct or a select alias. Depth -1 means unknown.
func (sc *scope) lookup(names []string) (c *col, it *item, depth int) {
	for s := sc; s != nil; s = s.outer {
		c, it, found, unsure := s.local(names)
		if found {
			return c, it, depth
		}
		if unsure {
			return nil, nil, -1
		}
		depth++
	}
	return nil, nil, -1
}

// show lets a star show a column where another one stands.
func (sc *scope) show(at, c *col) {
	if sc.shows == nil {
		sc.shows = map[*col]*col{}
	}
	sc.shows[at] = c
}

// merge lets no star show the column that USING merges into one on its left.
func (sc *scope) merge(c *col) {
	maps.DeleteFunc(sc.shows, func(_, shown *col) bool { return shown == c })
}

func (sc *scope) local(names []string) (c *col, it *item, found, unsure bool) {
	first := strings.ToLower(names[0])
	if len(names) > 1 {
		for _, i := range sc.items {
			if i.alias != first {
				continue
			}
			c := i.find(strings.ToLower(names[1]))
			if c == nil && !i.opaque {
				continue
			}
			if len(names) > 2 {
				c = nil
			}
			return c, i, true, false
		}
	}
	for _, i := range sc.items {
		if c := i.find(first); c != nil && !i.hidden[first] {
			if len(names) > 1 {
				c = nil
			}
			return c, i, true, false
		}
	}
	if sc.names[first] {
		return nil, nil, true, false
	}
	for _, i := range sc.items {
		unsure = unsure || i.opaque
	}
	return nil, nil, false, unsure
}

// columnNames reads a COLUMN_REF.
func columnNames(n analysis.Node) (names []string) {
	raw, _ := n["column_names"].([]any)
	for _, r := range raw {
		s, _ := r.(string)
		names = append(names, s)
	}
	return names
}

// family groups the types whose values hash alike once they are cast to a
// common type, and which DuckDB compares without rounding. Columns of other
// types can't carry a key.
func family(typ string) string {
	switch typ {
	case "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT":
		return "number"
	case "DATE", "TIMESTAMP":
		return "time"
	case "VARCHAR":
		return "text"
	case "DOUBLE", "FLOAT", "BOOLEAN", "UUID", "BLOB", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S", "TIME":
		return typ
	}
	switch {
	case strings.HasPrefix(typ, "DECIMAL("):
		return "number"
	case strings.HasPrefix(typ, "ENUM("):
		return "text"
	}
	return ""
}

// common is the type to which keys of these types are cast before they are
// hashed, or "" when there is none.
func common(types []string) string {
	fam := family(types[0])
	if slices.ContainsFunc(types, func(t string) bool { return family(t) != fam }) {
		return ""
	}
	same := !slices.ContainsFunc(types, func(t string) bool { return t != types[0] })
	switch {
	case fam == "":
		return ""
	case fam == "text":
		return "VARCHAR"
	case same:
		return types[0]
	case fam == "time":
		return "TIMESTAMP"
	case fam != "number":
		return ""
	}
	digits, scale, wide := 0, 0, false
	decimals := false
	for _, t := range types {
		var w, s int
		switch t {
		case "TINYINT", "UTINYINT":
			w = 3
		case "SMALLINT", "USMALLINT":
			w = 5
		case "INTEGER", "UINTEGER":
			w = 10
		case "BIGINT":
			w = 19
		case "UBIGINT":
			w, wide = 20, true
		case "HUGEINT":
			w, wide = 39, true
		default:
			decimals = true
			w, s = decimal(t)
			w -= s
		}
		digits, scale = max(digits, w), max(scale, s)
	}
	switch {
	case decimals && digits+scale > 38:
		return ""
	case decimals:
		return decimalType(38, scale)
	case wide:
		return "HUGEINT"
	}
	return "BIGINT"
}

// decimal reads DECIMAL(w,s).
func decimal(t string) (w, s int) {
	_, _ = fmt.Sscanf(t, "DECIMAL(%d,%d)", &w, &s)
	return w, s
}

func decimalType(w, s int) string { return fmt.Sprintf("DECIMAL(%d,%d)", w, s) }
