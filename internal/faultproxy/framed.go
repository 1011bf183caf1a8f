package faultproxy

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
)

// A dialect cuts one connection's bytes into messages. One goroutine reads
// requests, another one answers.
type dialect[R any] interface {
	// request reads the client's next message; raw is all of it. A nil raw with an
	// answer is a message that the proxy answers itself.
	request(*bufio.Reader) (raw []byte, r R, kind expects, err error)
	// answer reads the server's next message and tells whether it completes the
	// answer to the oldest open request.
	answer(*bufio.Reader) (raw []byte, last bool, err error)
	// rewrite changes an answer to r before anybody sees it.
	rewrite(r R, raw []byte) ([]byte, error)
}

// expects says what answer belongs to a message of the client.
type expects uint8

const (
	ownAnswer  expects = iota // one of its own
	lastAnswer                // that of the request before it, which is still open
	nextAnswer                // that of a later message
	noAnswer
)

// An exchange is a request whose answer is not complete.
type exchange[R, A any] struct {
	r      R
	rule   *Rule[R, A]
	reply  []byte // in place of the server's answer
	late   bool   // DelayAnswer has passed
	passed int    // bytes of the answer
}

// A talk is one connection in which both sides speak a protocol of messages.
type talk[R any] struct {
	*pair
	dialect dialect[R]
	rules   *book[R, []byte]
	carried *Rule[R, []byte] // hit a message whose answer comes with a later one; of the reader of requests

	mu   sync.Mutex // also held while a client is written to
	open []*exchange[R, []byte]
}

// servePair runs a talk, step by step, until it has ended.
func (n *network) servePair(p *pair, requests, answers func(*bufio.Reader) error) {
	forever := func(step func(*bufio.Reader) error, from net.Conn) func() error {
		return func() error {
			r := bufio.NewReaderSize(from, 64<<10)
			for {
				if err := step(r); err != nil {
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
			}
		}
	}
	p.run(forever(requests, p.client), forever(answers, p.server))
}

// request reads one message of the client and hands it on.
func (t *talk[R]) request(from *bufio.Reader) error {
	raw, r, kind, err := t.dialect.request(from)
	if err != nil {
		return err
	}
	rule := t.rules.decide(r)
	t.net.sleep(rule.Fault.DelayRequest)
	if rule.Reply != nil {
		return t.expect(&exchange[R, []byte]{r: r, rule: rule, reply: rule.Reply(r)})
	}
	if f := rule.Fault.Request; f.then != pass {
		if _, err := t.toServer.Write(raw[:min(f.after, len(raw))]); err != nil {
			return err
		}
		return t.end(f)
	}
	if err := t.note(r, kind, rule); err != nil {
		return err
	}
	_, err = t.toServer.Write(raw)
	return err
}

// note remembers what is to happen to the answer.
func (t *talk[R]) note(r R, kind expects, rule *Rule[R, []byte]) error {
	if kind == noAnswer {
		return nil
	}
	if t.carried != nil && !rule.touchesAnswer() {
		rule = t.carried
	}
	switch kind {
	case nextAnswer:
		if rule.touchesAnswer() {
			t.carried = rule
		}
	case lastAnswer:
		t.mu.Lock()
		defer t.mu.Unlock()
		if last := len(t.open) - 1; last >= 0 && rule.touchesAnswer() {
			t.open[last].rule = rule
		}
	case ownAnswer:
		t.carried = nil
		return t.expect(&exchange[R, []byte]{r: r, rule: rule})
	}
	return nil
}

func (r *Rule[R, A]) touchesAnswer() bool {
	return r.Fault.Answer.then != pass || r.Fault.DelayAnswer > 0 || r.Edit != nil
}

// expect appends an exchange; replies that are next are given.
func (t *talk[R]) expect(x *exchange[R, []byte]) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.open = append(t.open, x)
	return t.giveReplies()
}

// giveReplies answers the oldest open requests as long as the server doesn't
// have to. t.mu is held.
func (t *talk[R]) giveReplies() error {
	for len(t.open) > 0 && t.open[0].reply != nil {
		x := t.open[0]
		if err := t.give(x, x.reply, true); err != nil {
			return err
		}
		t.open = t.open[1:]
	}
	return nil
}

// answer reads one message of the server and hands it on.
func (t *talk[R]) answer(from *bufio.Reader) error {
	raw, last, err := t.dialect.answer(from)
	if err != nil {
		return err
	}
	t.mu.Lock()
	var x *exchange[R, []byte]
	if len(t.open) > 0 {
		x = t.open[0]
	}
	t.mu.Unlock()
	if x == nil { // nobody asked
		_, err := t.toClient.Write(raw)
		return err
	}
	if raw, err = t.dialect.rewrite(x.r, raw); err != nil {
		return err
	}
	t.mu.Lock()
	rule := x.rule
	t.mu.Unlock()
	if !x.late {
		x.late = true
		t.net.sleep(rule.Fault.DelayAnswer)
	}
	if rule.Edit != nil {
		raw = rule.Edit(x.r, raw)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.give(x, raw, last); err != nil || !last {
		return err
	}
	t.open = t.open[1:]
	return t.giveReplies()
}

// give writes what may pass of one message of an answer, and after the last one
// does what the rule says. t.mu is held.
func (t *talk[R]) give(x *exchange[R, []byte], raw []byte, last bool) error {
	f := x.rule.Fault.Answer
	if f.then != pass {
		raw = raw[:min(len(raw), max(0, f.after-x.passed))]
	}
	x.passed += len(raw)
	if len(raw) > 0 {
		if _, err := t.toClient.Write(raw); err != nil {
			return err
		}
	}
	if last && f.then != pass {
		return t.end(f)
	}
	return nil
}
