package crash

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kinequet/kq/internal/durable"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/plugins/sinks/kafkasink/kafkatest"
)

// The topics' rows are those of a forward stage, which are sent while other
// shards are being computed, and of a gather.
const kafkaJob = `version: 1
name: crash-kafka
shard_size: 64KiB
memory: 2GiB
sources:
  facts: {type: parquet, uri: data/*.parquet}
  dims: {type: csv, uri: data/dims.csv}
stages:
  kept:
    sql: SELECT f.id, f.k, f.v * 2 AS v2, d.name FROM facts f JOIN dims d ON d.k = f.k WHERE f.v >= 10
    retry: {attempts: 100, backoff: 10ms}
sinks:
  once: {type: kafka, from: kept, brokers: [%[1]s], topic: %[2]s-once, key: k, value: id, format: raw, record_id: id, delivery: effectively-once, retry: {attempts: 100, backoff: 10ms}}
  least: {type: kafka, from: kept, brokers: [%[1]s], topic: %[2]s-least, key: k, value: id, format: raw, record_id: id, compression: lz4, retry: {attempts: 100, backoff: 10ms}}
`

// kafkaWorld is a world whose results are on two topics, new ones each round.
type kafkaWorld struct {
	*world
	broker *services.Broker
	want   map[string]bool // ids of the rows
	round  int
	topic  string
	twice  int // rows that the topic of at-least-once has more than once
}

