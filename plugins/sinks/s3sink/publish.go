package s3sink

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
	"github.com/kinequet/kq/plugins/sinks/filesink"
)

// Open implements sinks.Remote.
func (Sink) Open(p *pipeline.SinkPlan, o sinks.Options) (sinks.Publisher, error) {
	set, err := parse(p.Settings)
	if err != nil {
		return nil, err
	}
	c, err := connect(set, o.Gate)
	if err != nil {
		return nil, err
	}
	return &publisher{client: c, plan: p, o: o}, nil
}

type publisher struct {
	*client
	plan   *pipeline.SinkPlan
	o      sinks.Options
	before *string // the etag of the manifest that was there at first; "": there was none
}

// objectName matches names that this sink gives, of every run. Nobody else's are
// ever removed.
var objectName = regexp.MustCompile(`^part-[0-9]{5,}(?:\.[0-9]+)?-kq-(.+?)\.(?:parquet|csv|json)(?:\.gz|\.zst)?$`)

// name is that of a shard's file within the result. Names are in the order of the
// rows, up to 100,000 shards.
func (p *publisher) name(shard, file int) string {
	number := fmt.Sprintf("%05d", shard)
	if file > 0 {
		number += fmt.Sprintf(".%d", file)
	}
	return "part-" + number + "-kq-" + p.o.Run + p.plan.Extension
}

// runOf is the run that has given a name; "" means nobody of ours has.
func runOf(name string) string {
	if m := objectName.FindStringSubmatch(name); m != nil {
		return m[1]
	}
	return ""
}

// contentTypes by extension, without that of a compression.
var contentTypes = map[string]string{".parquet": "application/vnd.apache.parquet", ".csv": "text/csv", ".json": "application/x-ndjson"}

// contentType is the media type of objects with an extension.
func contentType(extension string) string {
	switch {
	case strings.HasSuffix(extension, ".gz"):
		return "application/gzip"
	case strings.HasSuffix(extension, ".zst"):
		return "application/zstd"
	}
	return contentTypes[extension]
}

// checkTimeout is how long a check repeats a request that gets no answer.
const checkTimeout = 8 * time.Second

// Check implements sinks.Publisher: the bucket is there, nothing stands where the
// result shall be, and the credentials let it be written.
func (p *publisher) Check(ctx context.Context) error {
	hasty := *p.settings // a person is waiting
	hasty.timeout = min(hasty.timeout, checkTimeout)
	p = &publisher{client: &client{settings: &hasty, s3: p.s3, gate: p.gate}, plan: p.plan, o: p.o}
	manifest, err := p.readManifest(ctx)
	if err != nil {
		return err
	}
	if manifest.etag != "" && !p.plan.Replace {
		return p.taken()
	}
	if err := p.checkForeign(ctx, manifest); err != nil {
		return err
	}
	return p.checkWrite(ctx)
}

func (p *publisher) taken() error {
	return pipeline.Permanent(fmt.Errorf("%s exists already; remove it, or set overwrite: replace", p.uri(filesink.ManifestName)))
}

// checkForeign refuses a folder with other things: who reads all of it would take
// them for the result's.
func (p *publisher) checkForeign(ctx context.Context, m *manifest) error {
	here, err := p.list(ctx)
	if err != nil {
		return err
	}
	for _, name := range here.folders {
		return p.foreign(name)
	}
	for name := range here.objects {
		if runOf(name) == "" && !m.has(name) && name != filesink.ManifestName {
			return p.foreign(name)
		}
	}
	return nil
}

func (p *publisher) foreign(name string) error {
	return pipeline.Permanent(fmt.Errorf("%s holds %q, which is no result of this sink; move it away, or publish to another folder", p.uri(""), name))
}

// checkName is an upload's that never becomes an object.
const checkName = "_kq-check"

