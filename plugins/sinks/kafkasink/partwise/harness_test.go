package partwise

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/kinequet/kq/plugins/sinks/kafkasink/kafkatest"
)

// fake starts a cluster in this process with a topic of four partitions.
func fake(t testing.TB, opts ...kfake.Opt) (*kfake.Cluster, []string) {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(2), kfake.SeedTopics(4, "t")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, c.ListenAddrs()
}

var checked sync.Map // tests that have a leakCheck

// leakCheck fails the test when goroutines of this package or sarama's outlive it.
func leakCheck(t testing.TB) {
	t.Helper()
	if _, known := checked.LoadOrStore(t, true); known {
		return
	}
	t.Cleanup(func() {
		var stacks string
		for wait := time.Millisecond; wait < 5*time.Second; wait *= 2 {
			stacks = ours()
			if stacks == "" {
				return
			}
			time.Sleep(wait)
		}
		t.Errorf("goroutines outlive the test:\n%s", stacks)
	})
}

// ours lists goroutines that run code of ours or sarama's, but for this one.
func ours() string {
	buf := make([]byte, 4<<20)
	var found []string
	for i, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if i > 0 && (strings.Contains(g, "kafkasink/partwise.") || strings.Contains(g, "IBM/sarama.")) && !strings.Contains(g, "testing.tRunner") && !strings.Contains(g, "testing.runTests") {
			found = append(found, g)
		}
	}
	return strings.Join(found, "\n\n")
}

var flat = arrow.NewSchema([]arrow.Field{{Name: "k", Type: arrow.BinaryTypes.Binary, Nullable: true}, {Name: "v", Type: arrow.BinaryTypes.String, Nullable: true}}, nil)

var keyed = Columns{Key: "k", Value: "v"}

// rows makes n rows whose values begin with "part/ordinal|", in batches of per;
// every key'th row has a key, 0: none.
func rows(part string, n, per, key, pad int) iter.Seq2[arrow.RecordBatch, error] {
	padding := strings.Repeat("x", pad)
	return func(yield func(arrow.RecordBatch, error) bool) {
		b := array.NewRecordBuilder(memory.DefaultAllocator, flat)
		defer b.Release()
		for from := 0; from < n; from += per {
			for i := from; i < min(n, from+per); i++ {
				if key > 0 && i%key == 0 {
					b.Field(0).(*array.BinaryBuilder).Append([]byte("key" + strconv.Itoa(i%7)))
				} else {
					b.Field(0).AppendNull()
				}
				b.Field(1).(*array.StringBuilder).Append(part + "/" + strconv.Itoa(i) + "|" + padding)
			}
			r := b.NewRecordBatch()
			ok := yield(r, nil)
			r.Release()
			if !ok {
				return
			}
		}
	}
}

func partOf(id string, n, key int) Part {
	return Part{ID: id, Checksum: "crc32c:" + id, Rows: int64(n), Batches: rows(id, n, 37, key, 20)}
}

// readAll reads a topic up to its end, as its readers see it.
func readAll(t testing.TB, addrs []string, topic string, committed bool, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	return kafkatest.ReadAll(t, addrs, topic, committed, opts...)
}

// census is how often each row of a part was read, and whether rows of one
// partition came in order within each copy of the part.
type census map[string]map[int]int

func count(t testing.TB, records []*kgo.Record) census {
	t.Helper()
	c := census{}
	for _, r := range records {
		id, rest, ok := strings.Cut(string(r.Value), "|")
		if !ok {
			t.Fatalf("a strange record: %q (%d bytes after)", r.Value, len(rest))
		}
		i := strings.LastIndexByte(id, '/')
		n, err := strconv.Atoi(id[i+1:])
		if err != nil {
			t.Fatal(err)
		}
		if c[id[:i]] == nil {
			c[id[:i]] = map[int]int{}
		}
		c[id[:i]][n]++
	}
	return c
}

// verify returns what is wrong with one part's rows.
func (c census) verify(part string, n int, once bool, but ...int) error {
	skip := map[int]bool{}
	for _, b := range but {
		skip[b] = true
	}
	lost, twice, foreign := 0, 0, 0
	for i := range n {
		switch got := c[part][i]; {
		case skip[i] && got > 0:
			foreign++
		case !skip[i] && got == 0:
			lost++
		case got > 1:
			twice++
		}
	}
	for i := range c[part] {
		if i < 0 || i >= n {
			foreign++
		}
	}
	if lost > 0 || foreign > 0 || once && twice > 0 {
		return fmt.Errorf("part %s of %d rows: %d lost, %d twice, %d that should not be there", part, n, lost, twice, foreign)
	}
	return nil
}

// inOrder fails unless the rows of each part rise within each partition.
func inOrder(t testing.TB, records []*kgo.Record) {
	t.Helper()
	last := map[string]int{}
	for _, r := range records {
		id, _, _ := strings.Cut(string(r.Value), "|")
		i := strings.LastIndexByte(id, '/')
		n, _ := strconv.Atoi(id[i+1:])
		at := fmt.Sprintf("%s@%d", id[:i], r.Partition)
		if before, ok := last[at]; ok && n <= before {
			t.Errorf("partition %d: row %s after %d", r.Partition, id, before)
			return
		}
		last[at] = n
	}
}

func publisher(t testing.TB, o Options) *Producer {
	t.Helper()
	leakCheck(t)
	if o.Topic == "" {
		o.Topic = "t"
	}
	if o.Columns.Value == "" {
		o.Columns = keyed
	}
	p, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Close()
		if p.budget.held != 0 {
			t.Errorf("%d bytes of the budget are still held", p.budget.held)
		}
		if p.budget.peak > p.budget.max {
			t.Errorf("%d bytes were held at a time, of %d allowed", p.budget.peak, p.budget.max)
		}
	})
	return p
}

// hooked calls f before the n-th batch.
func hooked(batches iter.Seq2[arrow.RecordBatch, error], n int, f func()) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		i := 0
		for b, err := range batches {
			if i == n {
				f()
			}
			i++
			if !yield(b, err) {
				return
			}
		}
	}
}

// oversized makes n rows of which each every'th has size bytes more.
func oversized(part string, n, every, size int) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		b := array.NewRecordBuilder(memory.DefaultAllocator, flat)
		defer b.Release()
		for i := range n {
			noise := ""
			if i%every == 0 {
				noise = random(size)
			}
			b.Field(0).AppendNull()
			b.Field(1).(*array.StringBuilder).Append(part + "/" + strconv.Itoa(i) + "|" + noise)
		}
		r := b.NewRecordBatch()
		defer r.Release()
		yield(r, nil)
	}
}

// random is text that hardly compresses.
func random(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(33 + rand.IntN(90))
	}
	return string(b)
}
