package crash

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/kinequet/kq/internal/services"
)

// queues are what the tests of sinks of the type sqs send to.
type queues struct {
	testing.TB
	client *sqs.Client
	cloud  *services.Cloud
}

func newQueues(t testing.TB) *queues {
	c := services.SQS(t)
	return &queues{t, sqs.New(sqs.Options{
		BaseEndpoint: &c.Endpoint, Region: c.Region, Credentials: credentials.NewStaticCredentialsProvider(c.Key, c.Secret, ""),
	}), c}
}

// create makes a queue and returns the settings of a sink for it, without its
// queue:.
func (q *queues) create(fifo bool) (name, url, address string) {
	q.Helper()
	name, attributes := services.Name(q), map[string]string{"VisibilityTimeout": "600"}
	if fifo {
		name, attributes["FifoQueue"] = name+".fifo", "true"
	}
	out, err := q.client.CreateQueue(q.Context(), &sqs.CreateQueueInput{QueueName: &name, Attributes: attributes})
	if err != nil {
		q.Fatal(err)
	}
	return name, *out.QueueUrl, fmt.Sprintf("endpoint: %q, region: %s, access_key: %s, secret_key: %s", q.cloud.Endpoint, q.cloud.Region, q.cloud.Key, q.cloud.Secret)
}

// read receives, and deletes, all that is in a queue.
func (q *queues) read(url string) (all []types.Message) {
	q.Helper()
	for empty := 0; empty < 2; empty++ {
		out, err := q.client.ReceiveMessage(q.Context(), &sqs.ReceiveMessageInput{
			QueueUrl: &url, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
			MessageSystemAttributeNames: []types.MessageSystemAttributeName{"All"},
		})
		if err != nil {
			q.Fatal(err)
		}
		if len(out.Messages) == 0 {
			continue
		}
		empty = -1
		all = append(all, out.Messages...)
		var gone []types.DeleteMessageBatchRequestEntry
		for i, m := range out.Messages {
			gone = append(gone, types.DeleteMessageBatchRequestEntry{Id: aws.String(strconv.Itoa(i)), ReceiptHandle: m.ReceiptHandle})
		}
		if _, err := q.client.DeleteMessageBatch(q.Context(), &sqs.DeleteMessageBatchInput{QueueUrl: &url, Entries: gone}); err != nil {
			q.Fatal(err)
		}
	}
	return all
}

