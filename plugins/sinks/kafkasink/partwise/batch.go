package partwise

import (
	"math/bits"
	"time"
	"unsafe"

	"github.com/IBM/sarama"
)

// batchOverhead is what a record batch takes beside its records (message format
// v2: from base offset to record count).
const batchOverhead = 61

// maxSpan keeps timestamps of one batch within what a time.Duration can tell apart.
const maxSpan = int64(100 * 365 * 24 * time.Hour / time.Millisecond)

// batch is records of one partition, in order. Bytes lie one after the other in
// data; the other slices say where they end. It is built by one goroutine and
// then belongs to its lane.
type batch struct {
	data    []byte
	entries []entry
	heads   []headLen // of all records, one after the other
	stamps  []int64   // empty, or one for each record
	size    int       // encoded records, before compression
	held    int64     // of the budget
	sent    flight
}

type entry struct {
	ordinal int64
	key     int32 // length, -1: NULL
	value   int32
	headers int32
}

type headLen struct{ name, value int32 }

// varint is the encoded length of n.
func varint(n int64) int {
	return (bits.Len64(uint64(n<<1^n>>63)|1) + 6) / 7
}

func sizedBytes(b []byte) int {
	if b == nil {
		return 1
	}
	return varint(int64(len(b))) + len(b)
}

// recordSize is the encoded length of a record, its own length included: the
// exact number of bytes that it adds to a batch at this place.
func recordSize(r *row, offsetDelta, timestampDelta int64) int {
	n := 1 + varint(timestampDelta) + varint(offsetDelta) + sizedBytes(r.key) + sizedBytes(r.value) + varint(int64(len(r.headers)))
	for _, h := range r.headers {
		n += sizedBytes(h.name) + sizedBytes(h.value)
	}
	return n + varint(int64(n))
}

// worst is the most bytes that n bytes become when they can't be compressed. The
// codecs add 3 to 5 bytes for each block of 32 to 128 KiB, and a header; snappy
// up to one literal tag for each 60 bytes where matches are short.
func worst(codec sarama.CompressionCodec, n int) int {
	if codec == sarama.CompressionNone {
		return n
	}
	return n + n/48 + 128
}

// delta is the timestamp delta that r gets as the next record, and whether it
// can be in this batch.
func (b *batch) delta(r *row) (int64, bool) {
	if r.timestamp == noTimestamp || len(b.stamps) == 0 {
		return 0, len(b.entries) == 0 || (r.timestamp == noTimestamp) == (len(b.stamps) == 0)
	}
	d := r.timestamp - b.stamps[0]
	return d, d < maxSpan && d > -maxSpan
}

// add appends a record of a size that recordSize told.
func (b *batch) add(r *row, ordinal int64, size int) {
	e := entry{ordinal: ordinal, key: length(r.key), value: length(r.value), headers: int32(len(r.headers))}
	b.data = append(append(b.data, r.key...), r.value...)
	for _, h := range r.headers {
		b.heads = append(b.heads, headLen{length(h.name), length(h.value)})
		b.data = append(append(b.data, h.name...), h.value...)
	}
	if r.timestamp != noTimestamp {
		b.stamps = append(b.stamps, r.timestamp)
	}
	b.entries = append(b.entries, e)
	b.size += size
}

func length(b []byte) int32 {
	if b == nil {
		return -1
	}
	return int32(len(b))
}

// room tells how many bytes more the batch must hold before r can be added, 0
// mostly, and what its slices then have to grow by.
func (b *batch) room(r *row) (bytes int64, by growth) {
	data := len(r.key) + len(r.value)
	for _, h := range r.headers {
		data += len(h.name) + len(h.value)
	}
	by.data = lack(len(b.data), cap(b.data), data, 4096)
	by.entries = lack(len(b.entries), cap(b.entries), 1, 32)
	by.heads = lack(len(b.heads), cap(b.heads), len(r.headers), 32)
	if r.timestamp != noTimestamp {
		by.stamps = lack(len(b.stamps), cap(b.stamps), 1, 32)
	}
	return by.bytes(), by
}

// growth is by how many elements slices grow.
type growth struct{ data, entries, heads, stamps int }

func (g growth) bytes() int64 {
	return int64(g.data) + int64(g.entries)*int64(unsafe.Sizeof(entry{})) + int64(g.heads)*int64(unsafe.Sizeof(headLen{})) + int64(g.stamps)*8
}

// lack is what a slice has to grow by for need elements more: to twice its
// size, or exactly.
func lack(length, capacity, need, least int) int {
	if length+need <= capacity {
		return 0
	}
	return max(2*capacity, length+need, least) - capacity
}

