package faultproxy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"strconv"
)

var errShort = errors.New("the message is too short")

// metadataBrokers reads the brokers' addresses from an answer to Metadata: after
// the correlation id come the header's tags (from version 9), the throttle time
// (from 3), and the brokers with id, host, port, rack (from 1) and tags (from 9).
func metadataBrokers(version int16, raw []byte) ([]string, error) {
	f := &fields{data: raw, at: 8, flexible: version >= 9}
	f.tags()
	if version >= 3 {
		f.skip(4)
	}
	var found []string
	for range f.length(4) {
		f.skip(4)
		host := f.text()
		port := int(int32(f.number(4)))
		if version >= 1 {
			f.text()
		}
		f.tags()
		if f.failed {
			break
		}
		found = append(found, net.JoinHostPort(host, strconv.Itoa(port)))
	}
	if f.failed {
		return nil, errShort
	}
	return found, nil
}

// fields reads the primitive types of Kafka's protocol.
type fields struct {
	data     []byte
	at       int
	flexible bool
	failed   bool
}

func (f *fields) skip(n int) []byte {
	if n < 0 || n > len(f.data)-f.at {
		f.failed = true
		return nil
	}
	f.at += n
	return f.data[f.at-n : f.at]
}

func (f *fields) number(size int) (n uint64) {
	for _, b := range f.skip(size) {
		n = n<<8 | uint64(b)
	}
	return n
}

// length reads the length of an array or a string, which takes size bytes or is
// compact; -1 for null.
func (f *fields) length(size int) int {
	if !f.flexible {
		n := f.number(size)
		if size == 2 {
			return int(int16(n))
		}
		return int(int32(n))
	}
	n, used := binary.Uvarint(f.data[min(f.at, len(f.data)):])
	if used <= 0 || n > uint64(len(f.data)) {
		f.failed = true
		return 0
	}
	f.at += used
	return int(n) - 1
}

func (f *fields) text() string { return string(f.skip(max(0, f.length(2)))) }

// tags skips tagged fields.
func (f *fields) tags() {
	if !f.flexible {
		return
	}
	for range f.length(0) + 1 {
		f.length(0)
		f.skip(f.length(0) + 1)
	}
}

// replaceAddresses puts to for from in a message, wherever a host with its length
// before it and its port after it stands, and corrects the lengths.
func replaceAddresses(raw []byte, addresses map[string]string) ([]byte, error) {
	body := raw[4:]
	var out []byte
	for len(body) > 0 {
		from, to, err := addressAt(body, addresses)
		if err != nil {
			return nil, err
		}
		if from == 0 {
			from, to = 1, body[:1]
		}
		out, body = append(out, to...), body[from:]
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(out))), out...), nil
}

// addressAt looks for an address at the beginning of data: its size, 0 if there
// is none, and what to put there.
func addressAt(data []byte, addresses map[string]string) (size int, to []byte, err error) {
	for from, ours := range addresses {
		for _, encode := range []func(string) ([]byte, error){encodeAddress, encodeCompact} {
			old, err := encode(from)
			if err != nil {
				return 0, nil, err
			}
			if bytes.HasPrefix(data, old) {
				to, err := encode(ours)
				return len(old), to, err
			}
		}
	}
	return 0, nil, nil
}

func encodeAddress(addr string) ([]byte, error) {
	host, port, err := splitAddress(addr)
	data := binary.BigEndian.AppendUint16(nil, uint16(len(host)))
	return binary.BigEndian.AppendUint32(append(data, host...), port), err
}

func encodeCompact(addr string) ([]byte, error) {
	host, port, err := splitAddress(addr)
	data := binary.AppendUvarint(nil, uint64(len(host)+1))
	return binary.BigEndian.AppendUint32(append(data, host...), port), err
}

func splitAddress(addr string) (host string, port uint32, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(text, 10, 32)
	return host, uint32(n), err
}
