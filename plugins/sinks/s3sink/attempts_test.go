package s3sink

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks/filesink"
)

// TestAgain: a later attempt finds what is there and sends only what isn't.
func TestAgain(t *testing.T) {
	stores(t, func(t *testing.T, p *place) {
		proxy := p.proxy()
		plan := p.plan(false, smallParts, setting{Key: "endpoint", Value: proxy.URL()})
		part := p.part(run1, 0, 100, 6*mib)
		first := p.publish(p.open(plan, run1), part)
		part.Attempt = 2
		proxy.Set(faultproxy.HTTPRule{Match: faultproxy.Operations("PutObject", "CreateMultipartUpload")})
		r, err := p.open(plan, run1).Publish(t.Context(), part)
		if err != nil || !r.Already || r.Bytes != 0 || r.Rows != part.Rows || !slices.EqualFunc(r.Objects, first, same) {
			t.Errorf("%+v, %v; want %+v", r, err, first)
		}
		if hits := proxy.Hits(); len(hits) > 0 {
			t.Errorf("sent again: %v", hits)
		}
		// The same name with other content is not the part: somebody has meddled.
		p.write(folder+first[0].Name, strings.Repeat("x", 100))
		if r, err := p.open(plan, run1).Publish(t.Context(), part); err != nil || r.Already || r.Bytes != 100 {
			t.Errorf("%+v, %v", r, err)
		}
		for range 3 { // Last as well
			p.last(p.open(plan, run1), [][]pipeline.Part{first})
			p.holds(run1, part)
		}
	})
}

func same(a, b pipeline.Part) bool {
	return a.Name == b.Name && a.Checksum == b.Checksum && a.Rows == b.Rows && a.Bytes == b.Bytes
}

// TestAtOnce: attempts of the same part at the same time, one of which is believed
// dead, come to the same, whoever ends last.
func TestAtOnce(t *testing.T) {
	p := newPlace(t, services.S3(t))
	plan := p.plan(false, smallParts)
	part := p.part(run1, 0, 100, 12*mib)
	var group sync.WaitGroup
	var mu sync.Mutex
	var sent []pipeline.Part
	for attempt := range int64(6) {
		group.Go(func() {
			mine := *part
			mine.Attempt = attempt + 1
			for range 50 { // an attempt may abort another one's upload, which then is tried again
				r, err := p.open(plan, run1).Publish(t.Context(), &mine)
				mu.Lock()
				if err == nil {
					sent = r.Objects
				}
				mu.Unlock()
				if err == nil {
					return
				}
				if pipeline.IsPermanent(err) {
					t.Error(err)
					return
				}
			}
			t.Errorf("attempt %d has never come through", mine.Attempt)
		})
	}
	group.Wait()
	p.last(p.open(plan, run1), [][]pipeline.Part{sent})
	p.holds(run1, part)
}

// TestLate: a killed attempt's request that arrives when all is done changes
// nothing, be it of this run or of the one before.
func TestLate(t *testing.T) {
	p := newPlace(t, services.S3(t))
	proxy := p.proxy()
	slow := p.plan(true, setting{Key: "endpoint", Value: proxy.URL()})
	proxy.Set(faultproxy.HTTPRule{Match: faultproxy.Operations("PutObject"), Fault: faultproxy.Fault{DelayRequest: time.Second}})
	part := p.part(run1, 0, 1000)
	ctx, kill := context.WithCancel(t.Context())
	killed := make(chan error)
	go func() {
		_, err := p.open(slow, run1).Publish(ctx, part)
		killed <- err
	}()
	for len(proxy.Hits()) == 0 {
		time.Sleep(time.Millisecond)
	}
	kill()
	if err := <-killed; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	plan, next := p.plan(true), p.part(run2, 0, 2000)
	p.all(plan, run1, part)
	p.all(plan, run2, next)
	for { // the late one
		if _, ok := p.objects()[folder+p.open(plan, run1).name(0, 0)]; ok {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	third := "20261125-160002-cccc"
	last := p.part(third, 0, 30)
	if err := p.open(plan, third).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	p.all(plan, third, last)
	p.holds(third, last)
}

// TestOvertaken: a run whose prefix another run has published to in between fails,
// and leaves that one's result.
func TestOvertaken(t *testing.T) {
	stores(t, func(t *testing.T, p *place) {
		plan := p.plan(true)
		p.all(plan, "20261125-150000-0000", p.part("20261125-150000-0000", 0, 5))
		slow := p.open(plan, run1)
		sent := p.publish(slow, p.part(run1, 0, 10))
		other := p.part(run2, 0, 20)
		p.all(plan, run2, other)
		later := p.publish(p.open(plan, run1), p.part(run1, 1, 10)) // sees the other one's manifest already
		for _, parts := range [][][]pipeline.Part{{sent}, {sent, later}, {later, sent}} {
			if _, err := slow.Last(t.Context(), parts); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "--fresh") {
				t.Errorf("%v", err)
			}
		}
		if _, err := p.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &p.bucket, Key: aws.String(folder + slow.name(1, 0))}); err != nil {
			t.Fatal(err)
		}
		p.holds(run2, other)
		// Also when nothing of this run was there yet to be removed.
		early := p.open(plan, run1)
		if err := early.observe(t.Context()); err != nil {
			t.Fatal(err)
		}
		third := "20261125-160002-cccc"
		p.all(plan, third, p.part(third, 0, 20))
		sent = p.publish(early, p.part(run1, 0, 10))
		if _, err := early.Last(t.Context(), [][]pipeline.Part{sent}); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "another run") {
			t.Errorf("%v", err)
		}
		if m, err := early.readManifest(t.Context()); err != nil || m.Run != third {
			t.Errorf("the manifest is that of %s; %v", m.Run, err)
		}
	})
}

