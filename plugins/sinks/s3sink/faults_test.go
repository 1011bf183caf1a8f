package s3sink

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/pipeline"
)

// TestFaults does each kind of fault to the first, second, … request of a run
// until no more come: the result is always whole, once, and nothing is left.
func TestFaults(t *testing.T) {
	reply := func(status int, code string) faultproxy.HTTPRule {
		return faultproxy.HTTPRule{Reply: faultproxy.S3Error(status, code)}
	}
	fault := func(f faultproxy.Fault) faultproxy.HTTPRule { return faultproxy.HTTPRule{Fault: f} }
	for name, rule := range map[string]faultproxy.HTTPRule{
		"lost request": fault(faultproxy.Fault{Request: faultproxy.Cut(0)}),
		"lost answer":  fault(faultproxy.Fault{Answer: faultproxy.Cut(0)}),
		"half request": fault(faultproxy.Fault{Request: faultproxy.Reset(1000)}),
		"half answer":  fault(faultproxy.Fault{Answer: faultproxy.Reset(20)}),
		"slow down":    reply(503, "SlowDown"),
		"conflict":     reply(409, "ConditionalRequestConflict"),
		"timeout":      {Match: func(r *http.Request) bool { return r.ContentLength > 0 }, Reply: faultproxy.S3Error(400, "RequestTimeout")},
		// The work is done, but the store says that it failed.
		"error after": {Edit: func(r *http.Request, _ *faultproxy.Answer) *faultproxy.Answer {
			return faultproxy.S3Error(500, "InternalError")(r)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t, services.S3(t))
			proxy := p.proxy()
			plan := p.plan(true, smallParts, setting{Key: "endpoint", Value: proxy.URL()}, setting{Key: "delivery_timeout", Value: "1m"})
			for n := 1; ; n++ {
				run := fmt.Sprintf("20261125-1600%02d-aaaa", n)
				rule.From, rule.Times = n, 1
				proxy.Set(rule)
				g := newGate(0)
				s := p.openGate(plan, run, g)
				if err := s.Check(t.Context()); err != nil {
					t.Fatalf("request %d: check: %v", n, err)
				}
				small, large := p.part(run, 0, 100), p.part(run, 1, 5*mib+7)
				large.Attempt = 2
				sent := [][]pipeline.Part{p.publish(s, small), p.publish(s, large)}
				p.last(s, sent)
				p.holds(run, small, large)
				if t.Failed() {
					t.Fatalf("request %d", n)
				}
				if g.Snapshot().InFlight != 0 {
					t.Fatalf("request %d: %+v", n, g.Snapshot())
				}
				if len(proxy.Hits()) == 0 {
					if n < 5 {
						t.Errorf("only %d requests", n)
					}
					return
				}
			}
		})
	}
}

// TestDiagnose: what every error says is judged by its status and code.
func TestDiagnose(t *testing.T) {
	p := newPlace(t, services.S3(t))
	proxy := p.proxy()
	s := p.open(p.plan(false, setting{Key: "endpoint", Value: proxy.URL()}), run1)
	for _, c := range []struct {
		status    int
		code      string
		again     bool
		result    backpressure.Result
		permanent bool
	}{
		{429, "TooManyRequests", true, backpressure.Throttled, false},
		{503, "SlowDown", true, backpressure.Throttled, false},
		{503, "ServiceUnavailable", true, backpressure.Throttled, false},
		{400, "ThrottlingException", true, backpressure.Throttled, false},
		{400, "RequestLimitExceeded", true, backpressure.Throttled, false},
		{500, "InternalError", true, backpressure.Failed, false},
		{502, "BadGateway", true, backpressure.Failed, false},
		{409, "OperationAborted", true, backpressure.Failed, false},
		{409, "ConditionalRequestConflict", true, backpressure.Failed, false},
		{400, "RequestTimeout", true, backpressure.Failed, false},
		{403, "RequestTimeTooSkewed", true, backpressure.Failed, false},
		{400, "BadDigest", false, backpressure.Rejected, false},
		{400, "ExpiredToken", false, backpressure.Rejected, false},
		{412, "PreconditionFailed", false, backpressure.Rejected, false},
		{404, "NoSuchUpload", false, backpressure.Rejected, false},
		{404, "NoSuchBucket", false, backpressure.Rejected, true},
		{403, "AccessDenied", false, backpressure.Rejected, true},
		{403, "SignatureDoesNotMatch", false, backpressure.Rejected, true},
		{301, "PermanentRedirect", false, backpressure.Rejected, true},
		{400, "EntityTooLarge", false, backpressure.Rejected, true},
		{409, "ObjectParentIsFile", false, backpressure.Rejected, true},
		{501, "NotImplemented", false, backpressure.Rejected, true},
	} {
		proxy.Set(faultproxy.HTTPRule{Reply: faultproxy.S3Error(c.status, c.code)})
		_, err := s.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &p.bucket, Key: aws.String("x")})
		f := diagnose(err)
		if f.again != c.again || f.result != c.result || pipeline.IsPermanent(f.explain("put x", s.settings)) != c.permanent || f.code != c.code || f.status != c.status {
			t.Errorf("%d %s: %+v, %v", c.status, c.code, f, f.explain("put x", s.settings))
		}
		if f.after != 0 {
			t.Errorf("%s: after %v", c.code, f.after)
		}
	}
	proxy.Set(faultproxy.HTTPRule{Reply: func(r *http.Request) *faultproxy.Answer {
		a := faultproxy.S3Error(503, "SlowDown")(r)
		a.Header.Set("Retry-After", "7")
		return a
	}})
	_, err := s.s3.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &p.bucket, Key: aws.String("x")})
	if f := diagnose(err); f.after != 7*time.Second {
		t.Errorf("Retry-After: 7 is %v", f.after)
	}
}

