package sqssink

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// settings makes a sink's settings of pairs.
func settings(pairs ...any) (list []pipeline.Option) {
	for i := 0; i < len(pairs); i += 2 {
		list = append(list, pipeline.Option{Key: pairs[i].(string), Value: pairs[i+1]})
	}
	return list
}

// with adds settings that replace those of the same name.
func with(list []pipeline.Option, pairs ...any) []pipeline.Option {
	added := settings(pairs...)
	list = slices.DeleteFunc(slices.Clone(list), func(o pipeline.Option) bool {
		return slices.ContainsFunc(added, func(a pipeline.Option) bool { return a.Key == o.Key })
	})
	return append(list, added...)
}

// gate is a controller that notes what it is told.
type gate struct {
	*backpressure.Controller
	mu    sync.Mutex
	ended map[backpressure.Result]int
}

func newGate() *gate {
	return &gate{Controller: backpressure.New(backpressure.Options{}), ended: map[backpressure.Result]int{}}
}

func (g *gate) Limit() int64 { return g.Snapshot().Limit }

func (g *gate) Release(bytes int64, o backpressure.Outcome) {
	g.mu.Lock()
	g.ended[o.Result]++
	g.mu.Unlock()
	g.Controller.Release(bytes, o)
}

// world is a queue, before which a proxy stands, and a sink.
type world struct {
	testing.TB
	cloud    *services.Cloud
	proxy    *faultproxy.HTTP
	client   *sqs.Client // past the proxy
	url      string
	settings []pipeline.Option
	gate     *gate
	warnings []string
	mu       sync.Mutex
}

// newWorld makes a queue; fifo makes it FIFO.
func newWorld(t testing.TB, cloud *services.Cloud, fifo bool) *world {
	t.Helper()
	w := &world{TB: t, cloud: cloud, gate: newGate()}
	var err error
	if w.proxy, err = faultproxy.NewHTTP(cloud.Endpoint); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.proxy.Close() })
	name, attributes := services.Name(t), map[string]string{"VisibilityTimeout": "600"}
	w.settings = settings("endpoint", w.proxy.URL(), "region", cloud.Region, "access_key", cloud.Key, "secret_key", cloud.Secret)
	if fifo {
		name += ".fifo"
		attributes["FifoQueue"] = "true"
		w.settings = with(w.settings, "group", "g")
	}
	w.settings = with(w.settings, "queue", name)
	c, err := parse(with(w.settings, "endpoint", cloud.Endpoint))
	if err != nil {
		t.Fatal(err)
	}
	if w.client, err = newClient(c); err != nil {
		t.Fatal(err)
	}
	out, err := w.client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes})
	if err != nil {
		t.Fatal(err)
	}
	w.url = *out.QueueUrl
	return w
}

// open opens the sink with some settings changed.
func (w *world) open(pairs ...any) sinks.Publisher {
	w.Helper()
	p, err := Sink{}.Open(&pipeline.SinkPlan{Name: "out", Settings: with(w.settings, pairs...)}, sinks.Options{Gate: w.gate, Warn: func(m string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.warnings = append(w.warnings, m)
	}})
	if err != nil {
		w.Fatal(err)
	}
	return p
}

// publish sends a part and wants it to have arrived.
func (w *world) publish(p sinks.Publisher, part *sinks.Part) sinks.Result {
	w.Helper()
	r, err := p.Publish(w.Context(), part)
	if err != nil {
		w.Fatal(err)
	}
	if r.Rows != part.Rows {
		w.Fatalf("%d rows arrived of %d", r.Rows, part.Rows)
	}
	if s := w.gate.Snapshot(); s.InFlight != 0 || s.Requests != 0 {
		w.Fatalf("still in flight: %d bytes, %d requests", s.InFlight, s.Requests)
	}
	return r
}

// drain receives, and deletes, all that is in the queue.
func (w *world) drain() (all []types.Message) {
	w.Helper()
	ctx := context.Background()
	for empty := 0; empty < 2; {
		out, err := w.client.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
			QueueUrl: &w.url, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"},
		})
		if err != nil {
			w.Fatal(err)
		}
		if len(out.Messages) == 0 {
			empty++
			continue
		}
		empty = 0
		all = append(all, out.Messages...)
		var gone []types.DeleteMessageBatchRequestEntry
		for i, m := range out.Messages {
			gone = append(gone, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle})
		}
		if _, err := w.client.DeleteMessageBatch(ctx, &sqs.DeleteMessageBatchInput{QueueUrl: &w.url, Entries: gone}); err != nil {
			w.Fatal(err)
		}
	}
	return all
}

