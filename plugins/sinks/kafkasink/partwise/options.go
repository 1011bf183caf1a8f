package partwise

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/IBM/sarama"
)

// Delivery is what is promised about records on the topic.
type Delivery uint8

// The deliveries. The zero value is AtLeastOnce.
const (
	// AtLeastOnce: no row is lost; an attempt that fails leaves what it wrote.
	AtLeastOnce Delivery = iota
	// EffectivelyOnce: readers with isolation.level=read_committed see each part
	// once and whole.
	EffectivelyOnce
)

// Options of a Producer. Brokers and Topic are required; zero values mean the
// default that the comment names.
type Options struct {
	Brokers  []string // host:port, at least one
	Topic    string
	Columns  Columns
	Delivery Delivery
	// TokenTopic and its partition 0 name the token of a part; any topic that
	// exists will do, nothing is written to it. Default: Topic.
	TokenTopic string

	Compression      string // "none" (default), "gzip", "snappy", "lz4", "zstd"
	CompressionLevel int    // of gzip and zstd; 0: the codec's default

	// BatchBytes is the size of a record batch before compression. Default:
	// 512 KiB; never more than the topic takes.
	BatchBytes int
	// MaxMessageBytes is the largest batch that the topic takes. Default: what the
	// broker says (max.message.bytes), or where it doesn't tell, Kafka's 1,048,588.
	MaxMessageBytes int
	// MaxBytes is the most bytes of rows held at any time. Default: 50 MiB.
	MaxBytes int64
	// InFlight is how many batches of a partition may be unanswered: 1 to 5.
	// Default: 5.
	InFlight int
	// Gate is asked before bytes go out. Default: none.
	Gate Gate

	RequestTimeout     time.Duration // for one answer. Default: 30 s
	DeliveryTimeout    time.Duration // without any progress, before the attempt fails. Default: 2 min
	TransactionTimeout time.Duration // of a whole part; at most the broker's transaction.max.timeout.ms. Default: 10 min
	// TokenLifetime is how long the broker keeps a token. Default: the smaller of
	// its offsets.retention.minutes and transactional.id.expiration.ms, or 7 days
	// where it doesn't tell. A tenth of it is kept back for clocks.
	TokenLifetime time.Duration

	ClientID string // default: "kq"
	TLS      *TLS   // nil: plaintext
	SASL     *SASL  // nil: none
	// Dial opens connections. Default: TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Now is the clock that ages of parts and missing timestamps come from.
	Now func() time.Time

	firstSequence int32 // tests: of each partition
}

// TLS says how connections are encrypted. The zero value trusts the system's
// authorities.
type TLS struct {
	CAFile             string // PEM; instead of the system's authorities
	CertFile, KeyFile  string // PEM; the client's own
	CA, Cert           []byte // PEM, instead of the files
	Key                Secret
	ServerName         string // default: the broker's host
	InsecureSkipVerify bool
}

// SASL says who the client is.
type SASL struct {
	Mechanism string // "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"
	User      string
	Password  Secret
	// Token gives an OAUTHBEARER token that is valid now. It may be called by
	// several goroutines, once for each connection.
	Token      func(context.Context) (Secret, error)
	Extensions map[string]string // of OAUTHBEARER
}

// Secret is text that no formatting verb, encoder or logger shows: it is kept in
// a closure, since fmt prints the fields of nested pointers without asking their
// methods when a verb doesn't suit. The zero value is an empty text.
type Secret struct{ reveal func() string }

// NewSecret makes a Secret of a text.
func NewSecret(text string) Secret { return Secret{func() string { return text }} }

func (s Secret) text() string {
	if s.reveal == nil {
		return ""
	}
	return s.reveal()
}

const hidden = "(secret)"

// String implements fmt.Stringer.
func (Secret) String() string { return hidden }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return hidden }

// Format implements fmt.Formatter: verbs like %x would not ask String.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(hidden)) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

var codecs = map[string]sarama.CompressionCodec{
	"": sarama.CompressionNone, "none": sarama.CompressionNone, "gzip": sarama.CompressionGZIP,
	"snappy": sarama.CompressionSnappy, "lz4": sarama.CompressionLZ4, "zstd": sarama.CompressionZSTD,
}

