package partwise

import (
	"context"
	"sync"
	"time"

	"github.com/IBM/sarama"
)

// idleLimit is how long a link waits in the pool: brokers close idle
// connections after 10 minutes, load balancers after one to six.
const idleLimit = 50 * time.Second

// pool keeps links between attempts. It is safe for concurrent use.
type pool struct {
	opts *Options
	conf *sarama.Config

	mu     sync.Mutex
	idle   map[string][]*link
	closed bool
}

// get returns a link to addr that only the caller uses.
func (p *pool) get(ctx context.Context, addr string) (*link, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrClosed
	}
	var stale []*link
	var found *link
	for list := p.idle[addr]; len(list) > 0 && found == nil; {
		l := list[len(list)-1]
		list = list[:len(list)-1]
		p.idle[addr] = list
		if time.Since(l.idle) > idleLimit {
			stale = append(stale, l)
			continue
		}
		found = l
	}
	p.mu.Unlock()
	for _, l := range stale {
		l.drop()
	}
	if found != nil {
		found.own(ctx)
		return found, nil
	}
	return connect(ctx, p.opts, p.conf, addr)
}

// put gives back a link on which nothing is in flight.
func (p *pool) put(l *link) {
	if !l.release() {
		l.drop()
		return
	}
	p.mu.Lock()
	keep := !p.closed && len(p.idle[l.addr]) < 16
	if keep {
		l.idle = time.Now()
		p.idle[l.addr] = append(p.idle[l.addr], l)
	}
	p.mu.Unlock()
	if !keep {
		l.drop()
	}
}

func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	idle := p.idle
	p.idle = nil
	p.mu.Unlock()
	for _, list := range idle {
		for _, l := range list {
			l.drop()
		}
	}
}

// role keeps requests that wait for their answer off the connection that
// batches are pipelined on.
type role uint8

const (
	control role = iota
	produce
)

type place struct {
	role role
	addr string
}

// conns are the links of one attempt. They end with its context.
type conns struct {
	ctx  context.Context
	pool *pool

	mu    sync.Mutex
	links map[place]*pending
}

// pending is a link that stands or is being made; others wait for it.
type pending struct {
	ready chan struct{}
	link  *link
	err   error
}

func newConns(ctx context.Context, p *pool) *conns {
	return &conns{ctx: ctx, pool: p, links: map[place]*pending{}}
}

// get returns the attempt's link of a role to addr.
func (c *conns) get(r role, addr string) (*link, error) {
	at := place{r, addr}
	c.mu.Lock()
	if e, ok := c.links[at]; ok {
		c.mu.Unlock()
		<-e.ready
		return e.link, e.err
	}
	e := &pending{ready: make(chan struct{})}
	c.links[at] = e
	c.mu.Unlock()
	l, err := c.pool.get(c.ctx, addr)
	c.mu.Lock()
	defer c.mu.Unlock()
	e.link, e.err = l, err
	if err != nil && c.links[at] == e {
		delete(c.links, at)
	}
	close(e.ready)
	return l, err
}

// fail drops a link that gave an error; the next get makes a new one.
func (c *conns) fail(r role, l *link) {
	at := place{r, l.addr}
	c.mu.Lock()
	if e := c.links[at]; e != nil && e.link == l {
		delete(c.links, at)
	}
	c.mu.Unlock()
	l.drop()
}

// close gives back or drops all links. Nothing may be in flight if clean.
func (c *conns) close(clean bool) {
	c.mu.Lock()
	links := c.links
	c.links = nil
	c.mu.Unlock()
	for _, e := range links {
		<-e.ready
		switch {
		case e.link == nil:
		case clean:
			c.pool.put(e.link)
		default:
			e.link.drop()
		}
	}
}

// ask sends one request and waits for its answer; broken links are dropped.
func ask[T any](c *conns, op, addr string, request func(*sarama.Broker) (T, error)) (T, error) {
	var none T
	l, err := c.get(control, addr)
	if err != nil {
		return none, err
	}
	answer, err := request(l.broker)
	if err != nil {
		c.fail(control, l)
		return none, broken(c.ctx, op, addr, err)
	}
	return answer, nil
}
