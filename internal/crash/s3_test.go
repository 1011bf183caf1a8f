package crash

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/plugins/sinks/filesink"
)

// s3World is a world whose results go to a bucket.
type s3World struct {
	*world
	cloud  *services.Cloud
	bucket string
	client *s3.Client
	db     *sql.DB
}

func newS3World(t *testing.T) *s3World {
	w := &s3World{world: &world{t: t, dir: t.TempDir(), rng: rand.New(rand.NewPCG(*seed, 3))}, cloud: services.S3(t), bucket: services.Name(t)}
	w.client = s3.New(s3.Options{
		BaseEndpoint: &w.cloud.Endpoint, Region: w.cloud.Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(w.cloud.Key, w.cloud.Secret, ""),
	})
	if _, err := w.client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &w.bucket}); err != nil {
		t.Fatal(err)
	}
	var err error
	if w.db, err = openDuckDB(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.db.Close() })
	t.Setenv("AWS_ACCESS_KEY_ID", w.cloud.Key)
	t.Setenv("AWS_SECRET_ACCESS_KEY", w.cloud.Secret)
	return w
}

// write makes the job file.
func (w *s3World) write(endpoint, job string) {
	w.t.Helper()
	text := strings.NewReplacer("BUCKET", w.bucket, "ENDPOINT", endpoint).Replace(job)
	if err := os.WriteFile(filepath.Join(w.dir, "job.yaml"), []byte(text), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// succeed runs the job until it succeeds.
func (w *s3World) succeed() {
	w.t.Helper()
	for try := 0; ; try++ {
		code, out := w.run([]string{"KQ_LEASE=1500ms"}, "run", filepath.Join(w.dir, "job.yaml"), "--workers", "3")
		if code == 0 {
			return
		}
		if try == 20 {
			w.t.Fatalf("kq run still exits %d:\n%s", code, out)
		}
	}
}

// files are the objects of a result as its manifest lists them, as files that
// DuckDB reads: the store keeps them so.
func (w *s3World) files(prefix string) string {
	w.t.Helper()
	dir := filepath.Join(w.cloud.Dir, "data", w.bucket, prefix)
	data, err := os.ReadFile(filepath.Join(dir, filesink.ManifestName))
	if err != nil {
		w.t.Fatal(err)
	}
	var m filesink.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		w.t.Fatal(err)
	}
	var names, quoted []string
	for _, f := range m.Files {
		names = append(names, f.Name)
		quoted = append(quoted, "'"+filepath.Join(dir, f.Name)+"'")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != filesink.ManifestName && !slices.Contains(names, e.Name()) {
			w.t.Errorf("%s/%s is not in the manifest", prefix, e.Name())
		}
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// noUploads wants nothing half done in the bucket.
func (w *s3World) noUploads() {
	w.t.Helper()
	out, err := w.client.ListMultipartUploads(w.t.Context(), &s3.ListMultipartUploadsInput{Bucket: &w.bucket})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, u := range out.Uploads {
		w.t.Errorf("an upload of %s is left", aws.ToString(u.Key))
	}
}

// everyType is a SELECT list over a number i.
const everyType = `i, i % 2 = 0 AS flag, (i % 100)::TINYINT AS t, (i * 7)::SMALLINT AS s, i::INTEGER AS n, (i + 200)::UTINYINT AS ut, i::USMALLINT AS us,
	i::UINTEGER AS un, (i::UBIGINT + 18446744073709551600) AS ub, 99999999999999999999999999999999999900 + i::HUGEINT AS h,
	(i::UHUGEINT + 99999999999999999999999999999999999900) AS uh, (i * 1.37)::DECIMAL(9, 2) AS d, (i * 1.37 + 0.001)::DECIMAL(38, 10) AS wide,
	i / 3 AS r, (i / 7)::FLOAT AS f, chr(8364 + i::INT) || ' "quoted", é' || chr(10) || '日本' AS v, encode(chr(200 + i::INT) || 'x') AS b,
	DATE '1969-12-25' + i::INT AS day, TIME '23:59:50.5' + to_seconds(i) AS clock, TIMESTAMP '1999-12-31 23:59:55.123456' + to_seconds(i) AS at,
	TIMESTAMPTZ '1999-12-31 23:59:55.123456+02' + to_seconds(i) AS atz, make_timestamp_ns(946684795123456789 + i) AS atns, to_seconds(i * 100000) + to_months(i::INT) AS span,
	md5(i::VARCHAR)::UUID AS id, ('c' || i % 3)::ENUM('c0', 'c1', 'c2') AS e, [i, NULL, i * 2] AS l, {'a': i, 'b': 'x' || i, 'c': [i]} AS st,
	MAP {'k' || i: i::DOUBLE} AS m, CASE WHEN i % 2 = 0 THEN 'here' END AS nullable, NULL::INTEGER AS never, '{"a": ' || i || '}' AS j`

// TestS3Types: rows of every type are in the bucket as DuckDB writes them, in each
// format, and so is a result without rows.
func TestS3Types(t *testing.T) {
	w := newS3World(t)
	w.exec(w.db, fmt.Sprintf("COPY (SELECT i FROM range(12) t(i)) TO '%s/n.parquet'", w.dir))
	to := func(name, from, more string) string {
		return fmt.Sprintf("  %s: {type: s3, from: %s, uri: \"s3://BUCKET/%s\", endpoint: \"ENDPOINT\"%s}\n", name, from, name, more)
	}
	w.write(w.cloud.Endpoint, "version: 1\nsources:\n  n: {type: parquet, uri: n.parquet}\nstages:\n  typed:\n    sql: |\n      SELECT "+
		strings.ReplaceAll(everyType, "\n", "\n      ")+" FROM n\n  none:\n    sql: SELECT * FROM typed WHERE i < 0\nsinks:\n"+
		to("p", "typed", "")+to("moved", "typed", ", compression: lz4_raw")+to("z", "typed", ", compression: zstd, options: {row_group_size: 2048, compression_level: 9}")+
		to("c", "typed", ", format: csv, compression: gzip, options: {delim: ';', nullstr: nil}")+to("j", "typed", ", format: json, compression: zstd")+
		to("empty", "none", "")+to("emptyc", "none", ", format: csv")+"  local: {type: parquet, from: typed, uri: local}\n  localj: {type: json, from: typed, uri: localj}\n")
	w.succeed()
	texts := func(from string) string { return "SELECT COLUMNS(*)::VARCHAR FROM " + from }
	for _, name := range []string{"p", "moved", "z"} {
		if got := w.fingerprint(w.db, texts("read_parquet("+w.files(name)+")")); got != w.fingerprint(w.db, texts(fmt.Sprintf("'%s/local/*.parquet'", w.dir))) {
			t.Errorf("%s: %s is not what is in a folder", name, got)
		}
	}
	w.exec(w.db, fmt.Sprintf("COPY (SELECT %s FROM range(12) t(i)) TO '%s/truth.csv.gz' (DELIM ';', NULLSTR 'nil')", everyType, w.dir))
	read := ", all_varchar = true, delim = ';', nullstr = 'nil')"
	if got, want := w.fingerprint(w.db, "SELECT * FROM read_csv("+w.files("c")+read), w.fingerprint(w.db, fmt.Sprintf("SELECT * FROM read_csv('%s/truth.csv.gz'", w.dir)+read); got != want {
		t.Errorf("csv: %s, want %s", got, want)
	}
	if got, want := w.fingerprint(w.db, "SELECT * FROM read_json_objects("+w.files("j")+")"), w.fingerprint(w.db, fmt.Sprintf("SELECT * FROM read_json_objects('%s/localj/part-*.json')", w.dir)); got != want || !strings.HasPrefix(got, "12 rows") {
		t.Errorf("json: %s, want %s", got, want)
	}
	if got := w.fingerprint(w.db, "SELECT * FROM read_parquet("+w.files("empty")+")"); !strings.HasPrefix(got, "0 rows") {
		t.Errorf("empty: %s", got)
	}
	w.files("emptyc")
}

const s3Job = `version: 1
name: s3
shard_size: 1MiB
memory: 2GiB
sources:
  facts: {type: parquet, uri: data/*.parquet}
stages:
  big:
    sql: SELECT id, v, md5(id::VARCHAR) || md5(v::VARCHAR) AS text FROM facts
    retry: {attempts: 100, backoff: 10ms}
  sums:
    sql: SELECT v, count(*) AS n FROM big GROUP BY v
    retry: {attempts: 100, backoff: 10ms}
sinks:
  lake: {type: s3, from: big, uri: "s3://BUCKET/ROUND/big", endpoint: "ENDPOINT", compression: uncompressed, part_bytes: 5242880, delivery_timeout: 20s}
  table: {type: s3, from: sums, uri: "s3://BUCKET/sums", endpoint: "ENDPOINT", format: csv, overwrite: replace, delivery_timeout: 20s}
`

// TestS3Kills kills workers and `kq run` at the points of publishing and at random,
// while requests are slow, refused and their answers lost, and reads the bucket
// back.
func TestS3Kills(t *testing.T) {
	w := newS3World(t)
	if err := os.Mkdir(filepath.Join(w.dir, "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	const shards, rows = 4, 100_000
	for i := range shards {
		w.exec(w.db, fmt.Sprintf("COPY (SELECT %d + i AS id, i %% 97 AS v FROM range(%d) t(i)) TO '%s/data/f%d.parquet' (ROW_GROUP_SIZE %d)", i*rows, rows, w.dir, i, rows))
	}
	facts := fmt.Sprintf("FROM '%s/data/*.parquet'", w.dir)
	big := w.fingerprint(w.db, "SELECT id, v, md5(id::VARCHAR) || md5(v::VARCHAR) AS text "+facts)
	sums := w.fingerprint(w.db, "SELECT v, count(*) AS n "+facts+" GROUP BY v")
	proxy, err := faultproxy.NewHTTP(w.cloud.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	round := 0
	check := func(begin func()) {
		t.Helper()
		round++
		w.write(proxy.URL(), strings.ReplaceAll(s3Job, "ROUND", fmt.Sprint("r", round)))
		proxy.Seed(uint64(round))
		proxy.Set(
			faultproxy.HTTPRule{Chance: 0.05, Fault: faultproxy.Fault{Answer: faultproxy.Cut(0)}},
			faultproxy.HTTPRule{Chance: 0.05, Reply: faultproxy.S3Error(503, "SlowDown")},
			faultproxy.HTTPRule{Match: faultproxy.Operations("UploadPart"), Fault: faultproxy.Fault{DelayRequest: 20 * time.Millisecond}},
		)
		begin()
		w.succeed()
		if got := w.fingerprint(w.db, "SELECT * FROM read_parquet("+w.files(fmt.Sprint("r", round, "/big"))+")"); got != big {
			t.Fatalf("big: %s, want %s", got, big)
		}
		if got := w.fingerprint(w.db, "SELECT * FROM read_csv("+w.files("sums")+")"); got != sums {
			t.Fatalf("sums: %s, want %s", got, sums)
		}
		w.noUploads()
		if err := os.RemoveAll(filepath.Join(w.dir, ".kq")); err != nil {
			t.Fatal(err)
		}
	}
	for _, point := range []string{"publish.send.before", "publish.send.after", "publish.last.before", "publish.last.after", "worker.complete.before", "worker.complete.after"} {
		for _, hit := range []int{1, 3} {
			check(func() {
				w.start([]string{fmt.Sprintf("KQ_FAULT=crash:%s:%d", point, hit)}, func(int) { time.Sleep(10 * time.Millisecond) })
			})
		}
	}
	for goal := wanted(t, 40); w.kills < goal; {
		check(func() {
			for range 3 {
				w.start(nil, w.strike)
			}
		})
	}
	t.Logf("%d rounds, %d kills, %d stops: 0 lost, 0 duplicated", round, w.kills, w.stops)
}
