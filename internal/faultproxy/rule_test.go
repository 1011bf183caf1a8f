package faultproxy

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"
)

func decisions(seed uint64, n int, rules ...Rule[int, int]) string {
	var b book[int, int]
	b.Seed(seed)
	b.Set(rules...)
	out := ""
	for i := 1; i <= n; i++ {
		if name := b.decide(i).Name; name != "" {
			out += name
		} else {
			out += "."
		}
	}
	return out
}

func TestRules(t *testing.T) {
	even := func(n int) bool { return n%2 == 0 }
	for _, c := range []struct {
		want  string
		rules []Rule[int, int]
	}{
		{"..........", nil},
		{"aaaaaaaaaa", []Rule[int, int]{{Name: "a"}}},
		{"..a.......", []Rule[int, int]{{Name: "a", From: 3, Times: 1}}},
		{"..aaa.....", []Rule[int, int]{{Name: "a", From: 3, Times: 3}}},
		{"...a.a.a.a", []Rule[int, int]{{Name: "a", Match: even, From: 2}}},
		// The first that hits decides; the second one counts what the first has hit.
		{".abaaaaaaa", []Rule[int, int]{{Name: "a", Match: even}, {Name: "b", From: 2, Times: 1}, {Name: "a", From: 3}}},
	} {
		if got := decisions(0, 10, c.rules...); got != c.want {
			t.Errorf("%v: %s, want %s", c.rules, got, c.want)
		}
	}
}

// TestChance: the same seed decides the same, whatever other rules do; another
// one otherwise; and as often as it says.
func TestChance(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		chance := rapid.Float64Range(0.05, 0.95).Draw(t, "chance")
		rule := Rule[int, int]{Name: "a", Chance: chance}
		got := decisions(seed, 2000, rule)
		if again := decisions(seed, 2000, rule, Rule[int, int]{Name: "b", Match: func(int) bool { return false }, Chance: 0.5}); got != again {
			t.Fatal("the same seed decided otherwise")
		}
		if other := decisions(seed+1, 2000, rule); got == other {
			t.Fatal("another seed decided the same")
		}
		hits := 0
		for _, c := range got {
			if c == 'a' {
				hits++
			}
		}
		if want := chance * 2000; float64(hits) < want-250 || float64(hits) > want+250 { // 5.6 sigma
			t.Fatalf("%d hits of 2000 with chance %v", hits, chance)
		}
	})
}

func TestHits(t *testing.T) {
	var b book[int, int]
	b.Set(Rule[int, int]{Name: "a", From: 2, Times: 1})
	for i := range 4 {
		b.decide(i)
	}
	if hits := b.Hits(); len(hits) != 1 || hits[0].Rule != "a" || hits[0].Request != "1" || b.Seen() != 4 {
		t.Errorf("%v, %d seen", hits, b.Seen())
	}
	b.Set()
	if len(b.Hits()) != 0 || b.Seen() != 0 {
		t.Error("Set keeps counts")
	}
	for f, want := range map[Fate]string{{}: "pass(0)", Cut(3): "cut(3)", Reset(-1): "reset(0)", Hang(2): "hang(2)"} {
		if fmt.Sprint(f) != want {
			t.Errorf("%v, want %s", f, want)
		}
	}
	if !reflect.DeepEqual(Fault{}, (&Rule[int, int]{}).Fault) {
		t.Error("the zero rule does something")
	}
}