// grow grows the slices.
func (b *batch) grow(by growth) {
	b.data = bigger(b.data, by.data)
	b.entries = bigger(b.entries, by.entries)
	b.heads = bigger(b.heads, by.heads)
	b.stamps = bigger(b.stamps, by.stamps)
	b.held += by.bytes()
}

func bigger[T any](s []T, by int) []T {
	if by == 0 {
		return s
	}
	return append(make([]T, 0, cap(s)+by), s...)
}

// extent is how large the slices of a batch are.
func (b *batch) extent() growth {
	return growth{len(b.data), len(b.entries), len(b.heads), len(b.stamps)}
}

// each gives f the records of the batch.
func (b *batch) each(f func(i int, r *row)) {
	r := row{timestamp: noTimestamp}
	at, head := 0, 0
	take := func(n int32) []byte {
		if n < 0 {
			return nil
		}
		if n == 0 {
			return empty
		}
		from := at
		at += int(n)
		return b.data[from:at:at]
	}
	for i := range b.entries {
		e := &b.entries[i]
		r.key, r.value, r.headers = take(e.key), take(e.value), r.headers[:0]
		for range e.headers {
			h := b.heads[head]
			head++
			r.headers = append(r.headers, header{take(h.name), take(h.value)})
		}
		if len(b.stamps) > 0 {
			r.timestamp = b.stamps[i]
		}
		f(i, &r)
	}
}

// scratch is what encoding needs; sarama is done with it when the write returns.
type scratch struct {
	records  []sarama.Record
	pointers []*sarama.Record
	heads    []sarama.RecordHeader
	headPtrs []*sarama.RecordHeader
}

// of returns the batch as sarama encodes it, valid until the next call, and
// its first and last timestamp.
func (s *scratch) of(b *batch, now time.Time) (records []*sarama.Record, first, last time.Time) {
	n := len(b.entries)
	if cap(s.records) < n {
		s.records = make([]sarama.Record, n)
		s.pointers = make([]*sarama.Record, n)
		for i := range s.records {
			s.pointers[i] = &s.records[i]
		}
	}
	if cap(s.heads) < len(b.heads) {
		s.heads = make([]sarama.RecordHeader, len(b.heads))
		s.headPtrs = make([]*sarama.RecordHeader, len(b.heads))
		for i := range s.heads {
			s.headPtrs[i] = &s.heads[i]
		}
	}
	s.records = s.records[:cap(s.records)]
	s.heads = s.heads[:cap(s.heads)]
	base, latest, head := now.UnixMilli(), now.UnixMilli(), 0
	if len(b.stamps) > 0 {
		base, latest = b.stamps[0], b.stamps[0]
	}
	b.each(func(i int, r *row) {
		to := &s.records[i]
		to.Key, to.Value, to.OffsetDelta, to.Headers, to.TimestampDelta = r.key, r.value, int64(i), nil, 0
		if len(r.headers) > 0 {
			for _, h := range r.headers {
				s.heads[head] = sarama.RecordHeader{Key: h.name, Value: h.value}
				head++
			}
			to.Headers = s.headPtrs[head-len(r.headers) : head]
		}
		if r.timestamp != noTimestamp {
			to.TimestampDelta = time.Duration(r.timestamp-base) * time.Millisecond
			latest = max(latest, r.timestamp)
		}
	})
	return s.pointers[:n], time.UnixMilli(base), time.UnixMilli(latest)
}

// drop lets go of the batch's bytes.
func (s *scratch) drop(n int) {
	clear(s.records[:min(n, len(s.records))])
	clear(s.heads)
}

// split cuts a batch in two halves of records.
func (b *batch) split() (*batch, *batch) {
	half := len(b.entries) / 2
	return b.part(func(i int) bool { return i < half }), b.part(func(i int) bool { return i >= half })
}

// part copies the records that keep names, into as much memory as they need.
func (b *batch) part(keep func(int) bool) *batch {
	var by growth
	b.each(func(i int, r *row) {
		if keep(i) {
			by.add(r)
		}
	})
	p := &batch{}
	p.grow(by)
	b.each(func(i int, r *row) {
		if !keep(i) {
			return
		}
		delta, _ := p.delta(r) // within twice maxSpan, as timestamps of a batch are
		p.add(r, b.entries[i].ordinal, recordSize(r, int64(len(p.entries)), delta))
	})
	return p
}

// add counts a record in.
func (g *growth) add(r *row) {
	g.entries++
	g.heads += len(r.headers)
	g.data += len(r.key) + len(r.value)
	for _, h := range r.headers {
		g.data += len(h.name) + len(h.value)
	}
	if r.timestamp != noTimestamp {
		g.stamps++
	}
}