// TestRace: of runs that end at the same time exactly one wins, and its result is
// whole.
func TestRace(t *testing.T) {
	p := newPlace(t, services.S3(t))
	for round := range 20 {
		plan := p.plan(round%2 == 0, setting{Key: "uri", Value: "s3://" + p.bucket + "/" + services.Name(t)})
		if round%4 == 0 {
			p.all(plan, "20261125-150000-0000", p.part("20261125-150000-0000", 0, 5))
		}
		runs := []string{run1, run2, "20261125-160002-cccc"}
		errs := make([]error, len(runs))
		var ready, group sync.WaitGroup
		ready.Add(len(runs))
		for i, run := range runs {
			group.Go(func() {
				s := p.open(plan, run)
				sent := p.publish(s, p.part(run, 0, 10+i))
				ready.Done()
				ready.Wait()
				_, errs[i] = s.Last(t.Context(), [][]pipeline.Part{sent})
			})
		}
		group.Wait()
		winner := slices.Index(errs, nil)
		for i, err := range errs {
			if i != winner && !pipeline.IsPermanent(err) {
				t.Errorf("round %d, run %d: %v; %d has won", round, i, err, winner)
			}
		}
		if winner < 0 {
			continue
		}
		s := p.open(plan, runs[winner])
		m, err := s.readManifest(t.Context())
		if err != nil || m.Run != runs[winner] {
			t.Fatalf("%v, %v", m, err)
		}
		here, err := s.list(t.Context())
		if err != nil || here.objects[m.Files[0].Name].size != int64(10+winner) {
			t.Errorf("round %d: %v, %v", round, here, err)
		}
	}
}

// TestRepeatedLast: a Last that is repeated while the next run is under way leaves
// that one's objects.
func TestRepeatedLast(t *testing.T) {
	p := newPlace(t, services.S3(t))
	plan := p.plan(true)
	s := p.open(plan, run1)
	sent := [][]pipeline.Part{p.publish(s, p.part(run1, 0, 10))}
	p.last(s, sent)
	time.Sleep(1100 * time.Millisecond) // times of S3 are whole seconds
	next := p.open(plan, run2)
	part := p.part(run2, 0, 20)
	begun := p.publish(next, part)
	p.last(s, sent)
	p.last(next, [][]pipeline.Part{begun})
	p.holds(run2, part)
}

// TestMissing: a manifest never lists what isn't there.
func TestMissing(t *testing.T) {
	stores(t, func(t *testing.T, p *place) {
		s := p.open(p.plan(false), run1)
		sent := p.publish(s, p.part(run1, 0, 10))
		if _, err := p.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &p.bucket, Key: aws.String(folder + sent[0].Name)}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Last(t.Context(), [][]pipeline.Part{sent}); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), sent[0].Name) {
			t.Errorf("%v", err)
		}
		if got := p.objects(); len(got) > 0 {
			t.Errorf("%v", got)
		}
	})
}

// TestMany: more objects than one answer lists and one request removes.
func TestMany(t *testing.T) {
	p := newPlace(t, services.S3(t))
	plan := p.plan(true)
	const count = 1203
	var group sync.WaitGroup
	next := make(chan int)
	for range 8 {
		group.Go(func() {
			for i := range next {
				p.write(folder+p.open(plan, run1).name(i, 0), "x")
			}
		})
	}
	for i := range count {
		next <- i
	}
	close(next)
	group.Wait()
	part := p.part(run2, 0, 10)
	p.all(plan, run2, part)
	p.holds(run2, part)
}

