package pipeline

import "slices"

// Graph is a compiled job: everything that a worker needs to execute a run,
// and nothing that it has to decide. It is stored with the run as JSON.
type Graph struct {
	Job       string  `json:"job"`     // the job's name
	File      string  `json:"file"`    // absolute path of the job file
	Digest    string  `json:"digest"`  // hex SHA-256 over all that decides the answer: SQL, pinned inputs, settings, engine version
	Engine    string  `json:"engine"`  // version of DuckDB
	Memory    int64   `json:"memory"`  // bytes for all workers together; 0: decided at run time
	Workers   int     `json:"workers"` // 0: decided at run time
	Inputs    []Input `json:"inputs"`  // pinned sources
	Stages    []Node  `json:"stages"`  // one per declared stage, for people
	Edges     []Edge  `json:"edges"`   // one per reference from a stage or sink
	Tasks     []Task  `json:"tasks"`   // in topological order
	ShardSize int64   `json:"shard_size"`
	// Notes explain tasks and fused stages, by name.
	Notes map[string]*Note `json:"notes,omitempty"`
	Env   []string         `json:"env,omitempty"` // environment variables whose values the stored graph leaves out
}

// Relation is a reader that DuckDB runs over files.
type Relation struct {
	Function string `json:"function"`       // read_parquet, read_csv, read_json
	Args     string `json:"args,omitempty"` // further arguments as SQL, such as "header = true, delim = '|'"
}

// Column is one column of a relation; Type is DuckDB's name for it.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// File is one input file, pinned: a run refuses to read it once it differs.
type File struct {
	Path    string `json:"path"`
	Size    int64  `json:"size"`     // bytes
	ModTime int64  `json:"mod_time"` // nanoseconds since 1970
	Footer  uint32 `json:"footer"`   // CRC-32C of the footer; 0 for formats without one
	Rows    int64  `json:"rows"`     // -1 where only reading tells
}

// Input is a source with its files pinned.
type Input struct {
	Name     string   `json:"name"`
	Type     string   `json:"type"`
	Relation Relation `json:"relation"`
	Files    []File   `json:"files"`
	Columns  []Column `json:"columns"`
	Bytes    int64    `json:"bytes"`   // decoded bytes where footers tell, else file sizes
	OnDisk   int64    `json:"on_disk"` // bytes of all files
	// Uniform: all files have one schema, so that some of them bind as all do.
	Uniform bool  `json:"uniform,omitempty"`
	Rows    int64 `json:"rows"` // -1 where only reading tells
}

// Node is what became of one declared stage.
type Node struct {
	Name    string   `json:"name"`
	Task    string   `json:"task"` // the task that executes it: its own name, or the stage that it is fused into
	Columns []Column `json:"columns"`
	Reason  string   `json:"reason"` // why it runs per shard, or as one
}

// EdgeKind says how rows travel.
type EdgeKind string

// The kinds of edge.
const (
	Forward   EdgeKind = "forward"   // where the input is, shard by shard
	Hash      EdgeKind = "hash"      // to the bucket that the hash of the row's key gives
	Sort      EdgeKind = "sort"      // to the bucket whose range of the order the row falls into
	Range     EdgeKind = "range"     // a range of the key's values, read from where they lie
	Broadcast EdgeKind = "broadcast" // whole, into every shard
	Gather    EdgeKind = "gather"    // all of them into one task
)

// Edge is one reference of a stage or sink to its input.
type Edge struct {
	From   string   `json:"from"`
	To     string   `json:"to"`
	Kind   EdgeKind `json:"kind"`
	Fused  bool     `json:"fused"`  // nothing is written in between
	Reason string   `json:"reason"` // for people
}

// TaskKind says what executing a task means.
type TaskKind string

// The kinds of task.
const (
	Compute TaskKind = "compute" // SQL over inputs into parts
	Encode  TaskKind = "encode"  // parts into a sink's format
	Commit  TaskKind = "commit"  // a sink's files become visible
	Publish TaskKind = "publish" // the parts of a shard are sent to a sink
	Last    TaskKind = "last"    // a sink that was sent all parts finishes
)

// Lane is work that goes on beside that of other lanes: waiting for a service
// keeps neither the processor waiting nor other services. There is one for
// computing and one for each sink that is a service.
type Lane string

// Computing is the lane of what needs the processor.
const Computing Lane = "computing"

