package partwise

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestMurmur2 compares with what org.apache.kafka.common.utils.Utils gave for
// 200 keys (hash, and partition of 12), and with the vectors of its own test.
func TestMurmur2(t *testing.T) {
	for key, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536, "a-little-bit-longer-string": -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	} {
		if got := int32(murmur2([]byte(key))); got != want {
			t.Errorf("murmur2(%q) = %d, want %d", key, got, want)
		}
	}
	f, err := os.Open("testdata/murmur2-java.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for lines := bufio.NewScanner(f); lines.Scan(); n++ {
		words := strings.Split(lines.Text(), " ")
		key, _ := hex.DecodeString(words[0])
		hash, _ := strconv.ParseInt(words[1], 10, 32)
		partition, _ := strconv.Atoi(words[2])
		if got := int32(murmur2(key)); int64(got) != hash {
			t.Errorf("murmur2(%x) = %d, want %d", key, got, hash)
		}
		if got := keyPartition(key, 12); int(got) != partition {
			t.Errorf("partition of %x: %d, want %d", key, got, partition)
		}
	}
	if n != 200 {
		t.Errorf("%d vectors", n)
	}
}

func FuzzKeyPartition(f *testing.F) {
	f.Add([]byte("abc"), int32(12))
	f.Fuzz(func(t *testing.T, key []byte, n int32) {
		if n < 1 {
			return
		}
		if key == nil {
			key = []byte{}
		}
		want := kgo.StickyKeyPartitioner(nil).ForTopic("t").Partition(&kgo.Record{Key: key}, int(n))
		if got := keyPartition(key, n); int(got) != want {
			t.Errorf("partition of %x among %d: %d, franz-go says %d", key, n, got, want)
		}
	})
}

// tape is a connection that keeps what is written and never answers.
type tape struct {
	net.Conn
	buf bytes.Buffer
	end chan struct{}
}

func newTape() *tape { return &tape{end: make(chan struct{})} }

func (w *tape) Dial(string, string) (net.Conn, error) { return w, nil }
func (w *tape) Write(b []byte) (int, error)           { return w.buf.Write(b) }
func (w *tape) Read([]byte) (int, error)              { <-w.end; return 0, net.ErrClosed }
func (w *tape) Close() error                          { close(w.end); return nil }
func (w *tape) SetReadDeadline(time.Time) error       { return nil }
func (w *tape) SetWriteDeadline(time.Time) error      { return nil }

// encoded returns a batch as sarama's own encoder writes it.
func encoded(t testing.TB, b *batch, codec sarama.CompressionCodec) kmsg.RecordBatch {
	t.Helper()
	w := newTape()
	conf := sarama.NewConfig()
	conf.ApiVersionsRequest, conf.Version, conf.ClientID = false, sarama.MaxVersion, "x"
	conf.Net.Proxy.Enable, conf.Net.Proxy.Dialer = true, w
	broker := sarama.NewBroker("tape:1")
	if err := broker.Open(conf); err != nil {
		t.Fatal(err)
	}
	if _, err := broker.Connected(); err != nil {
		t.Fatal(err)
	}
	records, first, last := new(scratch).of(b, time.UnixMilli(1700000000000))
	request := &sarama.ProduceRequest{Version: 8, RequiredAcks: sarama.NoResponse}
	request.AddBatch("t", 0, &sarama.RecordBatch{
		Version: 2, Codec: codec, CompressionLevel: sarama.CompressionLevelDefault, FirstTimestamp: first, MaxTimestamp: last, Records: records, LastOffsetDelta: int32(len(records) - 1),
	})
	if err := broker.AsyncProduce(request, nil); err != nil {
		t.Fatal(err)
	}
	frame := bytes.Clone(w.buf.Bytes())
	broker.Close()
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(8)
	if err := req.ReadFrom(frame[14+1:]); err != nil {
		t.Fatal(err)
	}
	var rb kmsg.RecordBatch
	if err := rb.ReadFrom(req.Topics[0].Partitions[0].Records); err != nil {
		t.Fatal(err)
	}
	return rb
}

// checkBatch requires that a batch says its own size to the byte, and that what
// sarama encodes is, by franz-go's decoder, the rows that went in.
func checkBatch(t testing.TB, b *batch, want []row) {
	t.Helper()
	rb := encoded(t, b, sarama.CompressionNone)
	if len(rb.Records) != b.size {
		t.Fatalf("%d bytes of records, told %d", len(rb.Records), b.size)
	}
	if int(rb.NumRecords) != len(want) {
		t.Fatalf("%d records of %d", rb.NumRecords, len(want))
	}
	raw := rb.Records
	for i, w := range want {
		length, n := binary.Varint(raw)
		var r kmsg.Record
		if err := r.ReadFrom(raw[:n+int(length)]); err != nil {
			t.Fatal(err)
		}
		raw = raw[n+int(length):]
		same := (r.Key == nil) == (w.key == nil) && bytes.Equal(r.Key, w.key) && (r.Value == nil) == (w.value == nil) && bytes.Equal(r.Value, w.value) && len(r.Headers) == len(w.headers)
		for j := 0; same && j < len(w.headers); j++ {
			h, g := w.headers[j], r.Headers[j]
			same = g.Key == string(h.name) && (g.Value == nil) == (h.value == nil) && bytes.Equal(g.Value, h.value)
		}
		stamp := w.timestamp
		if stamp == noTimestamp {
			stamp = 1700000000000
		}
		if !same || r.OffsetDelta != int32(i) || rb.FirstTimestamp+r.TimestampDelta64 != stamp {
			t.Fatalf("record %d: %+v, want %+v", i, r, w)
		}
	}
}

