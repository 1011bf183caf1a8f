package faultproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func kafkaPair(t *testing.T) (*fakeServer, *Kafka) {
	t.Helper()
	s := serveFake(t, kafkaEcho)
	p, err := NewKafka(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return s, p
}

// answered reads one answer and checks that it is that to the request.
func answered(t *testing.T, r *bufio.Reader, request []byte) {
	t.Helper()
	raw, err := readSized(r, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	if want := append(append([]byte{}, request[8:12]...), request[4:]...); !bytes.Equal(raw[4:], want) {
		t.Fatalf("got %x, want %x", raw[4:], want)
	}
}

func TestKafkaPipelined(t *testing.T) {
	_, p := kafkaPair(t)
	conn := dialTo(t, p.Addr())
	var sent [][]byte
	for i := range 50 {
		m := kafkaRequest(Fetch, 4, int32(i), bytes.Repeat([]byte{byte(i)}, i*1000))
		sent = append(sent, m)
	}
	go func() {
		for _, m := range sent {
			_, _ = conn.Write(m)
		}
	}()
	r := bufio.NewReader(conn)
	for _, m := range sent {
		answered(t, r, m)
	}
}

// TestKafkaLostAnswer loses the answer to the third EndTxn: what came before is
// answered, the server has got it, what came after it is not known.
func TestKafkaLostAnswer(t *testing.T) {
	for _, way := range []func(int) Fate{Cut, Reset} {
		s, p := kafkaPair(t)
		p.Set(KafkaRule{Name: "lost", Match: API(EndTxn), From: 3, Times: 1, Fault: Fault{Answer: way(0)}})
		conn := dialTo(t, p.Addr())
		r := bufio.NewReader(conn)
		for i := range int32(5) {
			api := EndTxn
			if i%2 == 1 {
				api = AddPartitionsToTxn
			}
			m := kafkaRequest(api, 3, i, nil)
			write(t, conn, m)
			if i < 4 {
				answered(t, r, m)
			}
		}
		if rest, err := readSized(r, 0, false); err == nil {
			t.Errorf("an answer came: %x", rest)
		}
		if got := s.messages(); len(got) != 5 || binary.BigEndian.Uint32(got[4][8:]) != 4 {
			t.Errorf("the server got %d requests", len(got))
		}
		if hits := p.Hits(); len(hits) != 1 || p.Seen() != 5 {
			t.Errorf("hits %v of %d", hits, p.Seen())
		}
		m := kafkaRequest(EndTxn, 3, 9, nil)
		again := dialTo(t, p.Addr())
		write(t, again, m)
		answered(t, bufio.NewReader(again), m)
	}
}

// TestKafkaBytes ends a request and an answer at each byte.
func TestKafkaBytes(t *testing.T) {
	m := kafkaRequest(InitProducerID, 2, 7, []byte("body"))
	whole := KafkaMessage(&KafkaRequest{Correlation: 7}, m[4:])
	for _, way := range []func(int) Fate{Cut, Hang} {
		for n := range len(whole) {
			for _, fault := range []Fault{{Request: way(n)}, {Answer: way(n)}} {
				t.Run(fmt.Sprint(fault), func(t *testing.T) { kafkaAt(t, fault, m, whole, n) })
			}
		}
	}
}

func kafkaAt(t *testing.T, fault Fault, m, whole []byte, n int) {
	s, p := kafkaPair(t)
	p.Set(KafkaRule{From: 1, Times: 1, Fault: fault})
	conn := dialTo(t, p.Addr())
	write(t, conn, m)
	want := whole[:n]
	if fault.Request.then != pass {
		want = nil
		if n >= len(m) {
			return // all of it may arrive and be answered, or not
		}
	}
	if fault.Request.then == hang || fault.Answer.then == hang {
		got := make([]byte, len(want))
		for at := 0; at < len(got); {
			k, err := conn.Read(got[at:])
			if err != nil {
				t.Fatal(err)
			}
			at += k
		}
		if !bytes.Equal(got, want) {
			t.Errorf("got %x, want %x", got, want)
		}
		silent(t, conn)
		p.Close()
		return
	}
	if got, _ := rest(t, conn); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	p.Close()
	s.settle()
	messages := s.messages()
	if fault.Answer.then != pass && (len(messages) != 1 || !bytes.Equal(messages[0], m)) {
		t.Errorf("the server got %x", messages)
	}
	if fault.Request.then != pass && len(messages) > 0 && bytes.Equal(messages[0], m) {
		t.Error("the server got all of it")
	}
}

func TestKafkaDelays(t *testing.T) {
	for _, fault := range []Fault{{DelayRequest: 60 * time.Millisecond}, {DelayAnswer: 60 * time.Millisecond}} {
		_, p := kafkaPair(t)
		p.Set(KafkaRule{Match: API(Produce), Fault: fault})
		conn := dialTo(t, p.Addr())
		m := kafkaRequest(Produce, 3, 1, []byte{0xff, 0xff, 0xff, 0xff})
		at := time.Now()
		write(t, conn, m)
		answered(t, bufio.NewReader(conn), m)
		if took := time.Since(at); took < 60*time.Millisecond {
			t.Errorf("%v: after %v", fault, took)
		}
	}
}

// TestKafkaReplies answers every other request in place of the server; clients
// get answers in order all the same.
func TestKafkaReplies(t *testing.T) {
	s, p := kafkaPair(t)
	reply := func(r *KafkaRequest) []byte { return KafkaMessage(r, []byte("no")) }
	p.Set(
		KafkaRule{Match: API(Produce), Reply: reply},
		KafkaRule{Match: API(Metadata + 100), Edit: func(_ *KafkaRequest, answer []byte) []byte { return append(answer[:8:8], "edited"...) }},
	)
	conn := dialTo(t, p.Addr())
	var all []byte
	for i := range int32(40) {
		api := []int16{Fetch, Produce, Produce, Fetch}[i%4]
		all = append(all, kafkaRequest(api, 3, i, []byte{0xff, 0xff, 0xff, 0xff})...)
	}
	write(t, conn, all)
	r := bufio.NewReader(conn)
	for i := range uint32(40) {
		raw, err := readSized(r, 0, false)
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint32(raw[4:]); got != i {
			t.Fatalf("answer %d in place of %d", got, i)
		}
		if ours := string(raw[8:]) == "no"; ours != (i%4 == 1 || i%4 == 2) {
			t.Errorf("answer %d: %q", i, raw[8:])
		}
	}
	if got := s.messages(); len(got) != 20 {
		t.Errorf("the server got %d requests", len(got))
	}
}

// TestKafkaNoAcks: a Produce without an answer doesn't take that of the next.
func TestKafkaNoAcks(t *testing.T) {
	id := []byte{0, 1, 'x'}
	for name, body := range map[string][]byte{
		"v0": {0, 0}, "v3": append([]byte{0xff, 0xff}, 0, 0), "v8, transactional": append(id, 0, 0),
		"v9": {0, 0, 0, 0}, "v11, transactional": {0, 2, 'x', 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			_, p := kafkaPair(t)
			p.Set(KafkaRule{Match: API(Fetch), From: 2, Fault: Fault{Answer: Cut(0)}})
			var version int16
			fmt.Sscanf(name, "v%d", &version)
			conn := dialTo(t, p.Addr())
			first, second := kafkaRequest(Fetch, 4, 2, nil), kafkaRequest(Fetch, 4, 3, nil)
			write(t, conn, kafkaRequest(Produce, version, 1, body))
			write(t, conn, first)
			r := bufio.NewReader(conn)
			answered(t, r, first)
			write(t, conn, second)
			if raw, err := readSized(r, 0, false); err == nil {
				t.Errorf("the lost answer came: %x", raw)
			}
		})
	}
}

func TestAcks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.Int16Range(0, 12).Draw(t, "version")
		_ = acks(version, rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "body")) // whatever it is, it doesn't panic
		want := rapid.SampledFrom([]int16{-1, 0, 1}).Draw(t, "acks")
		id := rapid.StringN(0, 300, 300).Draw(t, "id")
		var body []byte
		switch {
		case version >= 9:
			body = append(binary.AppendUvarint([]byte{0}, uint64(len(id)+1)), id...)
		case version >= 3:
			body = append(binary.BigEndian.AppendUint16(nil, uint16(len(id))), id...)
		}
		body = append(binary.BigEndian.AppendUint16(body, uint16(want)), "rest"...)
		if got := acks(version, body); got != want {
			t.Fatalf("%d, want %d", got, want)
		}
	})
}

