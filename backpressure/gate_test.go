package backpressure

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// model is what a gate should be, in the simplest words: two lists.
type model struct {
	t        *rapid.T
	gate     *Gate
	now      time.Duration
	limit    int64
	waiting  []*Ticket
	flying   []*Ticket
	admitted []*Ticket // by the call in progress
}

func (m *model) bytes() (sum int64) {
	for _, t := range m.flying {
		sum += t.bytes
	}
	return sum
}

// settle moves what the last call admitted, in its order, and checks each step.
func (m *model) settle() {
	for _, t := range m.admitted {
		i := slices.Index(m.waiting, t)
		if i < 0 {
			m.t.Fatal("admitted a ticket that isn't waiting")
		}
		if i > 0 {
			m.t.Fatalf("passed %d others", i)
		}
		if sum := m.bytes() + t.bytes; sum > m.limit && (len(m.flying) > 0 || m.limit <= 0) {
			m.t.Fatalf("%d bytes in flight by an admission, limit %d", sum, m.limit)
		}
		m.waiting = slices.Delete(m.waiting, i, i+1)
		m.flying = append(m.flying, t)
	}
	m.admitted = nil
}

// check compares, and finds a wake-up that was lost.
func (m *model) check() {
	m.settle()
	s := m.gate.Snapshot(m.now)
	if s.InFlight != m.bytes() || s.Requests != len(m.flying) || s.Waiting != len(m.waiting) {
		m.t.Fatalf("gate has %d bytes, %d requests, %d waiting; model %d, %d, %d", s.InFlight, s.Requests, s.Waiting, m.bytes(), len(m.flying), len(m.waiting))
	}
	if len(m.waiting) == 0 {
		return
	}
	if _, ok := m.gate.Next(); !ok {
		m.t.Fatal("somebody waits and no tick is wanted")
	}
	if next, _ := m.gate.Next(); m.gate.head == byPace && next > max(m.gate.open, m.now) {
		m.t.Fatalf("the first waiter may go at %v, the next tick is at %v", m.gate.open, next)
	}
	first := m.waiting[0]
	fits := m.limit > 0 && (m.bytes()+first.bytes <= m.limit || len(m.flying) == 0)
	if fits && len(m.flying) < m.gate.decision.Window && m.now >= m.gate.open {
		m.t.Fatal("lost wake-up: the first waiter could go")
	}
}

func (m *model) ask(bytes int64) {
	var t *Ticket
	early := false
	t = m.gate.Ask(m.now, bytes, func() {
		if t == nil {
			early = true
		} else {
			m.admitted = append(m.admitted, t)
		}
	})
	m.waiting = append(m.waiting, t)
	if early {
		m.admitted = append(m.admitted, t)
	}
}

func (m *model) actions() map[string]func(*rapid.T) {
	size := rapid.OneOf(rapid.Int64Range(0, 30), rapid.Int64Range(90, 200))
	return map[string]func(*rapid.T){
		"":    func(*rapid.T) { m.check() },
		"ask": func(t *rapid.T) { m.ask(size.Draw(t, "bytes")) },
		"cancel": func(t *rapid.T) {
			if len(m.waiting) == 0 {
				t.Skip()
			}
			i := rapid.IntRange(0, len(m.waiting)-1).Draw(t, "i")
			w := m.waiting[i]
			m.waiting = slices.Delete(m.waiting, i, i+1)
			if !m.gate.Cancel(m.now, w) {
				t.Fatal("a waiting ticket can't be cancelled")
			}
		},
		"release": func(t *rapid.T) {
			if len(m.flying) == 0 {
				t.Skip()
			}
			i := rapid.IntRange(0, len(m.flying)-1).Draw(t, "i")
			f := m.flying[i]
			if m.gate.Cancel(m.now, f) {
				t.Fatal("cancelled what is in flight")
			}
			m.flying = slices.Delete(m.flying, i, i+1)
			o := Outcome{Result: rapid.SampledFrom([]Result{Succeeded, Succeeded, Succeeded, Rejected, Throttled, Failed, Abandoned}).Draw(t, "result")}
			if o.Result >= Throttled {
				o.RetryAfter = time.Duration(rapid.IntRange(0, 2).Draw(t, "after")) * time.Hour
			}
			m.gate.Release(m.now, f.bytes, o)
		},
		"limit": func(t *rapid.T) {
			m.limit = rapid.Int64Range(-1, 120).Draw(t, "limit")
			m.gate.SetLimit(m.now, m.limit)
		},
		"time": func(t *rapid.T) {
			m.now += time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond
			m.gate.Tick(m.now)
		},
		"next": func(*rapid.T) {
			if next, ok := m.gate.Next(); ok {
				m.now = max(m.now, next)
				m.gate.Tick(m.now)
			}
		},
	}
}

