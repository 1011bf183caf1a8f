package s3sink

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
	"github.com/kinequet/kq/plugins/sinks/filesink"
)

// manifest is the one that the store holds.
type manifest struct {
	filesink.Manifest
	etag    string // "": there is none
	written time.Time
}

func (m *manifest) has(name string) bool {
	return slices.ContainsFunc(m.Files, func(f filesink.ManifestFile) bool { return f.Name == name })
}

// readManifest reads the manifest and its etag in one answer. One that isn't ours
// has no Run.
func (p *publisher) readManifest(ctx context.Context) (*manifest, error) {
	key, m := p.prefix+filesink.ManifestName, new(manifest)
	err := p.do(ctx, "read "+p.where(key), 0, func(ctx context.Context) error {
		out, err := p.s3.GetObject(ctx, &s3.GetObjectInput{Bucket: &p.bucket, Key: &key})
		if err != nil {
			return err
		}
		defer out.Body.Close()
		data, err := io.ReadAll(out.Body)
		if err != nil {
			return err
		}
		*m = manifest{etag: aws.ToString(out.ETag), written: aws.ToTime(out.LastModified)}
		if err := json.Unmarshal(data, &m.Manifest); err != nil {
			m.Manifest = filesink.Manifest{}
		}
		return nil
	})
	var f *failure
	if errors.As(err, &f) && f.missing() {
		return new(manifest), nil
	}
	return m, err
}

// Last implements sinks.Publisher: it writes the manifest and then removes what
// earlier results have left.
func (p *publisher) Last(ctx context.Context, sent [][]pipeline.Part) (sinks.Result, error) {
	next, before := p.nextManifest(sent)
	r := sinks.Result{Rows: next.Rows, Bytes: next.Bytes}
	// What is listed here belongs to runs that began to send before this one's
	// manifest was written: none of them can still become the result.
	here, err := p.list(ctx)
	if err != nil {
		return r, err
	}
	for _, f := range next.Files {
		if is, ok := here.objects[f.Name]; !ok || is.size != f.Bytes {
			return r, pipeline.Permanent(fmt.Errorf("%s is no longer in the bucket as it was sent: another run has published there, or somebody has removed it; run again with --fresh", p.uri(f.Name)))
		}
	}
	old, err := p.readManifest(ctx)
	if err != nil {
		return r, err
	}
	ours := old.etag != "" && old.Run == p.o.Run
	if !ours {
		if err := p.replaceManifest(ctx, next, old, before); err != nil {
			return r, err
		}
	}
	keep := map[string]bool{filesink.ManifestName: true}
	for _, f := range next.Files {
		keep[f.Name] = true
	}
	var gone []string
	for _, name := range slices.Sorted(maps.Keys(here.objects)) {
		// This Last may be a repeated one, and a next run's objects there by now.
		late := ours && !here.objects[name].written.Before(old.written)
		if !keep[name] && !late && (runOf(name) != "" || old.has(name)) {
			gone = append(gone, p.prefix+name)
		}
	}
	if err := p.remove(ctx, gone); err != nil {
		return r, fmt.Errorf("the new result is published, but objects of an earlier one are still there: %w", err)
	}
	_, err = p.abortUploads(ctx, p.prefix, func(key string) bool {
		name := strings.TrimPrefix(key, p.prefix)
		return name == checkName || runOf(name) == p.o.Run
	})
	return r, err
}

// nextManifest is this run's, and the etags that its parts have seen before it.
func (p *publisher) nextManifest(sent [][]pipeline.Part) (m *filesink.Manifest, before []string) {
	m = &filesink.Manifest{
		Version: 1, Run: p.o.Run, Job: p.o.Job, JobHash: p.o.JobHash, Sink: p.plan.Name, Stage: p.plan.From, Format: p.format,
		Columns: p.plan.Columns, Files: []filesink.ManifestFile{},
	}
	for _, shard := range sent {
		for _, part := range shard {
			if part.Name == filesink.ManifestName {
				if !slices.Contains(before, part.Checksum) {
					before = append(before, part.Checksum)
				}
				continue
			}
			m.Files = append(m.Files, filesink.ManifestFile{Name: part.Name, Rows: part.Rows, Bytes: part.Bytes, Checksum: part.Checksum})
			m.Rows += part.Rows
			m.Bytes += part.Bytes
		}
	}
	return m, before
}