// TestSQS kills workers at the points of publishing, and in the middle of it, and
// reads the queues: no row is lost; one that is there twice has the same id; in
// the FIFO queue none is, and each group's rows are in the order of their shard.
func TestSQS(t *testing.T) {
	q := newQueues(t)
	rng := rand.New(rand.NewPCG(*seed, 5))
	const files, perFile = 4, 500
	w := &world{t: t, dir: t.TempDir(), rng: rng}
	if err := os.Mkdir(filepath.Join(w.dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	db, err := openDuckDB()
	if err != nil {
		t.Fatal(err)
	}
	for i := range files {
		w.exec(db, fmt.Sprintf(`COPY (SELECT %d + i AS n, 'g' || (i * 7 %% 13) AS grp FROM range(%d) t(i)) TO '%s/data/f%d.parquet'`, i*perFile, perFile, w.dir, i))
	}
	db.Close()
	kills, repeated := 0, 0
	for _, fault := range []string{"crash:publish.send.before:2", "crash:publish.send.after:1", "crash:worker.complete.before:3", ""} {
		standard, standardURL, address := q.create(false)
		fifo, fifoURL, _ := q.create(true)
		job := fmt.Sprintf(`version: 1
name: queues
shard_size: 1KiB
sources:
  data: {type: parquet, uri: data/*.parquet}
stages:
  rows: {sql: "SELECT n, grp FROM data", retry: {attempts: 100, backoff: 10ms}}
sinks:
  standard: {type: sqs, from: rows, queue: %s, %s}
  ordered: {type: sqs, from: rows, queue: %s, group: grp, %s}
`, standard, address, fifo, address)
		if err := os.WriteFile(filepath.Join(w.dir, "job.yaml"), []byte(job), 0o644); err != nil {
			t.Fatal(err)
		}
		var env []string
		if fault != "" {
			env = []string{"KQ_FAULT=" + fault}
		}
		w.start(env, func(int) {
			time.Sleep(time.Duration(100+rng.IntN(400)) * time.Millisecond)
			if pids := w.workers(); fault == "" && len(pids) > 0 && kills < 5 {
				_ = syscall.Kill(pids[rng.IntN(len(pids))], syscall.SIGKILL)
				kills++
			}
		})
		for try := 0; ; try++ { // carries on, or finds that it is done
			code, out := w.run([]string{"KQ_LEASE=1500ms"}, "run", filepath.Join(w.dir, "job.yaml"), "--workers", "3")
			if code == 0 {
				break
			}
			if try == 20 {
				t.Fatalf("kq run still exits %d:\n%s", code, out)
			}
		}
		repeated += checkRows(t, q.read(standardURL), files*perFile, true)
		checkRows(t, q.read(fifoURL), files*perFile, false)
		if err := os.RemoveAll(filepath.Join(w.dir, ".kq")); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("4 rounds, %d kills in the middle: 0 lost; standard: %d repeated, by the same id; FIFO: 0 repeated, in order", kills, repeated)
}

// checkRows wants rows 0 to n-1, and returns how many messages repeat one.
func checkRows(t *testing.T, messages []types.Message, n int, again bool) (repeated int) {
	t.Helper()
	bodies, rows, last := map[string]string{}, map[int]bool{}, map[string]int{}
	for _, m := range messages {
		id := *m.MessageAttributes["kq-id"].StringValue
		body, seen := bodies[id]
		if seen && (!again || body != *m.Body) {
			t.Errorf("%s is there again: %s and %s", id, body, *m.Body)
		}
		if seen {
			repeated++
		}
		bodies[id] = *m.Body
		var r struct{ N int }
		if err := json.Unmarshal([]byte(*m.Body), &r); err != nil {
			t.Fatalf("%s: %v", *m.Body, err)
		}
		rows[r.N] = true
		cut := strings.LastIndexByte(id, '/')
		ordinal, _ := strconv.Atoi(id[cut+1:])
		group := m.Attributes["MessageGroupId"] + " " + id[:cut]
		if before, ok := last[group]; !again && ok && before >= ordinal {
			t.Errorf("group %s: row %d comes after %d", group, ordinal, before)
		}
		last[group] = ordinal
	}
	if len(rows) != n || len(bodies) != n {
		t.Errorf("%d rows by %d ids, want %d", len(rows), len(bodies), n)
	}
	return repeated
}

// TestSQSTypes sends every type, as JSON, as CSV and as attributes.
func TestSQSTypes(t *testing.T) {
	q := newQueues(t)
	w := &world{t: t, dir: t.TempDir()}
	db, err := openDuckDB()
	if err != nil {
		t.Fatal(err)
	}
	w.exec(db, fmt.Sprintf(`COPY (SELECT i FROM range(2) t(i)) TO '%s/i.parquet'`, w.dir))
	db.Close()
	values := [][3]string{ // SQL, JSON, CSV
		{"true", "true", "true"},
		{"(-128)::TINYINT", "-128", "-128"},
		{"18446744073709551615::UBIGINT", "18446744073709551615", "18446744073709551615"},
		{"(-170141183460469231731687303715884105727)::HUGEINT", "-170141183460469231731687303715884105727", "-170141183460469231731687303715884105727"},
		{"99999999999999999999999999999999999.999::DECIMAL(38,3)", "99999999999999999999999999999999999.999", "99999999999999999999999999999999999.999"},
		{"0.1::DOUBLE", "0.1", "0.1"},
		{"'NaN'::DOUBLE", "null", "nan"},
		{"'\\xAA\\x00'::BLOB", `"qgA="`, "qgA="},
		{"INTERVAL 1 MONTH + INTERVAL 2 DAY", `"1 month 2 days"`, "1 month 2 days"},
		{"'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::UUID", `"6ba7b810-9dad-11d1-80b4-00c04fd430c8"`, "6ba7b810-9dad-11d1-80b4-00c04fd430c8"},
		{"TIMESTAMPTZ '2024-02-29 12:00:00.123456+02'", `"2024-02-29 10:00:00.123456+00"`, "2024-02-29 10:00:00.123456+00"},
		{"TIMESTAMP_NS '2024-02-29 12:00:00.123456789'", `"2024-02-29 12:00:00.123456789"`, "2024-02-29 12:00:00.123456789"},
		{"DATE '0001-01-01'", `"0001-01-01"`, "0001-01-01"},
		{"TIME '23:59:59.999999'", `"23:59:59.999999"`, "23:59:59.999999"},
		{"['a', NULL, 'b,c']", `["a",null,"b,c"]`, `"[""a"",null,""b,c""]"`},
		{"{'x': 1, 'y': ['ü']}", `{"x":1,"y":["ü"]}`, `"{""x"":1,""y"":[""ü""]}"`},
		{"MAP {'k': 1}", `{"k":1}`, `"{""k"":1}"`},
		{"'b'::ENUM('a', 'b')", `"b"`, "b"},
		{"'Ünï 🦆 \"x\"' || chr(9)", `"Ünï 🦆 \"x\"\t"`, "\"Ünï 🦆 \"\"x\"\"\t\""},
		{"''", `""`, `""`},
	}
	var columns, object, line, nulls []string
	for i, v := range values {
		columns = append(columns, fmt.Sprintf("CASE WHEN i = 0 THEN %s END AS c%d", v[0], i))
		object = append(object, fmt.Sprintf(`"c%d":%s`, i, v[1]))
		nulls = append(nulls, fmt.Sprintf(`"c%d":null`, i))
		line = append(line, v[2])
	}
	js, jsURL, address := q.create(false)
	csv, csvURL, _ := q.create(false)
	job := fmt.Sprintf(`version: 1
name: types
sources:
  data: {type: parquet, uri: i.parquet}
stages:
  typed:
    sql: |
      SELECT %s FROM data
sinks:
  js: {type: sqs, from: typed, queue: %s, attributes: {flag: c0, huge: c3, price: c4, x: c5, nan: c6, bytes: c7, day: c12, list: c14, text: c18}, %s}
  csv: {type: sqs, from: typed, queue: %s, format: csv, record_id: "", %s}
`, strings.Join(columns, ",\n        "), js, address, csv, address)
	if err := os.WriteFile(filepath.Join(w.dir, "job.yaml"), []byte(job), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out := w.run([]string{"TZ=UTC"}, "run", filepath.Join(w.dir, "job.yaml")); code != 0 {
		t.Fatalf("exit %d\n%s", code, out)
	}
	got := map[string]map[string]types.MessageAttributeValue{}
	for _, m := range append(q.read(jsURL), q.read(csvURL)...) {
		got[*m.Body] = m.MessageAttributes
	}
	for _, want := range []string{"{" + strings.Join(object, ",") + "}", "{" + strings.Join(nulls, ",") + "}", strings.Join(line, ","), strings.Repeat(",", len(values)-1)} {
		if _, ok := got[want]; !ok {
			t.Errorf("there is no message %s", want)
		}
	}
	if len(got) != 4 {
		t.Errorf("%d messages", len(got))
	}
	attributes := map[string]string{}
	for name, a := range got["{"+strings.Join(object, ",")+"}"] {
		attributes[name] = *a.DataType + " " + aws.ToString(a.StringValue) + string(a.BinaryValue)
	}
	delete(attributes, "kq-id")
	if want := map[string]string{
		"flag": "String true", "huge": "Number -170141183460469231731687303715884105727", "price": "Number 99999999999999999999999999999999999.999", "x": "Number 0.1",
		"bytes": "Binary \xaa\x00", "day": "String 0001-01-01", "list": `String ["a",null,"b,c"]`, "text": "String Ünï 🦆 \"x\"\t",
	}; !maps.Equal(attributes, want) {
		t.Errorf("attributes %q\nwant %q", attributes, want)
	}
	if t.Failed() {
		for body := range got {
			t.Log(body)
		}
	}
}