// ids counts messages by their rows' ids.
func ids(messages []types.Message) map[string]int {
	n := map[string]int{}
	for _, m := range messages {
		n[aws.ToString(m.MessageAttributes["kq-id"].StringValue)]++
	}
	return n
}

// wantAll checks that each row of a part of n rows is there, each once or, when
// again is true, at least once.
func (w *world) wantAll(messages []types.Message, id string, n int, again bool) {
	w.Helper()
	got := ids(messages)
	for i := range n {
		name := fmt.Sprintf("%s/%d", id, i)
		if got[name] == 0 || got[name] > 1 && !again {
			w.Errorf("row %s is there %d times", name, got[name])
		}
		delete(got, name)
	}
	if len(got) > 0 {
		w.Errorf("there are also %v", slices.Sorted(maps.Keys(got)))
	}
}

// wantOrder checks that in each group the rows are in order.
func (w *world) wantOrder(messages []types.Message) {
	w.Helper()
	last := map[string]int{}
	for _, m := range messages {
		id := *m.MessageAttributes["kq-id"].StringValue
		row, err := strconv.Atoi(id[strings.LastIndexByte(id, '/')+1:])
		if err != nil {
			w.Fatal(err)
		}
		g := m.Attributes["MessageGroupId"]
		if before, seen := last[g]; seen && before >= row {
			w.Errorf("group %s: row %d comes after row %d", g, row, before)
		}
		last[g] = row
	}
}

// row is what a part of the tests is made of. nil is NULL.
type row struct {
	body, group any
	s, n, b     any
}

// part makes a part of rows; columns are some of v, g, s0, n1, b2.
func part(id string, rows []row, columns ...string) *sinks.Part {
	return &sinks.Part{ID: id, Rows: int64(len(rows)), Checksum: "crc32c:0", Attempt: 1, Batches: batches(id, rows, columns)}
}

func batches(id string, rows []row, columns []string) iter.Seq2[arrow.RecordBatch, error] {
	fields := []arrow.Field{{Name: "i", Type: arrow.BinaryTypes.String}}
	for _, c := range columns {
		f := arrow.Field{Name: c, Type: arrow.BinaryTypes.String, Nullable: true}
		if c[0] == 'b' {
			f.Type = arrow.BinaryTypes.Binary
		}
		fields = append(fields, f)
	}
	return func(yield func(arrow.RecordBatch, error) bool) {
		const most = 100
		b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema(fields, nil))
		defer b.Release()
		for from := 0; from < len(rows); from += most {
			for i, r := range rows[from:min(len(rows), from+most)] {
				b.Field(0).(*array.StringBuilder).Append(fmt.Sprintf("%s/%d", id, from+i))
				for k, c := range columns {
					put(b.Field(k+1), map[byte]any{'v': r.body, 'g': r.group, 's': r.s, 'n': r.n, 'b': r.b}[c[0]])
				}
			}
			batch := b.NewRecordBatch()
			more := yield(batch, nil)
			for i := range batch.NumCols() { // what was kept of it must not matter
				for _, buffer := range batch.Column(int(i)).Data().Buffers() {
					if buffer != nil {
						clear(buffer.Buf())
					}
				}
			}
			batch.Release()
			if !more {
				return
			}
		}
	}
}

func put(b array.Builder, value any) {
	switch v := value.(type) {
	case nil:
		b.AppendNull()
	case string:
		b.(*array.StringBuilder).Append(v)
	case []byte:
		b.(*array.BinaryBuilder).Append(v)
	}
}

// numbered makes n rows in a number of groups.
func numbered(n, groups int) (rows []row) {
	for i := range n {
		rows = append(rows, row{body: fmt.Sprintf(`{"n":%d}`, i), group: fmt.Sprint("g", i*7%groups)})
	}
	return rows
}

func optionsOf(g *gate) sinks.Options { return sinks.Options{Gate: g, Warn: func(string) {}} }
