package faultproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// A seen is a request as the server got it.
type seen struct {
	method, uri, host string
	header            http.Header
	body              string
	whole             bool
}

type web struct {
	mu   sync.Mutex
	seen []seen
}

func (s *web) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	s.seen = append(s.seen, seen{r.Method, r.RequestURI, r.Host, r.Header, string(body), err == nil})
	s.mu.Unlock()
	w.Header().Set("X-Server", "yes")
	w.Header()["Content-Type"] = nil
	w.WriteHeader(http.StatusAccepted)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "got %s", body)
	}
}

// got waits for n requests and gives them.
func (s *web) got(n int) []seen {
	for {
		s.mu.Lock()
		all := append([]seen(nil), s.seen...)
		s.mu.Unlock()
		if len(all) >= n {
			return all
		}
		time.Sleep(time.Millisecond)
	}
}

func httpPair(t *testing.T) (*web, *HTTP) {
	t.Helper()
	s := &web{}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	p, err := NewHTTP(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return s, p
}

// put sends a body on a connection of its own and gives status and body.
func put(ctx context.Context, p *HTTP, body string) (int, string, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, p.URL()+"/bucket/key", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(r)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	return res.StatusCode, string(got), err
}

// TestHTTPPasses: everything that could be signed arrives as it was sent.
func TestHTTPPasses(t *testing.T) {
	s, p := httpPair(t)
	for i, uri := range []string{"/", "/b/a%2Fb+c%20d//e?x=%2F&y&z=a+b", "/b/%C3%BC?list-type=2"} {
		for j, method := range []string{http.MethodGet, http.MethodPut, http.MethodPost, http.MethodHead, http.MethodDelete} {
			conn := dialTo(t, strings.TrimPrefix(p.URL(), "http://"))
			body := ""
			if method == http.MethodPut || method == http.MethodPost {
				body = "body"
			}
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: signed.example\r\nX-Amz-Date: now\r\nX-Amz-Date: again\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", method, uri, len(body), body)
			text, _ := rest(t, conn)
			if !bytes.HasPrefix(text, []byte("HTTP/1.1 202 ")) || !bytes.Contains(text, []byte("X-Server: yes\r\n")) || bytes.Contains(text, []byte("Content-Type")) {
				t.Errorf("%s %s: %q", method, uri, text)
			}
			got := s.got(i*5 + j + 1)[i*5+j]
			if got.method != method || got.uri != uri || got.host != "signed.example" || got.body != body {
				t.Errorf("%+v, want %s %s", got, method, uri)
			}
			if len(got.header["X-Amz-Date"]) != 2 || got.header["User-Agent"] != nil || got.header["Accept-Encoding"] != nil {
				t.Errorf("headers %v", got.header)
			}
		}
	}
}

func TestHTTPContinue(t *testing.T) {
	s, p := httpPair(t)
	r, _ := http.NewRequest(http.MethodPut, p.URL()+"/b/k", strings.NewReader("body"))
	r.Header.Set("Expect", "100-continue")
	res, err := (&http.Transport{ExpectContinueTimeout: time.Minute}).RoundTrip(r)
	if err != nil || res.StatusCode != http.StatusAccepted || s.got(1)[0].body != "body" {
		t.Fatalf("%v, %v", res, err)
	}
	res.Body.Close()
}

// TestHTTPEnds ends a request and an answer in each way at each byte of the body.
func TestHTTPEnds(t *testing.T) {
	const body = "abc"
	for _, way := range []func(int) Fate{Cut, Reset, Hang} {
		for n := range len(body) + 2 {
			for _, fault := range []Fault{{Request: way(n)}, {Answer: way(n)}} {
				t.Run(fmt.Sprint(fault), func(t *testing.T) { httpAt(t, fault, n, body) })
			}
		}
	}
}

func httpAt(t *testing.T, fault Fault, n int, body string) {
	s, p := httpPair(t)
	p.Set(HTTPRule{Name: "x", Times: 1, Fault: fault})
	ctx, cancel := context.WithCancel(t.Context())
	hung := fault.Request.then == hang || fault.Answer.then == hang
	if hung {
		time.AfterFunc(40*time.Millisecond, cancel)
	}
	status, got, err := put(ctx, p, body)
	if err == nil {
		t.Fatal("the client saw nothing")
	}
	if hung != errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	cancel()
	if hung {
		p.Close()
	}
	if fault.Answer.then != pass {
		if all := s.got(1); !all[0].whole || all[0].body != body {
			t.Errorf("the server got %+v", all)
		}
		if want := "got abc"[:n]; fault.Answer.then == cut && got != want || n > 0 && fault.Answer.then == cut && status != http.StatusAccepted {
			t.Errorf("%d %q, want %q", status, got, want)
		}
		return
	}
	if n == 0 {
		if _, _, err := put(t.Context(), p, "next"); !hung && err != nil {
			t.Error(err)
		}
		if !hung && s.got(1)[0].body != "next" {
			t.Error("the lost request arrived")
		}
		return
	}
	if all := s.got(1); fault.Request.then == cut && all[0].body != body[:min(n, len(body))] || all[0].whole != (n >= len(body)) && fault.Request.then != reset {
		t.Errorf("the server got %+v, want %d bytes", all, n)
	}
}

// TestHTTPLate: a request that is delayed arrives although the client has given
// it up, after the one that came later.
func TestHTTPLate(t *testing.T) {
	s, p := httpPair(t)
	p.Set(HTTPRule{Times: 1, Fault: Fault{DelayRequest: 150 * time.Millisecond}})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, _, err := put(ctx, p, "first"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, _, err := put(t.Context(), p, "second"); err != nil {
		t.Fatal(err)
	}
	if all := s.got(2); all[0].body != "second" || all[1].body != "first" {
		t.Errorf("%+v", all)
	}
}

func TestHTTPReplies(t *testing.T) {
	s, p := httpPair(t)
	p.Set(
		HTTPRule{Times: 2, Reply: S3Error(503, "SlowDown")},
		HTTPRule{From: 3, Times: 1, Edit: func(_ *http.Request, a *Answer) *Answer {
			return &Answer{a.Status + 1, a.Header, append(a.Body, '!')}
		}},
	)
	for i, want := range []string{"503 SlowDown", "503 SlowDown", "203 got c!", "202 got d"} {
		status, got, err := put(t.Context(), p, "abcd"[i:i+1])
		if err != nil || !strings.HasPrefix(want, fmt.Sprint(status)) || !strings.Contains(got, want[4:]) {
			t.Errorf("%d %q, %v, want %s", status, got, err, want)
		}
	}
	if n := len(s.got(2)); n != 2 || len(p.Hits()) != 3 || p.Hits()[0].Request != "PUT /bucket/key PutObject" {
		t.Errorf("%d requests, hits %v", n, p.Hits())
	}
}

// TestHTTPConnections ends connections at each byte that a client sends or gets.
func TestHTTPConnections(t *testing.T) {
	for _, way := range []func(int) Fate{Cut, Reset} {
		for _, n := range []int{0, 1, 10, 60} {
			for _, fault := range []Fault{{Request: way(n)}, {Answer: way(n)}} {
				_, p := httpPair(t)
				p.SetConns(ConnRule{Times: 1, Fault: fault})
				if _, _, err := put(t.Context(), p, "body"); err == nil {
					t.Errorf("%v: the client saw nothing", fault)
				}
				if len(p.ConnHits()) != 1 {
					t.Errorf("%v: hits %v", fault, p.ConnHits())
				}
				if _, _, err := put(t.Context(), p, "body"); err != nil {
					t.Errorf("%v: %v", fault, err)
				}
			}
		}
	}
}

// TestHTTPDown: neither a proxy that is down nor one whose server is gives an answer.
func TestHTTPDown(t *testing.T) {
	_, p := httpPair(t)
	p.SetDown(true)
	if status, _, err := put(t.Context(), p, ""); err == nil {
		t.Errorf("status %d", status)
	}
	p.SetDown(false)
	if _, _, err := put(t.Context(), p, ""); err != nil {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	p, err = NewHTTP("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if status, _, err := put(t.Context(), p, ""); err == nil {
		t.Errorf("status %d", status)
	}
}

func TestOperation(t *testing.T) {
	for _, c := range []struct{ method, uri, header, want string }{
		{"GET", "/", "", "ListBuckets"},
		{"PUT", "/b", "", "CreateBucket"},
		{"GET", "/b/?list-type=2&prefix=a", "", "ListObjectsV2"},
		{"PUT", "/b/a/c", "", "PutObject"},
		{"PUT", "/b/a", "X-Amz-Copy-Source", "CopyObject"},
		{"GET", "/b/a", "", "GetObject"},
		{"HEAD", "/b/a", "", "HeadObject"},
		{"DELETE", "/b/a", "", "DeleteObject"},
		{"POST", "/b/?delete", "", "DeleteObjects"},
		{"POST", "/b/a?uploads", "", "CreateMultipartUpload"},
		{"PUT", "/b/a?partNumber=1&uploadId=u", "", "UploadPart"},
		{"POST", "/b/a?uploadId=u", "", "CompleteMultipartUpload"},
		{"DELETE", "/b/a?uploadId=u", "", "AbortMultipartUpload"},
		{"GET", "/b/a?uploadId=u", "", "ListParts"},
		{"POST", "/", "X-Amz-Target", "SendMessageBatch"},
		{"PATCH", "/b/a", "", ""},
	} {
		u, err := url.Parse(c.uri)
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{Method: c.method, URL: u, Header: http.Header{}}
		if c.header != "" {
			r.Header.Set(c.header, "AmazonSQS.SendMessageBatch")
		}
		if got := Operation(r); got != c.want || Operations("x", c.want)(r) != true || Operations("x")(r) {
			t.Errorf("%s %s: %q, want %q", c.method, c.uri, got, c.want)
		}
	}
}
