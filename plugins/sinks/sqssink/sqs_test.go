package sqssink

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func TestStandard(t *testing.T) {
	w := newWorld(t, services.SQS(t), false)
	p := w.open()
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := w.publish(p, part("kq/r/out/0", nil, "v")); r.Bytes != 0 {
		t.Errorf("no rows: %+v", r)
	}
	w.publish(p, part("kq/r/out/0", numbered(1000, 1), "v"))
	w.wantAll(w.drain(), "kq/r/out/0", 1000, false)
}

func TestFIFO(t *testing.T) {
	t.Parallel()
	for _, ordering := range orderings {
		for _, groups := range []int{1, 3, 97} {
			w := newWorld(t, services.SQS(t), true)
			p := w.open("ordering", ordering)
			if err := p.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 2 { // a repetition changes nothing
				w.publish(p, part("kq/r/out/0", numbered(300, groups), "v", "g"))
			}
			got := w.drain()
			w.wantAll(got, "kq/r/out/0", 300, false)
			w.wantOrder(got)
		}
	}
}

// TestConcurrentAttempts: a part is sent by several at once, as when a worker that
// was taken for dead goes on.
func TestConcurrentAttempts(t *testing.T) {
	t.Parallel()
	for _, fifo := range []bool{false, true} {
		w := newWorld(t, services.SQS(t), fifo)
		var group sync.WaitGroup
		for range 3 {
			p := w.open()
			group.Go(func() {
				if _, err := p.Publish(t.Context(), part("kq/r/out/0", numbered(200, 7), "v", "g")); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		got := w.drain()
		w.wantAll(got, "kq/r/out/0", 200, !fifo)
		if fifo {
			w.wantOrder(got)
		}
	}
}

// TestContent: bodies, attributes, groups as consumers see them.
func TestContent(t *testing.T) {
	for name, cloud := range map[string]*services.Cloud{"ElasticMQ": services.SQS(t), "moto": services.Moto(t)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud, true)
			p := w.open("attributes", [][2]string{{"text", "s"}, {"num", "n"}, {"bin.x", "b"}}, "record_id", "row")
			rows := []row{
				{body: "häuser\t\r\n\"<&>' 🦆 \u0085\ufffd", group: "g(1)", s: "ünï 🦆", n: "-12345678901234567890.5", b: []byte{0, 1, 255}},
				{body: " ", group: "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"},
			}
			w.publish(p, part("kq/r/out/0", rows, "v", "g", "s0", "n1", "b2"))
			got := map[string]types.Message{}
			for _, m := range w.drain() {
				got[*m.Body] = m
			}
			m := got[rows[0].body.(string)]
			a := m.MessageAttributes
			if len(got) != 2 || len(a) != 4 || *a["text"].StringValue != "ünï 🦆" || *a["num"].StringValue != "-12345678901234567890.5" || *a["num"].DataType != "Number" ||
				string(a["bin.x"].BinaryValue) != "\x00\x01\xff" || *a["row"].StringValue != "kq/r/out/0/0" {
				t.Errorf("%d, %+v", len(got), m)
			}
			if m.Attributes["MessageGroupId"] != "g(1)" || m.Attributes["MessageDeduplicationId"] != "kq/r/out/0/0" {
				t.Errorf("%v", m.Attributes)
			}
			if m = got[" "]; m.Attributes["MessageGroupId"] != rows[1].group || len(m.MessageAttributes) != 1 {
				t.Errorf("%+v", m)
			}
		})
	}
}

// TestMoto: the second server, which has other codes and counts other bytes.
func TestMoto(t *testing.T) {
	w := newWorld(t, services.Moto(t), false)
	p := w.open("record_id", "kq-id")
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.publish(p, part("kq/r/out/0", numbered(45, 1), "v"))
	w.wantAll(w.drain(), "kq/r/out/0", 45, false)
	if err := w.open("queue", services.Name(t)).Check(t.Context()); !pipeline.IsPermanent(err) || !contains(err.Error(), "doesn't exist") {
		t.Errorf("no such queue: %v", err)
	}
}

