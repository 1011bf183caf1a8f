package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// column is one of a result.
type column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// answer is what a result is compared by: all values in the types that DuckDB
// gives them, whatever the order of the rows. Only doubles, which depend on the
// order of additions, may differ a little.
type answer struct {
	Columns []column  `json:"-"`
	Rows    int64     `json:"rows"`
	Hash    string    `json:"hash"`    // of all columns but doubles
	Doubles []float64 `json:"doubles"` // sums of the others
}

func (a answer) String() string {
	s := fmt.Sprintf("%d rows %s", a.Rows, a.Hash)
	for _, d := range a.Doubles {
		s += fmt.Sprintf(" %.9g", d)
	}
	return s
}

// differs says how an answer is not the reference.
func (a answer) differs(ref answer) error {
	same := a.Rows == ref.Rows && a.Hash == ref.Hash && len(a.Doubles) == len(ref.Doubles)
	for i := 0; same && i < len(a.Doubles); i++ {
		same = math.Abs(a.Doubles[i]-ref.Doubles[i]) <= 1e-6*math.Abs(ref.Doubles[i])
	}
	if !same {
		return fmt.Errorf("%w: %s; duckdb's is %s", errWrong, a, ref)
	}
	return nil
}

// errWrong means that a system gave another answer than DuckDB.
var errWrong = errors.New("wrong answer")

// reading is a relation over files in this order.
func reading(files ...string) string {
	return "read_parquet(['" + strings.Join(files, "', '") + "'], hive_partitioning = false)"
}

// columns are those of a result.
func (b *bench) columns(from string) (all []column, err error) {
	text, err := b.query("SELECT to_json(list({name: column_name, type: column_type}))::VARCHAR FROM (DESCRIBE SELECT * FROM " + from + ")")
	if err != nil {
		return nil, err
	}
	return all, json.Unmarshal([]byte(text), &all)
}

// answer reads a system's result. columns are those of the reference, nil for
// the reference itself.
func (b *bench) answer(glob string, columns []column) (a answer, err error) {
	files, err := filepath.Glob(glob)
	if err != nil || len(files) == 0 {
		return a, errors.Join(fmt.Errorf("%w: there is no file %s", errWrong, glob), err)
	}
	from := reading(files...)
	if a.Columns, err = b.columns(from); err != nil {
		return a, err
	}
	name := func(c column) string { return c.Name }
	if columns == nil {
		columns = a.Columns
	} else if got, want := names(a.Columns, name), names(columns, name); !slices.Equal(got, want) {
		return a, fmt.Errorf("%w: columns %v; duckdb's are %v", errWrong, got, want)
	}
	text, err := b.query(comparison(columns, from))
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal([]byte(text), &a)
}

// ordered checks that a result is in the order of a column, file after file by
// their names, and says what is less than that but allowed.
func (b *bench) ordered(p peer, column string) (note string, err error) {
	files, err := filepath.Glob(p.output(b.work()))
	if err != nil {
		return "", err
	}
	err = b.rising(column, files...)
	o, ok := p.(overlapping)
	if !errors.Is(err, errWrong) || !ok || !o.overlapping() {
		return "", err
	}
	for _, f := range files {
		if err := b.rising(column, f); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d files in order each, not together", len(files)), nil
}

func (b *bench) rising(column string, files ...string) error {
	// A window without any clause follows the order of the files.
	text, err := b.query(fmt.Sprintf("SELECT count(*)::VARCHAR FROM (SELECT %s < lag(%[1]s) OVER () AS falls FROM %s) WHERE falls", column, reading(files...)))
	if err == nil && text != "0" {
		err = fmt.Errorf("%w: out of order in %s places", errWrong, text)
	}
	return err
}

// comparison is the statement that gives an answer.
func comparison(columns []column, from string) string {
	exact, doubles := []string{"''"}, []string{}
	for _, c := range columns {
		if c.Type == "DOUBLE" || c.Type == "FLOAT" {
			doubles = append(doubles, fmt.Sprintf("coalesce(sum(%q::DOUBLE), 0)", c.Name))
		} else {
			exact = append(exact, fmt.Sprintf("%q::%s", c.Name, c.Type))
		}
	}
	return fmt.Sprintf("SELECT to_json({rows: count(*), hash: coalesce(sum(hash(%s) >> 20), 0)::VARCHAR, doubles: [%s]})::VARCHAR FROM %s",
		strings.Join(exact, ", "), strings.Join(doubles, ", "), from)
}

// rows counts those of a result from the files' footers.
func (b *bench) rows(glob string) (n int64, err error) {
	text, err := b.query("SELECT sum(num_rows)::BIGINT::VARCHAR FROM parquet_file_metadata('" + glob + "')")
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(text, &n)
	return n, err
}

// query runs a statement in a process of its own: the memory that it takes would
// otherwise count as that of every process started later (Linux hands a
// process's high-water mark on to its children).
func (b *bench) query(statement string) (string, error) {
	out, err := exec.Command(b.duckdb, "-threads", fmt.Sprint(b.settings.threads), "-spill", filepath.Join(b.tmp, "spill"), "-print", statement).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", statement, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func names[T any](items []T, name func(T) string) []string {
	all := make([]string, len(items))
	for i, it := range items {
		all[i] = name(it)
	}
	return all
}
