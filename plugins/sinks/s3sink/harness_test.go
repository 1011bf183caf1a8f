package s3sink

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
	"github.com/kinequet/kq/plugins/sinks/filesink"
)

// Runs, in the form of their ids.
const (
	run1 = "20261125-160000-aaaa"
	run2 = "20261125-160001-bbbb"
)

// place is a bucket of a store, and its owner's view of it.
type place struct {
	t      testing.TB
	cloud  *services.Cloud
	bucket string
	s3     *s3.Client // not ours: neither its settings nor its checks
	dir    string     // of files to send

	mu       sync.Mutex
	warnings []string
}

func newPlace(t testing.TB, c *services.Cloud) *place {
	t.Helper()
	p := &place{t: t, cloud: c, bucket: services.Name(t), dir: t.TempDir()}
	p.s3 = s3.New(s3.Options{
		BaseEndpoint: &c.Endpoint, Region: c.Region, UsePathStyle: true, Credentials: credentials.NewStaticCredentialsProvider(c.Key, c.Secret, ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
	})
	if _, err := p.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &p.bucket}); err != nil {
		t.Fatal(err)
	}
	return p
}

// stores runs a test against each store.
func stores(t *testing.T, test func(t *testing.T, p *place)) {
	t.Run("versitygw", func(t *testing.T) { test(t, newPlace(t, services.S3(t))) })
	t.Run("moto", func(t *testing.T) { test(t, newPlace(t, services.Moto(t))) })
}

func (p *place) proxy() *faultproxy.HTTP {
	p.t.Helper()
	proxy, err := faultproxy.NewHTTP(p.cloud.Endpoint)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { proxy.Close() })
	return proxy
}

// setting is a key and a value, as a job gives them.
type setting = pipeline.Option