// metadata makes an answer to Metadata as brokers do.
func metadata(version int16, correlation int32, hosts []string, ports []int32, rack string) []byte {
	flexible := version >= 9
	var b []byte
	text := func(s string) {
		if flexible {
			b = append(binary.AppendUvarint(b, uint64(len(s)+1)), s...)
		} else {
			b = append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
		}
	}
	tags := func() {
		if flexible {
			b = append(b, 1, 5, 3, 'x', 'y', 'z') // one that nobody knows
		}
	}
	tags()
	if version >= 3 {
		b = append(b, 0, 0, 0, 0)
	}
	if flexible {
		b = binary.AppendUvarint(b, uint64(len(hosts)+1))
	} else {
		b = binary.BigEndian.AppendUint32(b, uint32(len(hosts)))
	}
	for i, host := range hosts {
		b = binary.BigEndian.AppendUint32(b, uint32(i))
		text(host)
		b = binary.BigEndian.AppendUint32(b, uint32(ports[i]))
		if version >= 1 {
			text(rack)
		}
		tags()
	}
	text("cluster id")
	b = append(b, "and topics"...)
	return KafkaMessage(&KafkaRequest{Correlation: correlation}, b)
}

// TestMetadata: all addresses are replaced, and nothing else is touched.
func TestMetadata(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		version := rapid.Int16Range(0, 13).Draw(t, "version")
		host := rapid.StringMatching(`[a-z0-9.-]{1,140}`)
		hosts := rapid.SliceOfNDistinct(host, 1, 5, rapid.ID).Draw(t, "hosts")
		rack := rapid.StringMatching(`[a-z]{0,5}`).Draw(t, "rack")
		ports, ours, ourPorts := make([]int32, len(hosts)), make([]string, len(hosts)), make([]int32, len(hosts))
		addresses := map[string]string{}
		var want []string
		for i, h := range hosts {
			ports[i] = rapid.Int32Range(1, 65535).Draw(t, "port")
			ours[i], ourPorts[i] = "127.0.0.1", int32(20000+i)
			want = append(want, net.JoinHostPort(h, fmt.Sprint(ports[i])))
			addresses[want[i]] = net.JoinHostPort(ours[i], fmt.Sprint(ourPorts[i]))
		}
		raw := metadata(version, 1, hosts, ports, rack)
		found, err := metadataBrokers(version, raw)
		if err != nil || fmt.Sprint(found) != fmt.Sprint(want) {
			t.Fatalf("%v, %v, want %v", found, err, want)
		}
		got, err := replaceAddresses(raw, addresses)
		if err != nil || !bytes.Equal(got, metadata(version, 1, ours, ourPorts, rack)) {
			t.Fatalf("%v\n%q\n%q", err, got, metadata(version, 1, ours, ourPorts, rack))
		}
	})
}

