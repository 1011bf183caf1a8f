package faultproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
)

// A PostgresRequest is a message of a client
// (https://www.postgresql.org/docs/current/protocol-message-formats.html).
type PostgresRequest struct {
	Connection int  // from 1
	Type       byte // 'Q' query, 'P' parse, 'B' bind, 'E' execute, 'S' sync, 'd' copy data, 'c' copy done, 'X' terminate, …; 0 for the first of a connection
	SQL        string
	Raw        []byte // all of it. Not to be changed
}

func (r *PostgresRequest) String() string {
	return fmt.Sprintf("%q, %d bytes: %.200s", r.Type, len(r.Raw), r.SQL)
}

// A PostgresRule hits messages of clients. SQL is there for 'Q', 'P', 'B' and 'E'.
//
// What happens to the answer of a 'Q' or 'S' happens to all that the server says
// until it is ready again; of 'P', 'B', 'E' and the like, to what it says to the
// next 'S', which is when it answers them; of 'c', to the rest of the answer to its
// COPY. So to lose what became of COPY, hit its 'c'; what became of a transaction,
// the 'Q' whose SQL is commit. Edit gets the messages one by one.
type PostgresRule = Rule[*PostgresRequest, []byte]

// SQL matches queries and prepared statements that contain text, in any case of
// letters.
func SQL(text string) func(*PostgresRequest) bool {
	return func(r *PostgresRequest) bool {
		return strings.IndexByte("QE", r.Type) >= 0 && strings.Contains(strings.ToLower(r.SQL), strings.ToLower(text))
	}
}

// MessageType matches messages of these types.
func MessageType(types string) func(*PostgresRequest) bool {
	return func(r *PostgresRequest) bool { return strings.IndexByte(types, r.Type) >= 0 }
}

// Postgres is a proxy for a PostgreSQL server. To a client that asks for TLS it
// says that there is none.
type Postgres struct {
	network
	book[*PostgresRequest, []byte]
	addr string
}

// NewPostgres starts a proxy for the server at host:port.
func NewPostgres(server string) (*Postgres, error) {
	p := &Postgres{}
	p.init()
	var err error
	p.addr, err = p.listen(func(client net.Conn) {
		pair, err := p.dial(client, server)
		if err != nil {
			return
		}
		d := &postgresDialect{connection: pair.number, statements: map[string]string{}, portals: map[string]string{}}
		d.refuse = func() error { _, err := pair.toClient.Write([]byte("N")); return err }
		t := &talk[*PostgresRequest]{pair: pair, rules: &p.book, dialect: d}
		p.servePair(pair, t.request, t.answer)
	})
	return p, err
}

// Addr is host:port for clients.
func (p *Postgres) Addr() string { return p.addr }

type postgresDialect struct {
	connection          int
	begun               bool         // the startup message has passed
	refuse              func() error // tells the client that there is no encryption
	statements, portals map[string]string
}

// Codes in place of a protocol version in a first message.
const (
	postgresCancel = 80877102
	postgresTLS    = 80877103
	postgresGSS    = 80877104
)

func (d *postgresDialect) request(from *bufio.Reader) ([]byte, *PostgresRequest, expects, error) {
	if !d.begun {
		return d.first(from)
	}
	raw, err := readSized(from, 1, true)
	if err != nil {
		return nil, nil, 0, err
	}
	r := &PostgresRequest{Connection: d.connection, Type: raw[0], Raw: raw}
	r.SQL = d.sql(raw[0], raw[5:])
	switch r.Type {
	case 'Q', 'S', 'F':
		return raw, r, ownAnswer, nil
	case 'c', 'f', 'd', 'p': // of a COPY, or a password: the answer to what came before goes on
		return raw, r, lastAnswer, nil
	case 'X':
		return raw, r, noAnswer, nil
	default:
		return raw, r, nextAnswer, nil
	}
}

// first reads the message that begins a connection. Requests for encryption
// before it are refused here: nothing could be seen otherwise.
func (d *postgresDialect) first(from *bufio.Reader) ([]byte, *PostgresRequest, expects, error) {
	for {
		raw, err := readSized(from, 0, true)
		if err != nil {
			return nil, nil, 0, err
		}
		if len(raw) < 8 {
			return nil, nil, 0, io.ErrUnexpectedEOF
		}
		r := &PostgresRequest{Connection: d.connection, Raw: raw}
		switch binary.BigEndian.Uint32(raw[4:]) {
		case postgresTLS, postgresGSS:
			if err := d.refuse(); err != nil {
				return nil, nil, 0, err
			}
		case postgresCancel:
			return raw, r, noAnswer, nil
		default:
			d.begun = true
			return raw, r, ownAnswer, nil
		}
	}
}

// sql gives the text behind a message, and remembers it for those that name it.
func (d *postgresDialect) sql(kind byte, body []byte) string {
	next := func() string {
		text, rest, _ := bytes.Cut(body, []byte{0})
		body = rest
		return string(text)
	}
	switch kind {
	case 'Q':
		return next()
	case 'P':
		name := next()
		d.statements[name] = next()
		return d.statements[name]
	case 'B':
		portal := next()
		d.portals[portal] = d.statements[next()]
		return d.portals[portal]
	case 'E':
		return d.portals[next()]
	}
	return ""
}

func (d *postgresDialect) answer(from *bufio.Reader) ([]byte, bool, error) {
	raw, err := readSized(from, 1, true)
	if err != nil {
		return nil, false, err
	}
	return raw, raw[0] == 'Z', nil // ReadyForQuery
}

func (d *postgresDialect) rewrite(_ *PostgresRequest, raw []byte) ([]byte, error) { return raw, nil }

// PostgresError makes the answer of a server that fails a request with an
// SQLSTATE and is ready again, outside of a transaction: for Reply to 'Q' and 'S'.
func PostgresError(sqlstate, message string) func(*PostgresRequest) []byte {
	return func(*PostgresRequest) []byte {
		var body []byte
		for _, field := range []string{"SERROR", "VERROR", "C" + sqlstate, "M" + message} {
			body = append(append(body, field...), 0)
		}
		m := binary.BigEndian.AppendUint32([]byte{'E'}, uint32(len(body)+5))
		m = append(append(m, body...), 0)
		return append(m, 'Z', 0, 0, 0, 5, 'I')
	}
}
