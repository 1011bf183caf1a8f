package partwise

import (
	"context"
	"errors"
	"time"

	"github.com/IBM/sarama"
)

// Create makes the topic with so many partitions, and as many replicas as the
// brokers give by themselves. One that is there is left as it is.
func (p *Producer) Create(ctx context.Context, partitions int) error {
	ctx, done, err := p.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	conns := newConns(ctx, &p.pool)
	defer conns.close(true)
	const op = "create topic"
	answer, _, err := anyBroker(&p.cluster, conns, op, func(b *sarama.Broker) (*sarama.CreateTopicsResponse, error) {
		return b.CreateTopics(&sarama.CreateTopicsRequest{
			Version: 5, Timeout: 30 * time.Second,
			TopicDetails: map[string]*sarama.TopicDetail{p.opts.Topic: {NumPartitions: int32(partitions), ReplicationFactor: -1}},
		})
	})
	if err != nil {
		return err
	}
	told := answer.TopicErrors[p.opts.Topic]
	switch {
	case told == nil:
		return &Error{Op: op, Topic: p.opts.Topic, Partition: -1, Err: errors.New("the broker's answer leaves the topic out")}
	case told.Err == sarama.ErrTopicAlreadyExists:
		return nil
	case told.Err != sarama.ErrNoError:
		message := ""
		if told.ErrMsg != nil {
			message = *told.ErrMsg
		}
		e := coded(op, told.Err, message)
		e.Topic = p.opts.Topic
		return e
	}
	return p.cluster.retry(ctx, func() error { // brokers learn of it a little later
		_, err := p.cluster.topic(conns, time.Now().Add(-metadataAge))
		return err
	})
}