// Task is the unit that is cut into shards. Its name is that of its last
// stage, or "sink:encode" and so on with the sink's name and the task's kind.
type Task struct {
	Name    string      `json:"name"`
	Kind    TaskKind    `json:"kind"`
	Needs   []string    `json:"needs"`             // tasks that must be complete before it starts
	Follows string      `json:"follows,omitempty"` // task each of whose shards, once complete, makes the same shard of this one ready
	Views   []View      `json:"views,omitempty"`   // fused stages, in order; the statement is the last one
	Opaque  bool        `json:"opaque,omitempty"`  // the statement can't be a view
	Inputs  []TaskInput `json:"inputs,omitempty"`  // relations that the views name
	Output  Output      `json:"output"`
	Sink    *SinkPlan   `json:"sink,omitempty"` // of encode and commit
	Retry   Retry       `json:"retry"`
	Memory  int64       `json:"memory,omitempty"` // bytes; 0: the worker's share
	Buckets int         `json:"buckets"`
	Reads   []string    `json:"reads,omitempty"`  // columns of the forward source that the statement reads
	Pruned  int         `json:"pruned,omitempty"` // row groups that statistics exclude
	Shards  []Shard     `json:"-"`                // stored shard by shard with the coordinator
	Stage   string      `json:"stage,omitempty"`  // of a fragment: the stage that it is a part of
	Reason  string      `json:"reason,omitempty"` // of a fragment: why its work is divided as it is
	// Raw is what a worker computes instead once it sees that combining rows first
	// doesn't make them much fewer.
	Raw *Uncombined `json:"raw,omitempty"`
	// BucketBytes is the decoded bytes that a shard of hash inputs aims at.
	BucketBytes int64 `json:"bucket_bytes,omitempty"`
	// Overlap is how often a byte of the range inputs is read on average.
	Overlap float64 `json:"overlap,omitempty"`
}

// Uncombined is a statement whose rows, cast to the columns of another that
// combines them, stand for the rows of that one.
type Uncombined struct {
	SQL     string   `json:"sql"`
	Columns []Column `json:"columns"`
	Stored  []Column `json:"stored"` // what its parts hold
}

// Lane says which of a worker's loops takes the task's shards.
func (t *Task) Lane() Lane {
	if t.Kind == Publish || t.Kind == Last {
		return Lane("sink:" + t.Sink.Name)
	}
	return Computing
}

// defaultBacklog is the bytes of parts that may wait for a sink that doesn't say.
const defaultBacklog = 16 << 30

// Backlog is the bytes of parts that may wait for a publish task before the task
// that it follows is held back; 0 for other tasks.
func (t *Task) Backlog() int64 {
	switch {
	case t.Kind != Publish:
		return 0
	case t.Sink.MaxBacklog > 0:
		return t.Sink.MaxBacklog
	}
	return defaultBacklog
}

// Exchanges reports whether the task routes rows to buckets, or reads them there.
func (t *Task) Exchanges() bool {
	return t.Output.Route != nil || slices.ContainsFunc(t.Inputs, func(in TaskInput) bool { return in.Bucketed() })
}

// CopyOptions is how DuckDB's COPY writes the task's parts.
func (t *Task) CopyOptions() string {
	if t.Kind == Encode {
		return t.Sink.Copy
	}
	return "FORMAT parquet, COMPRESSION " + t.Output.Compression
}

// Extension is that of the task's parts, with the dot.
func (t *Task) Extension() string {
	if t.Kind == Encode {
		return t.Sink.Extension
	}
	return ".parquet"
}

// View is one stage's SQL under its name.
type View struct {
	Name string `json:"name"`
	SQL  string `json:"sql"`
}

// TaskInput is one relation that a task's SQL names: a source or the parts of
// another task.
type TaskInput struct {
	Name    string   `json:"name"`
	Kind    EdgeKind `json:"kind"`             // Forward, Hash, Range: what the shard says of it; else whole
	Source  string   `json:"source,omitempty"` // name of an Input
	Task    string   `json:"task,omitempty"`   // name of a Task
	Columns []Column `json:"columns"`
	Key     []string `json:"key,omitempty"`   // of Hash and Range: columns
	Hash    []string `json:"hash,omitempty"`  // of Hash and Range: SQL expressions for the key that hash alike in every input
	Split   bool     `json:"split,omitempty"` // of Hash: a bucket's rows may be divided further, the other inputs repeated
	Where   string   `json:"where,omitempty"` // of Broadcast: only the rows that satisfy this
}

// Divided reports whether each shard sees its own part of the input.
func (i *TaskInput) Divided() bool {
	return i.Kind == Forward || i.Kind == Range || i.Bucketed()
}

// Bucketed reports whether a shard sees buckets of the input, which its
// producer has routed.
func (i *TaskInput) Bucketed() bool { return i.Kind == Hash || i.Kind == Sort }

