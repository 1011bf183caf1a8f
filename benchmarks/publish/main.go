// Command publish measures whole processes that send a table of Parquet as JSON to
// one real Kafka broker on this machine: kq, the script that one would write with
// DuckDB and confluent-kafka, and PySpark; and beside them the bare part-wise
// producer with bytes that are made before. Systems take turns, round after round.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/IBM/sarama"

	"github.com/kinequet/kq/internal/services/server"
)

// query is what every system sends, {flights} being the table.
const query = `SELECT date, delay, distance, origin, destination, delay > 15 AS late FROM {flights} WHERE distance > 0`

type bench struct {
	broker     string
	flights    string // files, as a glob
	rows       int64  // that the query gives
	rounds     int
	partitions int
	tmp        string
	client     sarama.Client
	admin      sarama.ClusterAdmin
}

// system sends the query's rows to a topic, as one process where it returns a
// command, or else by itself.
type system struct {
	name    string
	prepare func(ctx context.Context, b *bench) error
	command func(b *bench, topic string) (*exec.Cmd, error)
	send    func(ctx context.Context, b *bench, topic string) error
}

func main() {
	var b bench
	flag.StringVar(&b.flights, "flights", "", "Parquet files of flights; empty: the 300,000 of jobs/data, twenty times")
	flag.StringVar(&b.broker, "broker", "", "host:port of a running broker; empty: start one")
	flag.IntVar(&b.rounds, "rounds", 3, "timed rounds of all systems, after one that isn't counted")
	flag.IntVar(&b.partitions, "partitions", 8, "of the topic")
	only := flag.String("only", "", "systems, comma-separated; empty: all")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, *only); err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) (err error) {
	if b.tmp, err = os.MkdirTemp("", "kq-bench-publish"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.tmp)) }()
	if b.broker == "" {
		broker, err := server.Start(ctx, "kafka", filepath.Join(b.tmp, "kafka"), server.Options{Bound: true})
		if err != nil {
			return err
		}
		defer func() { _ = errors.Join(broker.Stop(), broker.Close()) }()
		b.broker = broker.Addr("plain")
	}
	if err := b.data(ctx); err != nil {
		return err
	}
	conf := sarama.NewConfig()
	conf.Version = sarama.V4_0_0_0
	if b.client, err = sarama.NewClient([]string{b.broker}, conf); err != nil {
		return err
	}
	defer func() { _ = b.client.Close() }()
	if b.admin, err = sarama.NewClusterAdminFromClient(b.client); err != nil {
		return err
	}
	var chosen []system
	for _, s := range systems {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		if s.prepare != nil {
			if err := s.prepare(ctx, b); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		chosen = append(chosen, s)
	}
	times := map[string][]time.Duration{}
	for round := range b.rounds + 1 {
		for _, s := range chosen {
			took, err := b.measure(ctx, s, fmt.Sprintf("bench-%d-%d", time.Now().UnixNano(), round))
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			fmt.Fprintf(os.Stderr, "round %d, %s: %.2f s\n", round, s.name, took.Seconds())
			if round > 0 {
				times[s.name] = append(times[s.name], took)
			}
		}
	}
	b.report(chosen, times)
	return nil
}

// measure runs a system once and counts what is on the topic afterwards.
func (b *bench) measure(ctx context.Context, s system, topic string) (time.Duration, error) {
	if err := b.admin.CreateTopic(topic, &sarama.TopicDetail{NumPartitions: int32(b.partitions), ReplicationFactor: 1}, false); err != nil {
		return 0, err
	}
	time.Sleep(500 * time.Millisecond) // its leaders are elected
	start := time.Now()
	if s.send != nil {
		if err := s.send(ctx, b, topic); err != nil {
			return 0, err
		}
	} else {
		cmd, err := s.command(b, topic)
		if err != nil {
			return 0, err
		}
		start = time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("%w\n%s", err, out)
		}
	}
	took := time.Since(start)
	there := int64(0)
	for p := range b.partitions {
		end, err := b.client.GetOffset(topic, int32(p), sarama.OffsetNewest)
		if err != nil {
			return 0, err
		}
		there += end
	}
	// Each transaction ends with a marker in each partition.
	if markers := int64(b.partitions * 64); there < b.rows || there > b.rows+markers {
		return 0, fmt.Errorf("%d records are on the topic, not %d", there, b.rows)
	}
	return took, b.admin.DeleteTopic(topic)
}

func (b *bench) report(chosen []system, times map[string][]time.Duration) {
	median := func(name string) float64 {
		list := slices.Sorted(slices.Values(times[name]))
		if len(list) == 0 {
			return 0
		}
		return list[len(list)/2].Seconds()
	}
	fmt.Printf("%d rows, %d partitions, %d rounds: medians (range)\n\n", b.rows, b.partitions, b.rounds)
	fmt.Println("| system | s | million rows/s | times the script |\n|---|---|---|---|")
	for _, s := range chosen {
		m := median(s.name)
		fmt.Printf("| %s | %.2f (%.2f-%.2f) | %.2f | %.2f |\n", s.name, m, slices.Min(times[s.name]).Seconds(), slices.Max(times[s.name]).Seconds(),
			float64(b.rows)/m/1e6, median("script")/m)
	}
}
