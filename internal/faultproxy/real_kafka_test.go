package faultproxy_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/IBM/sarama"

	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
)

func kafkaConfig() *sarama.Config {
	c := sarama.NewConfig()
	c.Version = sarama.V4_0_0_0
	c.Producer.Return.Successes = true
	c.Producer.RequiredAcks = sarama.WaitForAll
	c.Producer.Idempotent = true
	c.Net.MaxOpenRequests = 1
	c.Metadata.Retry.Max, c.Metadata.Retry.Backoff = 30, 20*time.Millisecond
	c.Producer.Retry.Max, c.Producer.Retry.Backoff = 30, 20*time.Millisecond
	c.Producer.Transaction.Retry.Max, c.Producer.Transaction.Retry.Backoff = 100, 20*time.Millisecond
	return c
}

func proxied(t *testing.T, addr string) *faultproxy.Kafka {
	t.Helper()
	p, err := faultproxy.NewKafka(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func newTopic(t *testing.T, b *services.Broker, partitions int32) string {
	t.Helper()
	admin, err := sarama.NewClusterAdmin([]string{b.Addr}, kafkaConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	topic := services.Name(t)
	if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: partitions, ReplicationFactor: 1}, false); err != nil {
		t.Fatal(err)
	}
	return topic
}

// transact publishes n records in one transaction.
func transact(addr, topic, id string, n int) error {
	c := kafkaConfig()
	c.Producer.Transaction.ID = id
	p, err := sarama.NewSyncProducer([]string{addr}, c)
	if err != nil {
		return err
	}
	defer p.Close()
	if err := p.BeginTxn(); err != nil {
		return err
	}
	var messages []*sarama.ProducerMessage
	for i := range n {
		messages = append(messages, &sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder(fmt.Sprint(i))})
	}
	if err := p.SendMessages(messages); err != nil {
		return err
	}
	return p.CommitTxn()
}

// awaitEnd waits until a partition's end is at least want: the broker writes the
// marker of a transaction after it has answered. It gives the end.
func awaitEnd(t *testing.T, addr, topic string, want int64) int64 {
	t.Helper()
	c, err := sarama.NewClient([]string{addr}, kafkaConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for {
		end, err := c.GetOffset(topic, 0, sarama.OffsetNewest)
		if err != nil {
			t.Fatal(err)
		}
		if end >= want {
			return end
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestRealKafka: a client that gets the proxy's address alone does all of its
// work through it.
func TestRealKafka(t *testing.T) {
	b := services.Kafka(t)
	p := proxied(t, b.Addr)
	topic := newTopic(t, b, 1)
	var asked []int16
	p.Set(faultproxy.KafkaRule{Match: func(r *faultproxy.KafkaRequest) bool { asked = append(asked, r.API); return false }})
	if err := transact(p.Addr(), topic, topic, 10); err != nil {
		t.Fatal(err)
	}
	if end := awaitEnd(t, b.Addr, topic, 11); end != 11 {
		t.Errorf("%d offsets, want 10 records and a marker", end)
	}
	seen := map[int16]bool{}
	for _, api := range asked {
		seen[api] = true
	}
	for _, api := range []int16{faultproxy.Metadata, faultproxy.FindCoordinator, faultproxy.InitProducerID, faultproxy.AddPartitionsToTxn, faultproxy.Produce, faultproxy.EndTxn} {
		if !seen[api] {
			t.Errorf("API %d went past the proxy", api)
		}
	}
}

// TestRealKafkaSweep loses every request and every answer of a transaction, one
// at a time. A client that retries the transaction under the same id must get
// it done, and the broker must show that a fault was real.
func TestRealKafkaSweep(t *testing.T) {
	b := services.Kafka(t)
	p := proxied(t, b.Addr)
	for _, fault := range []faultproxy.Fault{{Request: faultproxy.Cut(0)}, {Request: faultproxy.Cut(9)}, {Answer: faultproxy.Cut(0)}, {Answer: faultproxy.Reset(5)}} {
		for n, more := 1, true; more; n++ {
			topic := newTopic(t, b, 1)
			p.Set(faultproxy.KafkaRule{From: n, Times: 1, Fault: fault})
			err := transact(p.Addr(), topic, topic, 10)
			more = len(p.Hits()) > 0
			if err != nil {
				err = transact(p.Addr(), topic, topic, 10)
			}
			if err != nil {
				t.Errorf("%v at request %d (%v): %v", fault, n, p.Hits(), err)
			}
			awaitEnd(t, b.Addr, topic, 11)
			if n > 200 {
				t.Fatal("the sweep has no end")
			}
		}
		if p.Seen() < 8 {
			t.Errorf("only %d requests for a transaction", p.Seen())
		}
	}
}

// TestRealKafkaLostCommit: the answer to EndTxn is lost, the transaction is not.
func TestRealKafkaLostCommit(t *testing.T) {
	b := services.Kafka(t)
	p := proxied(t, b.Addr)
	topic := newTopic(t, b, 1)
	p.Set(faultproxy.KafkaRule{Match: faultproxy.API(faultproxy.EndTxn), From: 1, Times: 1, Fault: faultproxy.Fault{Answer: faultproxy.Cut(0)}})
	err := transact(p.Addr(), topic, topic, 10)
	if hits := p.Hits(); len(hits) != 1 {
		t.Fatalf("hits %v", hits)
	}
	t.Logf("the client says: %v", err)
	if end := awaitEnd(t, b.Addr, topic, 11); end != 11 {
		t.Errorf("%d offsets, want 10 records and a marker", end)
	}
}

// TestRealKafkaErrorCode puts an error code into an answer: NOT_LEADER_OR_FOLLOWER
// twice, which a client gets over.
func TestRealKafkaErrorCode(t *testing.T) {
	b := services.Kafka(t)
	p := proxied(t, b.Addr)
	topic := newTopic(t, b, 1)
	// InitProducerId v0-v1: throttle time, error code, id, epoch. 15 is COORDINATOR_NOT_AVAILABLE.
	answer := func(r *faultproxy.KafkaRequest) []byte {
		body := make([]byte, 4+2+8+2)
		body[5] = 15
		if r.Version >= 2 { // flexible
			body = append(append([]byte{0}, body...), 0)
		}
		return faultproxy.KafkaMessage(r, body)
	}
	p.Set(faultproxy.KafkaRule{Match: faultproxy.API(faultproxy.InitProducerID), Times: 2, Reply: answer})
	if err := transact(p.Addr(), topic, topic, 1); err != nil {
		t.Error(err)
	}
	if hits := p.Hits(); len(hits) != 2 {
		t.Errorf("hits %v", hits)
	}
}

func TestRealKafkaDown(t *testing.T) {
	b := services.Kafka(t)
	p := proxied(t, b.Addr)
	p.SetDown(true)
	c := kafkaConfig()
	c.Metadata.Retry.Max = 0
	if _, err := sarama.NewClient([]string{p.Addr()}, c); !errors.Is(err, sarama.ErrOutOfBrokers) {
		t.Errorf("%v", err)
	}
	p.SetDown(false)
	client, err := sarama.NewClient([]string{p.Addr()}, c)
	if err != nil {
		t.Fatal(err)
	}
	client.Close()
}
