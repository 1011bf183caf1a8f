package partwise

import (
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
)

// Columns names the columns of a part's record batches. Value is required.
type Columns struct {
	Key       string // binary or text; NULL: no key. Empty: no row has a key
	Value     string // binary or text; NULL: a tombstone
	Headers   string // list of struct(name text, value binary or text), or a map of these
	Header    []HeaderColumn
	Partition string // int32 or int64; NULL: as without this column
	Timestamp string // timestamp, or int64 milliseconds since 1970; NULL: the time of sending
}

// HeaderColumn is a column that becomes a header. Rows in which it is NULL have
// no such header.
type HeaderColumn struct {
	Name   string // of the header
	Column string // binary or text
}

// binding is where Columns are in a schema, -1: nowhere.
type binding struct {
	schema                                 *arrow.Schema
	key, value, list, partition, timestamp int
	header                                 []int
	names                                  [][]byte
}

// bind finds the columns and checks their types, naming all that is wrong.
func (c *Columns) bind(schema *arrow.Schema) (*binding, error) {
	var errs []error
	find := func(role, name string, check func(arrow.DataType) bool, want string) int {
		if name == "" {
			return -1
		}
		switch at := schema.FieldIndices(name); {
		case len(at) != 1:
			errs = append(errs, fmt.Errorf("%s: %d columns are named %q", role, len(at), name))
		case !check(schema.Field(at[0]).Type):
			errs = append(errs, fmt.Errorf("%s: column %q is %s, not %s", role, name, schema.Field(at[0]).Type, want))
		default:
			return at[0]
		}
		return -1
	}
	b := &binding{schema: schema}
	b.key = find("key", c.Key, isBytes, "binary or text")
	b.value = find("value", c.Value, isBytes, "binary or text")
	if c.Value == "" {
		errs = append(errs, errors.New("value: is missing"))
	}
	b.list = find("headers", c.Headers, isHeaders, "a list of structs of name and value")
	b.partition = find("partition", c.Partition, isPartition, "int32 or int64")
	b.timestamp = find("timestamp", c.Timestamp, isTimestamp, "a timestamp or int64 milliseconds")
	for _, h := range c.Header {
		b.header = append(b.header, find("header "+h.Name, h.Column, isBytes, "binary or text"))
		b.names = append(b.names, []byte(h.Name))
		if h.Column == "" {
			errs = append(errs, fmt.Errorf("header %s: its column is missing", h.Name))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, &Error{Class: Sink, Op: "columns of the Kafka sink", Partition: -1, Err: err}
	}
	return b, nil
}

func isBytes(t arrow.DataType) bool {
	switch t.ID() {
	case arrow.BINARY, arrow.STRING, arrow.LARGE_BINARY, arrow.LARGE_STRING, arrow.BINARY_VIEW, arrow.STRING_VIEW, arrow.FIXED_SIZE_BINARY, arrow.NULL:
		return true
	case arrow.DICTIONARY:
		return isBytes(t.(*arrow.DictionaryType).ValueType)
	}
	return false
}

func isHeaders(t arrow.DataType) bool {
	list, ok := t.(arrow.ListLikeType)
	if !ok || t.ID() != arrow.LIST && t.ID() != arrow.LARGE_LIST && t.ID() != arrow.MAP {
		return false
	}
	s, ok := list.Elem().(*arrow.StructType)
	return ok && s.NumFields() == 2 && isBytes(s.Field(0).Type) && isBytes(s.Field(1).Type)
}

func isPartition(t arrow.DataType) bool { return t.ID() == arrow.INT32 || t.ID() == arrow.INT64 }

func isTimestamp(t arrow.DataType) bool { return t.ID() == arrow.TIMESTAMP || t.ID() == arrow.INT64 }

// bytesVector reads a vector of binary or text. Its zero value has only NULLs.
type bytesVector struct {
	nulls  nulls
	data   []byte
	off32  []int32
	off64  []int64
	width  int
	index  func(int) int // of a dictionary
	view   func(int) []byte
	values *bytesVector // of a dictionary
}

type nulls struct {
	any bool
	arr arrow.Array
}

func readBytes(a arrow.Array) bytesVector {
	v := bytesVector{nulls: nulls{a.NullN() > 0, a}}
	switch a := a.(type) {
	case *array.Binary:
		v.off32, v.data = a.ValueOffsets(), buffer(a.Data())
	case *array.String:
		v.off32, v.data = offsets32(a), buffer(a.Data())
	case *array.LargeBinary:
		v.off64, v.data = a.ValueOffsets(), buffer(a.Data())
	case *array.LargeString:
		v.off64, v.data = offsets64(a), buffer(a.Data())
	case *array.FixedSizeBinary:
		v.width, v.view = a.DataType().(*arrow.FixedSizeBinaryType).ByteWidth, a.Value
	case *array.BinaryView:
		v.view = a.Value
	case *array.StringView:
		v.view = func(i int) []byte { return []byte(a.Value(i)) }
	case *array.Dictionary:
		values := readBytes(a.Dictionary())
		v.values, v.index = &values, a.GetValueIndex
	case *array.Null:
		v.nulls.any = true
	}
	return v
}

// buffer is the bytes that offsets point into; it is nil where all are empty.
func buffer(d arrow.ArrayData) []byte {
	if b := d.Buffers()[2]; b != nil {
		return b.Bytes()
	}
	return nil
}

func offsets32(a *array.String) []int32 {
	if b := a.Data().Buffers()[1]; b != nil && a.Len() > 0 {
		return arrow.Int32Traits.CastFromBytes(b.Bytes())[a.Data().Offset():]
	}
	return nil
}

func offsets64(a *array.LargeString) []int64 {
	if b := a.Data().Buffers()[1]; b != nil && a.Len() > 0 {
		return arrow.Int64Traits.CastFromBytes(b.Bytes())[a.Data().Offset():]
	}
	return nil
}

// at returns row i, nil for NULL only. It is valid as long as the vector.
func (v *bytesVector) at(i int) []byte {
	if v.nulls.any && v.nulls.arr.IsNull(i) {
		return nil
	}
	var b []byte
	switch {
	case v.off32 != nil:
		b = v.data[v.off32[i]:v.off32[i+1]]
	case v.off64 != nil:
		b = v.data[v.off64[i]:v.off64[i+1]]
	case v.view != nil:
		b = v.view(i)
	case v.values != nil:
		return v.values.at(v.index(i))
	default:
		return nil
	}
	if b == nil {
		return empty
	}
	return b
}

var empty = []byte{}

// vectors are the columns of one record batch.
type vectors struct {
	key, value bytesVector
	header     []bytesVector
	list       listVector
	partition  func(int) (int64, bool) // nil: there is no such column
	timestamp  func(int) (int64, bool) // milliseconds
}

type listVector struct {
	arr         array.ListLike // nil: there is no such column
	name, value bytesVector
}

func (b *binding) read(r arrow.RecordBatch) vectors {
	var v vectors
	if b.key >= 0 {
		v.key = readBytes(r.Column(b.key))
	}
	v.value = readBytes(r.Column(b.value))
	for _, i := range b.header {
		v.header = append(v.header, readBytes(r.Column(i)))
	}
	if b.list >= 0 {
		list := r.Column(b.list).(array.ListLike)
		s := list.ListValues().(*array.Struct)
		v.list = listVector{list, readBytes(s.Field(0)), readBytes(s.Field(1))}
	}
	if b.partition >= 0 {
		v.partition = readInts(r.Column(b.partition), 1, 1)
	}
	if b.timestamp >= 0 {
		mul, div := int64(1), int64(1)
		if t, ok := r.Column(b.timestamp).DataType().(*arrow.TimestampType); ok {
			switch t.Unit {
			case arrow.Second:
				mul = 1000
			case arrow.Microsecond:
				div = 1000
			case arrow.Nanosecond:
				div = 1000000
			}
		}
		v.timestamp = readInts(r.Column(b.timestamp), mul, div)
	}
	return v
}

// readInts returns the values of a column times mul over div, rounded down, and
// whether they are not NULL.
func readInts(a arrow.Array, mul, div int64) func(int) (int64, bool) {
	scale := func(n int64) int64 {
		switch {
		case mul != 1 && (n > math.MaxInt64/mul || n < math.MinInt64/mul):
			return math.MaxInt64 // refused later: no timestamp of Kafka's
		case n < 0 && n%div != 0:
			return n*mul/div - 1
		}
		return n * mul / div
	}
	switch a := a.(type) {
	case *array.Int32:
		return func(i int) (int64, bool) { return int64(a.Value(i)), a.IsValid(i) }
	case *array.Int64:
		return func(i int) (int64, bool) { return scale(a.Value(i)), a.IsValid(i) }
	case *array.Timestamp:
		return func(i int) (int64, bool) { return scale(int64(a.Value(i))), a.IsValid(i) }
	}
	panic(fmt.Sprintf("partwise: no integers in %s", a.DataType())) // bind has checked
}

// row is one record, its bytes still Arrow's.
type row struct {
	key, value []byte
	headers    []header
	timestamp  int64 // milliseconds; noTimestamp: none
}

type header struct{ name, value []byte }

const noTimestamp = math.MinInt64

// maxTimestamp is the last one that sarama can encode.
var maxTimestamp = time.Unix(0, math.MaxInt64).UnixMilli()

// row reads row i into r, whose headers are reused.
func (b *binding) row(v *vectors, i int, r *row) error {
	r.key, r.value, r.headers, r.timestamp = v.key.at(i), v.value.at(i), r.headers[:0], noTimestamp
	if v.timestamp != nil {
		if ms, ok := v.timestamp(i); ok {
			if ms < 0 || ms > maxTimestamp {
				return fmt.Errorf("timestamp %d ms: Kafka's are from 1970, and those after 2262 can't be sent", ms)
			}
			r.timestamp = ms
		}
	}
	if v.list.arr != nil && !v.list.arr.IsNull(i) {
		from, to := v.list.arr.ValueOffsets(i)
		for j := int(from); j < int(to); j++ {
			name := v.list.name.at(j)
			if name == nil {
				return errors.New("a header without a name")
			}
			r.headers = append(r.headers, header{name, v.list.value.at(j)})
		}
	}
	for j := range v.header {
		if value := v.header[j].at(i); value != nil {
			r.headers = append(r.headers, header{b.names[j], value})
		}
	}
	return nil
}
