package faultproxy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A fakeServer accepts connections and remembers the bytes that it got.
type fakeServer struct {
	addr string
	mu   sync.Mutex
	got  [][]byte // messages or chunks
	open int      // connections
}

// settle waits until the server has seen the end of all its connections.
func (s *fakeServer) settle() {
	for open := 1; open > 0; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		open = s.open
		s.mu.Unlock()
	}
}

func (s *fakeServer) count(by int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open += by
}

func (s *fakeServer) note(message []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, append([]byte(nil), message...))
}

func (s *fakeServer) messages() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]byte(nil), s.got...)
}

// serveFake handles each connection until it fails.
func serveFake(t *testing.T, handle func(*fakeServer, net.Conn)) *fakeServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &fakeServer{addr: l.Addr().String()}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.count(1)
			group.Go(func() {
				defer s.count(-1)
				defer conn.Close()
				handle(s, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); group.Wait() })
	return s
}

// echo answers each chunk with itself, and remembers it.
func echo(s *fakeServer, conn net.Conn) {
	buf := make([]byte, 1000)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			s.note(buf[:n])
			_, _ = conn.Write(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// kafkaEcho answers each message with its correlation id and its body, whole
// messages only.
func kafkaEcho(s *fakeServer, conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		raw, err := readSized(r, 0, false)
		if err != nil {
			rest, _ := io.ReadAll(r)
			if len(rest) > 0 {
				s.note(rest)
			}
			return
		}
		s.note(raw)
		d := &kafkaDialect{}
		_, req, kind, _ := d.request(bufio.NewReader(newReader(raw)))
		if kind != noAnswer {
			_, _ = conn.Write(KafkaMessage(req, raw[4:]))
		}
	}
}

type reader struct{ data []byte }

func newReader(data []byte) *reader { return &reader{data} }

func (r *reader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data)
	r.data = r.data[n:]
	return n, nil
}

// kafkaRequest makes a request.
func kafkaRequest(api, version int16, correlation int32, body []byte) []byte {
	m := binary.BigEndian.AppendUint32(nil, uint32(8+2+2+len(body)))
	m = binary.BigEndian.AppendUint16(m, uint16(api))
	m = binary.BigEndian.AppendUint16(m, uint16(version))
	m = binary.BigEndian.AppendUint32(m, uint32(correlation))
	m = append(m, 0, 2, 'm', 'e')
	return append(m, body...)
}

func dialTo(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func write(t *testing.T, conn net.Conn, data []byte) {
	t.Helper()
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
}

// rest reads until the connection ends, and tells whether by a reset.
func rest(t *testing.T, conn net.Conn) (data []byte, wasReset bool) {
	t.Helper()
	data, err := io.ReadAll(conn)
	var operation *net.OpError
	return data, errors.As(err, &operation)
}

// silent checks that nothing comes and the connection stays open, as far as one
// can see in a while.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	if n != 0 || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("%d bytes, %v, want silence", n, err)
	}
	_ = conn.SetReadDeadline(time.Time{})
}
