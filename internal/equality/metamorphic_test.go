package equality

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// The same statement over the same rows gives the same answer, however the rows
// lie in files and however kq cuts them. No reference is asked here: kq's answers
// are compared with each other.
func TestLayouts(t *testing.T) {
	l := randomWorld(t)
	statements := 0
	for from := 0; from < *count/20; from += batch {
		g := &generator{Rand: rand.New(rand.NewPCG(*seed<<32+uint64(from), 13))}
		before, gone := l.prelude(g)
		var stages []stage
		for i := range batch {
			g := &generator{Rand: rand.New(rand.NewPCG(*seed<<32+uint64(from+i), 17)), common: g.common}
			s := stage{name: fmt.Sprintf("s%d", from+i), sql: g.root().sql}
			if _, ok := l.answer(s, &l.tally); ok {
				stages = append(stages, s)
			}
		}
		statements += len(stages)
		base := settings{size: 200, small: 1}
		want, _ := l.all(before, stages, base)
		for _, other := range []struct {
			what string
			settings
		}{
			{"with the files in reverse", settings{size: base.size, small: base.small, files: reversed}},
			{"with other files and row groups", settings{size: base.size, small: base.small, files: again}},
			{"in one shard", settings{size: 1 << 40, small: base.small}},
			{"with the smallest shards", settings{size: 1, threads: 1}},
		} {
			got, plan := l.all(before, stages, other.settings)
			for _, s := range stages {
				if why := same(want[s.name], got[s.name], ordered(s.sql)); why != "" && !l.planned(s.sql, want[s.name], got[s.name]) {
					t.Errorf("%s (%s): %s\n  %s\n  %v", other.what, planOf(plan, s.name), why, s.sql, before)
				}
			}
		}
		gone()
		if t.Failed() {
			break
		}
	}
	t.Logf("%d statements in five ways", statements)
}

// A predicate is true, false or NULL: the rows for which it is each of these are
// together all rows.
func TestTernaryLogic(t *testing.T) {
	l := randomWorld(t)
	tried := 0
	for i := range *count / 50 {
		g := &generator{Rand: rand.New(rand.NewPCG(*seed<<32+uint64(i), 19))}
		whole, parts := partitioned(g)
		if !l.determined(append(parts, whole)...) {
			continue
		}
		tried++
		stages := []stage{{name: "whole", sql: whole}, {name: "together", sql: strings.Join(parts, " UNION ALL ")}}
		for j, p := range parts {
			stages = append(stages, stage{name: fmt.Sprintf("part%d", j), sql: p})
		}
		got, plan := l.all(nil, stages, randomSettings(g))
		split := outcome{columns: got["part0"].columns}
		for j := range parts {
			o := got[fmt.Sprintf("part%d", j)]
			split.rows = append(split.rows, o.rows...)
			if o.err != nil {
				split.err = o.err
			}
		}
		for name, o := range map[string]outcome{"the three statements together": split, "their UNION ALL": got["together"]} {
			if why := same(got["whole"], o, false); why != "" {
				t.Errorf("%s (%s): %s\n  %s", name, plan, why, strings.Join(append(parts, whole), "\n  "))
			}
		}
		if t.Failed() {
			break
		}
	}
	t.Logf("%d partitions", tried)
	if *count >= 1000 && tried < *count/100 {
		t.Error("too few partitions: the test does not test")
	}
}

// determined reports whether the statements all have one answer, not too large.
func (l *lane) determined(statements ...string) bool {
	for _, s := range statements {
		if _, ok := l.answer(stage{sql: s}, new(tally)); !ok {
			return false
		}
	}
	return true
}

// partitioned makes a statement, and the three that have its rows or its groups
// for which a predicate is true, false and NULL.
func partitioned(g *generator) (whole string, parts []string) {
	var c clauses
	var s statement
	var sc scope
	c.from, sc, c.where = g.from(1)
	for range 1 + g.IntN(4) {
		k := kind(g.IntN(4))
		g.item(&c, &s, g.expression(sc, k, g.IntN(2)), k, false)
	}
	p := g.condition(sc, 2)
	target := &c.where
	if g.chance(40) { // groups, and a predicate of theirs
		n := len(c.items)
		for _, item := range c.items {
			expression, _, _ := cutLast(item, " AS ")
			c.group = append(c.group, expression)
		}
		for range 1 + g.IntN(2) {
			g.aggregate(&c, &s, sc)
		}
		p = g.pick("count(*)", "max("+g.field(sc, number)+")", "sum("+g.fieldNamed(sc, "v", "i", "b", "id")+")") + g.comparison() + g.constant(number)
		if f := s.fields[n]; !f.rough && f.kind == number {
			p += g.pick("", " OR "+f.name+" > 2")
		}
		target = &c.having
	}
	whole = c.String()
	was := *target
	for _, q := range []string{"(" + p + ")", "NOT (" + p + ")", "(" + p + ") IS NULL"} {
		*target = append(was[:len(was):len(was)], q)
		parts = append(parts, c.String())
	}
	return whole, parts
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
