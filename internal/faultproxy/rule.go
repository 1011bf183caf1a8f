// Package faultproxy stands between a client and a server and does to their
// conversation what networks, load and crashes do: requests and answers are
// lost, late, cut in the middle or never end, connections hang half-open, and
// servers say that they are too busy. Servers on a developer's machine do none
// of this, the real clouds do all of it.
//
// [TCP] passes bytes on, [Kafka] and [Postgres] know the frames of their
// protocols, so that a test can say "lose the answer to the third EndTxn", and
// [HTTP] stands before S3, SQS and the like. What happens is said by rules:
//
//	p.Set(faultproxy.KafkaRule{
//		Match: faultproxy.API(faultproxy.EndTxn), From: 3, Times: 1,
//		Fault: faultproxy.Fault{Answer: faultproxy.Cut(0)},
//	})
//
// A proxy listens on 127.0.0.1 on a port of its own, does not end TLS, and may be
// given other rules while it runs. All methods are safe for concurrent use.
package faultproxy

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// A Fate says how much of a request or an answer passes, and what comes then.
// The zero value lets all of it pass.
type Fate struct {
	then  then
	after int
}

type then uint8

const (
	pass then = iota
	cut
	reset
	hang
)

// Cut lets the first n bytes pass and closes the connection, on both sides.
func Cut(n int) Fate { return Fate{cut, max(n, 0)} }

// Reset is Cut by a TCP reset, as from a host that has rebooted. What the other
// side has not read yet may be lost to it.
func Reset(n int) Fate { return Fate{reset, max(n, 0)} }

// Hang lets the first n bytes pass and then nothing more in either direction,
// with both connections open until the proxy is closed: half-open, as behind a
// lost network.
func Hang(n int) Fate { return Fate{hang, max(n, 0)} }

func (f Fate) String() string {
	return [...]string{"pass", "cut", "reset", "hang"}[f.then] + fmt.Sprintf("(%d)", f.after)
}

// A Fault is what happens to one request and its answer. The zero value is none.
//
//	Request: Cut(0)  the request is lost: the server never sees it
//	Request: Cut(n)  n bytes of it arrive
//	Answer:  Cut(0)  the answer is lost: the server has done the work, the client can't know
//	Answer:  Cut(n)  n bytes of it arrive
//	Request: Hang(0), Answer: Hang(0)  the same, and nobody notices
//
// Bytes are those of the message with its length and headers; HTTP counts those
// of the body, and with 0 also withholds the head.
type Fault struct {
	// DelayRequest passes before the request is handed on, DelayAnswer before the
	// answer is. What follows on the same connection waits behind it.
	DelayRequest, DelayAnswer time.Duration

	Request, Answer Fate
}

// A Rule says which requests of type R a fault hits. The first rule that hits
// decides; a rule counts each request that it matches, whether or not another
// one has hit it.
type Rule[R, A any] struct {
	Name   string       // for Hits
	Match  func(R) bool // nil matches each; called by one goroutine at a time
	From   int          // the first matching request that is hit, counted from 1; 0 is 1
	Times  int          // how many are hit, 0 for no end
	Chance float64      // that one is hit, (0, 1]; 0 is 1. Decided by the proxy's seed and the count alone

	Fault Fault
	// Reply, if not nil, answers in place of the server, which never sees the
	// request. Edit, if not nil, changes the server's answer. They may be called by
	// several goroutines at once.
	Reply func(R) A
	Edit  func(R, A) A
}

// A Hit is a request that a rule has hit.
type Hit struct {
	At      time.Time
	Rule    string
	Request string
}

// book keeps rules and their counts.
type book[R, A any] struct {
	mu    sync.Mutex
	seed  uint64
	rules []*counted[R, A]
	hits  []Hit
	seen  int
	name  func(R) string // for Hits; nil is fmt.Sprint
}

type counted[R, A any] struct {
	Rule[R, A]
	matched, hit int
	dice         *rand.Rand
}

// Set replaces the rules, and counts from 0.
func (b *book[R, A]) Set(rules ...Rule[R, A]) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rules, b.hits, b.seen = nil, nil, 0
	for i, r := range rules {
		b.rules = append(b.rules, &counted[R, A]{Rule: r, dice: rand.New(rand.NewPCG(b.seed, uint64(i)))})
	}
}

// Seed decides Chance; 0 if it is never called. It is for the rules that Set
// gets afterwards.
func (b *book[R, A]) Seed(seed uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seed = seed
}

// Hits are the requests that were hit since Set.
func (b *book[R, A]) Hits() []Hit {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Hit(nil), b.hits...)
}

// Seen is how many requests came since Set. A sweep lets a fault hit the n-th
// request for n = 1, 2, … until no more than n-1 come.
func (b *book[R, A]) Seen() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen
}

// decide gives the rule that hits r, or one that does nothing.
func (b *book[R, A]) decide(r R) *Rule[R, A] {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen++
	var hit *counted[R, A]
	for _, c := range b.rules {
		if c.counts(r) && hit == nil {
			hit = c
			hit.hit++
		}
	}
	if hit == nil {
		return &Rule[R, A]{}
	}
	name := ""
	if b.name != nil {
		name = b.name(r)
	} else {
		name = fmt.Sprint(r)
	}
	b.hits = append(b.hits, Hit{time.Now(), hit.Name, name})
	return &hit.Rule
}

// counts counts r if it matches, and tells whether the rule wants to hit it.
func (c *counted[R, A]) counts(r R) bool {
	if c.Match != nil && !c.Match(r) {
		return false
	}
	c.matched++
	// The dice are thrown for each match, so that the n-th throw is the n-th match's.
	lucky := c.Chance <= 0 || c.dice.Float64() < c.Chance
	return lucky && c.matched >= c.From && (c.Times == 0 || c.hit < c.Times)
}
