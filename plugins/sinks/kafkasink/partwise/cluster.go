package partwise

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// metadataAge is how old what is known of a topic may be when an attempt starts.
const metadataAge = time.Minute

// defaultMaxMessageBytes is Kafka's own default of message.max.bytes.
const defaultMaxMessageBytes = 1048588

// layout is what brokers say about the topic. It is immutable.
type layout struct {
	at      time.Time
	id      sarama.Uuid
	addrs   map[int32]string
	leaders []int32 // broker of each partition, -1: none at present
}

// leader returns the address of a partition's leader, or "".
func (l *layout) leader(partition int32) string {
	if int(partition) >= len(l.leaders) {
		return ""
	}
	return l.addrs[l.leaders[partition]]
}

// limits are settings of topic and broker. It is immutable.
type limits struct {
	at              time.Time
	maxMessageBytes int
	maxTransaction  time.Duration // 0: not known
	tokenLifetime   time.Duration // never 0
}

// cluster is what a Producer knows of its brokers, shared by its attempts. It is
// safe for concurrent use.
type cluster struct {
	opts *Options

	refresh sync.Mutex // one asks, the others wait and use its answer
	mu      sync.Mutex
	layout  *layout
	limits  *limits
}

func (c *cluster) known() (*layout, *limits) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.layout, c.limits
}

// topic returns a layout that is newer than before.
func (c *cluster) topic(conns *conns, before time.Time) (*layout, error) {
	if l, _ := c.known(); l != nil && l.at.After(before) {
		return l, nil
	}
	c.refresh.Lock()
	defer c.refresh.Unlock()
	if l, _ := c.known(); l != nil && l.at.After(before) {
		return l, nil
	}
	at := time.Now()
	answer, addr, err := anyBroker(c, conns, "read metadata of", func(b *sarama.Broker) (*sarama.MetadataResponse, error) {
		return b.GetMetadata(&sarama.MetadataRequest{Version: 11, Topics: []string{c.opts.Topic}})
	})
	if err != nil {
		return nil, err
	}
	l, wrong := readLayout(answer, c.opts.Topic, at)
	if wrong != nil {
		wrong.Broker = addr
		return nil, wrong
	}
	c.mu.Lock()
	c.layout = l
	c.mu.Unlock()
	return l, nil
}

func readLayout(answer *sarama.MetadataResponse, topic string, at time.Time) (*layout, *Error) {
	l := &layout{at: at, addrs: map[int32]string{}}
	for _, b := range answer.Brokers {
		l.addrs[b.ID()] = b.Addr()
	}
	i := slices.IndexFunc(answer.Topics, func(t *sarama.TopicMetadata) bool { return t.Name == topic })
	if i < 0 {
		return nil, &Error{Op: "read metadata of", Topic: topic, Partition: -1, Err: errors.New("the broker's answer leaves the topic out")}
	}
	t := answer.Topics[i]
	if t.Err != sarama.ErrNoError && t.Err != sarama.ErrLeaderNotAvailable {
		e := coded("read metadata of", t.Err, "")
		e.Topic = topic
		return nil, e
	}
	l.id = t.Uuid
	l.leaders = make([]int32, len(t.Partitions))
	for i := range l.leaders {
		l.leaders[i] = -1
	}
	for _, p := range t.Partitions {
		if int(p.ID) >= len(l.leaders) || p.ID < 0 {
			return nil, &Error{Op: "read metadata of", Topic: topic, Partition: p.ID, Err: errors.New("the topic's partitions are not numbered from 0")}
		}
		if p.Err == sarama.ErrNoError || p.Err == sarama.ErrReplicaNotAvailable {
			l.leaders[p.ID] = p.Leader
		}
	}
	if len(l.leaders) == 0 {
		e := coded("read metadata of", sarama.ErrLeaderNotAvailable, "")
		e.Topic = topic
		return nil, e
	}
	return l, nil
}

// addresses are all brokers' that are known, in random order, those of the
// settings last.
func (c *cluster) addresses() []string {
	var list []string
	if l, _ := c.known(); l != nil {
		for _, addr := range l.addrs {
			list = append(list, addr)
		}
	}
	shuffle(list)
	boot := slices.Clone(c.opts.Brokers)
	shuffle(boot)
	for _, b := range boot {
		if !slices.Contains(list, b) {
			list = append(list, b)
		}
	}
	return list
}

func shuffle(list []string) {
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
}

// anyBroker asks one broker after the other until one answers.
func anyBroker[T any](c *cluster, conns *conns, op string, request func(*sarama.Broker) (T, error)) (T, string, error) {
	var errs []error
	var none T
	for _, addr := range c.addresses() {
		answer, err := ask(conns, op, addr, request)
		if err == nil {
			return answer, addr, nil
		}
		if ClassOf(err) == Sink || conns.ctx.Err() != nil {
			return none, addr, err
		}
		errs = append(errs, err)
	}
	return none, "", &Error{Op: op, Topic: c.opts.Topic, Partition: -1, Err: fmt.Errorf("no broker answers: %w", errors.Join(errs...))}
}

