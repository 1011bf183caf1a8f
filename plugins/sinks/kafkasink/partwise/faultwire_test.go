package partwise

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// faultKind is what happens to one request.
type faultKind uint8

const (
	noFault  faultKind = iota
	cutEarly           // the connection is lost before the broker gets it
	cutLate            // the broker does it, and the connection is lost before the answer
	silence            // the broker does it, and no answer ever comes on this connection
	refuse             // the broker doesn't get it; the answer has a code
	belie              // the broker does it; the answer has a code all the same
)

var faultNames = [...]string{"none", "cut early", "cut late", "silence", "refuse", "belie"}

func (k faultKind) String() string { return faultNames[k] }

// injector counts the requests of one attempt and does harm to some. It sits
// in the client's own connections, so it serves any broker.
type injector struct {
	// choose says what happens to request n of this kind (kmsg key).
	choose func(n int, key int16) (faultKind, int16)
	// inspect decides by the request's bytes.
	inspect func(key int16, frame []byte) (faultKind, int16)
	// tamper changes an answer that no fault hit.
	tamper func(resp kmsg.Response)
	// seen is told of every request.
	seen func(n int, key int16, frame []byte)

	mu   sync.Mutex
	n    int
	hits int
}

func (in *injector) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &faultConn{Conn: c, in: in}, nil
}

// exchange is one request whose answer the client waits for.
type exchange struct {
	key, version int16
	correlation  int32
	kind         faultKind
	code         int16
	made         []byte // the answer of a refused one
}

// faultConn is one connection. The client writes whole requests, and reads only
// when it has written one.
type faultConn struct {
	net.Conn
	in      *injector
	mu      sync.Mutex
	waiting []exchange
	ready   []byte // answer bytes not yet read
	mute    bool
	until   time.Time
}

func (c *faultConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.until = t
	c.mu.Unlock()
	return c.Conn.SetReadDeadline(t)
}

func (c *faultConn) Write(frame []byte) (int, error) {
	e := exchange{
		key: int16(binary.BigEndian.Uint16(frame[4:])), version: int16(binary.BigEndian.Uint16(frame[6:])),
		correlation: int32(binary.BigEndian.Uint32(frame[8:])),
	}
	if size := binary.BigEndian.Uint32(frame); int(size)+4 != len(frame) {
		panic("a request in pieces")
	}
	c.in.mu.Lock()
	n := c.in.n
	c.in.n++
	if c.in.choose != nil {
		e.kind, e.code = c.in.choose(n, e.key)
	}
	if c.in.inspect != nil {
		e.kind, e.code = c.in.inspect(e.key, frame)
	}
	if e.kind != noFault {
		c.in.hits++
	}
	if c.in.seen != nil {
		c.in.seen(n, e.key, frame)
	}
	c.in.mu.Unlock()
	switch e.kind {
	case cutEarly:
		c.Close()
		return 0, io.ErrClosedPipe
	case refuse:
		e.made = refusal(e, frame)
		if e.made == nil { // no answer that could have a code
			e.kind = noFault
		}
	}
	c.mu.Lock()
	c.waiting = append(c.waiting, e)
	c.mu.Unlock()
	if e.made != nil {
		return len(frame), nil
	}
	return c.Conn.Write(frame)
}

func (c *faultConn) Read(to []byte) (int, error) {
	if len(c.ready) == 0 {
		if err := c.next(); err != nil {
			return 0, err
		}
	}
	n := copy(to, c.ready)
	c.ready = c.ready[n:]
	return n, nil
}

