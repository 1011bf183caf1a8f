package pipeline

import (
	"context"
	"errors"
)

// Catalog lists the source and sink types that a build of kq has. It is filled
// by one visible list in cmd/kq and passed in.
type Catalog struct {
	Sources map[string]PluginSpec
	Sinks   map[string]PluginSpec
}

// PluginSpec describes a source or sink type to the job file's decoder.
type PluginSpec struct {
	Extensions   []string              // with the dot; the first is the one that sinks write
	Options      map[string]OptionSpec // what stands under options:
	Compressions []string              // allowed values of compression:, the default first; sinks only

	// Remote: the sink sends rows to a service. Settings are the keys beside type:
	// and from: that it has, and Required those that it can't do without.
	Remote   bool
	Replaces bool // it has overwrite:
	Settings map[string]OptionSpec
	Required []string
}

// Publication is how a sink sends rows to a service.
type Publication struct {
	// Select is what follows SELECT to make of the stage's columns those that the
	// sink sends. "" stands for all columns as they are. Where RecordID is set,
	// the column __kq_id is there too: a text that is the same for a row in every
	// attempt, and no other's.
	Select   string `json:"select,omitempty"`
	RecordID bool   `json:"record_id,omitempty"`
	// Files: the sink sends files, not rows; Copy and Extension say which.
	Files     bool   `json:"files,omitempty"`
	Copy      string `json:"copy,omitempty"`
	Extension string `json:"extension,omitempty"`
	// Last: when all is sent, the sink has something to do with all of it, once,
	// such as writing a manifest.
	Last     bool     `json:"last,omitempty"`
	Target   string   `json:"target"` // for people: where rows go
	Delivery Delivery `json:"delivery"`
	Reason   string   `json:"reason"` // for people: why this delivery
}

// OptionSpec is one option of a source or sink type.
type OptionSpec struct {
	Type   OptionType
	Values []string // when not empty, the only allowed ones
	Doc    string   // one line
	Secret bool     // of a sink's setting: the value is never shown
	// SecretKeys are those of a map whose values are never shown.
	SecretKeys []string
}

// OptionType is the type of an option's value in the job file.
type OptionType string

// The types of options. A StringList also takes a single string; a StringMap
// maps strings to strings (such as columns: {a: BIGINT}).
const (
	StringOption OptionType = "string"
	BoolOption   OptionType = "bool"
	IntOption    OptionType = "int"
	FloatOption  OptionType = "float"
	StringList   OptionType = "list of strings"
	StringMap    OptionType = "map of strings"
)

// Engine answers what Compile asks about SQL and data. It is not safe for
// concurrent use.
type Engine interface {
	// Version is DuckDB's version.
	Version() string
	// Known tells the names of all sources and stages, before the first Parse.
	Known(names []string)
	// Parse checks that sql is one SELECT that reads nothing but tables, and
	// reports which tables, and for which of them the statement is row-wise.
	Parse(ctx context.Context, sql string) (*Statement, []SQLError)
	// Declare makes name known to Bind as a table of these columns.
	Declare(ctx context.Context, name string, columns []Column) error
	// Bind resolves the statement against the declared tables and returns the
	// columns of its result.
	Bind(ctx context.Context, sql string) ([]Column, *SQLError)
	// Inspect reads the schema of a relation, and the footers of its files.
	Inspect(ctx context.Context, r Relation, files []string) (*Inspection, error)
	// Reads returns the columns of a source that a task's statement reads, by
	// DuckDB's own plan for it.
	Reads(ctx context.Context, g *Graph, t *Task, source string) ([]string, error)
	// Prune reports for each row group whether some row of it may satisfy all
	// predicates, by its statistics. Unknown means true.
	Prune(ctx context.Context, in *Inspection, predicates []Predicate) ([]bool, error)
	// Split cuts a statement that isn't row-wise into fragments, each parallel in
	// a key that its inputs are divided by. Without a way to do so there is one
	// fragment, which gathers; its reason says why.
	Split(ctx context.Context, r *SplitRequest) ([]Fragment, error)
	// Stored returns the types that a Parquet part holds for columns such that
	// reading casts back to the very same values, or an error that names the
	// column that no part can hold.
	Stored(columns []Column) ([]Column, error)
	// Published returns the types that a published Parquet file holds: what
	// DuckDB writes, but for integers wider than 64 bits, which it would round.
	Published(columns []Column) []Column
}

// Statement is what the analysis knows about one SELECT.
type Statement struct {
	Tables []TableRef // each table once, in order of first appearance
	// Ordered: the statement's last step is ORDER BY, so its row order counts.
	Ordered bool
	// Opaque says why the statement has to run whole, as nothing is known about
	// it but that it is safe (such as PIVOT with values found in the data). It
	// can't become a view either. Empty for others.
	Opaque string
}

// TableRef is one table that a statement reads.
type TableRef struct {
	Name   string // as written
	Offset int    // byte offset of the first reference in the SQL; -1 unknown
	Count  int    // how often it is referenced
	// Gather says why the statement is not row-wise in this table, with every
	// other table whole ("count(*) is an aggregate"). Empty: it is row-wise: the
	// union of the statement's results over any division of the table's rows is
	// its result over all of them.
	Gather string
	Words  Words // what Gather speaks of, in the statement itself
	// Predicates are conjuncts of the filter that every result row's row of this
	// table satisfies; empty where Gather is set.
	Predicates []Predicate
}

// Words is a piece of a stage's SQL, in bytes. An End of 0 means none.
type Words struct {
	Stage      string
	Start, End int
}

