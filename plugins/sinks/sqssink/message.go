package sqssink

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
)

// A message is a row on its way.
type message struct {
	row   int64  // its place in the part
	id    string // the row's id
	group string
	bytes int // as the service counts them: the body, and names, types and values of attributes
	entry types.SendMessageBatchRequestEntry
}

// texts and blobs are what Arrow's vectors of text and of bytes have.
type (
	texts interface {
		arrow.Array
		Value(int) string
	}
	blobs interface {
		arrow.Array
		Value(int) []byte
	}
)

var (
	_ = []texts{(*array.String)(nil), (*array.LargeString)(nil), (*array.StringView)(nil)}
	_ = []blobs{(*array.Binary)(nil), (*array.LargeBinary)(nil), (*array.BinaryView)(nil)}
)

// reader makes messages of the vectors of one record batch.
type reader struct {
	c               *config
	id, body, group texts
	attributes      []attributeVector
}

type attributeVector struct {
	name, kind string
	texts      texts
	blobs      blobs
}

var dataTypes = map[string]*string{stringAttribute: aws.String("String"), numberAttribute: aws.String("Number"), binaryAttribute: aws.String("Binary")}

// newReader finds the columns of a batch, which are those of Publication.Select.
func newReader(c *config, b arrow.RecordBatch) (*reader, error) {
	r := &reader{c: c, attributes: make([]attributeVector, len(c.attributes))}
	for i, f := range b.Schema().Fields() {
		text, isText := b.Column(i).(texts)
		blob, isBlob := b.Column(i).(blobs)
		switch {
		case f.Name == idColumn && isText:
			r.id = text
		case f.Name == bodyColumn && isText:
			r.body = text
		case f.Name == groupColumn && isText:
			r.group = text
		default:
			kind := f.Name[:min(1, len(f.Name))]
			n, err := strconv.Atoi(strings.TrimPrefix(f.Name, kind))
			if err != nil || n < 0 || n >= len(r.attributes) || dataTypes[kind] == nil || (kind == binaryAttribute && !isBlob) || (kind != binaryAttribute && !isText) {
				return nil, fmt.Errorf("column %q of type %s is not of a message", f.Name, f.Type)
			}
			r.attributes[n] = attributeVector{c.attributes[n], kind, text, blob}
		}
	}
	if r.id == nil || r.body == nil || c.fifo() && r.group == nil {
		return nil, fmt.Errorf("columns of a message are missing: there are %s", b.Schema())
	}
	return r, nil
}

// message makes a message of row i. A row of which the queue could take none is a
// *refusal.
func (r *reader) message(i int, row int64) (*message, error) {
	m := &message{row: row, id: strings.Clone(r.id.Value(i))}
	refuse := func(format string, args ...any) error { return m.refusal(fmt.Sprintf(format, args...)) }
	if r.body.IsNull(i) || r.body.Value(i) == "" {
		return nil, refuse("the message is empty or NULL; a message of SQS has at least one character")
	}
	body := strings.Clone(r.body.Value(i))
	if at, why := badText(body); why != "" {
		return nil, refuse("character %d of the message is %s, which SQS doesn't take; remove it with regexp_replace(…), or send format: json", at, why)
	}
	m.entry.MessageBody = &body
	m.entry.DelaySeconds = r.c.delay
	m.bytes = len(body)
	for _, a := range r.attributes {
		if why := m.attribute(a, i); why != "" {
			return nil, refuse("attribute %s: %s", a.name, why)
		}
	}
	if r.c.recordID != "" {
		m.set(r.c.recordID, stringAttribute, m.id, nil)
	}
	if r.c.fifo() {
		if why := m.order(r.group, i); why != "" {
			return nil, refuse("%s", why)
		}
	}
	return m, nil
}

// order adds the group of row i and what a FIFO queue drops duplicates by, or says
// why it can't.
func (m *message) order(group texts, i int) (why string) {
	if group.IsNull(i) {
		return "its group is NULL; use coalesce(…)"
	}
	m.group = strings.Clone(group.Value(i))
	if !isID(m.group) {
		return fmt.Sprintf("its group %.200q is not 1 to %d of A-Z, a-z, 0-9 and !\"#$%%&'()*+,-./:;<=>?@[\\]^_`{|}~; use md5(…)", m.group, maxID)
	}
	m.entry.MessageGroupId = &m.group
	m.entry.MessageDeduplicationId = aws.String(deduplicationID(m.id))
	return ""
}

func (m *message) refusal(reason string) *refusal {
	return &refusal{row: m.row, id: m.id, reason: reason}
}

// attribute adds the attribute of row i, or says why it can't be.
func (m *message) attribute(a attributeVector, i int) (why string) {
	const empty = "is empty, which SQS doesn't take; leave it out with nullif(…, '')"
	if a.kind == binaryAttribute {
		if a.blobs.IsNull(i) {
			return ""
		}
		value := append([]byte(nil), a.blobs.Value(i)...)
		if len(value) == 0 {
			return empty
		}
		m.set(a.name, a.kind, "", value)
		return ""
	}
	if a.texts.IsNull(i) {
		return ""
	}
	value := strings.Clone(a.texts.Value(i))
	if value == "" {
		return empty
	}
	if at, why := badText(value); why != "" {
		return fmt.Sprintf("character %d is %s, which SQS doesn't take", at, why)
	}
	m.set(a.name, a.kind, value, nil)
	return ""
}

func (m *message) set(name, kind, text string, blob []byte) {
	v := types.MessageAttributeValue{DataType: dataTypes[kind], BinaryValue: blob}
	if blob == nil {
		v.StringValue = &text
	}
	if m.entry.MessageAttributes == nil {
		m.entry.MessageAttributes = map[string]types.MessageAttributeValue{}
	}
	m.entry.MessageAttributes[name] = v
	m.bytes += len(name) + len(*v.DataType) + len(text) + len(blob)
}

// badText finds the first character (counted from 1) that is not one of XML 1.0,
// which are those that SQS takes. It refuses the others, or puts U+FFFD in their
// place (its documentation has said both).
func badText(s string) (at int, why string) {
	n := 0
	for i, c := range s {
		n++
		switch {
		case c >= ' ' && c < utf8.RuneError, c == '\t', c == '\n', c == '\r', c >= 0x10000:
		case c == utf8.RuneError:
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return n, "no UTF-8"
			}
		default:
			return n, fmt.Sprintf("U+%04X", c)
		}
	}
	return 0, ""
}

// isID reports whether s can be a group id or a deduplication id: letters, digits
// and punctuation of ASCII.
func isID(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= maxID
}

// deduplicationID is a row's id as far as SQS takes it, else its SHA-256 in hex.
func deduplicationID(id string) string {
	if isID(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}
