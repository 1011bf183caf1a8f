package faultproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// A Connection is what a ConnRule sees: a client has connected.
type Connection struct {
	Number int    // from 1
	To     string // the server's address
}

func (c *Connection) String() string { return fmt.Sprintf("connection %d to %s", c.Number, c.To) }

// A ConnRule hits connections: a fault's Request is all that the client sends,
// its Answer all that it gets. DelayRequest passes before the server is dialled;
// DelayAnswer, Reply and Edit mean nothing here.
type ConnRule = Rule[*Connection, struct{}]

// network is what all proxies share: listeners, connections, and their end.
type network struct {
	conns book[*Connection, struct{}]

	ctx   context.Context // ends with Close
	stop  context.CancelFunc
	group sync.WaitGroup

	state     sync.Mutex
	down      bool
	number    int
	listeners []net.Listener
	open      map[net.Conn]struct{}
}

func (n *network) init() {
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.open = map[net.Conn]struct{}{}
}

// listen opens a port and hands each connection to serve, in a goroutine.
func (n *network) listen(serve func(net.Conn)) (addr string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	n.state.Lock()
	n.listeners = append(n.listeners, l)
	n.state.Unlock()
	n.group.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			if !n.add(conn) {
				abort(conn)
				continue
			}
			n.group.Go(func() {
				defer n.remove(conn)
				serve(conn)
			})
		}
	})
	return l.Addr().String(), nil
}

// add notes an open connection, unless the server is to seem down.
func (n *network) add(conn net.Conn) bool {
	n.state.Lock()
	defer n.state.Unlock()
	if n.down || n.ctx.Err() != nil {
		return false
	}
	n.open[conn] = struct{}{}
	return true
}

func (n *network) remove(conn net.Conn) {
	n.state.Lock()
	delete(n.open, conn)
	n.state.Unlock()
	_ = conn.Close()
}

// SetConns replaces the rules for connections, and counts from 0. They hold for
// new connections.
func (n *network) SetConns(rules ...ConnRule) { n.conns.Set(rules...) }

// ConnHits are the connections that were hit since SetConns.
func (n *network) ConnHits() []Hit { return n.conns.Hits() }

// SetDown makes the server seem down: each open connection is reset, and each
// new one at once.
func (n *network) SetDown(down bool) {
	n.state.Lock()
	n.down = down
	n.state.Unlock()
	if down {
		n.CutAll()
	}
}

// CutAll resets the connections that are open now.
func (n *network) CutAll() {
	n.state.Lock()
	defer n.state.Unlock()
	for conn := range n.open { // all of them first: the end of one makes its other side be closed
		linger(conn)
	}
	for conn := range n.open {
		_ = conn.Close()
	}
}

// Close ends the proxy and all its connections, and returns when they have ended.
func (n *network) Close() error {
	n.stop()
	n.state.Lock()
	for _, l := range n.listeners {
		_ = l.Close()
	}
	n.state.Unlock()
	n.CutAll()
	n.group.Wait()
	return nil
}

// sleep waits for d, or less if the proxy is closed.
func (n *network) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-n.ctx.Done():
	}
}

// abort closes a connection with a reset.
func abort(conn net.Conn) {
	linger(conn)
	_ = conn.Close()
}

// linger makes the close of a connection a reset.
func linger(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}

// dial connects a client's connection to the server, as the rules for
// connections have it.
func (n *network) dial(client net.Conn, to string) (*pair, error) {
	n.state.Lock()
	n.number++
	c := &Connection{n.number, to}
	n.state.Unlock()
	rule := n.conns.decide(c)
	n.sleep(rule.Fault.DelayRequest)
	server, err := (&net.Dialer{}).DialContext(n.ctx, "tcp", to)
	if err != nil {
		abort(client) // as the server would refuse it
		return nil, err
	}
	if !n.add(server) {
		abort(server)
		abort(client)
		return nil, net.ErrClosed
	}
	p := &pair{net: n, number: c.Number, client: client, server: server, frozen: make(chan struct{})}
	p.toServer = &meter{pair: p, to: server, fate: rule.Fault.Request}
	p.toClient = &meter{pair: p, to: client, fate: rule.Fault.Answer}
	if err := errors.Join(p.toServer.check(), p.toClient.check()); err != nil {
		n.remove(server)
		return nil, err
	}
	return p, nil
}

// A pair is a client's connection and the one to the server.
type pair struct {
	net                *network
	number             int
	client, server     net.Conn
	toServer, toClient *meter

	freeze sync.Once
	frozen chan struct{} // closed when nothing passes any more
}

// thaw waits for the end of the proxy if nothing passes any more.
func (p *pair) thaw() error {
	select {
	case <-p.frozen:
		<-p.net.ctx.Done()
		return errEnded
	default:
		return nil
	}
}

func (p *pair) close() {
	_ = p.client.Close()
	_ = p.server.Close()
}

// errEnded is what the reader of a connection gets when its fate has come.
var errEnded = errors.New("a fault ended the connection")

// end does what comes after the bytes that pass.
func (p *pair) end(f Fate) error {
	switch f.then {
	case cut:
		p.close()
	case reset:
		linger(p.client)
		linger(p.server)
		p.close()
	case hang:
		p.freeze.Do(func() { close(p.frozen) })
		return p.thaw()
	}
	return errEnded
}

// A meter writes to one side until the fate of the connection comes.
type meter struct {
	*pair
	to     net.Conn
	fate   Fate
	passed int
}

func (m *meter) check() error {
	if m.fate.then != pass && m.passed >= m.fate.after {
		return m.end(m.fate)
	}
	return nil
}

func (m *meter) Write(data []byte) (int, error) {
	if err := m.thaw(); err != nil {
		return 0, err
	}
	if m.fate.then != pass {
		data = data[:min(len(data), m.fate.after-m.passed)]
	}
	n, err := m.to.Write(data)
	m.passed += n
	if err == nil {
		err = m.check()
	}
	return n, err
}

// run moves both directions until both have ended; nil says that one has ended
// in good order. A side that has only finished sending still gets its answers.
func (p *pair) run(requests, answers func() error) {
	defer p.net.remove(p.server)
	var group sync.WaitGroup
	one := func(move func() error, to net.Conn) {
		err := errors.Join(move(), p.thaw())
		if tcp, ok := to.(*net.TCPConn); ok && err == nil {
			_ = tcp.CloseWrite()
			return
		}
		p.close()
	}
	group.Go(func() { one(requests, p.server) })
	one(answers, p.client)
	group.Wait()
}

// TCP is a proxy that knows no protocol.
type TCP struct {
	network
	addr string
}

// NewTCP starts a proxy for the server at host:port.
func NewTCP(server string) (*TCP, error) {
	p := &TCP{}
	p.init()
	var err error
	p.addr, err = p.listen(func(client net.Conn) {
		pair, err := p.dial(client, server)
		if err != nil {
			return
		}
		copyTo := func(to *meter, from net.Conn) func() error {
			return func() error {
				_, err := io.Copy(to, from)
				return err
			}
		}
		pair.run(copyTo(pair.toServer, client), copyTo(pair.toClient, pair.server))
	})
	return p, err
}

// Addr is host:port for clients.
func (p *TCP) Addr() string { return p.addr }