func newKafkaWorld(t *testing.T, stream uint64) *kafkaWorld {
	w := &kafkaWorld{world: newWorld(t, rand.New(rand.NewPCG(*seed, stream))), broker: services.Kafka(t), want: map[string]bool{}}
	db, err := openDuckDB()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	found, err := db.Query(fmt.Sprintf("SELECT id::VARCHAR FROM '%s/data/*.parquet' WHERE v >= 10", w.dir))
	if err != nil {
		t.Fatal(err)
	}
	defer found.Close()
	for found.Next() {
		var id string
		if err := found.Scan(&id); err != nil {
			t.Fatal(err)
		}
		w.want[id] = true
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	w.begin()
	return w
}

// begin makes the topics of a round and the job that writes to them.
func (w *kafkaWorld) begin() {
	w.t.Helper()
	w.round++
	w.topic = fmt.Sprintf("%s-%d", services.Name(w.t), w.round)
	for _, name := range []string{"-once", "-least"} {
		kafkatest.Topic(w.t, []string{w.broker.Addr}, w.topic+name, 4)
	}
	text := fmt.Sprintf(kafkaJob, `"`+w.broker.Addr+`"`, w.topic)
	if err := os.WriteFile(filepath.Join(w.dir, "job.yaml"), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// finish runs the job to its end and reads the topics: no row is lost, none that
// was published effectively once is there twice, and copies of a row have one id.
func (w *kafkaWorld) finish() {
	w.t.Helper()
	for try := 0; ; try++ {
		code, out := w.run([]string{"KQ_LEASE=1500ms"}, "run", filepath.Join(w.dir, "job.yaml"), "--workers", "3")
		if code == 0 {
			break
		}
		if try == 20 {
			w.t.Fatalf("kq run still exits %d after %d tries:\n%s", code, try, out)
		}
	}
	w.read(w.topic+"-once", true)
	w.twice += w.read(w.topic+"-least", false)
	for patience := 400; len(w.workers()) > 0; patience-- {
		if patience == 0 {
			w.t.Fatalf("workers %v outlive their run", w.workers())
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err := os.RemoveAll(filepath.Join(w.dir, ".kq")); err != nil {
		w.t.Fatal(err)
	}
	w.begin()
}

// read counts the rows of a topic, and returns how many are there again.
func (w *kafkaWorld) read(topic string, once bool) (again int) {
	w.t.Helper()
	ids := map[string]string{}
	for _, r := range kafkatest.ReadAll(w.t, []string{w.broker.Addr}, topic, true) {
		row, id := string(r.Value), ""
		for _, h := range r.Headers {
			id = string(h.Value)
		}
		switch before, seen := ids[row]; {
		case !w.want[row]:
			w.t.Fatalf("%s has a row %s that the stage doesn't have", topic, row)
		case !strings.HasPrefix(id, "kq/"):
			w.t.Fatalf("%s: row %s has the id %q", topic, row, id)
		case seen && once:
			w.t.Fatalf("%s: row %s is there twice, as %s and %s", topic, row, before, id)
		case seen && before != id:
			w.t.Fatalf("%s: row %s has two ids, %s and %s", topic, row, before, id)
		case seen:
			again++
		}
		ids[row] = id
	}
	if len(ids) != len(w.want) {
		w.t.Fatalf("%s: %d of %d rows arrived", topic, len(ids), len(w.want))
	}
	return again
}

// TestKafkaKills kills workers and kq run at random while they publish.
func TestKafkaKills(t *testing.T) {
	goal := wanted(t, 300)
	w := newKafkaWorld(t, 10)
	for w.kills < goal {
		for range 4 {
			w.start(nil, w.strike)
		}
		w.finish()
		if w.round%50 == 0 {
			fmt.Fprintf(os.Stderr, "%d kills, %d stops so far: 0 lost, 0 duplicated\n", w.kills, w.stops)
		}
	}
	t.Logf("%d kills, %d stops in %d rounds: 0 lost; effectively once: 0 duplicated; at least once: %d rows again, each under its id", w.kills, w.stops, w.round-1, w.twice)
}

// TestKafkaPoints kills at every point of publishing.
func TestKafkaPoints(t *testing.T) {
	w := newKafkaWorld(t, 11)
	for _, point := range durable.Points() {
		if !strings.HasPrefix(point, "publish.send.") && !strings.HasPrefix(point, "worker.complete.") {
			continue
		}
		for _, hit := range []int{1, 3, 8} {
			w.start([]string{fmt.Sprintf("KQ_FAULT=crash:%s:%d", point, hit)}, func(int) { time.Sleep(10 * time.Millisecond) })
			w.finish()
		}
	}
}

// TestKafkaExample runs the job that the documentation shows, twice: the second
// time there is nothing to do.
func TestKafkaExample(t *testing.T) {
	w := newKafkaWorld(t, 13)
	topic := services.Name(t)
	env := []string{"KAFKA=" + w.broker.Addr, "TOPIC=" + topic}
	for range 2 {
		if code, out := w.run(env, "run", "../../jobs/kafka.yaml", "--state", filepath.Join(w.dir, ".kq")); code != 0 {
			t.Fatalf("exit %d\n%s", code, out)
		}
	}
	db, err := openDuckDB()
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var want int
	if err := db.QueryRow("SELECT count(*) FROM '../../jobs/data/flights.parquet' WHERE delay > 15").Scan(&want); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, r := range kafkatest.ReadAll(t, []string{w.broker.Addr}, topic, true) {
		if len(r.Headers) != 2 || len(r.Key) != 3 {
			t.Fatalf("a record with key %q and headers %v", r.Key, r.Headers)
		}
		ids[string(r.Headers[1].Value)] = true
	}
	if len(ids) != want {
		t.Fatalf("%d rows are on the topic, not %d", len(ids), want)
	}
}

// TestKafkaErrors: what is wrong with a sink is said before anything runs.
func TestKafkaErrors(t *testing.T) {
	w := newKafkaWorld(t, 14)
	for name, c := range map[string]struct {
		sink, want string
		code       int
	}{
		"no topic":       {`brokers: ["` + w.broker.Addr + `"], topic: not-there`, `topic "not-there"`, 3},
		"no broker":      {`brokers: ["127.0.0.1:1"], topic: t, delivery_timeout: 1s`, "127.0.0.1:1", 3},
		"password":       {`brokers: ["` + w.broker.SASL + `"], topic: t, sasl: {mechanism: PLAIN, user: nobody, password: "s3cret-word"}`, "sink out:", 3},
		"column":         {`brokers: ["b:1"], topic: t, key: nothing`, `job.yaml:9:`, 2},
		"subquery":       {`brokers: ["b:1"], topic: t, key: "(SELECT max(k) FROM dims)"`, "sinks.out.key", 2},
		"aggregate":      {`brokers: ["b:1"], topic: t, key: "count(*)"`, "sinks.out.key", 2},
		"mechanism":      {`brokers: ["b:1"], topic: t, sasl: {mechanism: magic}`, "sinks.out.sasl", 2},
		"duration":       {`brokers: ["b:1"], topic: t, delivery_timeout: soon`, "sinks.out.delivery_timeout", 2},
		"no brokers":     {`topic: t`, "has no brokers", 2},
		"unknown key":    {`brokers: ["b:1"], topic: t, keys: k`, `unknown key "keys"`, 2},
		"uri":            {`brokers: ["b:1"], topic: t, uri: out`, `unknown key "uri"`, 2},
		"partition":      {`brokers: ["b:1"], topic: t, partition: name`, "sinks.out.partition", 2},
		"raw":            {`brokers: ["b:1"], topic: t, format: raw`, "sinks.out.format", 2},
		"column of json": {`brokers: ["b:1"], topic: t, columns: [k, nom]`, "sinks.out.columns", 2},
	} {
		t.Run(name, func(t *testing.T) {
			job := "version: 1\nname: wrong\nsources:\n  dims: {type: csv, uri: data/dims.csv}\nstages:\n  s:\n    sql: SELECT k, name FROM dims\nsinks:\n  out: {type: kafka, from: s, " + c.sink + "}\n"
			if err := os.WriteFile(filepath.Join(w.dir, "job.yaml"), []byte(job), 0o644); err != nil {
				t.Fatal(err)
			}
			code, out := w.run(nil, "run", filepath.Join(w.dir, "job.yaml"))
			if code != c.code || !strings.Contains(out, c.want) || strings.Contains(out, "s3cret") {
				t.Fatalf("exit %d, want %d with %q:\n%s", code, c.code, c.want, out)
			}
		})
	}
}

// TestKafkaRejected: rows that the topic never takes fail the run at once, each
// named with its reason, and an effectively-once topic has nothing of their part.
func TestKafkaRejected(t *testing.T) {
	w := newKafkaWorld(t, 15)
	for _, delivery := range []string{"at-least-once", "effectively-once"} {
		topic := services.Name(t) + delivery
		kafkatest.Topic(t, []string{w.broker.Addr}, topic, 2, "max.message.bytes", "20000")
		job := fmt.Sprintf(`version: 1
name: rejected
sources:
  dims: {type: csv, uri: data/dims.csv}
stages:
  s:
    sql: SELECT k, CASE WHEN k %% 40 = 7 THEN repeat('x', 30000) ELSE name END AS name FROM dims
    retry: {attempts: 5, backoff: 10ms}
sinks:
  out: {type: kafka, from: s, brokers: ["%s"], topic: %s, delivery: %s}
`, w.broker.Addr, topic, delivery)
		if err := os.WriteFile(filepath.Join(w.dir, "job.yaml"), []byte(job), 0o644); err != nil {
			t.Fatal(err)
		}
		code, out := w.run(nil, "run", filepath.Join(w.dir, "job.yaml"))
		for _, want := range []string{"3 rows of kq/", "row 7: ", "row 47: ", "row 87: ", "out:publish, shard 0"} {
			if code != 1 || !strings.Contains(out, want) {
				t.Fatalf("%s: exit %d without %q:\n%s", delivery, code, want, out)
			}
		}
		if strings.Contains(out, "attempts") {
			t.Errorf("%s: it was tried again, which can't help:\n%s", delivery, out)
		}
		there := len(kafkatest.ReadAll(t, []string{w.broker.Addr}, topic, true))
		if delivery == "effectively-once" && there != 0 || delivery == "at-least-once" && there != 94 {
			t.Errorf("%s: %d rows are on the topic", delivery, there)
		}
	}
}