// next makes the next answer ready.
func (c *faultConn) next() error {
	c.mu.Lock()
	var e exchange
	if len(c.waiting) > 0 {
		e = c.waiting[0]
		c.waiting = c.waiting[1:]
	}
	mute, until := c.mute, c.until
	c.mu.Unlock()
	if mute {
		return c.silent(until)
	}
	if e.made != nil {
		c.ready = e.made
		return nil
	}
	var head [4]byte
	if _, err := io.ReadFull(c.Conn, head[:]); err != nil {
		return err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:]))
	if _, err := io.ReadFull(c.Conn, body); err != nil {
		return err
	}
	if len(body) < 4 || int32(binary.BigEndian.Uint32(body)) != e.correlation {
		e = exchange{kind: noFault, key: -1} // late, of a request that sarama gave up: it has to see that itself
	}
	switch e.kind {
	case cutLate:
		c.Close()
		return io.EOF
	case silence:
		c.mute = true
		return c.silent(until)
	case belie:
		body = rewrite(e, body, func(r kmsg.Response) { setCode(r, e.code) })
	case noFault:
		if c.in.tamper != nil && e.key >= 0 {
			body = rewrite(e, body, c.in.tamper)
		}
	}
	c.ready = append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	return nil
}

// silent waits for the deadline, or the end of the connection.
func (c *faultConn) silent(until time.Time) error {
	for time.Now().Before(until) {
		var b [1]byte
		if _, err := c.Conn.Read(b[:]); errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
			return err
		}
	}
	return os.ErrDeadlineExceeded
}

// headLength is how many bytes of an answer come before its body.
func headLength(e exchange, r kmsg.Response) int {
	if r.IsFlexible() && e.key != int16(kmsg.ApiVersions) {
		return 5
	}
	return 4
}

func rewrite(e exchange, body []byte, change func(kmsg.Response)) []byte {
	r := kmsg.ResponseForKey(e.key)
	r.SetVersion(e.version)
	n := headLength(e, r)
	if err := r.ReadFrom(body[n:]); err != nil {
		panic(fmt.Sprintf("answer of key %d version %d: %v", e.key, e.version, err))
	}
	change(r)
	return r.AppendTo(body[:n:n])
}

