package services

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/IBM/sarama"
	"github.com/xdg-go/scram"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childVar); name != "" {
		os.Exit(child(name))
	}
	sarama.Logger = log.New(io.Discard, "", 0)
	os.Exit(m.Run())
}

// kafkaConfig is a client's configuration for a broker with one partition of everything.
func kafkaConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V4_0_0_0
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	c.Metadata.Retry.Max = 30
	c.Producer.Retry.Max = 30
	return c
}

func kafkaTopic(t *testing.T, b *Broker) string {
	t.Helper()
	admin, err := sarama.NewClusterAdmin([]string{b.Addr}, kafkaConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	topic := Name(t)
	if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: 1, ReplicationFactor: 1}, false); err != nil {
		t.Fatal(err)
	}
	return topic
}

// produce sends one record and gives its offset.
func produce(addr, topic, value string, c *sarama.Config) (int64, error) {
	p, err := sarama.NewSyncProducer([]string{addr}, c)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	_, offset, err := p.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(value)})
	return offset, err
}

// oauth is a token without a signature.
type oauth struct{}

func (oauth) Token() (*sarama.AccessToken, error) {
	encode := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	now := time.Now().Unix()
	claims := fmt.Sprintf(`{"sub":"kq","iat":%d,"exp":%d}`, now, now+3600)
	return &sarama.AccessToken{Token: encode(`{"alg":"none"}`) + "." + encode(claims) + "."}, nil
}

type scramClient struct {
	*scram.ClientConversation
	hash scram.HashGeneratorFcn
}

func (c *scramClient) Begin(user, password, authzID string) error {
	client, err := c.hash.NewClient(user, password, authzID)
	if err == nil {
		c.ClientConversation = client.NewConversation()
	}
	return err
}

// TestKafkaListeners sends through each listener, with each way to
// authenticate, right and wrong.
func TestKafkaListeners(t *testing.T) {
	b := Kafka(t)
	topic := kafkaTopic(t, b)
	ca, err := os.ReadFile(b.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	sent := int64(0)
	try := func(name, addr string, good bool, set func(*sarama.Config)) {
		t.Helper()
		c := kafkaConfig()
		c.Metadata.Retry.Max = 0
		set(c)
		offset, err := produce(addr, topic, name, c)
		switch {
		case good && err != nil:
			t.Errorf("%s: %v", name, err)
		case good && offset != sent:
			t.Errorf("%s: offset %d, want %d", name, offset, sent)
		case !good && err == nil:
			t.Errorf("%s: was let in", name)
		}
		if err == nil {
			sent++
		}
	}
	secure := func(c *sarama.Config) {
		c.Net.TLS.Enable, c.Net.TLS.Config = true, &tls.Config{RootCAs: roots}
	}
	try("plain", b.Addr, true, func(*sarama.Config) {})
	try("tls", b.TLS, true, secure)
	try("tls, unknown authority", b.TLS, false, func(c *sarama.Config) { c.Net.TLS.Enable = true })
	try("sasl without authentication", b.SASL, false, func(c *sarama.Config) { c.Net.ReadTimeout = 2 * time.Second })
	for _, m := range []sarama.SASLMechanism{sarama.SASLTypePlaintext, sarama.SASLTypeSCRAMSHA256, sarama.SASLTypeSCRAMSHA512, sarama.SASLTypeOAuth} {
		for _, password := range []string{b.Password, "wrong"} {
			set := func(c *sarama.Config) {
				c.Net.SASL.Enable, c.Net.SASL.Mechanism = true, m
				c.Net.SASL.User, c.Net.SASL.Password = b.User, password
				c.Net.SASL.TokenProvider = oauth{}
				c.Net.SASL.SCRAMClientGeneratorFunc = func() sarama.SCRAMClient {
					if m == sarama.SASLTypeSCRAMSHA256 {
						return &scramClient{hash: scram.SHA256}
					}
					return &scramClient{hash: scram.SHA512}
				}
			}
			good := password == b.Password || m == sarama.SASLTypeOAuth
			try(string(m)+" "+password, b.SASL, good, set)
			try(string(m)+" tls "+password, b.SASLTLS, good, func(c *sarama.Config) { set(c); secure(c) })
		}
	}
}

func TestKafkaUnknownTopic(t *testing.T) {
	c := kafkaConfig()
	c.Metadata.Retry.Max, c.Producer.Retry.Max = 1, 1
	if _, err := produce(Kafka(t).Addr, Name(t), "x", c); !errors.Is(err, sarama.ErrUnknownTopicOrPartition) {
		t.Errorf("%v, want unknown topic", err)
	}
}

// TestKafkaKilled kills and restarts a broker; what it acknowledged is there.
func TestKafkaKilled(t *testing.T) {
	b := OwnKafka(t, "message.max.bytes=1000")
	if b.Addr == Kafka(t).Addr {
		t.Fatal("the test's own broker is the shared one")
	}
	topic := kafkaTopic(t, b)
	for want, end := range []func() error{func() error { return nil }, b.Kill, b.Stop} {
		if err := end(); err != nil {
			t.Fatal(err)
		}
		if want > 0 {
			if err := b.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if offset, err := produce(b.Addr, topic, "x", kafkaConfig()); err != nil || offset != int64(want) {
			t.Errorf("offset %d, %v, want %d", offset, err, want)
		}
	}
	if _, err := produce(b.Addr, topic, strings.Repeat("x", 2000), kafkaConfig()); !errors.Is(err, sarama.ErrMessageSizeTooLarge) {
		t.Errorf("the setting is not in force: %v", err)
	}
}

// TestKafkaPaused stops the broker's process under a client and lets it go on.
func TestKafkaPaused(t *testing.T) {
	b := OwnKafka(t)
	topic := kafkaTopic(t, b)
	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	c := kafkaConfig()
	c.Net.ReadTimeout, c.Metadata.Retry.Max = 200*time.Millisecond, 0
	if _, err := produce(b.Addr, topic, "x", c); err == nil {
		t.Error("a stopped broker answered")
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	if _, err := produce(b.Addr, topic, "x", kafkaConfig()); err != nil {
		t.Error(err)
	}
}