// plan is a sink's, with the settings that reach the bucket and more.
func (p *place) plan(replace bool, more ...setting) *pipeline.SinkPlan {
	p.t.Helper()
	all := []setting{
		{Key: "uri", Value: "s3://" + p.bucket + "/out/für alle"},
		{Key: "endpoint", Value: p.cloud.Endpoint},
		{Key: "access_key", Value: p.cloud.Key},
		{Key: "secret_key", Value: p.cloud.Secret},
	}
	for _, o := range more {
		all = slices.DeleteFunc(all, func(a setting) bool { return a.Key == o.Key })
		if o.Value != nil {
			all = append(all, o)
		}
	}
	sink := pipeline.Sink{Name: "out", Type: "s3", From: "stage", Settings: all, Replace: replace}
	pub, err := Sink{}.Publication(sink, nil, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	return &pipeline.SinkPlan{
		Name: "out", Type: "s3", From: "stage", Replace: replace, Settings: stored(p.t, all), Copy: pub.Copy, Extension: pub.Extension,
		Target: pub.Target, Publication: pub, Columns: []pipeline.Column{{Name: "a", Type: "BIGINT"}},
	}
}

// stored are settings as workers get them: read back from JSON.
func stored(t testing.TB, all []setting) (back []setting) {
	data, err := json.Marshal(all)
	if err == nil {
		err = json.Unmarshal(data, &back)
	}
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// gate counts what is on its way, beside the controller that bounds it.
type gate struct {
	*backpressure.Controller
	mu       sync.Mutex
	now, max int64
	outcomes map[backpressure.Result]int
}

func newGate(limit int64) *gate {
	return &gate{Controller: backpressure.New(backpressure.Options{Limit: limit}), outcomes: map[backpressure.Result]int{}}
}

func (g *gate) Limit() int64 { return g.Snapshot().Limit }

func (g *gate) Acquire(ctx context.Context, bytes int64) error {
	err := g.Controller.Acquire(ctx, bytes)
	if err == nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.now += bytes
		g.max = max(g.max, g.now)
	}
	return err
}

func (g *gate) Release(bytes int64, o backpressure.Outcome) {
	g.mu.Lock()
	g.now -= bytes
	g.outcomes[o.Result]++
	g.mu.Unlock()
	g.Controller.Release(bytes, o)
}

func (p *place) open(plan *pipeline.SinkPlan, run string) *publisher {
	p.t.Helper()
	return p.openGate(plan, run, newGate(0))
}

func (p *place) openGate(plan *pipeline.SinkPlan, run string, g sinks.Gate) *publisher {
	p.t.Helper()
	s, err := Sink{}.Open(plan, sinks.Options{Run: run, Job: "job", JobHash: "hash", Gate: g, Warn: func(m string) {
		p.mu.Lock()
		p.warnings = append(p.warnings, m)
		p.mu.Unlock()
	}})
	if err != nil {
		p.t.Fatal(err)
	}
	return s.(*publisher)
}

// part makes files of these sizes for a shard: the same for the same run and
// shard.
func (p *place) part(run string, shard int, sizes ...int) *sinks.Part {
	p.t.Helper()
	part := &sinks.Part{ID: fmt.Sprintf("kq/%s/out/%d", run, shard), Shard: shard, Attempt: 1}
	for i, size := range sizes {
		rng := rand.NewChaCha8(sha256.Sum256([]byte(fmt.Sprint(run, shard, i))))
		data := make([]byte, size)
		rng.Read(data)
		path := filepath.Join(p.dir, fmt.Sprintf("%s-%d-%d", run, shard, i))
		if err := os.WriteFile(path, data, 0o644); err != nil {
			p.t.Fatal(err)
		}
		sum := fmt.Sprintf("crc32c:%08x", crc32.Checksum(data, castagnoli))
		rows := int64(size)
		part.Rows += rows
		part.Files = append(part.Files, pipeline.StoredPart{Path: path, Part: pipeline.Part{Name: filepath.Base(path), Rows: rows, Bytes: int64(size), Checksum: sum}})
	}
	return part
}

// publish sends a part for good, and returns what is remembered of it.
func (p *place) publish(s *publisher, part *sinks.Part) []pipeline.Part {
	p.t.Helper()
	r, err := s.Publish(p.t.Context(), part)
	if err != nil {
		p.t.Fatal(err)
	}
	if r.Rows != part.Rows {
		p.t.Fatalf("%d rows arrived of %d", r.Rows, part.Rows)
	}
	return r.Objects
}

// all is a run's whole work.
func (p *place) all(plan *pipeline.SinkPlan, run string, parts ...*sinks.Part) {
	p.t.Helper()
	s := p.open(plan, run)
	var sent [][]pipeline.Part
	for _, part := range parts {
		sent = append(sent, p.publish(s, part))
	}
	p.last(s, sent)
}

func (p *place) last(s *publisher, sent [][]pipeline.Part) {
	p.t.Helper()
	if _, err := s.Last(p.t.Context(), sent); err != nil {
		p.t.Fatal(err)
	}
}

// objects are all of the bucket, by key.
func (p *place) objects() map[string][]byte {
	p.t.Helper()
	all := map[string][]byte{}
	out, err := p.s3.ListObjectsV2(p.t.Context(), &s3.ListObjectsV2Input{Bucket: &p.bucket})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, o := range out.Contents {
		got, err := p.s3.GetObject(p.t.Context(), &s3.GetObjectInput{Bucket: &p.bucket, Key: o.Key})
		if err != nil {
			p.t.Fatal(err)
		}
		data, err := io.ReadAll(got.Body)
		got.Body.Close()
		if err != nil {
			p.t.Fatal(err)
		}
		all[*o.Key] = data
	}
	return all
}

func (p *place) write(key, body string) {
	p.t.Helper()
	if _, err := p.s3.PutObject(p.t.Context(), &s3.PutObjectInput{Bucket: &p.bucket, Key: &key, Body: strings.NewReader(body)}); err != nil {
		p.t.Fatal(err)
	}
}

// uploads are those that have begun and not ended.
func (p *place) uploads() (keys []string) {
	p.t.Helper()
	out, err := p.s3.ListMultipartUploads(p.t.Context(), &s3.ListMultipartUploadsInput{Bucket: &p.bucket})
	if err != nil {
		p.t.Fatal(err)
	}
	for _, u := range out.Uploads {
		keys = append(keys, *u.Key)
	}
	return keys
}

const folder = "out/für alle/"

// holds wants the bucket to hold exactly the result of a run: its parts as they
// are, a manifest that says so, and nothing half done.
func (p *place) holds(run string, parts ...*sinks.Part) {
	p.t.Helper()
	have := p.objects()
	var m filesink.Manifest
	if err := json.Unmarshal(have[folder+filesink.ManifestName], &m); err != nil {
		p.t.Fatalf("manifest: %v in %v", err, slices.Sorted(maps.Keys(have)))
	}
	if m.Run != run {
		p.t.Errorf("the manifest is that of %s, want %s", m.Run, run)
	}
	if len(have) != len(m.Files)+1 {
		p.t.Errorf("there are %v; the manifest lists %v", slices.Sorted(maps.Keys(have)), m.Files)
	}
	var files []pipeline.StoredPart
	var rows int64
	for _, part := range parts {
		files = append(files, part.Files...)
		rows += part.Rows
	}
	if len(files) != len(m.Files) || rows != m.Rows {
		p.t.Fatalf("the manifest has %d files, %d rows; want %d, %d", len(m.Files), m.Rows, len(files), rows)
	}
	for i, f := range files {
		want, err := os.ReadFile(f.Path)
		if err != nil {
			p.t.Fatal(err)
		}
		is := m.Files[i]
		if !bytes.Equal(have[folder+is.Name], want) || is.Bytes != f.Bytes || is.Checksum != f.Checksum || is.Rows != f.Rows {
			p.t.Errorf("%s is not the file %s", is.Name, f.Name)
		}
	}
	if left := p.uploads(); len(left) > 0 {
		p.t.Errorf("uploads are left: %v", left)
	}
}
