// Command kafka measures producers that send the same pre-made bytes to one real
// broker on this machine: package partwise and sarama's AsyncProducer, in turn,
// round after round. It prints a Markdown table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/IBM/sarama"
	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"

	"github.com/kinequet/kq/internal/services/server"
	"github.com/kinequet/kq/plugins/sinks/kafkasink/partwise"
)

type settings struct {
	brokers    string
	records    int
	partitions int
	rounds     int
	batch      int
	vector     int
}

func main() {
	var s settings
	flag.StringVar(&s.brokers, "broker", "", "host:port of a running broker; empty: start one")
	flag.IntVar(&s.records, "n", 3_000_000, "records for each measurement; AsyncProducer gets a third")
	flag.IntVar(&s.partitions, "partitions", 4, "of the topic")
	flag.IntVar(&s.rounds, "rounds", 3, "of all producers")
	flag.IntVar(&s.batch, "batch", 0, "bytes of a record batch; 0: the default")
	flag.IntVar(&s.vector, "rows", 2048, "rows of an Arrow record batch")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, s); err != nil {
		fmt.Fprintln(os.Stderr, "kafka:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s settings) error {
	if s.brokers == "" {
		dir, err := os.MkdirTemp("", "kq-bench-kafka")
		if err != nil {
			return err
		}
		broker, err := server.Start(ctx, "kafka", filepath.Join(dir, "kafka"), server.Options{Bound: true})
		if err != nil {
			return errors.Join(err, os.RemoveAll(dir))
		}
		defer func() { _ = errors.Join(broker.Stop(), broker.Close(), os.RemoveAll(dir)) }()
		s.brokers = broker.Addr("plain")
	}
	data := makeData(100_000/s.vector, s.vector)
	results := map[string][]result{}
	for round := range s.rounds {
		for _, v := range variants {
			n := s.records
			if v.slow {
				n /= 3
			}
			r, err := measure(ctx, s, v, data, n, fmt.Sprintf("bench-%d-%d", time.Now().UnixNano(), round))
			if err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d, %s: %.2f M records/s, %.2f s of CPU for a million\n", round+1, v.name, r.rate, r.cpu)
			results[v.name] = append(results[v.name], r)
		}
	}
	report(s, data, results)
	return nil
}

// variant is one way to send all records.
type variant struct {
	name string
	slow bool
	send func(ctx context.Context, s settings, topic string, d *data, n int) error
}

var variants = []variant{
	{"partwise, idempotent", false, parts(partwise.Options{})},
	{"partwise, idempotent, keys hashed", false, parts(partwise.Options{Columns: partwise.Columns{Key: "key", Value: "value"}})},
	{"partwise, idempotent, lz4", false, parts(partwise.Options{Compression: "lz4"})},
	{"partwise, idempotent, zstd", false, parts(partwise.Options{Compression: "zstd"})},
	{"partwise, one transaction", false, parts(partwise.Options{Delivery: partwise.EffectivelyOnce})},
	{"partwise, one transaction, lz4", false, parts(partwise.Options{Delivery: partwise.EffectivelyOnce, Compression: "lz4"})},
	{"sarama AsyncProducer, idempotent", true, async(sarama.CompressionNone)},
	{"sarama AsyncProducer, idempotent, lz4", true, async(sarama.CompressionLZ4)},
}

// data is rows that every producer sends over and over.
type data struct {
	batches []arrow.RecordBatch
	keys    [][]byte
	values  [][]byte
}

func makeData(batches, per int) *data {
	schema := arrow.NewSchema([]arrow.Field{{Name: "key", Type: arrow.BinaryTypes.Binary}, {Name: "value", Type: arrow.BinaryTypes.String}}, nil)
	d := &data{}
	for b := range max(1, batches) {
		builder := array.NewRecordBuilder(memory.DefaultAllocator, schema)
		for i := range per {
			n := b*per + i
			key := "K" + strconv.Itoa(n%89+10)
			value := fmt.Sprintf(`{"date":"2001-01-01 %02d:%02d:00","delay":%d,"distance":%d,"origin":"ABE","destination":"PIT","pad":"%06d"}`, n%24, n%60, n%100, n%2000, n)
			builder.Field(0).(*array.BinaryBuilder).Append([]byte(key))
			builder.Field(1).(*array.StringBuilder).Append(value)
			d.keys, d.values = append(d.keys, []byte(key)), append(d.values, []byte(value))
		}
		d.batches = append(d.batches, builder.NewRecordBatch())
		builder.Release()
	}
	return d
}

// stream gives n rows.
func (d *data) stream(n int) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		for i := 0; n > 0; i++ {
			b := d.batches[i%len(d.batches)]
			if int64(n) < b.NumRows() {
				b = b.NewSlice(0, int64(n))
			}
			n -= int(b.NumRows())
			if !yield(b, nil) {
				return
			}
		}
	}
}