// drain serves everybody, and fails if that takes longer than a dead sink may be
// left alone, once the round is over, and then probed.
func (m *model) drain() {
	m.settle()
	m.limit = max(m.limit, 100)
	m.gate.SetLimit(m.now, m.limit)
	m.settle()
	end := m.now + m.gate.decision.Most + longestHold + time.Duration(len(m.waiting)+len(m.flying)+2)*2*time.Second
	for len(m.waiting)+len(m.flying) > 0 {
		for _, f := range m.flying {
			m.gate.Release(m.now, f.bytes, Outcome{})
		}
		m.flying = nil
		m.check()
		if len(m.flying) > 0 {
			m.now += time.Millisecond
			m.gate.Tick(m.now)
		} else if next, ok := m.gate.Next(); ok {
			m.now = next
			m.gate.Tick(m.now)
		}
		m.check()
		if m.now > end {
			m.t.Fatalf("%d still wait after %v", len(m.waiting), longestHold)
		}
	}
}

func gateProperty(t *rapid.T) {
	m := &model{t: t, gate: NewGate(100, rapid.Uint64Range(0, 20).Draw(t, "seed")), limit: 100}
	t.Repeat(m.actions())
	m.drain()
}

// TestGateModel: never over the limit, no lost wake-up, first come first served,
// cancelled tickets hold nothing, and after whatever happened
// everybody is served in the end.
func TestGateModel(t *testing.T) { rapid.Check(t, gateProperty) }

func FuzzGate(f *testing.F) { f.Fuzz(rapid.MakeFuzz(gateProperty)) }

func TestGateOrder(t *testing.T) {
	g := NewGate(100, 0)
	var order []string
	ask := func(name string, bytes int64) { g.Ask(0, bytes, func() { order = append(order, name) }) }
	ask("a", 60)
	ask("large", 70) // doesn't fit
	ask("b", 10)     // would
	ask("c", 30)
	if want := []string{"a"}; !slices.Equal(order, want) {
		t.Fatalf("%v, want %v", order, want)
	}
	g.Release(0, 60, Outcome{})
	if want := []string{"a", "large", "b"}; !slices.Equal(order, want) {
		t.Fatalf("%v, want %v", order, want)
	}
	g.Release(0, 10, Outcome{})
	if want := []string{"a", "large", "b", "c"}; !slices.Equal(order, want) {
		t.Fatalf("%v, want %v", order, want)
	}
}

// Who gives up lets those behind go.
func TestGateCancel(t *testing.T) {
	g := NewGate(100, 0)
	g.Ask(0, 60, func() {})
	large := g.Ask(0, 70, func() {})
	small := g.Ask(0, 10, func() {})
	if !g.Cancel(0, large) || !small.Admitted() || large.Admitted() {
		t.Fatal("the one behind isn't admitted")
	}
	if g.Cancel(0, small) {
		t.Fatal("cancelled what is in flight")
	}
	if s := g.Snapshot(0); s.InFlight != 70 || s.Waiting != 0 || s.Totals.Cancelled != 1 {
		t.Fatalf("%+v", s)
	}
}

func TestGateOversized(t *testing.T) {
	g := NewGate(100, 0)
	small := g.Ask(0, 1, func() {})
	huge := g.Ask(0, 1000, func() {})
	last := g.Ask(0, 1, func() {})
	if !small.Admitted() || huge.Admitted() || last.Admitted() {
		t.Fatal("an oversized request goes alone and isn't passed")
	}
	g.Release(0, 1, Outcome{})
	if s := g.Snapshot(0); !huge.Admitted() || last.Admitted() || s.Totals.Oversized != 1 || s.Totals.Peak != 1000 {
		t.Fatalf("%+v", s)
	}
	g.Release(0, 1000, Outcome{})
	if !last.Admitted() {
		t.Fatal("nobody after it")
	}
}

func TestGateMisuse(t *testing.T) {
	for name, misuse := range map[string]func(*Gate){
		"release of nothing":  func(g *Gate) { g.Release(0, 0, Outcome{}) },
		"release of too much": func(g *Gate) { g.Ask(0, 5, func() {}); g.Release(0, 6, Outcome{}) },
		"negative release":    func(g *Gate) { g.Ask(0, 5, func() {}); g.Release(0, -1, Outcome{}) },
		"negative request":    func(g *Gate) { g.Ask(0, -5, func() {}) },
		"unknown result":      func(g *Gate) { g.Ask(0, 5, func() {}); g.Release(0, 5, Outcome{Result: results}) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			misuse(NewGate(0, 0))
		})
	}
}