// TestSizes: messages and batches of the largest size are taken, and a larger one
// is refused, by this package and by the service.
func TestSizes(t *testing.T) {
	for name, cloud := range map[string]*services.Cloud{"ElasticMQ": services.SQS(t), "moto": services.Moto(t)} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, cloud, false)
			body := func(n int) row { return row{body: strings.Repeat("x", n)} }
			p := w.open("record_id", "")
			rows := []row{body(maxBytes), body(100), body(maxBytes - 100), body(1), body(maxBytes / 2), body(maxBytes / 2)}
			if r := w.publish(p, part("p", rows, "v")); r.Bytes != int64(3*maxBytes+1) {
				t.Errorf("%d bytes", r.Bytes)
			}
			if got := w.drain(); len(got) != len(rows) {
				t.Errorf("%d messages", len(got))
			}
			rows = []row{body(10), body(maxBytes + 1), body(10)}
			for most, says := range map[int]string{maxBytes: "has 1048577 bytes", 2 * maxBytes: "the queue refuses it"} {
				p := w.open("record_id", "", "max_message_bytes", int64(most)).(*publisher)
				if err := p.prepare(t.Context()); err != nil {
					t.Fatal(err)
				}
				p.maxMessage = most // whatever the queue says
				_, err := p.Publish(t.Context(), part("p", rows, "v"))
				if !pipeline.IsPermanent(err) || !contains(err.Error(), "row p/1: ") || !contains(err.Error(), says) || contains(err.Error(), "p/2:") {
					t.Errorf("limit %d: %v", most, err)
				}
			}
		})
	}
}

// TestOldLimit: batches for a service that takes 256 KiB.
func TestOldLimit(t *testing.T) {
	w := newWorld(t, services.SQS(t), false)
	p := w.open("max_message_bytes", int64(256<<10), "concurrency", int64(1))
	w.publish(p, part("none", nil, "v")) // it has asked for the queue by then
	w.proxy.Set()
	rows := make([]row, 10)
	for i := range rows {
		rows[i].body = strings.Repeat("x", 100<<10)
	}
	w.publish(p, part("kq/r/out/0", rows, "v"))
	if n := w.proxy.Seen(); n != 5 {
		t.Errorf("%d requests for 10 messages of 100 KiB", n)
	}
	w.wantAll(w.drain(), "kq/r/out/0", 10, false)
}

func TestDelay(t *testing.T) {
	w := newWorld(t, services.SQS(t), false)
	w.publish(w.open("delay_seconds", int64(900)), part("p", numbered(13, 1), "v"))
	out, err := w.client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: &w.url, AttributeNames: []types.QueueAttributeName{"All"}})
	if err != nil || out.Attributes["ApproximateNumberOfMessagesDelayed"] != "13" {
		t.Errorf("%v, %v", out, err)
	}
}

// TestRefusedByService: messages that only the service refuses are named.
func TestRefusedByService(t *testing.T) {
	w := newWorld(t, services.SQS(t), false)
	p := w.open()
	p.(*publisher).c.delay = maxDelay + 1
	_, err := p.Publish(t.Context(), part("p", numbered(3, 1), "v"))
	if !pipeline.IsPermanent(err) || !contains(err.Error(), "row p/0: the queue refuses it: ") || !contains(err.Error(), "row p/2: ") {
		t.Errorf("%v", err)
	}
	if w.gate.ended[backpressure.Rejected] != 1 {
		t.Errorf("the gate saw %v", w.gate.ended)
	}
}

// TestURL: the queue as its URL, and nothing else.
func TestURL(t *testing.T) {
	w := newWorld(t, services.SQS(t), false)
	p := w.open("queue", w.url, "endpoint", "")
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.publish(p, part("kq/r/out/0", numbered(10, 1), "v"))
	if w.proxy.Seen() != 0 {
		t.Error("it asked somewhere else")
	}
	w.wantAll(w.drain(), "kq/r/out/0", 10, false)
}

// TestSignature: region and credentials, of the job and of the environment.
func TestSignature(t *testing.T) {
	w := newWorld(t, services.SQS(t), false)
	var mu sync.Mutex
	var seen http.Header
	w.proxy.Set(faultproxy.HTTPRule{Match: func(r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		seen = r.Header.Clone()
		return false
	}})
	for _, c := range []struct{ job, token, want string }{
		{"JOBKEY", "jobtoken", "JOBKEY/"},
		{"", "", "ENVKEY/"},
	} {
		t.Setenv("AWS_ACCESS_KEY_ID", "ENVKEY")
		t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
		secret := ""
		if c.job != "" {
			secret = "s"
		}
		if err := w.open("access_key", c.job, "secret_key", secret, "session_token", c.token, "region", "eu-north-7").Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a := seen.Get("Authorization"); !contains(a, "Credential="+c.want) || !contains(a, "/eu-north-7/sqs/") || seen.Get("X-Amz-Security-Token") != c.token {
			t.Errorf("%v", seen)
		}
	}
}