// refusal makes an answer with a code, or nil.
func refusal(e exchange, frame []byte) []byte {
	req := kmsg.RequestForKey(e.key)
	req.SetVersion(e.version)
	clientID := int(int16(binary.BigEndian.Uint16(frame[12:])))
	at := 14 + max(0, clientID)
	if req.IsFlexible() {
		at++
	}
	if err := req.ReadFrom(frame[at:]); err != nil {
		panic(fmt.Sprintf("request of key %d version %d: %v", e.key, e.version, err))
	}
	r := req.ResponseKind()
	switch q := req.(type) {
	case *kmsg.ProduceRequest:
		p := r.(*kmsg.ProduceResponse)
		for _, t := range q.Topics {
			rt := kmsg.NewProduceResponseTopic()
			rt.Topic = t.Topic
			for _, part := range t.Partitions {
				rp := kmsg.NewProduceResponseTopicPartition()
				rp.Partition, rp.BaseOffset = part.Partition, -1
				rt.Partitions = append(rt.Partitions, rp)
			}
			p.Topics = append(p.Topics, rt)
		}
	case *kmsg.MetadataRequest:
		for _, t := range q.Topics {
			rt := kmsg.NewMetadataResponseTopic()
			rt.Topic = t.Topic
			r.(*kmsg.MetadataResponse).Topics = append(r.(*kmsg.MetadataResponse).Topics, rt)
		}
	case *kmsg.AddPartitionsToTxnRequest:
		for _, t := range q.Topics {
			rt := kmsg.NewAddPartitionsToTxnResponseTopic()
			rt.Topic = t.Topic
			for _, part := range t.Partitions {
				rp := kmsg.NewAddPartitionsToTxnResponseTopicPartition()
				rp.Partition = part
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.(*kmsg.AddPartitionsToTxnResponse).Topics = append(r.(*kmsg.AddPartitionsToTxnResponse).Topics, rt)
		}
	case *kmsg.TxnOffsetCommitRequest:
		for _, t := range q.Topics {
			rt := kmsg.NewTxnOffsetCommitResponseTopic()
			rt.Topic = t.Topic
			for _, part := range t.Partitions {
				rp := kmsg.NewTxnOffsetCommitResponseTopicPartition()
				rp.Partition = part.Partition
				rt.Partitions = append(rt.Partitions, rp)
			}
			r.(*kmsg.TxnOffsetCommitResponse).Topics = append(r.(*kmsg.TxnOffsetCommitResponse).Topics, rt)
		}
	case *kmsg.DescribeConfigsRequest:
		for _, res := range q.Resources {
			rr := kmsg.NewDescribeConfigsResponseResource()
			rr.ResourceType, rr.ResourceName = res.ResourceType, res.ResourceName
			r.(*kmsg.DescribeConfigsResponse).Resources = append(r.(*kmsg.DescribeConfigsResponse).Resources, rr)
		}
	case *kmsg.InitProducerIDRequest, *kmsg.AddOffsetsToTxnRequest, *kmsg.EndTxnRequest, *kmsg.FindCoordinatorRequest, *kmsg.OffsetFetchRequest:
	default:
		return nil
	}
	setCode(r, e.code)
	body := binary.BigEndian.AppendUint32(nil, uint32(e.correlation))
	if headLength(e, r) == 5 {
		body = append(body, 0)
	}
	body = r.AppendTo(body)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
}

// setCode puts a code wherever an answer may have one that says the request failed.
func setCode(r kmsg.Response, code int16) {
	switch r := r.(type) {
	case *kmsg.ProduceResponse:
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				r.Topics[i].Partitions[j].ErrorCode, r.Topics[i].Partitions[j].BaseOffset = code, -1
			}
		}
	case *kmsg.MetadataResponse:
		for i := range r.Topics {
			r.Topics[i].ErrorCode, r.Topics[i].Partitions = code, nil
		}
	case *kmsg.AddPartitionsToTxnResponse:
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				r.Topics[i].Partitions[j].ErrorCode = code
			}
		}
	case *kmsg.TxnOffsetCommitResponse:
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				r.Topics[i].Partitions[j].ErrorCode = code
			}
		}
	case *kmsg.DescribeConfigsResponse:
		for i := range r.Resources {
			r.Resources[i].ErrorCode, r.Resources[i].Configs = code, nil
		}
	case *kmsg.InitProducerIDResponse:
		r.ErrorCode, r.ProducerID, r.ProducerEpoch = code, -1, -1
	case *kmsg.AddOffsetsToTxnResponse:
		r.ErrorCode = code
	case *kmsg.EndTxnResponse:
		r.ErrorCode = code
	case *kmsg.FindCoordinatorResponse:
		r.ErrorCode, r.NodeID, r.Host, r.Port = code, -1, "", -1
	case *kmsg.OffsetFetchResponse:
		r.ErrorCode, r.Topics = code, nil
	}
}

// at harms request n.
func at(n int, kind faultKind, code int16) func(int, int16) (faultKind, int16) {
	return func(i int, _ int16) (faultKind, int16) {
		if i == n {
			return kind, code
		}
		return noFault, 0
	}
}

// nth harms the n-th request of a kind.
func nth(key int16, n int, kind faultKind, code int16) func(int, int16) (faultKind, int16) {
	return func(_ int, k int16) (faultKind, int16) {
		if k != key {
			return noFault, 0
		}
		n--
		if n == -1 {
			return kind, code
		}
		return noFault, 0
	}
}

// now and then harms one request in every, by a seed.
func nowAndThen(seed uint64, every int, kinds ...faultKind) func(int, int16) (faultKind, int16) {
	r := rand.New(rand.NewPCG(seed, 1))
	codes := []int16{-1, 3, 5, 6, 7, 13, 14, 15, 16, 19, 20, 51, 56, 74, 88}
	return func(int, int16) (faultKind, int16) {
		if r.IntN(every) > 0 {
			return noFault, 0
		}
		return kinds[r.IntN(len(kinds))], codes[r.IntN(len(codes))]
	}
}
