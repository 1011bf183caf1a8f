package sinks

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/pipeline"
)

// Remote is a sink type that sends rows to a service. Implementations have no
// state.
type Remote interface {
	// Spec describes the type to the job file's decoder.
	Spec() pipeline.PluginSpec
	// Publication checks a sink's settings without asking the service, and tells
	// what is to be sent of a stage's columns. What is wrong is an error, best
	// pipeline.SettingErrors, joined.
	Publication(s pipeline.Sink, columns []pipeline.Column, bind pipeline.Binder) (*pipeline.Publication, error)
	// Open prepares sending for one process. The service is asked nothing yet.
	Open(p *pipeline.SinkPlan, o Options) (Publisher, error)
}

// Sweeper is a Remote whose killed attempts leave things at the service that
// nobody would look for.
type Sweeper interface {
	// Sweep removes what processes of ended runs have left, and names it.
	Sweep(ctx context.Context, p *pipeline.SinkPlan, ended func(run string) bool) (removed []string, err error)
}

// Options of a Publisher.
type Options struct {
	Run, Job, JobHash string
	// Gate bounds the bytes on their way to the service, as this process may have
	// them. It is safe for concurrent use.
	Gate Gate
	// Warn tells people what they should know although nothing failed.
	Warn func(message string)
}

// Gate is asked before bytes are sent and told when they have arrived, or not.
type Gate interface {
	// Acquire waits until bytes more may be on their way, or for the end of ctx.
	Acquire(ctx context.Context, bytes int64) error
	// Release gives back what one Acquire took, and tells what came of it. It
	// doesn't block.
	Release(bytes int64, outcome backpressure.Outcome)
	// Limit is the most bytes that may be on their way, as of now.
	Limit() int64
}

// Publisher sends the rows of one sink. The worker calls it from one goroutine.
type Publisher interface {
	// Check asks the service whether the sink will be able to send: addresses,
	// credentials, names. It is called before a run starts.
	Check(ctx context.Context) error
	// Publish sends a part. It returns when everything has arrived as the
	// sink's delivery says, or with an error; then the part is tried again, unless
	// the error is pipeline.Permanent.
	Publish(ctx context.Context, p *Part) (Result, error)
	// Last is called once all parts are sent, where the Publication asks for it:
	// sent are the Objects of each, in the order of the shards. It may be repeated
	// and must then come to the same.
	Last(ctx context.Context, sent [][]pipeline.Part) (Result, error)
	Close() error
}

// Part is what a shard of the sink's stage gives: the same rows in the same order
// in every attempt.
type Part struct {
	// ID is the same in every attempt and no other part's in any run.
	ID       string
	Shard    int
	Rows     int64
	Checksum string // of the content
	Attempt  int64  // 1 the first; higher ones may follow on one that is still under way
	// FirstAttempt is when the first attempt began at the earliest; zero: this is it.
	FirstAttempt time.Time

	Batches iter.Seq2[arrow.RecordBatch, error] // the rows; each batch is valid until the next
	Files   []pipeline.StoredPart               // instead of them, where the Publication says Files
}

// Result is what became of a part.
type Result struct {
	Rows    int64           // arrived
	Bytes   int64           // sent, as the service counts them
	Resent  int64           // requests that were made again
	Already bool            // an earlier attempt had sent all of it
	Objects []pipeline.Part // what the service holds of it by now; remembered for Last
}

// Rejections collects rows that a service will never take, of one part. Its zero
// value is ready to use; it is not safe for concurrent use.
type Rejections struct {
	count int64
	first []string
}

// mostReasons is how many rows an error names.
const mostReasons = 10

// Add notes that a row, numbered from 0 within its part, is rejected.
func (r *Rejections) Add(ordinal int64, why error) {
	if r.count++; len(r.first) < mostReasons {
		r.first = append(r.first, fmt.Sprintf("row %d: %v", ordinal, why))
	}
}

// Err is what is to be told about them, for good; nil when there are none.
func (r *Rejections) Err(part string) error {
	if r.count == 0 {
		return nil
	}
	more := ""
	if n := r.count - int64(len(r.first)); n > 0 {
		more = fmt.Sprintf("; and %d more", n)
	}
	return pipeline.Permanent(fmt.Errorf("%d rows of %s are refused: %s%s", r.count, part, strings.Join(r.first, "; "), more))
}

// Settings reads a sink's settings, before and after they were stored as JSON.
type Settings []pipeline.Option

func (s Settings) value(key string) any { return pipeline.Setting(s, key) }

// Has reports whether the job gives the setting.
func (s Settings) Has(key string) bool { return s.value(key) != nil }

// String returns a text, or other when the job does not say.
func (s Settings) String(key, other string) string {
	if v := s.value(key); v != nil {
		return fmt.Sprint(v)
	}
	return other
}

// Bool returns a truth value, or other when the job does not say.
func (s Settings) Bool(key string, other bool) bool {
	if v, ok := s.value(key).(bool); ok {
		return v
	}
	return other
}

// Int returns a number, or other when the job does not say.
func (s Settings) Int(key string, other int64) int64 {
	switch v := s.value(key).(type) {
	case int64:
		return v
	case float64:
		return int64(v)
	}
	return other
}

// Strings returns a list, or nil.
func (s Settings) Strings(key string) (list []string) {
	items, _ := s.value(key).([]any)
	for _, item := range items {
		list = append(list, fmt.Sprint(item))
	}
	return list
}

// Pairs returns a mapping in the order of the file, or nil.
func (s Settings) Pairs(key string) (pairs [][2]string) {
	switch v := s.value(key).(type) {
	case [][2]string:
		return v
	case []any:
		for _, item := range v {
			if pair, ok := item.([]any); ok && len(pair) == 2 {
				pairs = append(pairs, [2]string{fmt.Sprint(pair[0]), fmt.Sprint(pair[1])})
			}
		}
	}
	return pairs
}
