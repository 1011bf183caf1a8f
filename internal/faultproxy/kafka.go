package faultproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
)

// Requests of Kafka (https://kafka.apache.org/protocol#protocol_api_keys).
const (
	Produce            int16 = 0
	Fetch              int16 = 1
	ListOffsets        int16 = 2
	Metadata           int16 = 3
	OffsetCommit       int16 = 8
	OffsetFetch        int16 = 9
	FindCoordinator    int16 = 10
	SaslHandshake      int16 = 17
	APIVersions        int16 = 18
	CreateTopics       int16 = 19
	InitProducerID     int16 = 22
	AddPartitionsToTxn int16 = 24
	AddOffsetsToTxn    int16 = 25
	EndTxn             int16 = 26
	TxnOffsetCommit    int16 = 28
	DescribeConfigs    int16 = 32
	SaslAuthenticate   int16 = 36
	DescribeCluster    int16 = 60
)

// A KafkaRequest is one that a client sent to a broker.
type KafkaRequest struct {
	Connection  int // from 1
	API         int16
	Version     int16
	Correlation int32
	Client      string // its client.id
	Raw         []byte // all of it, from its length on. Not to be changed
}

func (r *KafkaRequest) String() string {
	return fmt.Sprintf("API %d v%d, correlation id %d, client %q, %d bytes", r.API, r.Version, r.Correlation, r.Client, len(r.Raw))
}

// A KafkaRule hits requests. Reply and Edit give whole messages, from their
// length on (see [KafkaMessage]). A Produce with acks=0 has no answer that
// anything could happen to.
type KafkaRule = Rule[*KafkaRequest, []byte]

// API matches requests of these kinds.
func API(keys ...int16) func(*KafkaRequest) bool {
	return func(r *KafkaRequest) bool { return slices.Contains(keys, r.API) }
}

// KafkaMessage makes the message that answers r: length, correlation id, body. A
// flexible response, other than that of APIVersions, begins its body with the
// tags of the header, usually one 0.
func KafkaMessage(r *KafkaRequest, body []byte) []byte {
	m := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
	m = binary.BigEndian.AppendUint32(m, uint32(r.Correlation))
	return append(m, body...)
}

// Kafka is a proxy for a cluster. Clients need the address of one broker: where
// the brokers name each other (Metadata, FindCoordinator, DescribeCluster, and the
// leader hints of Produce and Fetch excepted), it puts addresses of its own, so
// that clients never get past it. TLS can't be looked into: use a plain listener,
// with SASL or without.
type Kafka struct {
	network
	book[*KafkaRequest, []byte]
	first string

	brokers struct {
		sync.Mutex
		proxied map[string]string // host:port as a broker says it to ours
	}
}

// NewKafka starts a proxy for the cluster of which server (host:port) is a broker.
func NewKafka(server string) (*Kafka, error) {
	p := &Kafka{}
	p.init()
	p.brokers.proxied = map[string]string{}
	var err error
	p.first, err = p.proxy(server)
	return p, err
}

// Addr is host:port for clients, to bootstrap from.
func (p *Kafka) Addr() string { return p.first }

// proxy gives our address for a broker, and listens on one if it is new.
func (p *Kafka) proxy(broker string) (string, error) {
	p.brokers.Lock()
	defer p.brokers.Unlock()
	if addr, ok := p.brokers.proxied[broker]; ok {
		return addr, nil
	}
	addr, err := p.listen(func(client net.Conn) { p.serve(client, broker) })
	if err == nil {
		p.brokers.proxied[broker] = addr
	}
	return addr, err
}

func (p *Kafka) serve(client net.Conn, broker string) {
	pair, err := p.dial(client, broker)
	if err != nil {
		return
	}
	t := &talk[*KafkaRequest]{pair: pair, rules: &p.book, dialect: &kafkaDialect{p, pair.number}}
	p.servePair(pair, t.request, t.answer)
}

type kafkaDialect struct {
	proxy      *Kafka
	connection int
}

// readSized reads a message that begins with its length in 4 bytes, after the
// first skip bytes; own says whether the length counts itself.
func readSized(from *bufio.Reader, skip int, own bool) ([]byte, error) {
	head, err := from.Peek(skip + 4)
	if err != nil {
		if errors.Is(err, io.EOF) && len(head) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	size := int64(int32(binary.BigEndian.Uint32(head[skip:])))
	if own {
		size -= 4
	}
	if size < 0 {
		return nil, fmt.Errorf("a message of %d bytes", size)
	}
	var raw bytes.Buffer // grows with what comes, not with what is announced
	if _, err := io.CopyN(&raw, from, int64(skip)+4+size); err != nil {
		return nil, io.ErrUnexpectedEOF
	}
	return raw.Bytes(), nil
}

func (d *kafkaDialect) request(from *bufio.Reader) ([]byte, *KafkaRequest, expects, error) {
	raw, err := readSized(from, 0, false)
	if err != nil {
		return nil, nil, 0, err
	}
	r := &KafkaRequest{Connection: d.connection, API: -1, Raw: raw}
	body := raw[4:]
	if len(body) < 10 {
		return raw, r, ownAnswer, nil // not a request of Kafka: a token of an old SASL, or nonsense
	}
	r.API, r.Version = int16(binary.BigEndian.Uint16(body)), int16(binary.BigEndian.Uint16(body[2:]))
	r.Correlation = int32(binary.BigEndian.Uint32(body[4:]))
	client := int(int16(binary.BigEndian.Uint16(body[8:])))
	body = body[10:]
	if client > 0 && client <= len(body) {
		r.Client = string(body[:client])
		body = body[client:]
	}
	if r.API == Produce && acks(r.Version, body) == 0 {
		return raw, r, noAnswer, nil
	}
	return raw, r, ownAnswer, nil
}

// acks reads the acks of a Produce request from what follows the client id; 1
// if it can't.
func acks(version int16, body []byte) int16 {
	text := 0 // length of the transactional id
	switch {
	case version >= 9: // flexible: tags of the header (none is known), then a compact string
		if len(body) < 2 || body[0] != 0 {
			return 1
		}
		n, size := binary.Uvarint(body[1:])
		if size <= 0 || n > uint64(len(body)) {
			return 1
		}
		body, text = body[1+size:], max(0, int(n)-1)
	case version >= 3:
		if len(body) < 2 {
			return 1
		}
		text = max(0, int(int16(binary.BigEndian.Uint16(body))))
		body = body[2:]
	}
	if len(body) < text+2 {
		return 1
	}
	return int16(binary.BigEndian.Uint16(body[text:]))
}

func (d *kafkaDialect) answer(from *bufio.Reader) ([]byte, bool, error) {
	raw, err := readSized(from, 0, false)
	return raw, true, err
}

// rewrite puts our addresses for those of brokers. An address is a string (with
// its length before it) and a port of 4 bytes in every version of every answer, so
// it is found without knowing the rest; nothing else in these answers looks like it.
func (d *kafkaDialect) rewrite(r *KafkaRequest, raw []byte) ([]byte, error) {
	switch r.API {
	case Metadata:
		found, err := metadataBrokers(r.Version, raw)
		if err != nil {
			return nil, fmt.Errorf("metadata v%d: %w", r.Version, err)
		}
		for _, broker := range found {
			if _, err := d.proxy.proxy(broker); err != nil {
				return nil, err
			}
		}
	case FindCoordinator, DescribeCluster:
	default:
		return raw, nil
	}
	d.proxy.brokers.Lock()
	defer d.proxy.brokers.Unlock()
	return replaceAddresses(raw, d.proxy.brokers.proxied)
}