// Output is what a compute task writes.
type Output struct {
	Columns []Column `json:"columns"`
	// Stored is what the parts hold, column by column: the same as Columns,
	// or another type where Parquet has no such type and the reader casts back.
	Stored      []Column `json:"stored"`
	Compression string   `json:"compression"`
	Ordered     bool     `json:"ordered"` // the statement ends in ORDER BY
	// Dynamic: the columns depend on the data, so Columns and Stored are not all.
	Dynamic bool `json:"dynamic,omitempty"`
	// Route, when set, decides the bucket of each row.
	Route *Route `json:"route,omitempty"`
}

// Route sends each row to a bucket of the task that reads it.
type Route struct {
	Key     []string `json:"key,omitempty"` // SQL expressions over the columns: bucket = JCH(hash(key), buckets)
	Buckets int      `json:"buckets"`
	// Sort is an SQL expression over the columns whose order is the one asked for;
	// Bounds is the task whose parts are a sample of its values. Buckets are then
	// ranges of it that hold about as many rows each.
	Sort   string `json:"sort,omitempty"`
	Bounds string `json:"bounds,omitempty"`
}

// SinkPlan is how a sink's files come to be.
type SinkPlan struct {
	Name        string   `json:"name"`
	Type        string   `json:"type"`
	From        string   `json:"from"` // the task whose parts it publishes
	Target      string   `json:"target"`
	SingleFile  bool     `json:"single_file"`
	Extension   string   `json:"extension"`
	Replace     bool     `json:"replace"`
	Copy        string   `json:"copy"`             // options of DuckDB's COPY that write the format
	Linked      bool     `json:"linked"`           // parts are published as they are, nothing is encoded
	Encode      string   `json:"encode,omitempty"` // the encode task, when not linked
	Columns     []Column `json:"columns"`
	Compression string   `json:"compression"`

	// Of a sink that is a service.
	Publication *Publication `json:"publication,omitempty"`
	Settings    []Option     `json:"settings,omitempty"`
	MaxMemory   int64        `json:"max_memory,omitempty"` // bytes of rows on their way; 0: 50 MiB
	MaxBacklog  int64        `json:"max_backlog,omitempty"`
}

// defaultInFlight is the bytes of rows that may be on their way to a sink that
// doesn't say.
const defaultInFlight = 50 << 20

// InFlight is the bytes of rows that may be on their way to the sink, of all
// workers of a machine together.
func (p *SinkPlan) InFlight() int64 {
	if p.MaxMemory > 0 {
		return p.MaxMemory
	}
	return defaultInFlight
}

// Shard is one unit of a task.
type Shard struct {
	Ordinal int     `json:"ordinal"`
	Key     string  `json:"-"`                // decides the bucket: file and first row group, or the ordinal
	Slices  []Slice `json:"slices,omitempty"` // of the forward input, when that is a source
	Rows    int64   `json:"rows"`             // expected input rows; -1 unknown
	Bytes   int64   `json:"bytes"`            // decoded, or file sizes
	OnDisk  int64   `json:"on_disk"`          // bytes of its row groups as stored
	// Range is the range of the key of the range inputs.
	Range *KeyRange `json:"range,omitempty"`
}

// KeyRange is the values of a key from Low to below High, as SQL literals, ""
// for no bound, or the NULLs. Files lists, by input, the files (indices into
// Input.Files) that may hold such rows.
type KeyRange struct {
	Low   string           `json:"low,omitempty"`
	High  string           `json:"high,omitempty"`
	Null  bool             `json:"null,omitempty"`
	Files map[string][]int `json:"files"`
}

// Slice is a run of whole row groups of one file, or the whole file. A shard
// has either one slice, or several whole files.
type Slice struct {
	File  int   `json:"file"`            // index into Input.Files
	First int64 `json:"first,omitempty"` // first row
	Last  int64 `json:"last,omitempty"`  // last row, inclusive
	Whole bool  `json:"whole,omitempty"`
	// Groups is the range of row groups, for people: [first, last].
	Groups [2]int `json:"groups"`
}

// Part is one immutable file of a shard's output, as its completion recorded it.
type Part struct {
	Name     string `json:"name"` // file name within the run's folder
	Rows     int64  `json:"rows"`
	Bytes    int64  `json:"bytes"`
	Checksum string `json:"checksum"` // "crc32c:" and eight hex digits
	// Buckets is the number of rows in each bucket, when the task routes them.
	Buckets []int64 `json:"buckets,omitempty"`
	Raw     bool    `json:"raw,omitempty"` // it holds what the task's Raw gives
}

// StoredPart is a part and where it lies.
type StoredPart struct {
	Part
	Path string
}
