package faultproxy

import (
	"bytes"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
)

// An HTTPRule hits requests. Their bodies have not been read when Match and Reply
// see them, and are not there for them.
type HTTPRule = Rule[*http.Request, *Answer]

// An Answer is one of HTTP. Its Content-Length follows from its body.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// HTTP is a reverse proxy for a server of HTTP/1.1. It hands on requests and
// answers as they are, with the client's Host, so that signatures hold. If the
// server can't be reached, or cuts a connection, so does the proxy.
type HTTP struct {
	network
	book[*http.Request, *Answer]
	addr      string
	upstream  *url.URL
	transport *http.Transport
	accepted  chan net.Conn
}

// NewHTTP starts a proxy for the server at a URL http://host:port.
func NewHTTP(server string) (*HTTP, error) {
	upstream, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	p := &HTTP{
		upstream: upstream, accepted: make(chan net.Conn),
		transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64},
	}
	p.init()
	p.name = func(r *http.Request) string { return r.Method + " " + r.RequestURI + " " + Operation(r) }
	if p.addr, err = p.listen(p.accept); err != nil {
		return nil, err
	}
	front := &http.Server{Handler: p, ErrorLog: log.New(io.Discard, "", 0)}
	p.group.Go(func() { _ = front.Serve(handedListener{p}) })
	context.AfterFunc(p.ctx, p.transport.CloseIdleConnections)
	return p, nil
}

// URL is the proxy's address for clients.
func (p *HTTP) URL() string { return "http://" + p.addr }

// ServeHTTP handles one request of a client.
func (p *HTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rule := p.decide(r)
	// An answer may come before the end of the request. A client that is still sending would never see it if net/http then
	// closed the connection.
	defer func() { _, _ = io.Copy(io.Discard, r.Body) }()
	if rule.Reply != nil {
		p.sleep(rule.Fault.DelayRequest)
		p.give(w, r, rule, rule.Reply(r))
		return
	}
	out, err := p.outgoing(r, rule)
	if err != nil {
		p.end(w, Cut(0)) // the client is gone
		return
	}
	p.sleep(rule.Fault.DelayRequest)
	if f := rule.Fault.Request; f.then != pass {
		p.part(w, out, f)
		return
	}
	res, err := p.transport.RoundTrip(out)
	if err != nil {
		p.end(w, Cut(0))
		return
	}
	defer res.Body.Close()
	if !rule.touchesAnswer() {
		p.head(w, res.Header, res.StatusCode)
		if _, err := io.Copy(w, res.Body); err != nil {
			p.end(w, Cut(0))
		}
		return
	}
	body, err := io.ReadAll(res.Body) // to its end: the server is done with it
	if err != nil {
		p.end(w, Cut(0))
		return
	}
	answer := &Answer{res.StatusCode, res.Header, body}
	if rule.Edit != nil {
		answer = rule.Edit(r, answer)
	}
	p.give(w, r, rule, answer)
}

// hopByHop headers are between two neighbours (RFC 9110, section 7.6.1). Expect
// was met by us.
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "Expect"}

// outgoing is the request to the server. One that is hit is read to its end
// first, so that it goes on, late, also when the client has given it up.
func (p *HTTP) outgoing(r *http.Request, rule *HTTPRule) (*http.Request, error) {
	ctx := r.Context()
	if rule.Fault != (Fault{}) || rule.Edit != nil {
		ctx = p.ctx
	}
	out := r.Clone(ctx)
	out.RequestURI = ""
	out.URL.Scheme, out.URL.Host = p.upstream.Scheme, p.upstream.Host
	for _, name := range hopByHop {
		out.Header.Del(name)
	}
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = nil // or Go would add its own
	}
	out.Body = io.NopCloser(r.Body) // its rest is ours to read
	if r.ContentLength == 0 {
		out.Body = nil
	} else if ctx == p.ctx {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		out.Body, out.ContentLength, out.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	}
	return out, nil
}