// begin leaves an upload as a killed process does: begun, with a part.
func (p *place) begin(key string) {
	p.t.Helper()
	out, err := p.s3.CreateMultipartUpload(p.t.Context(), &s3.CreateMultipartUploadInput{Bucket: &p.bucket, Key: &key})
	if err == nil {
		_, err = p.s3.UploadPart(p.t.Context(), &s3.UploadPartInput{Bucket: &p.bucket, Key: &key, UploadId: out.UploadId, PartNumber: aws.Int32(1), Body: strings.NewReader("half")})
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// TestLeftUploads: those of killed processes are aborted by the next attempt, by
// the run's end, and by Sweep, and nobody else's are.
func TestLeftUploads(t *testing.T) {
	stores(t, func(t *testing.T, p *place) {
		plan := p.plan(true, smallParts)
		s := p.open(plan, run1)
		of := func(run string, shard int) string { return folder + p.open(plan, run).name(shard, 0) }
		foreign, longer := folder+"part-00000.parquet", of(run1, 0)+".bak"
		for _, key := range []string{of(run1, 0), of(run1, 0), of(run1, 1), of(run2, 0), foreign, longer} {
			p.begin(key)
		}
		want := func(what string, keys ...string) {
			t.Helper()
			got := p.uploads()
			slices.Sort(got)
			slices.Sort(keys)
			if !slices.Equal(got, keys) {
				t.Errorf("%s: uploads %v, want %v", what, got, keys)
			}
		}
		part := p.part(run1, 0, 6*mib)
		part.Attempt = 2
		sent := p.publish(s, part)
		want("the next attempt", of(run1, 1), of(run2, 0), foreign, longer)
		p.last(s, [][]pipeline.Part{sent})
		want("the run's end", of(run2, 0), foreign, longer)
		p.begin(of(run1, 3))
		aborted, err := Sink{}.Sweep(t.Context(), plan, func(run string) bool { return run == run1 })
		if err != nil || !slices.Equal(aborted, []string{"s3://" + p.bucket + "/" + of(run1, 3)}) {
			t.Errorf("%v, %v", aborted, err)
		}
		want("sweep", of(run2, 0), foreign, longer)
		// An attempt that fails aborts its own.
		proxy := p.proxy()
		proxy.Set(faultproxy.HTTPRule{Match: faultproxy.Operations("UploadPart"), From: 2, Reply: faultproxy.S3Error(403, "AccessDenied")})
		broken := p.plan(true, smallParts, setting{Key: "endpoint", Value: proxy.URL()})
		if _, err := p.open(broken, run1).Publish(t.Context(), p.part(run1, 4, 16*mib)); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "AccessDenied") {
			t.Errorf("%v", err)
		}
		want("failure", of(run2, 0), foreign, longer)
	})
}

// TestFlight: never more bytes on their way than the gate allows, and parts that
// fit it.
func TestFlight(t *testing.T) {
	p := newPlace(t, services.S3(t))
	proxy := p.proxy()
	var mu sync.Mutex
	sizes := map[int64]bool{}
	proxy.Set(faultproxy.HTTPRule{Match: func(r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if faultproxy.Operation(r) == "UploadPart" {
			sizes[r.ContentLength] = true
		}
		return false
	}})
	g := newGate(11 * mib)
	s := p.openGate(p.plan(false, setting{Key: "endpoint", Value: proxy.URL()}), run1, g)
	part := p.part(run1, 0, 60*mib)
	sent := p.publish(s, part)
	p.last(s, [][]pipeline.Part{sent})
	p.holds(run1, part)
	if g.now != 0 || g.max > 11*mib || g.max < 6*mib || g.outcomes[backpressure.Succeeded] == 0 {
		t.Errorf("%d at most, %d at the end; %v", g.max, g.now, g.outcomes)
	}
	for size := range sizes {
		if size > 11*mib {
			t.Errorf("a part of %d bytes", size)
		}
	}
}

// TestUnconditional: stores without conditional writes publish all the same, say
// so, and notice a run that came in between unless it ends at the same instant.
func TestUnconditional(t *testing.T) {
	p := newPlace(t, services.Moto(t)) // it checks no signatures, so that headers can be taken away
	proxy := p.proxy()
	plan := p.plan(true, setting{Key: "endpoint", Value: proxy.URL()})
	conditional := func(r *http.Request) bool {
		return r.Header.Get("If-None-Match") != "" || r.Header.Get("If-Match") != ""
	}
	for name, rule := range map[string]faultproxy.HTTPRule{
		"heed": {Match: func(r *http.Request) bool {
			r.Header.Del("If-None-Match")
			r.Header.Del("If-Match")
			return false
		}},
		"has no": {Match: conditional, Reply: faultproxy.S3Error(501, "NotImplemented")},
	} {
		proxy.Set(rule)
		for _, run := range []string{run1, run2} { // where there is nothing, and where there is
			p.warnings = nil
			part := p.part(run, 0, 10)
			p.all(plan, run, part)
			p.holds(run, part)
			if len(p.warnings) != 1 || !strings.Contains(p.warnings[0], name) {
				t.Errorf("%s: %v", name, p.warnings)
			}
		}
		slow := p.open(plan, run1)
		sent := p.publish(slow, p.part(run1, 0, 10))
		part := p.part("20261125-160002-cccc", 0, 10)
		p.all(plan, "20261125-160002-cccc", part)
		if _, err := slow.Last(t.Context(), [][]pipeline.Part{sent}); !pipeline.IsPermanent(err) {
			t.Errorf("%s: %v", name, err)
		}
		p.holds("20261125-160002-cccc", part)
		if _, err := p.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &p.bucket, Key: aws.String(folder + filesink.ManifestName)}); err != nil {
			t.Fatal(err)
		}
	}
}