// coordinator returns the address of the coordinator of a key.
func (c *cluster) coordinator(conns *conns, kind sarama.CoordinatorType, key string) (string, error) {
	op := "find the coordinator of transaction " + strconv.Quote(key)
	if kind == sarama.CoordinatorGroup {
		op = "find the coordinator of group " + strconv.Quote(key)
	}
	answer, addr, err := anyBroker(c, conns, op, func(b *sarama.Broker) (*sarama.FindCoordinatorResponse, error) {
		return b.FindCoordinator(&sarama.FindCoordinatorRequest{Version: 2, CoordinatorKey: key, CoordinatorType: kind})
	})
	if err != nil {
		return "", err
	}
	if answer.Err != sarama.ErrNoError {
		message := ""
		if answer.ErrMsg != nil {
			message = *answer.ErrMsg
		}
		e := coded(op, answer.Err, message)
		e.Broker = addr
		return "", e
	}
	if answer.Coordinator == nil {
		return "", &Error{Op: op, Partition: -1, Broker: addr, Err: errors.New("the broker's answer names none")}
	}
	return answer.Coordinator.Addr(), nil
}

// settings returns the limits that count for the topic, asked for at most once
// in ten minutes. Where the broker doesn't tell (no right to describe), Kafka's
// defaults count.
func (c *cluster) settings(conns *conns) (*limits, error) {
	if _, known := c.known(); known != nil && time.Since(known.at) < 10*time.Minute {
		return known, nil
	}
	found := &limits{at: time.Now(), maxMessageBytes: defaultMaxMessageBytes, tokenLifetime: 7 * 24 * time.Hour}
	l, err := c.topic(conns, time.Time{})
	if err != nil {
		return nil, err
	}
	resources := []*sarama.ConfigResource{{Type: sarama.TopicResource, Name: c.opts.Topic, ConfigNames: []string{"max.message.bytes"}}}
	addr := ""
	for id, a := range l.addrs {
		if addr == "" || id < 0 {
			addr = a
			resources = append(resources[:1], &sarama.ConfigResource{Type: sarama.BrokerResource, Name: strconv.Itoa(int(id)), ConfigNames: []string{
				"transaction.max.timeout.ms", "offsets.retention.minutes", "transactional.id.expiration.ms",
			}})
		}
	}
	answer, err := ask(conns, "describe", addr, func(b *sarama.Broker) (*sarama.DescribeConfigsResponse, error) {
		return b.DescribeConfigs(&sarama.DescribeConfigsRequest{Version: 2, Resources: resources})
	})
	if err != nil && (conns.ctx.Err() != nil || !errors.Is(err, sarama.ErrUnsupportedVersion)) {
		return nil, err
	}
	if answer != nil {
		found.read(answer)
	}
	if c.opts.MaxMessageBytes > 0 {
		found.maxMessageBytes = c.opts.MaxMessageBytes
	}
	if c.opts.TokenLifetime > 0 {
		found.tokenLifetime = c.opts.TokenLifetime
	}
	c.mu.Lock()
	c.limits = found
	c.mu.Unlock()
	return found, nil
}

func (l *limits) read(answer *sarama.DescribeConfigsResponse) {
	var lifetime time.Duration
	for _, r := range answer.Resources {
		for _, entry := range r.Configs {
			n, err := strconv.ParseInt(entry.Value, 10, 64)
			if err != nil || n <= 0 || r.ErrorCode != 0 {
				continue
			}
			keep := func(d time.Duration) {
				if lifetime == 0 || d < lifetime {
					lifetime = d
				}
			}
			switch entry.Name {
			case "max.message.bytes":
				l.maxMessageBytes = int(min(n, int64(sarama.MaxRequestSize)-4096))
			case "transaction.max.timeout.ms":
				l.maxTransaction = time.Duration(n) * time.Millisecond
			case "offsets.retention.minutes":
				keep(time.Duration(n) * time.Minute)
			case "transactional.id.expiration.ms":
				keep(time.Duration(n) * time.Millisecond)
			}
		}
	}
	if lifetime > 0 {
		l.tokenLifetime = lifetime
	}
}

// retry repeats a request until it is done, its verdict says that repeating is
// no use, or DeliveryTimeout has passed.
func (c *cluster) retry(ctx context.Context, try func() error) error {
	start := time.Now()
	for n := 0; ; n++ {
		err := try()
		if err == nil || ctx.Err() != nil || !repeatable(err) || overdue(err, time.Since(start), c.opts.DeliveryTimeout) {
			return err
		}
		if err := sleep(ctx, backoff(n)); err != nil {
			return err
		}
	}
}

// repeatable tells whether asking again can help: the code says so, or there was
// no answer at all.
func repeatable(err error) bool {
	var e *Error
	if !errors.As(err, &e) || e.Class != RetryPart {
		return false
	}
	switch verdictOf(e.Code) {
	case again, maybe, elsewhere:
		return true
	}
	return e.Code == sarama.ErrNoError
}

// unknownGrace is how long a broker may not know of a topic that was just made.
const unknownGrace = 10 * time.Second

// overdue tells whether an error has lasted too long. A topic that stays unknown
// is the sink's fault, and becomes that in err.
func overdue(err error, lasts, limit time.Duration) bool {
	var e *Error
	if errors.As(err, &e) && e.Code == sarama.ErrUnknownTopicOrPartition && lasts > min(limit, unknownGrace) {
		e.Class = Sink
		return true
	}
	return lasts > limit
}

// backoff grows from 10-20 ms to 0.5-1 s.
func backoff(n int) time.Duration {
	d := min(20*time.Millisecond<<min(n, 6), time.Second)
	return d/2 + time.Duration(rand.Int64N(int64(d/2)))
}
