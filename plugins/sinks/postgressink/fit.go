package postgressink

import "slices"

// Names of types in pg_type.
var (
	integers  = []string{"int2", "int4", "int8"}
	texts     = []string{"text", "varchar", "bpchar"}
	notOfText = []string{
		"int2", "int4", "int8", "numeric", "float4", "float8", "money", "oid", "bool", "bytea", "date", "time", "timetz", "timestamp", "timestamptz",
		"interval", "bit", "varbit",
	}
	holds = map[string][]string{ // what else than text may hold a type without changing a value
		"BOOLEAN": {"bool"}, "UUID": {"uuid"}, "BLOB": {"bytea"}, "BIT": {"varbit", "bit"}, "JSON": {"jsonb", "json"}, "INTERVAL": {"interval"},
		"DATE": {"date", "timestamp"}, "TIME": {"time"}, "TIME_NS": {"time"}, "TIME WITH TIME ZONE": {"timetz"},
		"TIMESTAMP": {"timestamp"}, "TIMESTAMP_S": {"timestamp"}, "TIMESTAMP_MS": {"timestamp"}, "TIMESTAMP_NS": {"timestamp"},
		"TIMESTAMP WITH TIME ZONE": {"timestamptz"}, "FLOAT": {"float4", "float8", "numeric"}, "DOUBLE": {"float8", "numeric"}, "DECIMAL": {"numeric"},
	}
	exactAsDouble = []string{"TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT", "UINTEGER"}
)

// misfit says why a column of the table can't take the type, or "". What
// PostgreSQL would refuse value by value, such as a number out of range, fits.
func (t *duckType) misfit(c *tableColumn) string {
	switch {
	case !c.array && slices.Contains(texts, c.typ), t.name == "NULL":
		return ""
	case t.array() && c.array:
		elem := *c
		elem.array = false
		return t.elem.misfit(&elem)
	case t.array():
		return "it is sent as an array; make it " + t.postgres() + ", or send JSON: to_json(…) in the stage"
	case c.array:
		return "that is no array"
	case t.nested():
		return among(c, "json", "jsonb")
	case t.name == "VARCHAR", t.name == "ENUM":
		if slices.Contains(notOfText, c.typ) {
			return "cast it in the stage"
		}
		return "" // PostgreSQL reads it
	}
	if why := t.rounded(c); why != "" {
		return why
	}
	allowed, ok := holds[t.name]
	if !ok || t.name == "DECIMAL" && t.scale == 0 { // whole numbers
		allowed = append(append([]string{"numeric"}, integers...), allowed...)
		if slices.Contains(exactAsDouble, t.name) {
			allowed = append(allowed, "float8")
		}
	}
	return among(c, allowed...)
}

func among(c *tableColumn, allowed ...string) string {
	if slices.Contains(allowed, c.typ) {
		return ""
	}
	return "cast it in the stage, or change the table"
}

// rounded says whether PostgreSQL would round values without a word: it does so to
// a type's digits.
func (t *duckType) rounded(c *tableColumn) string {
	if c.modifier < 0 {
		return ""
	}
	switch c.typ {
	case "numeric":
		scale := int((c.modifier - 4) & 0x7ff)
		if scale > 1023 { // negative since PostgreSQL 15
			scale -= 2048
		}
		if t.name == "DECIMAL" && t.scale > scale || scale < 0 {
			return "values would be rounded; round them in the stage"
		}
	case "time", "timetz", "timestamp", "timestamptz":
		if int(c.modifier) < t.fraction() {
			return "values would be rounded; date_trunc them in the stage, or change the table"
		}
	case "interval":
		return "parts of values would be cut off; change the table's type to interval"
	}
	return ""
}

// fraction is how many digits of a second values of a type of time have.
func (t *duckType) fraction() int {
	switch t.name {
	case "DATE", "TIMESTAMP_S":
		return 0
	case "TIMESTAMP_MS":
		return 3
	}
	return 6
}