// TestCheck: what is wrong is found before anything is sent, and said without secrets.
func TestCheck(t *testing.T) {
	t.Parallel()
	w := newWorld(t, services.SQS(t), false)
	reply := func(status int, code string) faultproxy.HTTPRule {
		return faultproxy.HTTPRule{Reply: faultproxy.SQSError(status, code)}
	}
	isFIFO := faultproxy.HTTPRule{Match: faultproxy.Operations("GetQueueAttributes"), Edit: func(_ *http.Request, a *faultproxy.Answer) *faultproxy.Answer {
		return &faultproxy.Answer{Status: 200, Header: a.Header, Body: []byte(`{"Attributes":{"FifoQueue":"true"}}`)}
	}}
	for _, c := range []struct {
		rule  faultproxy.HTTPRule
		pairs []any
		never bool
		says  string
	}{
		{reply(403, "InvalidClientTokenId"), nil, true, "doesn't accept the credentials"},
		{reply(403, "SignatureDoesNotMatch"), nil, true, "doesn't accept the credentials"},
		{reply(400, "UnrecognizedClientException"), nil, true, "doesn't accept the credentials"},
		{reply(403, "AccessDenied"), nil, true, "sqs:GetQueueUrl"},
		{reply(400, "AWS.SimpleQueueService.NonExistentQueue"), nil, true, "NonExistentQueue"},
		{reply(500, "InternalFailure"), nil, false, "InternalFailure"},
		{faultproxy.HTTPRule{Match: func(*http.Request) bool { return false }}, []any{"queue", services.Name(t)}, true, "doesn't exist"},
		{isFIFO, nil, true, "is a FIFO queue, its name says a standard queue"},
		{faultproxy.HTTPRule{Fault: faultproxy.Fault{Request: faultproxy.Cut(0)}}, nil, false, "can't be reached"},
		{faultproxy.HTTPRule{}, []any{"endpoint", "http://127.0.0.1:1"}, false, "can't be reached: dial"},
	} {
		w.proxy.Set(c.rule)
		err := w.open(append(c.pairs, "access_key", "AKID", "secret_key", "hunter2hunter2")...).Check(t.Context())
		if err == nil || pipeline.IsPermanent(err) != c.never || !contains(err.Error(), c.says) || contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", c.says, err)
		}
	}
	// who may only send may still send
	w.proxy.Set(faultproxy.HTTPRule{Match: faultproxy.Operations("GetQueueAttributes"), Reply: faultproxy.SQSError(403, "AccessDenied")})
	p := w.open()
	if err := p.Check(t.Context()); err != nil || len(w.warnings) != 1 {
		t.Errorf("%v, %q", err, w.warnings)
	}
	w.publish(p, part("kq/r/out/0", numbered(10, 1), "v"))
}

// TestNoCredentials: neither the job nor the environment has any.
func TestNoCredentials(t *testing.T) {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	w := newWorld(t, services.SQS(t), false)
	if err := w.open("access_key", "", "secret_key", "").Check(t.Context()); err == nil || !contains(err.Error(), "there are no credentials") {
		t.Errorf("%v", err)
	}
}

// TestPermanent: while a part is sent, what trying again can't mend ends it.
func TestPermanent(t *testing.T) {
	for _, code := range []string{"AccessDenied", "InvalidClientTokenId", "KmsDisabled", "QueueDoesNotExist", "UnsupportedOperation"} {
		w := newWorld(t, services.SQS(t), false)
		w.proxy.Set(faultproxy.HTTPRule{Match: faultproxy.Operations("SendMessageBatch"), From: 3, Reply: faultproxy.SQSError(400, code)})
		_, err := w.open("concurrency", int64(1)).Publish(t.Context(), part("p", numbered(100, 1), "v"))
		if !pipeline.IsPermanent(err) || !contains(err.Error(), code) {
			t.Errorf("%s: %v", code, err)
		}
		if n := len(w.drain()); n != 20 {
			t.Errorf("%s: %d messages arrived, want those of two requests", code, n)
		}
	}
}

