// Package kafkatest makes topics for tests and reads them to their end, with a
// client that is not the one under test.
package kafkatest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Topic creates a topic with pairs of settings, such as max.message.bytes and its
// value.
func Topic(t testing.TB, addrs []string, name string, partitions int, settings ...string) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	req.TimeoutMillis = 30_000
	rt := kmsg.NewCreateTopicsRequestTopic()
	rt.Topic, rt.NumPartitions, rt.ReplicationFactor = name, int32(partitions), 1
	for i := 0; i+1 < len(settings); i += 2 {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = settings[i], kmsg.StringPtr(settings[i+1])
		rt.Configs = append(rt.Configs, c)
	}
	req.Topics = append(req.Topics, rt)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	resp, err := req.RequestWith(ctx, client)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		t.Fatalf("create topic %s: %v", name, err)
	}
	for range 200 { // brokers learn of it a little later
		if _, err := Ends(client, name); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("topic %s has no leader", name)
}

// ReadAll reads a topic up to its end, as readers of committed records see it, or
// all others.
func ReadAll(t testing.TB, addrs []string, topic string, committed bool, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	level := kgo.ReadUncommitted()
	if committed {
		level = kgo.ReadCommitted()
	}
	opts = append(opts, kgo.SeedBrokers(addrs...), kgo.FetchIsolationLevel(level), kgo.FetchMaxWait(50*time.Millisecond), kgo.KeepControlRecords(),
		kgo.MetadataMinAge(10*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.ConsumeTopics(topic))
	client, err := kgo.NewClient(opts...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ends, err := Ends(client, topic)
	if err != nil {
		t.Fatal(err)
	}
	var all []*kgo.Record
	at := map[int32]int64{}
	for deadline := time.Now().Add(time.Minute); ; {
		left := false
		for p, end := range ends {
			left = left || at[p] < end
		}
		if !left {
			return all
		}
		if time.Now().After(deadline) {
			t.Fatalf("reading %s: at %v of %v", topic, at, ends)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			at[r.Partition] = r.Offset + 1
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
		})
		cancel()
	}
}

// Ends asks for the high watermark of every partition of a topic.
func Ends(client *kgo.Client, topic string) (map[int32]int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	meta := kmsg.NewPtrMetadataRequest()
	mt := kmsg.NewMetadataRequestTopic()
	mt.Topic = kmsg.StringPtr(topic)
	meta.Topics = append(meta.Topics, mt)
	layout, err := meta.RequestWith(ctx, client)
	if err != nil {
		return nil, err
	}
	list := kmsg.NewPtrListOffsetsRequest()
	lt := kmsg.NewListOffsetsRequestTopic()
	lt.Topic = topic
	for _, p := range layout.Topics[0].Partitions {
		lp := kmsg.NewListOffsetsRequestTopicPartition()
		lp.Partition, lp.Timestamp = p.Partition, -1
		lt.Partitions = append(lt.Partitions, lp)
	}
	list.Topics = append(list.Topics, lt)
	found := map[int32]int64{}
	for _, shard := range client.RequestSharded(ctx, list) {
		if shard.Err != nil {
			return nil, shard.Err
		}
		for _, rt := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range rt.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
					return nil, err
				}
				found[p.Partition] = p.Offset
			}
		}
	}
	if len(found) == 0 || len(found) < len(lt.Partitions) {
		return nil, fmt.Errorf("topic %s: %d of %d partitions have an end", topic, len(found), len(lt.Partitions))
	}
	return found, nil
}
