package partwise

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

// link is one connection to one broker, owned by one attempt at a time. A link
// that failed is never used again.
type link struct {
	addr   string
	broker *sarama.Broker
	conn   *wire
	stop   func() bool // ends the watch on the owner's context
	idle   time.Time   // since when it waits in the pool
	once   sync.Once
}

// wire is the network connection beneath sarama's: cutting it ends whatever
// waits on it, without sarama's lock, and its deadlines leave out the time that
// the broker said it would not answer in. The first failure to read or write is its
// last: sarama, when it first asks for versions, would read on after a timeout, in
// the middle of an answer, and take what it finds there for a length.
type wire struct {
	net.Conn
	until  atomic.Int64 // throttled until then, Unix nanoseconds
	failed atomic.Pointer[error]
}

// Read implements net.Conn.
func (w *wire) Read(b []byte) (int, error) {
	if err := w.failed.Load(); err != nil {
		return 0, *err
	}
	n, err := w.Conn.Read(b)
	if err != nil {
		w.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// Write implements net.Conn.
func (w *wire) Write(b []byte) (int, error) {
	if err := w.failed.Load(); err != nil {
		return 0, *err
	}
	n, err := w.Conn.Write(b)
	if err != nil {
		w.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

// SetReadDeadline implements net.Conn.
func (w *wire) SetReadDeadline(t time.Time) error {
	return w.Conn.SetReadDeadline(t.Add(w.throttled()))
}

// SetWriteDeadline implements net.Conn.
func (w *wire) SetWriteDeadline(t time.Time) error {
	return w.Conn.SetWriteDeadline(t.Add(w.throttled()))
}

func (w *wire) throttled() time.Duration {
	return max(0, time.Duration(w.until.Load()-time.Now().UnixNano()))
}

// cut closes the connection. Any call on it returns.
func (w *wire) cut() { _ = w.Close() }

// dialer makes the one connection of a link for sarama.
type dialer struct {
	ctx  context.Context
	opts *Options
	tls  *tls.Config
	made *wire
}

// Dial implements the interface of sarama's Net.Proxy.Dialer. sarama calls it
// once, before Connected returns.
func (d *dialer) Dial(network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.opts.RequestTimeout)
	defer cancel()
	conn, err := d.opts.Dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if d.tls != nil {
		c := d.tls.Clone()
		if c.ServerName == "" {
			c.ServerName, _, _ = net.SplitHostPort(addr)
		}
		secure := tls.Client(conn, c)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		conn = secure
	}
	d.made = &wire{Conn: conn}
	return d.made, nil
}

// connect opens a link and waits until it stands: encrypted, versions known,
// authenticated. It obeys ctx, and so does the link until release.
func connect(ctx context.Context, opts *Options, base *sarama.Config, addr string) (*link, error) {
	d := &dialer{ctx: ctx, opts: opts}
	conf := *base
	if conf.Net.TLS.Enable {
		// The handshake is ours: it obeys the context, and its error says what was wrong.
		conf.Net.TLS.Enable, d.tls, conf.Net.TLS.Config = false, conf.Net.TLS.Config, nil
	}
	conf.Net.Proxy.Enable, conf.Net.Proxy.Dialer = true, d
	l := &link{addr: addr, broker: sarama.NewBroker(addr)}
	if err := l.broker.Open(&conf); err != nil {
		return nil, broken(ctx, "connect to", addr, err)
	}
	ok, err := l.broker.Connected() // waits for the end of connecting
	l.conn = d.made
	if failed := l.failure(); failed != nil { // which sarama overlooks where versions are concerned
		ok, err = false, failed
		_ = l.broker.Close()
	}
	if ok {
		l.own(ctx)
		return l, nil
	}
	if l.conn != nil {
		l.conn.cut()
	}
	if err == nil {
		err = sarama.ErrNotConnected
	}
	return nil, broken(ctx, "connect", addr, err)
}

// failure is the first failure to read or write, if any.
func (l *link) failure() error {
	if l.conn == nil {
		return nil
	}
	if err := l.conn.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// own makes the link end with ctx.
func (l *link) own(ctx context.Context) { l.stop = context.AfterFunc(ctx, l.conn.cut) }

// release undoes own. It reports whether the link is still good.
func (l *link) release() bool { return l.stop() }

// drop closes the link. Requests in flight get their callbacks with an error
// before it returns. It must not be called from a callback.
func (l *link) drop() {
	l.once.Do(func() {
		l.stop()
		l.conn.cut()
		_ = l.broker.Close()
	})
}

// throttle notes that the broker asked to be left alone for d from now.
func (l *link) throttle(d time.Duration) {
	if d > 0 {
		l.conn.until.Store(time.Now().Add(d).UnixNano())
	}
}

// wait returns when the broker may be asked again. sarama waits by itself, but
// while it holds its lock, and not for a context.
func (l *link) wait(ctx context.Context) error { return sleep(ctx, l.conn.throttled()) }

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
