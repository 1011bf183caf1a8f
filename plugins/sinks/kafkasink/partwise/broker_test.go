package partwise

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/plugins/sinks/kafkasink/kafkatest"
)

// topicAt makes a topic on a real broker. settings are pairs of name and value.
func topicAt(t testing.TB, addr string, partitions int32, settings ...string) string {
	t.Helper()
	topic := services.Name(t)
	kafkatest.Topic(t, []string{addr}, topic, int(partitions), settings...)
	return topic
}

func TestRealSweepConnections(t *testing.T) {
	broker := services.Kafka(t)
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		for _, kind := range []faultKind{cutEarly, cutLate, silence} {
			t.Run(fmt.Sprintf("%d/%s", d, kind), func(t *testing.T) {
				sweep(t, []string{broker.Addr}, topicAt(t, broker.Addr, 4), d, kind, 0)
			})
		}
	}
}

// TestRealSweepCodes answers each request in turn with the codes that are there
// to be met, both instead of doing it and after.
func TestRealSweepCodes(t *testing.T) {
	broker := services.Kafka(t)
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		for _, kind := range []faultKind{refuse, belie} {
			for _, code := range []int16{-1, 6, 7, 14, 16, 19, 20, 51} {
				t.Run(fmt.Sprintf("%d/%s/%d", d, kind, code), func(t *testing.T) {
					sweep(t, []string{broker.Addr}, topicAt(t, broker.Addr, 4), d, kind, code)
				})
			}
		}
	}
}

func TestRealStorm(t *testing.T) {
	broker := services.Kafka(t)
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		t.Run(fmt.Sprint(d), func(t *testing.T) {
			storm(t, []string{broker.Addr}, topicAt(t, broker.Addr, 4), d, 15, 99)
		})
	}
}

func TestRealPublish(t *testing.T) {
	broker := services.Kafka(t)
	addrs := []string{broker.Addr}
	topic := topicAt(t, broker.Addr, 4)
	rowsOf := map[string]int{}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
			p := publisher(t, Options{Brokers: addrs, Topic: topic, Delivery: d, Compression: codec, BatchBytes: 20000})
			id := fmt.Sprint(codec, d)
			rowsOf[id] = 5000
			if res, err := p.Publish(context.Background(), partOf(id, 5000, 2)); err != nil || res.Rows != 5000 || res.Resent != 0 {
				t.Errorf("%s: %+v, %v", id, res, err)
			}
		}
	}
	verifyAll(t, addrs, topic, rowsOf, true)
}

// TestRealWrap lets sequence numbers of 31 bits wrap around.
func TestRealWrap(t *testing.T) {
	broker := services.Kafka(t)
	addrs := []string{broker.Addr}
	topic := topicAt(t, broker.Addr, 2)
	rowsOf := map[string]int{}
	for i, first := range []int32{1<<31 - 1, 1<<31 - 2, 1<<31 - 7, 1<<31 - 300} {
		for n := range 2 {
			id := fmt.Sprintf("wrap-%d-%d", i, n)
			rowsOf[id] = 2000
			in := &injector{}
			if n == 1 { // and batches sent again across the seam
				in.choose = nth(int16(kmsg.Produce), 4, cutLate, 0)
			}
			o := hasty(addrs, topic, EffectivelyOnce, in)
			o.firstSequence = first
			p := publisher(t, o)
			if res, err := p.Publish(context.Background(), partOf(id, 2000, 2)); err != nil || n == 1 && res.Resent == 0 {
				t.Errorf("%+v, %v", res, err)
			}
		}
	}
	verifyAll(t, addrs, topic, rowsOf, true)
}

// TestRealRestart kills the broker under a part, without a transaction: the same
// attempt goes on when it is back.
func TestRealRestart(t *testing.T) {
	broker := services.OwnKafka(t)
	addrs := []string{broker.Addr}
	topic := topicAt(t, broker.Addr, 4)
	p := publisher(t, Options{Brokers: addrs, Topic: topic, BatchBytes: 4000, DeliveryTimeout: 2 * time.Minute, RequestTimeout: 5 * time.Second})
	const n = 200000
	killed := make(chan error, 1)
	part := partOf("restart", n, 2)
	inner := part.Batches
	part.Batches = hooked(inner, n/37/3, func() {
		if err := broker.Kill(); err != nil {
			killed <- err
			return
		}
		go func() { killed <- broker.Start(context.Background()) }()
	})
	res, err := p.Publish(context.Background(), part)
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", res)
	if res.Rows != n || res.Resent == 0 {
		t.Errorf("%+v", res)
	}
	verifyAll(t, addrs, topic, map[string]int{"restart": n}, true)
}