// TestStuck: a connection over which nothing comes any more is given up, and the
// request repeated.
func TestStuck(t *testing.T) {
	for _, f := range []faultproxy.Fault{{Request: faultproxy.Hang(0)}, {Answer: faultproxy.Hang(0)}, {Answer: faultproxy.Hang(3)}} {
		for _, operation := range []string{"GetObject", "PutObject", "CompleteMultipartUpload"} {
			t.Run(fmt.Sprintf("%s %v", operation, f), func(t *testing.T) {
				t.Parallel()
				p := newPlace(t, services.S3(t))
				proxy := p.proxy()
				plan := p.plan(true, smallParts, setting{Key: "endpoint", Value: proxy.URL()}, setting{Key: "delivery_timeout", Value: "2s"})
				proxy.Set(faultproxy.HTTPRule{Match: faultproxy.Operations(operation), Times: 1, Fault: f})
				part := p.part(run1, 0, 10, 5*mib+1)
				p.all(plan, run1, part)
				p.holds(run1, part)
				if len(proxy.Hits()) != 1 {
					t.Errorf("%v", proxy.Hits())
				}
			})
		}
	}
}

// TestOutage: an attempt at a store that refuses for long ends, with an error that
// another attempt may mend, and the gate has been told.
func TestOutage(t *testing.T) {
	p := newPlace(t, services.S3(t))
	for _, c := range []struct {
		rule   faultproxy.HTTPRule
		result backpressure.Result
		words  string
	}{
		{faultproxy.HTTPRule{Reply: faultproxy.S3Error(503, "SlowDown")}, backpressure.Throttled, "SlowDown"},
		{faultproxy.HTTPRule{Reply: faultproxy.S3Error(429, "TooManyRequests")}, backpressure.Throttled, "429"},
		{faultproxy.HTTPRule{Reply: faultproxy.S3Error(500, "InternalError")}, backpressure.Failed, "InternalError"},
		{faultproxy.HTTPRule{Fault: faultproxy.Fault{Request: faultproxy.Cut(0)}}, backpressure.Failed, "EOF"},
	} {
		proxy := p.proxy()
		plan := p.plan(true, setting{Key: "endpoint", Value: proxy.URL()}, setting{Key: "delivery_timeout", Value: "300ms"})
		c.rule.Match = faultproxy.Operations("PutObject")
		proxy.Set(c.rule)
		g := newGate(0)
		begin := time.Now()
		_, err := p.openGate(plan, run1, g).Publish(t.Context(), p.part(run1, 0, 10))
		if err == nil || pipeline.IsPermanent(err) || !strings.Contains(err.Error(), c.words) || !strings.Contains(err.Error(), "part-00000") {
			t.Errorf("%s: %v", c.words, err)
		}
		if g.outcomes[c.result] < 2 || g.outcomes[backpressure.Succeeded] > 0 || g.Snapshot().InFlight != 0 {
			t.Errorf("%s: outcomes %v", c.words, g.outcomes)
		}
		if time.Since(begin) < 300*time.Millisecond {
			t.Errorf("%s: given up after %v", c.words, time.Since(begin))
		}
	}
	// Nobody listens.
	proxy := p.proxy()
	plan := p.plan(true, setting{Key: "endpoint", Value: proxy.URL()}, setting{Key: "delivery_timeout", Value: "100ms"})
	if err := errors.Join(proxy.Close()); err != nil {
		t.Fatal(err)
	}
	if err := p.open(plan, run1).Check(t.Context()); err == nil || pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), proxy.URL()) {
		t.Errorf("%v", err)
	}
}