func FuzzMetadataBrokers(f *testing.F) {
	for v := range int16(14) {
		f.Add(v, metadata(v, 1, []string{"a.b", "c"}, []int32{9092, 9093}, "r"))
	}
	f.Fuzz(func(t *testing.T, version int16, raw []byte) {
		if len(raw) >= 8 {
			_, _ = metadataBrokers(version, raw) // no panic, no endless loop
		}
	})
}

// TestKafkaCluster: clients that learn of other brokers from Metadata reach them
// through the proxy, and rules count over all of them.
func TestKafkaCluster(t *testing.T) {
	second := serveFake(t, kafkaEcho)
	first := serveFake(t, func(s *fakeServer, conn net.Conn) {
		r := bufio.NewReader(conn)
		raw, err := readSized(r, 0, false)
		if err != nil {
			return
		}
		host, port, _ := splitAddress(second.addr)
		_, _ = conn.Write(metadata(9, int32(binary.BigEndian.Uint32(raw[8:])), []string{host}, []int32{int32(port)}, ""))
	})
	p, err := NewKafka(first.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	conn := dialTo(t, p.Addr())
	write(t, conn, kafkaRequest(Metadata, 9, 5, nil))
	raw, err := readSized(bufio.NewReader(conn), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	found, err := metadataBrokers(9, raw)
	if err != nil || len(found) != 1 || found[0] == second.addr || found[0] == p.Addr() {
		t.Fatalf("%v, %v", found, err)
	}
	m := kafkaRequest(Fetch, 4, 6, nil)
	again := dialTo(t, found[0])
	write(t, again, m)
	answered(t, bufio.NewReader(again), m)
	if p.Seen() != 2 || len(second.messages()) != 1 {
		t.Errorf("%d seen, %d at the second broker", p.Seen(), len(second.messages()))
	}
}
