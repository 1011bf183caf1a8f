package partwise

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// fromJSON makes a record batch, and a slice of it with a row cut off in front,
// so that offsets count.
func fromJSON(t *testing.T, schema *arrow.Schema, text string) arrow.RecordBatch {
	t.Helper()
	b, _, err := array.RecordFromJSON(memory.DefaultAllocator, schema, strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func once(b arrow.RecordBatch) func(func(arrow.RecordBatch, error) bool) {
	return func(yield func(arrow.RecordBatch, error) bool) { yield(b, nil) }
}

// TestBytesTypes reads every type that keys and values may have, whole and from
// the middle.
func TestBytesTypes(t *testing.T) {
	for _, typ := range []arrow.DataType{
		arrow.BinaryTypes.String, arrow.BinaryTypes.LargeString, arrow.BinaryTypes.StringView,
		&arrow.DictionaryType{IndexType: arrow.PrimitiveTypes.Int8, ValueType: arrow.BinaryTypes.String},
	} {
		b := fromJSON(t, arrow.NewSchema([]arrow.Field{{Name: "v", Type: typ, Nullable: true}}, nil),
			`[{"v":"first"},{"v":null},{"v":""},{"v":"žluťoučký kůň a mnohem delší text"},{"v":"first"}]`)
		checkBytes(t, typ, b.Column(0))
	}
	for _, typ := range []arrow.DataType{arrow.BinaryTypes.Binary, arrow.BinaryTypes.LargeBinary, arrow.BinaryTypes.BinaryView} {
		builder := array.NewBuilder(memory.DefaultAllocator, typ)
		for _, v := range [][]byte{[]byte("first"), nil, {}, []byte("žluťoučký kůň a mnohem delší text"), []byte("first")} {
			if v == nil {
				builder.AppendNull()
			} else {
				builder.(interface{ Append([]byte) }).Append(v)
			}
		}
		checkBytes(t, typ, builder.NewArray())
	}
	fixed := array.NewFixedSizeBinaryBuilder(memory.DefaultAllocator, &arrow.FixedSizeBinaryType{ByteWidth: 2})
	fixed.Append([]byte("ab"))
	fixed.AppendNull()
	v := readBytes(fixed.NewArray())
	if string(v.at(0)) != "ab" || v.at(1) != nil {
		t.Errorf("%q %v", v.at(0), v.at(1))
	}
	none := readBytes(array.NewNull(3))
	if none.at(2) != nil {
		t.Error("a column of NULLs")
	}
}

func checkBytes(t *testing.T, typ arrow.DataType, whole arrow.Array) {
	t.Helper()
	want := []string{"first", "", "", "žluťoučký kůň a mnohem delší text", "first"}
	for from := range want {
		v := readBytes(array.NewSlice(whole, int64(from), int64(len(want))))
		for i := from; i < len(want); i++ {
			got := v.at(i - from)
			if string(got) != want[i] || (got == nil) != (i == 1) {
				t.Errorf("%s from %d: row %d is %q (nil: %v)", typ, from, i, got, got == nil)
			}
		}
	}
}

func TestAllColumns(t *testing.T) {
	_, addrs := fake(t)
	pair := arrow.StructOf(arrow.Field{Name: "name", Type: arrow.BinaryTypes.String, Nullable: true}, arrow.Field{Name: "value", Type: arrow.BinaryTypes.String, Nullable: true})
	schema := arrow.NewSchema([]arrow.Field{
		{Name: "k", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "v", Type: arrow.BinaryTypes.String, Nullable: true},
		{Name: "p", Type: arrow.PrimitiveTypes.Int32, Nullable: true},
		{Name: "t", Type: &arrow.TimestampType{Unit: arrow.Microsecond, TimeZone: "UTC"}, Nullable: true},
		{Name: "h", Type: arrow.ListOf(pair), Nullable: true},
		{Name: "id", Type: arrow.BinaryTypes.String, Nullable: true},
	}, nil)
	b := fromJSON(t, schema, `[
		{"k":"cut","v":"off","p":1,"t":"2001-01-01T00:00:00Z","h":[{"name":"x","value":"y"}],"id":"0"},
		{"k":"a","v":"1","p":3,"t":"2001-02-03T04:05:06.789999Z","h":[{"name":"x","value":"y"},{"name":"x","value":null},{"name":"","value":""}],"id":"i1"},
		{"k":null,"v":"2","p":2,"t":null,"h":null,"id":null},
		{"k":"b","v":null,"p":null,"t":"1970-01-01T00:00:00Z","h":[],"id":""},
		{"k":"c","v":"4","p":4,"t":null,"h":null,"id":null},
		{"k":"c","v":"5","p":-1,"t":null,"h":null,"id":null},
		{"k":"c","v":"6","p":0,"t":"1969-12-31T23:59:59Z","h":null,"id":null},
		{"k":"c","v":"7","p":0,"t":null,"h":[{"name":null,"value":"y"}],"id":null},
		{"k":"c","v":"8","p":0,"t":"2262-04-11T23:47:16Z","h":null,"id":null}
	]`)
	now := time.UnixMilli(1800000000000)
	p := publisher(t, Options{Brokers: addrs, Now: func() time.Time { return now }, Columns: Columns{
		Key: "k", Value: "v", Partition: "p", Timestamp: "t", Headers: "h", Header: []HeaderColumn{{Name: "kq-id", Column: "id"}},
	}})
	reasons := map[int64]string{}
	res, err := p.Publish(context.Background(), Part{Rows: 8, Batches: once(b.NewSlice(1, 9)), Reject: func(n int64, why error) error {
		reasons[n] = why.Error()
		return nil
	}})
	if err != nil || res.Rows != 4 || res.Rejected != 4 {
		t.Fatalf("%+v, %v", res, err)
	}
	for n, want := range map[int64]string{3: "partition 4: the topic has 4", 4: "partition -1", 5: "timestamp -1000 ms", 6: "header without a name"} {
		if !strings.Contains(reasons[n], want) {
			t.Errorf("row %d: %q", n, reasons[n])
		}
	}
	show := func(r *kgo.Record) string {
		var heads []string
		for _, h := range r.Headers {
			heads = append(heads, fmt.Sprintf("%s=%q/%v", h.Key, h.Value, h.Value == nil))
		}
		return fmt.Sprintf("%q/%v %q/%v %d %d %v", r.Key, r.Key == nil, r.Value, r.Value == nil, r.Partition, r.Timestamp.UnixMilli(), heads)
	}
	got := map[string]bool{}
	for _, r := range readAll(t, addrs, "t", false) {
		got[show(r)] = true
	}
	for _, want := range []string{
		`"a"/false "1"/false 3 981173106789 [x="y"/false x=""/true =""/false kq-id="i1"/false]`,
		`""/true "2"/false 2 1800000000000 []`,
		fmt.Sprintf(`"b"/false ""/true %d 0 [kq-id=""/false]`, keyPartition([]byte("b"), 4)),
		`"c"/false "8"/false 0 9223372036000 []`,
	} {
		if !got[want] {
			t.Errorf("missing %s in %v", want, got)
		}
	}
}

func TestTimestampUnits(t *testing.T) {
	for unit, c := range map[arrow.TimeUnit]struct{ in, want, early int64 }{
		arrow.Second: {12, 12000, -1000}, arrow.Millisecond: {12, 12, -1}, arrow.Microsecond: {12999, 12, -1}, arrow.Nanosecond: {12999999, 12, -1},
	} {
		typ := &arrow.TimestampType{Unit: unit}
		b := array.NewRecordBuilder(memory.DefaultAllocator, arrow.NewSchema([]arrow.Field{{Name: "v", Type: arrow.BinaryTypes.String}, {Name: "t", Type: typ, Nullable: true}}, nil))
		for _, n := range []int64{c.in, -1, math.MaxInt64} {
			b.Field(0).(*array.StringBuilder).Append("x")
			b.Field(1).(*array.TimestampBuilder).Append(arrow.Timestamp(n))
		}
		b.Field(0).(*array.StringBuilder).Append("x")
		b.Field(1).AppendNull()
		r := b.NewRecordBatch()
		bound, err := (&Columns{Value: "v", Timestamp: "t"}).bind(r.Schema())
		if err != nil {
			t.Fatal(err)
		}
		v := bound.read(r)
		for i, want := range []int64{c.want, c.early} {
			if got, ok := v.timestamp(i); !ok || got != want {
				t.Errorf("%s: %d, want %d", unit, got, want)
			}
		}
		if got, _ := v.timestamp(2); got <= 0 {
			t.Errorf("%s: the last one wrapped around to %d", unit, got)
		}
		if _, ok := v.timestamp(3); ok {
			t.Errorf("%s: NULL has a time", unit)
		}
	}
}

func TestBind(t *testing.T) {
	schema := arrow.NewSchema([]arrow.Field{{Name: "n", Type: arrow.PrimitiveTypes.Float64}, {Name: "v", Type: arrow.BinaryTypes.String}, {Name: "d", Type: arrow.BinaryTypes.String}, {Name: "d", Type: arrow.BinaryTypes.String}}, nil)
	c := Columns{Key: "n", Value: "d", Headers: "v", Partition: "missing", Timestamp: "v", Header: []HeaderColumn{{Name: "h"}}}
	_, err := c.bind(schema)
	if ClassOf(err) != Sink {
		t.Fatal(err)
	}
	for _, want := range []string{`key: column "n" is float64`, `value: 2 columns are named "d"`, `headers: column "v"`, `partition: 0 columns are named "missing"`, `timestamp: column "v"`, "header h: its column"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v: no %q", err, want)
		}
	}
}

// TestCodes: every error of Kafka's has a name here, the one that franz-go has,
// and what franz-go calls retriable is not final here.
func TestCodes(t *testing.T) {
	for code, c := range codes {
		err := kerr.ErrorForCode(int16(code))
		var e *kerr.Error
		if !errors.As(err, &e) || e.Message != c.name && code != 6 {
			t.Errorf("%d: %s, franz-go has %v", code, c.name, err)
			continue
		}
		if kerr.IsRetriable(err) && (c.verdict == hopeless || c.verdict == fenced || c.verdict == refused) {
			t.Errorf("%s is retriable", c.name)
		}
	}
	for code := int16(1); code < 134; code++ {
		if kerr.ErrorForCode(code) != nil && codes[sarama.KError(code)].name == "" {
			t.Errorf("code %d is missing", code)
		}
	}
}
