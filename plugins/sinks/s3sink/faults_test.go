package s3sink

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

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
		"too many":     reply(429, "TooManyRequests"),
		"error":        reply(500, "InternalError"),
		"conflict":     reply(409, "ConditionalRequestConflict"),
		"aborted":      reply(409, "OperationAborted"),
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
