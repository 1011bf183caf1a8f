package services

import (
	"encoding/binary"
	"io"
	"net"
	"testing"
)

// apiVersions asks a broker for its API versions (version 0) and gives the
// answer's error code, which follows the correlation id.
func apiVersions(t *testing.T, addr string) (code uint16, size int) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(conn, head); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, binary.BigEndian.Uint32(head))
	if _, err := io.ReadFull(conn, answer); err != nil {
		t.Fatal(err)
	}
	if got := binary.BigEndian.Uint32(answer); got != 7 {
		t.Fatalf("correlation id %d, want 7", got)
	}
	return binary.BigEndian.Uint16(answer[4:]), len(answer)
}

func TestKafkaIsShared(t *testing.T) {
	a, b := Kafka(t), Kafka(t)
	if a.Addr != b.Addr || a.Pid != b.Pid {
		t.Fatalf("two brokers: %s and %s", a.Addr, b.Addr)
	}
	if code, size := apiVersions(t, a.Addr); code != 0 || size < 100 {
		t.Errorf("ApiVersions: code %d, %d bytes", code, size)
	}
}

func TestOwnKafkaKilled(t *testing.T) {
	b := OwnKafka(t)
	if b.Addr == Kafka(t).Addr {
		t.Fatal("the test's own broker is the shared one")
	}
	for _, end := range []func() error{b.Kill, b.Stop} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if conn, err := net.Dial("tcp", b.Addr); err == nil {
			conn.Close()
			t.Fatal("it still listens")
		}
		if err := b.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if code, _ := apiVersions(t, b.Addr); code != 0 {
			t.Errorf("ApiVersions: code %d", code)
		}
	}
}