// TestInputFails: an error of the rows is the part's, and nothing hangs.
func TestInputFails(t *testing.T) {
	w := newWorld(t, services.SQS(t), false)
	broken := errors.New("broken")
	bad := part("p", numbered(1000, 1), "v")
	good := bad.Batches
	bad.Batches = func(yield func(arrow.RecordBatch, error) bool) {
		for b, err := range good {
			if !yield(b, err) {
				return
			}
			if !yield(nil, broken) {
				return
			}
		}
	}
	if _, err := w.open().Publish(t.Context(), bad); !errors.Is(err, broken) || pipeline.IsPermanent(err) {
		t.Errorf("%v", err)
	}
}

// TestCancelled: while any request is on its way, the end of the context ends the
// part.
func TestCancelled(t *testing.T) {
	w := newWorld(t, services.SQS(t), false)
	for n := 1; n < 20; n++ {
		ctx, cancel := context.WithCancel(t.Context())
		came := 0
		w.proxy.Set(faultproxy.HTTPRule{From: n, Fault: faultproxy.Fault{Request: faultproxy.Hang(0)}, Match: func(*http.Request) bool {
			if came++; came == n {
				cancel()
			}
			return true
		}})
		_, err := w.open("concurrency", int64(4)).Publish(ctx, part("p", numbered(500, 1), "v"))
		cancel()
		if !errors.Is(err, context.Canceled) || pipeline.IsPermanent(err) {
			t.Errorf("%v", err)
		}
		if s := w.gate.Snapshot(); s.InFlight != 0 || s.Requests != 0 {
			t.Fatalf("%d bytes are still in flight", s.InFlight)
		}
	}
}

// TestOutage: a service that is away for a while is waited for.
func TestOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t, services.SQS(t), true)
	w.proxy.Set(faultproxy.HTTPRule{Match: faultproxy.Operations("SendMessageBatch"), From: 3, Times: 7, Fault: faultproxy.Fault{Request: faultproxy.Reset(0)}})
	r := w.publish(w.open("concurrency", int64(8)), part("kq/r/out/0", numbered(100, 20), "v", "g"))
	if r.Resent != 7 {
		t.Errorf("%d requests were made again", r.Resent)
	}
	got := w.drain()
	w.wantAll(got, "kq/r/out/0", 100, false)
	w.wantOrder(got)
}

// TestFaults: one fault after the other hits one request after the other. The part
// arrives, and in a FIFO queue once and in order.
func TestFaults(t *testing.T) {
	t.Parallel()
	throttled := map[string]bool{"RequestThrottled": true, "ThrottlingException": true, "TooManyRequests": true}
	type fault struct {
		name string
		rule faultproxy.HTTPRule
	}
	faults := []fault{
		{"lost", faultproxy.HTTPRule{Fault: faultproxy.Fault{Request: faultproxy.Cut(0)}}},
		{"cut", faultproxy.HTTPRule{Fault: faultproxy.Fault{Request: faultproxy.Reset(300)}}},
		{"lost answer", faultproxy.HTTPRule{Fault: faultproxy.Fault{Answer: faultproxy.Cut(0)}}},
		{"cut answer", faultproxy.HTTPRule{Fault: faultproxy.Fault{Answer: faultproxy.Cut(70)}}},
		{"hang", faultproxy.HTTPRule{Fault: faultproxy.Fault{Request: faultproxy.Hang(0)}}},
		{"hanging answer", faultproxy.HTTPRule{Fault: faultproxy.Fault{Answer: faultproxy.Hang(10)}}},
	}
	for _, code := range []struct {
		status int
		code   string
	}{{400, "RequestThrottled"}, {403, "ThrottlingException"}, {429, "TooManyRequests"}, {503, "ServiceUnavailable"}, {500, "InternalFailure"}} {
		faults = append(faults, fault{code.code, faultproxy.HTTPRule{Reply: faultproxy.SQSError(code.status, code.code)}})
	}
	edit := func(change func(string) string) faultproxy.HTTPRule {
		return faultproxy.HTTPRule{Edit: func(_ *http.Request, a *faultproxy.Answer) *faultproxy.Answer {
			return &faultproxy.Answer{Status: a.Status, Header: a.Header, Body: []byte(change(string(a.Body)))}
		}}
	}
	sums := regexp.MustCompile(`("MD5OfMessageBody":")[0-9a-f]{4}`)
	faults = append(faults,
		fault{"wrong checksum", edit(func(body string) string { return sums.ReplaceAllString(body, "${1}0000") })},
		fault{"nothing said", edit(func(body string) string {
			if contains(body, "Successful") {
				return `{"Successful":[],"Failed":[]}`
			}
			return body
		})})
	for _, fifo := range []bool{false, true} {
		t.Run(fmt.Sprintf("fifo=%v", fifo), func(t *testing.T) {
			t.Parallel()
			for _, f := range faults {
				t.Run(f.name, func(t *testing.T) {
					t.Parallel()
					sweep(t, fifo, f.name, f.rule, throttled[f.name])
				})
			}
		})
	}
}

