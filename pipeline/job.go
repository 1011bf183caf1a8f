package pipeline

import "time"

// Job is one job file, decoded. It is immutable once decoded.
type Job struct {
	File    string // path of the file, as given
	Name    string
	Sources []Source // in file order, as are Stages and Sinks
	Stages  []Stage
	Sinks   []Sink

	Workers   int           // worker processes; 0 means decided at run time
	Memory    int64         // bytes for all workers of a machine together; 0 means decided at run time
	ShardSize int64         // decoded bytes that a shard aims at
	Exchange  Exchange      // of the stages that don't say
	State     string        // state directory; "" means .kq beside the file
	Retention time.Duration // how long a finished run keeps its shards and parts

	// Env lists the environment references that the file made. Their values
	// must not be printed, logged or stored.
	Env []EnvRef

	// Wrong is set beside problems: the job is checked further, but not planned.
	Wrong bool
	// Broken lists names that the file declares but that could not be decoded, so
	// that what refers to them is no problem as well.
	Broken []string

	// Positions maps a dotted path ("sinks.lake.uri") to the place of its
	// value in the file, and "sinks.lake" to the place of its key.
	Positions map[string]Pos
}

// EnvRef is one environment variable that a job file refers to.
type EnvRef struct {
	Name  string
	Value string
	// FromFile is true when the variable was unset and the value is the
	// default that stands in the file: it is no secret then.
	FromFile bool
}

// Source is one declared input.
type Source struct {
	Name    string
	Type    string   // parquet, csv, json
	URIs    []string // files, folders or globs; relative to the job file's folder
	Options []Option // passed on to the reader, by an allow-list, in file order
}

// Option is one reader or writer option. Value is a string, bool, int64,
// float64, []any or map[string]any of these.
type Option struct {
	Key   string
	Value any
}

// Stage is one SQL statement over sources and other stages.
type Stage struct {
	Name        string
	SQL         string
	Materialize bool
	PerShard    bool  // scope: shard
	Memory      int64 // bytes; 0 means the worker's share
	Exchange    Exchange
	Retry       Retry

	// SQLAt translates a byte offset in SQL into a place in the file.
	SQLAt func(offset int) Pos `json:"-"`
}

// Retry is how often and how soon a shard is tried again.
type Retry struct {
	Attempts int           // in all, the first included; at least 1
	Backoff  time.Duration // before the second attempt; doubles from there
}

// Sink is one declared output.
type Sink struct {
	Name        string
	Type        string // parquet, csv, json, kafka, …
	From        string // a stage or source
	URI         string // of files: a folder, or one file when it ends in the format's extension; absolute
	Compression string // "" means the type's default
	Replace     bool   // overwrite: replace
	Options     []Option

	// Settings are the keys that only this type of sink has, such as brokers.
	Settings []Option
	Delivery Delivery // "" means the strongest that costs nothing
	Retry    Retry    // of a part that a service doesn't take
	// MaxMemory is the bytes of rows that may be on their way to the sink, on all
	// workers of a machine together; 0 means 50 MiB.
	MaxMemory int64
	// MaxBacklog is the bytes of parts that may wait for the sink before what makes
	// them is held back; 0 means 16 GiB.
	MaxBacklog int64
}

// Setting returns the value of a setting: a string, bool, int64, float64, list of
// any, or list of pairs of strings by its type; nil when the job does not say.
func (s *Sink) Setting(key string) any { return Setting(s.Settings, key) }

// Setting returns the value that a list has under a key, or nil.
func Setting(settings []Option, key string) any {
	for _, o := range settings {
		if o.Key == key {
			return o.Value
		}
	}
	return nil
}

// Delivery is what is promised about the rows that a sink gets.
type Delivery string

// The deliveries. Rows are never lost.
const (
	AtLeastOnce     Delivery = "at-least-once"    // a row may be there again after a failure
	EffectivelyOnce Delivery = "effectively-once" // readers see every row once
)

// Exchange says when rows may be moved between workers so that a statement that
// isn't row-wise runs on all of them.
type Exchange string

// The values of Exchange; "" means ExchangeAuto.
const (
	ExchangeAuto   Exchange = "auto"   // where one worker would take longer or run out of memory
	ExchangeAlways Exchange = "always" // wherever it can be done
	ExchangeNever  Exchange = "never"  // one worker computes the whole
)