// Predicate is "column operator value" on a column of a table.
type Predicate struct {
	Column string
	Op     string   // =, <, <=, >, >=, IN, IS NULL, IS NOT NULL
	Values []string // SQL literals: one, or several for IN, none for IS
}

// SQLError is what is wrong with a statement, and where.
type SQLError struct {
	Offset  int // byte offset in the SQL; -1 unknown
	Message string
	Hint    string
}

// Inspection is what footers and a first look tell about a relation.
type Inspection struct {
	Columns []Column
	Files   []File
	Groups  []RowGroup // in file order; none for formats without row groups
	// Grouped is true for formats with row groups, even when there are none.
	Grouped bool
	// Uniform is true when all files have the same schema, and none of it comes
	// from their paths or from options.
	Uniform bool
	// Rowable is true when rows can be addressed by their number in the file.
	Rowable bool
}

// RowGroup is one row group of one file.
type RowGroup struct {
	File  int   // index into Files
	Index int   // within the file
	First int64 // number of its first row within the file
	Rows  int64
	// Bytes and OnDisk are decoded and stored bytes, one entry a column of
	// Inspection.Columns (columns that the file lacks have 0).
	Bytes, OnDisk []int64
	// Min and Max are column statistics as text that DuckDB can cast to the
	// column's type; a column that lacks them is absent. Nulls likewise.
	Min, Max map[string]string
	Nulls    map[string]int64
}

// Resources is what executing a task may use.
type Resources struct {
	Threads    int
	Memory     int64  // bytes of DuckDB's memory limit
	Spill      string // folder for temporary files
	SpillLimit int64  // bytes of temporary files; 0: 90 % of the free space
	OutDir     string // the folder that results are written to
	// Parts returns a task's parts by shard.
	Parts func(task string) ([][]StoredPart, error)
}

// Written is a file of a shard's result.
type Written struct {
	Path    string
	Rows    int64
	Buckets []int64 // rows by bucket, when the task routes them
	Raw     bool    // it holds what the task's Raw gives
}

// Permanent marks an error that trying again can't mend, such as a value that
// can't be cast. nil stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

// IsPermanent reports whether err or an error it wraps is marked permanent.
func IsPermanent(err error) bool {
	var p permanent
	return errors.As(err, &p)
}

type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// SplitRequest is a statement, and what is known of its inputs.
type SplitRequest struct {
	Name   string // of the stage: the last fragment gets it, the others are named after it
	SQL    string
	Views  []View // stages that the statement reads as if they stood within it
	Inputs []SplitInput
	Small  int64 // decoded bytes up to which every bucket may read an input whole
	Always bool  // exchange even what is small
	// Budget is the decoded bytes up to which one worker computes the statement
	// unless ranges of a key divide it; 0 means any number. Split sets Work, what
	// it reads.
	Budget int64
	Work   int64
	// Clustered reports whether shards may be ranges of one column of each of
	// these inputs, as their statistics show that few row groups overlap; key is
	// the column by input.
	Clustered func(key map[string]string) bool
}

// Fits reports whether one worker may as well compute the whole statement.
func (r *SplitRequest) Fits() bool {
	return !r.Always && (r.Budget == 0 || r.Work <= r.Budget)
}

// SplitInput is a source or the parts of a task.
type SplitInput struct {
	Name    string
	Columns []Column
	Bytes   []int64 // decoded bytes, column by column; nil: only Total is known
	Total   int64   // decoded bytes; -1 unknown
}

// Fragment is a part of a statement that DuckDB runs whole over each shard.
type Fragment struct {
	Name    string
	SQL     string
	Columns []Column
	Inputs  []FragmentInput
	Kind    EdgeKind // how its work is divided: Forward, Hash, Sort, Range, or Gather for not at all
	// Route is SQL expressions over its columns: rows that agree in all of them
	// go to the same bucket of the fragment that reads it. Empty: not routed.
	Route []string
	// Sort is an SQL expression over its columns: rows go to the bucket whose range
	// it falls into, by the fragment Bounds, which samples it. Empty: not sorted.
	Sort, Bounds string
	// Raw gives the same columns as SQL without combining rows first, for data
	// that combining doesn't make smaller. nil: there is no such choice.
	Raw    *Uncombined
	Reason string // for people
	Offset int    // byte offset in the stage's SQL of what Reason speaks of; -1 unknown
	Words  Words  // what Reason speaks of, in the stage's SQL or in that of one of its views
	Does   string // what it computes, for people
	// Means says, for people, what columns stand for whose names Split made up.
	Means map[string]string
	Bytes int64  // rough guess of the decoded size of its output
	Order string // ORDER BY that its rows are in, over its columns; "" none
	// Sooner: it is a Gather because one worker that sorts is done sooner, not for
	// want of a way to divide it.
	Sooner bool
}

// FragmentInput is one relation that a fragment's SQL names.
type FragmentInput struct {
	Name string   // as the SQL names it
	From string   // the fragment that provides it under that name; "" for the input or fragment of that name
	Kind EdgeKind // Forward, Hash and Range are divided; else every shard reads it whole
	Key  []string // the columns that a Hash or Range divides it by
	// Split: the fragment is row-wise in this Hash input, so that the rows of a
	// bucket may be divided further while the other inputs are repeated.
	Split bool
	// Hash is SQL expressions for the key that hash alike in every input.
	Hash []string
	// Columns and Where are what has to be read of a Broadcast: these columns (nil:
	// all) of the rows that satisfy an SQL condition ("": all).
	Columns []string
	Where   string
	Reason  string
}