func TestRealLimits(t *testing.T) {
	broker := services.Kafka(t)
	addrs := []string{broker.Addr}
	for _, codec := range []string{"none", "zstd"} {
		t.Run(codec, func(t *testing.T) {
			topic := topicAt(t, broker.Addr, 2, "max.message.bytes", "3000")
			for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
				p := publisher(t, Options{Brokers: addrs, Topic: topic, Delivery: d, Compression: codec})
				id := fmt.Sprint("limits", d)
				var out []int64
				part := Part{ID: id, Checksum: "x", Rows: 300, Batches: oversized(id, 300, 50, 5000), Reject: func(n int64, why error) error {
					if ClassOf(why) != Record || !errors.Is(why, sarama.ErrMessageSizeTooLarge) {
						t.Errorf("row %d: %v", n, why)
					}
					out = append(out, n)
					return nil
				}}
				res, err := p.Publish(context.Background(), part)
				if err != nil || res.Rows != 294 || res.Rejected != 6 || len(out) != 6 {
					t.Errorf("%+v, %v, %v", res, out, err)
				}
				all := readAll(t, addrs, topic, true)
				if err := count(t, all).verify(id, 300, true, 0, 50, 100, 150, 200, 250); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestRealCompacted sends rows without a key to a topic that wants keys: the
// broker names them, and the others go on.
func TestRealCompacted(t *testing.T) {
	broker := services.Kafka(t)
	addrs := []string{broker.Addr}
	topic := topicAt(t, broker.Addr, 2, "cleanup.policy", "compact")
	for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
		p := publisher(t, Options{Brokers: addrs, Topic: topic, Delivery: d, BatchBytes: 1000})
		id := fmt.Sprint("compacted", d)
		rejected := map[int64]bool{}
		part := partOf(id, 400, 2)
		part.Reject = func(n int64, why error) error {
			if ClassOf(why) != Record || !strings.Contains(why.Error(), "INVALID_RECORD") {
				t.Errorf("row %d: %v", n, why)
			}
			rejected[n] = true
			return nil
		}
		var res Result
		var err error
		for range 5 { // a leader that isn't sure of itself yet casts doubt on what is in the log
			clear(rejected)
			if res, err = p.Publish(context.Background(), part); ClassOf(err) != RetryPart || err == nil {
				break
			}
		}
		if err != nil || res.Rows != 200 || res.Rejected != 200 {
			t.Errorf("%+v, %v", res, err)
		}
		var odd []int
		for i := 1; i < 400; i += 2 {
			odd = append(odd, i)
			if !rejected[int64(i)] {
				t.Errorf("row %d was not rejected", i)
			}
		}
		all := readAll(t, addrs, topic, true)
		if err := count(t, all).verify(id, 400, d == EffectivelyOnce, odd...); err != nil {
			t.Error(err)
		}
		part.Reject = nil
		if d == AtLeastOnce {
			if _, err := p.Publish(context.Background(), part); ClassOf(err) != Record {
				t.Errorf("without Reject: %v", err)
			}
		}
	}
}

func unsecured(subject string) Secret {
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	now := time.Now().Unix()
	return NewSecret(encode(`{"alg":"none"}`) + "." + encode(fmt.Sprintf(`{"sub":%q,"iat":%d,"exp":%d}`, subject, now, now+3600)) + ".")
}

func TestRealCredentials(t *testing.T) {
	broker := services.Kafka(t)
	topic := topicAt(t, broker.Addr, 1)
	tls := &TLS{CAFile: broker.CAFile}
	sasl := func(mechanism string) *SASL {
		return &SASL{Mechanism: mechanism, User: broker.User, Password: NewSecret(broker.Password)}
	}
	token := &SASL{Mechanism: "OAUTHBEARER", Token: func(context.Context) (Secret, error) { return unsecured("kq"), nil }}
	for name, o := range map[string]Options{
		"tls":                    {Brokers: []string{broker.TLS}, TLS: tls},
		"plain":                  {Brokers: []string{broker.SASL}, SASL: sasl("PLAIN")},
		"scram-256":              {Brokers: []string{broker.SASL}, SASL: sasl("SCRAM-SHA-256")},
		"scram-512 over tls":     {Brokers: []string{broker.SASLTLS}, SASL: sasl("SCRAM-SHA-512"), TLS: tls},
		"oauthbearer":            {Brokers: []string{broker.SASL}, SASL: token},
		"oauthbearer over tls":   {Brokers: []string{broker.SASLTLS}, SASL: token, TLS: tls},
		"plain, small letters":   {Brokers: []string{broker.SASL}, SASL: sasl("plain")},
		"tls, server not proven": {Brokers: []string{broker.TLS}, TLS: &TLS{InsecureSkipVerify: true}},
	} {
		t.Run(name, func(t *testing.T) {
			o.Topic = topic
			p := publisher(t, o)
			if res, err := p.Publish(context.Background(), partOf("p", 100, 1)); err != nil || res.Rows != 100 {
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
	wrong := &SASL{Mechanism: "SCRAM-SHA-256", User: broker.User, Password: NewSecret("not-it")}
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"wrong password":   {Options{Brokers: []string{broker.SASL}, SASL: wrong}, "invalid credentials"},
		"wrong authority":  {Options{Brokers: []string{broker.TLS}, TLS: &TLS{}}, "certificate"},
		"tls to plain":     {Options{Brokers: []string{broker.Addr}, TLS: tls, DeliveryTimeout: time.Second, RequestTimeout: time.Second}, ""},
		"no such topic":    {Options{Brokers: []string{broker.Addr}, Topic: topic + "-missing", DeliveryTimeout: time.Second}, "UNKNOWN_TOPIC_OR_PARTITION"},
		"bad topic name":   {Options{Brokers: []string{broker.Addr}, Topic: "a b"}, "INVALID_TOPIC"},
		"bad mechanism":    {Options{Brokers: []string{broker.SASL}, SASL: &SASL{Mechanism: "GSSAPI"}}, "known:"},
		"long transaction": {Options{Brokers: []string{broker.Addr}, Delivery: EffectivelyOnce, TransactionTimeout: time.Hour}, "transaction.max.timeout.ms"},
	} {
		t.Run(name, func(t *testing.T) {
			leakCheck(t)
			if c.o.Topic == "" {
				c.o.Topic = topic
			}
			c.o.Columns = keyed
			p, err := Open(c.o)
			if err == nil {
				defer p.Close()
				_, err = p.Publish(context.Background(), partOf("p", 100, 1))
			}
			if ClassOf(err) != Sink && name != "tls to plain" || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", ClassOf(err), err)
			}
			if err != nil && strings.Contains(err.Error(), "not-it") {
				t.Error("the password is in the error")
			}
			t.Log(err)
		})
	}
}