// replaceManifest writes the manifest unless another run's came in between.
func (p *publisher) replaceManifest(ctx context.Context, next *filesink.Manifest, old *manifest, before []string) error {
	if old.etag != "" && !p.plan.Replace {
		return p.taken()
	}
	if slices.ContainsFunc(before, func(etag string) bool { return etag != old.etag }) {
		return p.overtaken()
	}
	data, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	data = append(data, '\n')
	err = p.writeManifest(ctx, data, old.etag, true)
	var f *failure
	switch {
	case err == nil:
		return p.doubt(ctx, data, old.etag)
	case !errors.As(err, &f):
		return err
	case f.status == http.StatusNotImplemented:
		p.o.Warn("the store has no conditional writes: of two runs that end at the same instant, the last one's result stays, unnoticed")
		return p.writeManifest(ctx, data, old.etag, false)
	case !f.refused() && !f.missing():
		return err
	}
	// Somebody has written: this very request, whose answer was lost, an attempt of
	// this run that was thought to be dead, or another run.
	now, e := p.readManifest(ctx)
	if e != nil {
		return e
	}
	if now.Run == p.o.Run {
		return nil
	}
	return p.overtaken()
}

func (p *publisher) overtaken() error {
	return pipeline.Permanent(fmt.Errorf("another run has published to %s, or removed its manifest, since this one began to send; run again with --fresh to publish over it", p.uri("")))
}

// doubt finds out whether the store heeds conditions: the same write again must be
// refused. Where it isn't, it has changed nothing.
func (p *publisher) doubt(ctx context.Context, data []byte, etag string) error {
	err := p.writeManifest(ctx, data, etag, true)
	var f *failure
	if errors.As(err, &f) && (f.refused() || f.missing()) {
		return nil
	}
	if err == nil {
		p.o.Warn("the store takes conditional writes but does not heed the condition: of two runs that end at the same instant, the last one's result stays, unnoticed")
	}
	return err
}

// writeManifest writes the manifest, if conditional in place of that of an etag, ""
// for none.
func (p *publisher) writeManifest(ctx context.Context, data []byte, etag string, conditional bool) error {
	key := p.prefix + filesink.ManifestName
	in := &s3.PutObjectInput{
		Bucket: &p.bucket, Key: &key, ContentType: aws.String("application/json"), Metadata: map[string]string{metaRun: p.o.Run},
		StorageClass: types.StorageClass(p.storageClass), ServerSideEncryption: types.ServerSideEncryption(p.encryption), SSEKMSKeyId: text(p.kmsKey),
	}
	switch {
	case conditional && etag == "":
		in.IfNoneMatch = aws.String("*")
	case conditional:
		in.IfMatch = &etag
	}
	if p.checksum {
		in.ChecksumCRC32C = aws.String(base64.StdEncoding.EncodeToString(bigEndian(crc32.Checksum(data, castagnoli))))
	}
	return p.do(ctx, "put "+p.where(key), int64(len(data)), func(ctx context.Context) error {
		in.Body = bytes.NewReader(data)
		_, err := p.s3.PutObject(ctx, in)
		return err
	})
}

func bigEndian(n uint32) []byte { return []byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)} }

// listing is what lies directly below the prefix, by name.
type listing struct {
	objects map[string]stat
	folders []string
}

type stat struct {
	size    int64
	written time.Time
}

func (c *client) list(ctx context.Context) (*listing, error) {
	l := &listing{objects: map[string]stat{}}
	in := &s3.ListObjectsV2Input{Bucket: &c.bucket, Prefix: &c.prefix, Delimiter: aws.String("/")}
	for {
		var out *s3.ListObjectsV2Output
		err := c.do(ctx, "list "+c.uri(""), 0, func(ctx context.Context) (err error) {
			out, err = c.s3.ListObjectsV2(ctx, in)
			return err
		})
		if err != nil {
			return nil, err
		}
		for _, o := range out.Contents {
			if name := strings.TrimPrefix(aws.ToString(o.Key), c.prefix); name != "" { // "": a marker of the folder itself
				l.objects[name] = stat{aws.ToInt64(o.Size), aws.ToTime(o.LastModified)}
			}
		}
		for _, f := range out.CommonPrefixes {
			l.folders = append(l.folders, strings.TrimPrefix(aws.ToString(f.Prefix), c.prefix))
		}
		if !aws.ToBool(out.IsTruncated) || out.NextContinuationToken == nil {
			return l, nil
		}
		in.ContinuationToken = out.NextContinuationToken
	}
}

// remove deletes objects, as many with a request as S3 takes.
func (c *client) remove(ctx context.Context, keys []string) error {
	for some := range slices.Chunk(keys, 1000) {
		ids := make([]types.ObjectIdentifier, len(some))
		for i := range some {
			ids[i].Key = &some[i]
		}
		err := c.do(ctx, "remove from "+c.uri(""), 0, func(ctx context.Context) error {
			out, err := c.s3.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: &c.bucket, Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)}})
			if err != nil {
				return err
			}
			for _, e := range out.Errors {
				if code := aws.ToString(e.Code); code != "NoSuchKey" {
					return fmt.Errorf("%s: %s (%s)", aws.ToString(e.Key), aws.ToString(e.Message), code)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