// normalized returns o with its defaults, or all that is wrong with it.
func (o Options) normalized() (Options, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	o.Brokers = slices.Clone(o.Brokers)
	if len(o.Brokers) == 0 {
		bad("brokers: name at least one, as host:port")
	}
	for _, b := range o.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			bad("brokers: %q is not host:port", b)
		}
	}
	if o.Topic == "" {
		bad("topic: is missing")
	}
	if _, ok := codecs[o.Compression]; !ok {
		bad("compression: unknown %q; known: none, gzip, snappy, lz4, zstd", o.Compression)
	}
	if o.InFlight < 0 || o.InFlight > 5 {
		bad("in flight: %d; the broker recognizes the last 5 batches, no more", o.InFlight)
	}
	if o.BatchBytes < 0 || o.MaxMessageBytes < 0 || o.MaxBytes < 0 || o.RequestTimeout < 0 || o.DeliveryTimeout < 0 || o.TransactionTimeout < 0 || o.TokenLifetime < 0 {
		bad("sizes and times can't be negative")
	}
	o.TokenTopic = or(o.TokenTopic, o.Topic)
	o.BatchBytes = or(o.BatchBytes, 512<<10)
	o.MaxBytes = or(o.MaxBytes, 50<<20)
	o.InFlight = or(o.InFlight, 5)
	o.RequestTimeout = or(o.RequestTimeout, 30*time.Second)
	o.DeliveryTimeout = or(o.DeliveryTimeout, 2*time.Minute)
	o.TransactionTimeout = or(o.TransactionTimeout, 10*time.Minute)
	o.ClientID = or(o.ClientID, "kq")
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: min(o.RequestTimeout, 10*time.Second), KeepAlive: 30 * time.Second}).DialContext
	}
	if err := errors.Join(errs...); err != nil {
		return o, &Error{Class: Sink, Op: "settings of the Kafka sink", Partition: -1, Err: err}
	}
	return o, nil
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// config is what sarama is told. Options are normalized.
func (o *Options) config() (*sarama.Config, error) {
	c := sarama.NewConfig()
	c.Version = sarama.MaxVersion // each request is then brought down to what the broker offers
	c.ClientID = o.ClientID
	c.Net.MaxOpenRequests = 4096 // lanes have windows of their own
	c.Net.ReadTimeout, c.Net.WriteTimeout = o.RequestTimeout, o.RequestTimeout
	if o.TLS != nil {
		t, err := o.TLS.config()
		if err != nil {
			return nil, &Error{Class: Sink, Op: "tls", Partition: -1, Err: err}
		}
		c.Net.TLS.Enable, c.Net.TLS.Config = true, t
	}
	if o.SASL != nil {
		if err := o.SASL.configure(c); err != nil {
			return nil, &Error{Class: Sink, Op: "sasl", Partition: -1, Err: err}
		}
	}
	if err := c.Validate(); err != nil {
		return nil, &Error{Class: Sink, Op: "settings of the Kafka sink", Partition: -1, Err: err}
	}
	return c, nil
}

func (t *TLS) config() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName, InsecureSkipVerify: t.InsecureSkipVerify}
	pem := func(inline []byte, file string) ([]byte, error) {
		if len(inline) > 0 || file == "" {
			return inline, nil
		}
		return os.ReadFile(file)
	}
	ca, err := pem(t.CA, t.CAFile)
	if err != nil {
		return nil, err
	}
	if len(ca) > 0 {
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(ca) {
			return nil, errors.New("the authorities' file has no certificate in PEM form")
		}
	}
	cert, err := pem(t.Cert, t.CertFile)
	if err != nil {
		return nil, err
	}
	key, err := pem([]byte(t.Key.text()), t.KeyFile)
	if err != nil {
		return nil, err
	}
	if len(cert) > 0 || len(key) > 0 {
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("the client's certificate and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (s *SASL) configure(c *sarama.Config) error {
	mechanism := strings.ToUpper(s.Mechanism)
	c.Net.SASL.Enable, c.Net.SASL.Handshake, c.Net.SASL.Version = true, true, sarama.SASLHandshakeV1
	c.Net.SASL.Mechanism = sarama.SASLMechanism(mechanism)
	c.Net.SASL.User, c.Net.SASL.Password = s.User, s.Password.text()
	switch mechanism {
	case sarama.SASLTypePlaintext:
	case sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512:
		c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient { return &scramClient{mechanism: mechanism} }
	case sarama.SASLTypeOAuth:
		if s.Token == nil {
			return errors.New("OAUTHBEARER needs a token")
		}
		c.Net.SASL.TokenProvider = tokens{s, c.Net.ReadTimeout}
		return nil
	default:
		return fmt.Errorf("unknown mechanism %q; known: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER", s.Mechanism)
	}
	if s.User == "" || s.Password.text() == "" {
		return errors.New("user and password are needed")
	}
	return nil
}

// tokens is a SASL as sarama asks for tokens.
type tokens struct {
	s       *SASL
	timeout time.Duration
}

// Token implements sarama.AccessTokenProvider.
func (t tokens) Token() (*sarama.AccessToken, error) {
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	token, err := t.s.Token(ctx)
	if err != nil {
		return nil, err
	}
	return &sarama.AccessToken{Token: token.text(), Extensions: t.s.Extensions}, nil
}