// sweep lets a fault hit the n-th request, until there is none.
func sweep(t *testing.T, fifo bool, name string, rule faultproxy.HTTPRule, throttled bool) {
	w := newWorld(t, services.SQS(t), fifo)
	for n := 1; ; n++ {
		id := fmt.Sprintf("kq/%s/%d", name, n)
		rule.From, rule.Times = n, 1
		w.proxy.Set(rule)
		w.gate = newGate()
		w.publish(w.open("request_timeout", "1s", "concurrency", int64(2)), part(id, numbered(27, 11), "v", "g"))
		hit := len(w.proxy.Hits()) > 0
		got := w.drain()
		w.wantAll(got, id, 27, !fifo)
		if fifo {
			w.wantOrder(got)
		}
		if rule.Edit != nil && n == 3 && w.gate.ended[backpressure.Failed] != 1 { // the first request that sends
			t.Errorf("the answer was believed: the gate saw %v", w.gate.ended)
		}
		if !hit {
			if n < 5 {
				t.Errorf("it hit %d requests only", n-1)
			}
			return
		}
		if n > 2 && throttled != (w.gate.ended[backpressure.Throttled] == 1) { // before, it asks for the queue
			t.Errorf("request %d: the gate saw %v", n, w.gate.ended)
		}
	}
}

// TestOvertaken: with ordering: batched a message that fails alone may come late,
// and that is said; with strict there is nothing to say.
func TestOvertaken(t *testing.T) {
	for _, ordering := range orderings {
		w := newWorld(t, services.SQS(t), true)
		w.proxy.Set(faultproxy.HTTPRule{Match: faultproxy.Operations("SendMessageBatch"), Times: 1, Edit: func(_ *http.Request, a *faultproxy.Answer) *faultproxy.Answer {
			body := strings.Replace(string(a.Body), `"Successful":[`, `"Failed":[{"Id":"0","Code":"InternalError","SenderFault":false}],"Successful":[`, 1)
			body = strings.Replace(body, `"Failed":[]`, `"Other":[]`, 1)
			body = strings.Replace(body, `"Id":"0","M`, `"Id":"-1","M`, 1)
			body = strings.Replace(body, `"Id":"0"}`, `"Id":"-1"}`, 1)
			return &faultproxy.Answer{Status: a.Status, Header: a.Header, Body: []byte(body)}
		}})
		r := w.publish(w.open("ordering", ordering), part("kq/r/out/0", numbered(30, 1), "v", "g"))
		if r.Resent != 1 || (len(w.warnings) > 0) != (ordering == batched) {
			t.Errorf("%s: sent again %d, %q", ordering, r.Resent, w.warnings)
		}
		w.wantAll(w.drain(), "kq/r/out/0", 30, false) // in truth the server had it
	}
}

// TestLate: an attempt that comes after SQS has forgotten says so, once.
func TestLate(t *testing.T) {
	w := newWorld(t, services.SQS(t), true)
	p := w.open()
	for range 2 {
		late := part("kq/r/out/0", numbered(3, 1), "v", "g")
		late.Attempt, late.FirstAttempt = 2, late.FirstAttempt.AddDate(2000, 0, 0)
		w.publish(p, late)
	}
	if len(w.warnings) != 1 || !contains(w.warnings[0], "5m0s") {
		t.Errorf("%q", w.warnings)
	}
}

var _ sinks.Remote = Sink{}

// BenchmarkPublish sends rows of 200 bytes to ElasticMQ.
func BenchmarkPublish(b *testing.B) {
	for _, fifo := range []bool{false, true} {
		b.Run(fmt.Sprintf("fifo=%v", fifo), func(b *testing.B) {
			rows := numbered(5000, 1000)
			for i := range rows {
				rows[i].body = rows[i].body.(string) + strings.Repeat(" ", 180)
			}
			w := newWorld(b, services.SQS(b), fifo)
			p := w.open("endpoint", w.cloud.Endpoint)
			n := 0
			for b.Loop() {
				n++
				w.publish(p, part(fmt.Sprint("kq/r/out/", n), rows, "v", "g"))
			}
			b.ReportMetric(float64(n*len(rows))/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
