package faultproxy

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

func TestTCPPasses(t *testing.T) {
	s := serveFake(t, echo)
	p, err := NewTCP(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var group sync.WaitGroup
	for i := range 20 {
		conn := dialTo(t, p.Addr())
		group.Go(func() {
			data := bytes.Repeat([]byte{byte(i)}, 100_000)
			go func() {
				_, _ = conn.Write(data)
				_ = conn.(*net.TCPConn).CloseWrite() // and still get all answers
			}()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes came back, %v", len(got), err)
			}
		})
	}
	group.Wait()
}

// TestTCPBytes cuts a connection at each byte, in each direction, in each way.
func TestTCPBytes(t *testing.T) {
	const size = 7
	for _, way := range []func(int) Fate{Cut, Reset, Hang} {
		for n := range size {
			for _, requests := range []bool{true, false} {
				fault := Fault{Answer: way(n)}
				if requests {
					fault = Fault{Request: way(n)}
				}
				t.Run(fmt.Sprint(fault), func(t *testing.T) { tcpAt(t, fault, n, size) })
			}
		}
	}
}

func tcpAt(t *testing.T, fault Fault, n, size int) {
	s := serveFake(t, echo)
	p, err := NewTCP(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.SetConns(ConnRule{Name: "x", Fault: fault})
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		if fault.Request.then == reset || fault.Answer.then == reset {
			return // reset as soon as that
		}
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write([]byte("abcdefg")[:size])
	f := fault.Request
	if f.then == pass {
		f = fault.Answer
	}
	if f.then == hang {
		got := make([]byte, n)
		if fault.Answer.then == hang {
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "abcdefg"[:n] {
				t.Errorf("%q, %v", got, err)
			}
			silent(t, conn)
		} else {
			for string(bytes.Join(s.messages(), nil)) != "abcdefg"[:n] || len(p.ConnHits()) == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		p.Close()
	}
	got, _ := rest(t, conn)
	p.Close()
	s.settle()
	arrived := string(bytes.Join(s.messages(), nil))
	switch {
	case fault.Request.then != pass && len(got) > n:
		t.Errorf("%q came back for %d bytes", got, n)
	case fault.Request.then == cut && arrived != "abcdefg"[:n]:
		t.Errorf("%q arrived, want %d bytes", arrived, n)
	case fault.Answer.then == cut && string(got) != "abcdefg"[:n]:
		t.Errorf("%q came back, want %d bytes", got, n)
	}
	if hits := p.ConnHits(); len(hits) != 1 || hits[0].Rule != "x" {
		t.Errorf("hits %v", hits)
	}
}

// TestTCPHalfOpen: neither side learns of the other's end.
func TestTCPHalfOpen(t *testing.T) {
	ended := make(chan struct{})
	s := serveFake(t, func(_ *fakeServer, conn net.Conn) {
		_, _ = io.Copy(io.Discard, conn)
		close(ended)
	})
	p, err := NewTCP(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.SetConns(ConnRule{Fault: Fault{Request: Hang(3)}})
	conn := dialTo(t, p.Addr())
	write(t, conn, []byte("abc"))
	silent(t, conn)
	conn.Close()
	select {
	case <-ended:
		t.Error("the server learnt that the client is gone")
	case <-time.After(50 * time.Millisecond):
	}
	p.Close()
	<-ended
}

func TestTCPDelayed(t *testing.T) {
	s := serveFake(t, echo)
	p, err := NewTCP(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	p.SetConns(ConnRule{Fault: Fault{DelayRequest: 80 * time.Millisecond}})
	at := time.Now()
	conn := dialTo(t, p.Addr())
	write(t, conn, []byte("a"))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil || time.Since(at) < 80*time.Millisecond {
		t.Errorf("after %v: %v", time.Since(at), err)
	}
}

func TestDown(t *testing.T) {
	s := serveFake(t, echo)
	p, err := NewTCP(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	conn := dialTo(t, p.Addr())
	write(t, conn, []byte("a"))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	p.SetDown(true)
	if _, wasReset := rest(t, conn); !wasReset {
		t.Error("no reset")
	}
	if conn, err := net.Dial("tcp", p.Addr()); err == nil {
		if got, _ := rest(t, conn); len(got) != 0 {
			t.Errorf("%q from a server that is down", got)
		}
		conn.Close()
	}
	p.SetDown(false)
	conn = dialTo(t, p.Addr())
	write(t, conn, []byte("b"))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Error(err)
	}
	p.CutAll()
	if _, wasReset := rest(t, conn); !wasReset {
		t.Error("no reset")
	}
}

// TestServerDown: a server that refuses is a connection that ends.
func TestServerDown(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p, err := NewTCP(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if conn, err := net.Dial("tcp", p.Addr()); err == nil {
		defer conn.Close()
		if got, _ := rest(t, conn); len(got) != 0 {
			t.Errorf("%q", got)
		}
	}
}
