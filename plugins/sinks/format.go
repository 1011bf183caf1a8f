package sinks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kinequet/kq/pipeline"
)

// Formats of a message's value, for a setting of that name.
var Formats = pipeline.OptionSpec{
	Type: pipeline.StringOption, Values: []string{"json", "csv", "raw"},
	Doc: "json: an object of all columns (default); csv: a line of all columns; raw: what value: gives",
}

// Value returns the SQL expression that makes a message of a row, by a sink's
// settings format, columns and value.
func Value(s Settings, columns []pipeline.Column, bind pipeline.Binder) (string, error) {
	format, value := s.String("format", "json"), s.String("value", "")
	switch {
	case format == "raw" && value == "":
		return "", &pipeline.SettingError{Key: "format", Message: "raw sends what value: gives, and there is none", Hint: "add value: with a column or an expression of text or BLOB"}
	case format == "raw" && s.Has("columns"):
		return "", &pipeline.SettingError{Key: "columns", Message: "raw sends what value: gives, not columns"}
	case format == "raw":
		return Text("value", value, bind)
	case value != "":
		return "", &pipeline.SettingError{Key: "value", Message: format + " is made of columns", Hint: "name some of them by columns:, make others in a stage, or set format: raw"}
	}
	if s.Has("columns") {
		var err error
		if columns, err = choose(s.Strings("columns"), columns); err != nil {
			return "", err
		}
	}
	if format == "csv" {
		return line(columns), nil
	}
	return object(columns), nil
}

// choose picks columns by their names, in the order of these.
func choose(names []string, columns []pipeline.Column) (some []pipeline.Column, err error) {
	for _, name := range names {
		i := slices.IndexFunc(columns, func(c pipeline.Column) bool { return strings.EqualFold(c.Name, name) })
		if i < 0 {
			all := make([]string, len(columns))
			for j, c := range columns {
				all[j] = c.Name
			}
			return nil, &pipeline.SettingError{Key: "columns", Message: fmt.Sprintf("there is no column %q", name), Hint: "the columns are " + strings.Join(all, ", ")}
		}
		some = append(some, columns[i])
	}
	return some, nil
}

// Text returns an expression of a setting as one that gives text, or bytes where
// it is a BLOB.
func Text(key, expression string, bind pipeline.Binder) (string, error) {
	columns, err := bind(expression)
	switch {
	case err != nil:
		return "", &pipeline.SettingError{Key: key, Message: err.Error(), Hint: "it is an SQL expression over the columns of from:"}
	case len(columns) != 1:
		return "", &pipeline.SettingError{Key: key, Message: fmt.Sprintf("it gives %d columns, not one", len(columns))}
	}
	switch t := columns[0].Type; {
	case t == "VARCHAR", t == "BLOB":
		return "(" + expression + ")", nil
	case t == "JSON", !strings.ContainsAny(t, "[("), strings.HasPrefix(t, "DECIMAL("), strings.HasPrefix(t, "ENUM("):
		return "CAST((" + expression + ") AS VARCHAR)", nil
	default: // nested
		return "CAST(to_json(" + expression + ") AS VARCHAR)", nil
	}
}

// object is a JSON object of columns.
func object(columns []pipeline.Column) string {
	items := make([]string, len(columns))
	for i, c := range columns {
		items[i] = ident(c.Name) + " := " + jsonValue(ident(c.Name), c.Type)
	}
	return "CAST(to_json(struct_pack(" + strings.Join(items, ", ") + ")) AS VARCHAR)"
}

// jsonValue is a column as JSON can hold it: JSON has no NaN, and no bytes.
func jsonValue(column, typ string) string {
	switch typ {
	case "DOUBLE", "FLOAT":
		return "CASE WHEN isfinite(" + column + ") THEN " + column + " END"
	case "BLOB":
		return "base64(" + column + ")"
	}
	return column
}

// line is a line of CSV (RFC 4180, without its end): NULL is empty, and an empty
// text is "".
func line(columns []pipeline.Column) string {
	items := make([]string, len(columns))
	for i, c := range columns {
		text := "CAST(" + ident(c.Name) + " AS VARCHAR)"
		switch {
		case c.Type == "BLOB":
			text = "base64(" + ident(c.Name) + ")"
		case strings.HasSuffix(c.Type, "]"), strings.HasPrefix(c.Type, "STRUCT("), strings.HasPrefix(c.Type, "MAP("):
			text = "CAST(to_json(" + ident(c.Name) + ") AS VARCHAR)"
		}
		if plainCSV(c.Type) {
			items[i] = "coalesce(" + text + ", '')"
			continue
		}
		items[i] = fmt.Sprintf(`CASE WHEN %[1]s IS NULL THEN '' WHEN %[1]s = '' OR regexp_matches(%[1]s, '[",\r\n]') THEN '"' || replace(%[1]s, '"', '""') || '"' ELSE %[1]s END`, text)
	}
	return strings.Join(items, " || ',' || ")
}

// plainCSV reports whether no value of a type has to be quoted.
func plainCSV(typ string) bool {
	switch typ {
	case "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT", "UHUGEINT",
		"FLOAT", "DOUBLE", "DATE", "TIME", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "UUID":
		return true
	}
	return strings.HasPrefix(typ, "DECIMAL(")
}

func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