func parts(o partwise.Options) func(context.Context, settings, string, *data, int) error {
	return func(ctx context.Context, s settings, topic string, d *data, n int) error {
		o := o
		o.Brokers, o.Topic, o.BatchBytes = []string{s.brokers}, topic, s.batch
		if o.Columns.Value == "" {
			o.Columns = partwise.Columns{Value: "value"}
		}
		p, err := partwise.Open(o)
		if err != nil {
			return err
		}
		defer p.Close()
		_, err = p.Publish(ctx, partwise.Part{ID: topic, Checksum: "none", Rows: int64(n), Batches: d.stream(n)})
		return err
	}
}

func async(codec sarama.CompressionCodec) func(context.Context, settings, string, *data, int) error {
	return func(ctx context.Context, s settings, topic string, d *data, n int) error {
		c := sarama.NewConfig()
		c.Version, c.ClientID = sarama.V4_0_0_0, "bench"
		c.Producer.Idempotent, c.Producer.RequiredAcks, c.Net.MaxOpenRequests = true, sarama.WaitForAll, 1
		c.Producer.Return.Successes, c.Producer.Return.Errors = true, true
		c.Producer.Compression = codec
		c.Producer.Partitioner = sarama.NewRoundRobinPartitioner
		p, err := sarama.NewAsyncProducer([]string{s.brokers}, c)
		if err != nil {
			return err
		}
		failed := make(chan error, 1)
		go func() {
			var first error
			for e := range p.Errors() {
				if first == nil {
					first = e
				}
			}
			failed <- first
		}()
		acknowledged := make(chan int, 1)
		go func() {
			k := 0
			for range p.Successes() {
				k++
			}
			acknowledged <- k
		}()
		for i := 0; i < n && ctx.Err() == nil; i++ {
			p.Input() <- &sarama.ProducerMessage{Topic: topic, Value: sarama.ByteEncoder(d.values[i%len(d.values)])}
		}
		p.AsyncClose()
		if got, err := <-acknowledged, <-failed; err != nil || got != n {
			return fmt.Errorf("%d of %d acknowledged: %w", got, n, err)
		}
		return ctx.Err()
	}
}

type result struct {
	rate float64 // million records a second
	cpu  float64 // seconds of this process for a million records
}

func measure(ctx context.Context, s settings, v variant, d *data, n int, topic string) (result, error) {
	conf := sarama.NewConfig()
	conf.Version = sarama.V4_0_0_0
	client, err := sarama.NewClient([]string{s.brokers}, conf)
	if err != nil {
		return result{}, err
	}
	defer func() { _ = client.Close() }()
	admin, err := sarama.NewClusterAdminFromClient(client)
	if err != nil {
		return result{}, err
	}
	if err := admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: int32(s.partitions), ReplicationFactor: 1}, false); err != nil {
		return result{}, err
	}
	time.Sleep(300 * time.Millisecond) // its leaders are elected
	before, start := cpu(), time.Now()
	if err := v.send(ctx, s, topic, d, n); err != nil {
		return result{}, err
	}
	took, used := time.Since(start), cpu()-before
	there := int64(0)
	for p := range s.partitions {
		end, err := client.GetOffset(topic, int32(p), sarama.OffsetNewest)
		if err != nil {
			return result{}, err
		}
		there += end
	}
	if there < int64(n) || there > int64(n+s.partitions) { // a transaction ends with a marker in each partition, a little later
		return result{}, fmt.Errorf("%d records are on the topic, %d were sent", there, n)
	}
	m := float64(n) / 1e6
	return result{m / took.Seconds(), used.Seconds() / m}, admin.DeleteTopic(topic)
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func report(s settings, d *data, results map[string][]result) {
	size := 0
	for _, v := range d.values {
		size += len(v)
	}
	fmt.Printf("%d records of %d bytes (AsyncProducer a third), %d partitions, acks=all, %d rounds: medians (range)\n\n", s.records, size/len(d.values), s.partitions, s.rounds)
	fmt.Println("| producer | million records/s | client CPU, s for a million | times AsyncProducer |\n|---|---|---|---|")
	base := median(results["sarama AsyncProducer, idempotent"], func(r result) float64 { return r.rate })
	for _, v := range variants {
		rs := results[v.name]
		rate := func(r result) float64 { return r.rate }
		low := slices.MinFunc(rs, func(a, b result) int { return int(1e6 * (a.rate - b.rate)) }).rate
		high := slices.MaxFunc(rs, func(a, b result) int { return int(1e6 * (a.rate - b.rate)) }).rate
		fmt.Printf("| %s | %.2f (%.2f-%.2f) | %.2f | %.1f |\n", v.name, median(rs, rate), low, high, median(rs, func(r result) float64 { return r.cpu }), median(rs, rate)/base)
	}
}

func median(rs []result, of func(result) float64) float64 {
	list := make([]float64, len(rs))
	for i, r := range rs {
		list[i] = of(r)
	}
	slices.Sort(list)
	return list[len(list)/2]
}