// part sends a part of a request, on a connection of its own, and ends it.
func (p *HTTP) part(w http.ResponseWriter, out *http.Request, f Fate) {
	if f.after == 0 {
		p.end(w, f)
		return
	}
	var text bytes.Buffer
	if err := out.Write(&text); err != nil {
		p.end(w, Cut(0))
		return
	}
	server, err := (&net.Dialer{}).DialContext(p.ctx, "tcp", p.upstream.Host)
	if err != nil || !p.add(server) {
		p.end(w, Cut(0))
		return
	}
	defer p.remove(server)
	head := bytes.Index(text.Bytes(), []byte("\r\n\r\n")) + 4
	_, _ = server.Write(text.Bytes()[:min(text.Len(), head+f.after)])
	if f.then == reset {
		abort(server)
	}
	p.end(w, f)
}

// give answers a client, as the rule has it.
func (p *HTTP) give(w http.ResponseWriter, r *http.Request, rule *HTTPRule, a *Answer) {
	f := rule.Fault.Answer
	p.sleep(rule.Fault.DelayAnswer)
	if f.then != pass && f.after == 0 {
		p.end(w, f)
		return
	}
	header := a.Header.Clone()
	if header == nil {
		header = http.Header{}
	}
	if r.Method != http.MethodHead && a.Status != http.StatusNoContent && a.Status != http.StatusNotModified {
		header.Set("Content-Length", strconv.Itoa(len(a.Body)))
	}
	p.head(w, header, a.Status)
	body := a.Body
	if f.then != pass {
		body = body[:min(len(body), f.after)]
	}
	_, _ = w.Write(body) // fails for a client that is gone
	if f.then != pass {
		_ = http.NewResponseController(w).Flush()
		p.end(w, f)
	}
}

// head begins an answer with these headers and no others.
func (p *HTTP) head(w http.ResponseWriter, header http.Header, status int) {
	ours := w.Header()
	for name, values := range header {
		ours[name] = values
	}
	for _, name := range hopByHop {
		ours.Del(name)
	}
	for _, name := range []string{"Content-Type", "Date"} { // or Go would add its own
		if _, ok := header[name]; !ok {
			ours[name] = nil
		}
	}
	w.WriteHeader(status)
}

// end ends the client's connection.
func (p *HTTP) end(w http.ResponseWriter, f Fate) {
	if f.then == hang {
		<-p.ctx.Done()
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // net/http closes it
	}
	if f.then == reset {
		if c, ok := conn.(*handedConn); ok {
			abort(c.Conn)
		}
	}
	_ = conn.Close()
}

// accept gives a client's connection to net/http and returns when it is closed.
func (p *HTTP) accept(client net.Conn) {
	p.state.Lock()
	p.number++
	c := &Connection{p.number, p.upstream.Host}
	p.state.Unlock()
	fault := p.conns.decide(c).Fault
	p.sleep(fault.DelayRequest)
	conn := &handedConn{Conn: client, network: &p.network, closed: make(chan struct{})}
	conn.in.fate, conn.out.fate = fault.Request, fault.Answer
	select {
	case p.accepted <- conn:
		<-conn.closed
	case <-p.ctx.Done():
	}
}

// handedListener is net/http's view of the connections that accept gives it.
type handedListener struct{ p *HTTP }

func (l handedListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.p.accepted:
		return c, nil
	case <-l.p.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (l handedListener) Close() error   { return nil }
func (l handedListener) Addr() net.Addr { return l.p.listeners[0].Addr() }

// A handedConn is a client's connection that ends when its fate has come.
type handedConn struct {
	net.Conn
	network *network
	in, out struct {
		fate   Fate
		passed int
	}
	once   sync.Once
	closed chan struct{}
}

func (c *handedConn) Read(data []byte) (int, error) {
	if c.in.fate.then != pass {
		if c.in.passed >= c.in.fate.after {
			return 0, c.end(c.in.fate)
		}
		data = data[:min(len(data), c.in.fate.after-c.in.passed)]
	}
	n, err := c.Conn.Read(data)
	c.in.passed += n
	return n, err
}

func (c *handedConn) Write(data []byte) (int, error) {
	if c.out.fate.then != pass {
		data = data[:min(len(data), c.out.fate.after-c.out.passed)]
	}
	n, err := c.Conn.Write(data)
	c.out.passed += n
	if err == nil && c.out.fate.then != pass && c.out.passed >= c.out.fate.after {
		err = c.end(c.out.fate)
	}
	return n, err
}

func (c *handedConn) end(f Fate) error {
	switch f.then {
	case hang:
		<-c.network.ctx.Done()
	case reset:
		abort(c.Conn)
	}
	_ = c.Close()
	return errEnded
}

func (c *handedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}
