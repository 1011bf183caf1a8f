package partwise

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/IBM/sarama"
)

// Class says what to do about an error.
type Class uint8

// The classes. The zero value is the one that is always safe.
const (
	// RetryPart: the attempt failed, nothing is known to be wrong with part or
	// sink. The next attempt gets a new producer id.
	RetryPart Class = iota
	// CommitUnknown: the transaction was told to commit and nobody knows whether
	// it did. The next attempt asks for the token; nothing else may be concluded.
	CommitUnknown
	// Fenced: a newer attempt of the same part took over, or the transaction
	// outlived its timeout and the broker ended it. Only whoever holds the claim
	// of the part may try again.
	Fenced
	// Sink: the sink is set up wrongly (topic, rights, settings): no part of it
	// can be published before a person changes something.
	Sink
	// Record: this record can't be published, others can. Publish hands such
	// errors to Part.Reject; it returns one only when there is no Reject.
	Record
)

var classNames = [...]string{"retry the part", "commit unknown", "fenced", "sink", "record"}

// String implements fmt.Stringer.
func (c Class) String() string { return classNames[c] }

// Errors that callers may ask for by errors.Is.
var (
	// ErrTokenMismatch: the part is committed, but with other content: the token
	// names another checksum or number of rows. Its class is Sink.
	ErrTokenMismatch = errors.New("the topic has this part with other content")
	// ErrTokenExpired: there is no token, and the first attempt was so long ago
	// that the broker may have dropped it. Whether the part was published can't be
	// known any more, so it is not sent again. Its class is Sink.
	ErrTokenExpired = errors.New("the part is in doubt for longer than the broker keeps its token")
	// ErrClosed: the Producer is closed.
	ErrClosed = errors.New("the producer is closed")
)

// Error is an error of this package: what was done, where, and what it means.
type Error struct {
	Class     Class
	Op        string        // what was asked: "produce", "commit the transaction"
	Topic     string        // or empty
	Partition int32         // of Topic, or -1
	Broker    string        // host:port, or empty
	Code      sarama.KError // what the broker said, or ErrNoError
	Err       error         // the cause, never nil
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Op)
	if e.Topic != "" {
		fmt.Fprintf(&b, " topic %q", e.Topic)
	}
	if e.Topic != "" && e.Partition >= 0 {
		fmt.Fprintf(&b, " partition %d", e.Partition)
	}
	if e.Broker != "" {
		fmt.Fprintf(&b, " at %s", e.Broker)
	}
	fmt.Fprintf(&b, ": %v", e.Err)
	return b.String()
}

// Unwrap implements errors.Unwrap.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of an error of Publish, Open or Part.Reject.
// Errors of the caller's own (its reader, Reject, Settle, its Gate) and of a
// context are RetryPart.
func ClassOf(err error) Class {
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return RetryPart
}

// brokerError is a code as the broker gives it, in words for people.
type brokerError struct {
	code    sarama.KError
	message string // of the broker, or empty
}

func (e brokerError) Error() string {
	c, known := codes[e.code]
	if !known {
		c.name = "error code"
	}
	text := fmt.Sprintf("%s (%d)", c.name, int16(e.code))
	if e.message != "" {
		return text + ": " + e.message
	}
	if c.text != "" {
		return text + ": " + c.text
	}
	return text
}

// Is makes errors.Is(err, sarama.ErrNotEnoughReplicas) work.
func (e brokerError) Is(target error) bool {
	k, ok := target.(sarama.KError)
	return ok && k == e.code
}

// verdict is what an error code means for the request that got it.
type verdict uint8

const (
	giveUp    verdict = iota // nobody knows better: the attempt fails
	again                    // it was not done: the same request again, in a while, perhaps elsewhere
	maybe                    // it may have been done: the same request again, if that can't do it twice
	elsewhere                // it was not done, and this is not the coordinator
	refused                  // for what a record is
	fenced                   // another attempt
	hopeless                 // for the sink
)

func verdictOf(code sarama.KError) verdict { return codes[code].verdict }

// coded makes an Error of a broker's code.
func coded(op string, code sarama.KError, message string) *Error {
	e := &Error{Op: op, Partition: -1, Code: code, Err: brokerError{code, message}}
	switch verdictOf(code) {
	case refused:
		e.Class = Record
	case fenced:
		e.Class = Fenced
	case hopeless:
		e.Class = Sink
	}
	return e
}

// broken makes an Error of a failure to connect, write or read. Wrong
// credentials and certificates are the sink's; everything else may pass.
func broken(ctx context.Context, op, broker string, err error) *Error {
	e := &Error{Op: op, Partition: -1, Broker: broker, Err: err}
	var code sarama.KError
	var cert *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var alert tls.AlertError
	switch {
	case ctx.Err() != nil:
		e.Err = context.Cause(ctx)
	case errors.Is(err, sarama.ErrSASLAuthenticationFailed), errors.Is(err, sarama.ErrUnsupportedSASLMechanism), errors.Is(err, sarama.ErrIllegalSASLState):
		e.Class, e.Err = Sink, fmt.Errorf("%w (is this listener one with SASL, and are user, password or token right?)", err)
	case errors.As(err, &code):
		e = coded(op, code, messageBeside(err, code))
		e.Broker = broker
	case errors.As(err, &cert), errors.As(err, &authority), errors.As(err, &alert), errors.As(err, new(tls.RecordHeaderError)),
		errors.Is(err, sarama.ErrUnsupportedVersion), errors.As(err, new(sarama.ConfigurationError)),
		errors.As(err, new(sarama.PacketEncodingError)):
		e.Class = Sink
	}
	return e
}

// messageBeside is what a wrapped code's other texts say.
func messageBeside(err error, code sarama.KError) string {
	text := strings.TrimPrefix(strings.ReplaceAll(err.Error(), code.Error(), ""), ": ")
	return strings.TrimSpace(text)
}