// checkWrite begins an upload and aborts it: nobody ever sees an object, but the
// store has said whether it may be written.
func (p *publisher) checkWrite(ctx context.Context) error {
	o := &object{key: p.prefix + checkName, kind: "application/octet-stream"}
	if _, err := p.create(ctx, o); err != nil {
		return err
	}
	// There may be more of them: the answer to the first try may have been lost, or
	// an earlier check killed.
	_, err := p.abortUploads(ctx, o.key, func(key string) bool { return key == o.key })
	return err
}

// Publish implements sinks.Publisher.
func (p *publisher) Publish(ctx context.Context, part *sinks.Part) (sinks.Result, error) {
	var r sinks.Result
	resent := p.resent.Load()
	if err := p.observe(ctx); err != nil {
		return r, err
	}
	r.Already = true
	for i, f := range part.Files {
		o, err := p.object(part, i)
		if err != nil {
			return r, err
		}
		already, err := p.send(ctx, o, part.Attempt > 1)
		if err != nil {
			return r, err
		}
		if !already {
			r.Already = false
			r.Bytes += f.Bytes
		}
		r.Rows += f.Rows
		r.Objects = append(r.Objects, pipeline.Part{Name: p.name(part.Shard, i), Rows: f.Rows, Bytes: f.Bytes, Checksum: f.Checksum})
	}
	r.Objects = append(r.Objects, pipeline.Part{Name: filesink.ManifestName, Checksum: *p.before})
	r.Resent = p.resent.Load() - resent
	return r, nil
}

// observe remembers the manifest that this run is to replace.
func (p *publisher) observe(ctx context.Context) error {
	if p.before != nil {
		return nil
	}
	m, err := p.readManifest(ctx)
	if err != nil {
		return err
	}
	if m.etag != "" && m.Run != p.o.Run && !p.plan.Replace {
		return p.taken()
	}
	p.before = &m.etag
	return nil
}

// object describes a part's file.
func (p *publisher) object(part *sinks.Part, i int) (*object, error) {
	f := part.Files[i]
	o := &object{
		key: p.prefix + p.name(part.Shard, i), kind: contentType(p.plan.Extension), file: f,
		meta: map[string]string{metaRun: p.o.Run, metaPart: part.ID, metaChecksum: f.Checksum},
	}
	crc, err := encodeCRC(f.Checksum)
	if err != nil {
		return nil, pipeline.Permanent(fmt.Errorf("part %s: %w", f.Name, err))
	}
	if p.checksum {
		o.crc = crc
	}
	return o, nil
}

// send uploads an object. Where an earlier attempt may have been under way, it
// ends its uploads, and leaves an object that is there already.
func (p *publisher) send(ctx context.Context, o *object, again bool) (already bool, err error) {
	own := func(key string) bool { return key == o.key }
	if again {
		if _, err := p.abortUploads(ctx, o.key, own); err != nil {
			return false, err
		}
		if already, err := p.there(ctx, o); already || err != nil {
			return already, err
		}
	}
	return false, p.put(ctx, o)
}

// Close implements sinks.Publisher.
func (p *publisher) Close() error { return nil }

// Sweep implements sinks.Sweeper: it aborts the uploads that processes of ended runs have left below a sink's
// prefix, and returns their objects' names. It leaves alone what runs have begun
// that the caller does not know to have ended, such as those of other machines.
func (Sink) Sweep(ctx context.Context, p *pipeline.SinkPlan, ended func(run string) bool) (aborted []string, err error) {
	set, err := parse(p.Settings)
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", p.Name, err)
	}
	c, err := connect(set, nil)
	if err != nil {
		return nil, fmt.Errorf("sink %s: %w", p.Name, err)
	}
	keys, err := c.abortUploads(ctx, c.prefix, func(key string) bool {
		run := runOf(strings.TrimPrefix(key, c.prefix))
		return run != "" && ended(run)
	})
	for _, key := range keys {
		aborted = append(aborted, c.where(key))
	}
	if err != nil {
		return aborted, fmt.Errorf("sink %s: %w", p.Name, err)
	}
	return aborted, nil
}