func fillBatch(rows []row) (*batch, []row) {
	b := &batch{}
	var in []row
	for i := range rows {
		r := rows[i]
		delta, ok := b.delta(&r)
		if !ok {
			continue
		}
		if _, by := b.room(&r); by != (growth{}) {
			b.grow(by)
		}
		b.add(&r, int64(i), recordSize(&r, int64(len(b.entries)), delta))
		in = append(in, r)
	}
	return b, in
}

// anyRows makes rows of whatever there is to make them of.
func anyRows(r *rand.Rand, n int) []row {
	some := func(most int) []byte {
		switch r.IntN(5) {
		case 0:
			return nil
		case 1:
			return []byte{}
		}
		b := make([]byte, r.IntN(most))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	stamped := r.IntN(2) == 0
	rows := make([]row, n)
	for i := range rows {
		rows[i] = row{key: some(70), value: some(300), timestamp: noTimestamp}
		for range r.IntN(4) * r.IntN(2) {
			name := some(20)
			if name == nil {
				name = []byte{}
			}
			rows[i].headers = append(rows[i].headers, header{name, some(70)})
		}
		if stamped {
			rows[i].timestamp = []int64{r.Int64N(maxTimestamp), 1600000000000 + r.Int64N(1000), 0}[r.IntN(3)]
		}
	}
	return rows
}

func TestBatchEncoding(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		b, in := fillBatch(anyRows(r, 1+r.IntN(150)))
		checkBatch(t, b, in)
		if len(in) > 1 {
			first, second := b.split()
			checkBatch(t, first, in[:len(in)/2])
			checkBatch(t, second, in[len(in)/2:])
			odd := b.part(func(i int) bool { return i%3 > 0 })
			var kept []row
			for i := range in {
				if i%3 > 0 {
					kept = append(kept, in[i])
				}
			}
			checkBatch(t, odd, kept)
			for _, p := range []*batch{first, second, odd} {
				if bytes := p.extent().bytes(); p.held != bytes || bytes > b.held {
					t.Errorf("a part holds %d bytes, uses %d, of %d", p.held, bytes, b.held)
				}
			}
		}
	}
}

func FuzzBatchEncoding(f *testing.F) {
	f.Add(uint64(1), 3, []byte("key"), []byte("value"), []byte("name"), int64(1700000000123))
	f.Fuzz(func(t *testing.T, seed uint64, n int, key, value, name []byte, stamp int64) {
		r := rand.New(rand.NewPCG(seed, 5))
		rows := anyRows(r, max(0, min(n, 40)))
		at := int64(noTimestamp)
		if len(rows) > 0 && rows[0].timestamp != noTimestamp && stamp >= 0 && stamp <= maxTimestamp {
			at = stamp
		}
		if name == nil {
			name = []byte{}
		}
		rows = append(rows, row{key: key, value: value, headers: []header{{name, value}}, timestamp: at})
		b, in := fillBatch(rows)
		checkBatch(t, b, in)
	})
}

// TestWorst compresses what can't be compressed.
func TestWorst(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	for name, codec := range codecs {
		for _, n := range []int{1, 50, 1000, 32 << 10, 64<<10 + 1, 300 << 10, 1 << 20} {
			for kind, fill := range map[string]func(i int) byte{
				"noise":     func(int) byte { return byte(r.Uint32()) },
				"six bits":  func(int) byte { return byte(r.Uint32() & 63) },
				"short run": func(i int) byte { return byte(i/5*7919%251) ^ byte(r.Uint32N(2)) },
			} {
				data := make([]byte, n)
				for i := range data {
					data[i] = fill(i)
				}
				b, _ := fillBatch([]row{{value: data, timestamp: noTimestamp}})
				if got := len(encoded(t, b, codec).Records); got > worst(codec, b.size) {
					t.Errorf("%s, %s: %d bytes became %d, more than %d", name, kind, b.size, got, worst(codec, b.size))
				}
			}
		}
	}
}

func TestVarint(t *testing.T) {
	for _, n := range []int64{0, 1, -1, 63, 64, -64, -65, 1 << 20, math.MaxInt64, math.MinInt64, math.MaxInt32} {
		if got, want := varint(n), len(binary.AppendVarint(nil, n)); got != want {
			t.Errorf("varint(%d) takes %d bytes, told %d", n, want, got)
		}
	}
}

func TestSequencesWrap(t *testing.T) {
	for _, c := range []struct {
		at   int32
		n    int
		want int32
	}{{0, 5, 5}, {math.MaxInt32 - 4, 4, math.MaxInt32}, {math.MaxInt32 - 4, 5, 0}, {math.MaxInt32, 1, 0}, {math.MaxInt32, 3, 2}} {
		if got := after(c.at, c.n); got != c.want {
			t.Errorf("%d after %d: %d, want %d", c.n, c.at, got, c.want)
		}
	}
}

func TestSecretsStaySecret(t *testing.T) {
	o := Options{Brokers: []string{"h:1"}, Topic: "t", SASL: &SASL{Mechanism: "PLAIN", User: "u", Password: NewSecret("hunter2")}, TLS: &TLS{Key: NewSecret("hunter2")}}
	var text strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&text, verb, o)
		fmt.Fprintf(&text, verb, o.SASL)
		fmt.Fprintf(&text, verb, *o.SASL)
		fmt.Fprintf(&text, verb, o.TLS.Key)
		fmt.Fprintf(&text, verb, *o.TLS)
	}
	if got := text.String(); strings.Contains(got, "hunter2") || strings.Contains(got, hex.EncodeToString([]byte("hunter2"))) {
		t.Error(got)
	}
	_, err := Open(Options{Brokers: []string{"h:1"}, Topic: "t", SASL: &SASL{Mechanism: "PLAIN", Password: NewSecret("hunter2")}})
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}
