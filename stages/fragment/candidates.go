package fragment

import (
	"fmt"
	"slices"

	"github.com/kinequet/kq/pipeline"
)

func hashCost(roles map[string]role, sizes map[string]int64) (n int64) {
	for name := range roles {
		n += sizes[name]
	}
	return n
}

// candidate is a key to try: for each component, columns that are equal.
type candidate [][]base

// candidates lists keys that the statement's equalities, groups and partitions
// suggest: several columns together first, as they spread best.
func candidates(p *prover, used []string, tables map[string]*table) (all []candidate) {
	up := map[base]base{}
	var root func(b base) base
	root = func(b base) base {
		if r, ok := up[b]; ok && r != b {
			return root(r)
		}
		return b
	}
	var seen []base
	note := func(b base) {
		if _, ok := up[b]; !ok {
			up[b] = b
			seen = append(seen, b)
		}
	}
	for _, pair := range p.pairs {
		note(pair[0])
		note(pair[1])
		up[root(pair[0])] = root(pair[1])
	}
	for _, tuple := range p.tuples {
		for _, b := range tuple {
			note(b)
		}
	}
	class := func(b base) (members []base) {
		for _, m := range seen {
			if root(m) == root(b) {
				members = append(members, m)
			}
		}
		return members
	}
	known := map[string]bool{}
	add := func(roots []base) {
		roots = slices.Compact(roots)
		key := fmt.Sprint(roots)
		if known[key] || len(all) > 64 {
			return
		}
		known[key] = true
		var c candidate
		for _, r := range roots {
			c = append(c, class(r))
		}
		all = append(all, c)
	}
	for _, tuple := range p.tuples {
		var roots []base
		for _, b := range tuple {
			if r := root(b); !slices.Contains(roots, r) {
				roots = append(roots, r)
			}
		}
		add(roots)
	}
	for _, b := range seen {
		add([]base{root(b)})
	}
	return all
}

// keyed gives the tables their roles under a key: those that have it are
// divided, if they are large or all is set; the others are read whole.
func (s *splitter) keyed(c candidate, used []string, sizes map[string]int64, all bool) *way {
	w := &way{kind: pipeline.Hash, roles: map[string]role{}, cost: 2}
	columns := map[string]string{}
	types := make([][]string, len(c))
	for _, name := range used {
		t := s.tables[name]
		var key []string
		for i, members := range c {
			for _, m := range members {
				if m.table == name && len(key) == i {
					key = append(key, m.column)
				}
			}
		}
		if len(key) < len(c) || sizes[name] <= s.r.Small && !all {
			if sizes[name] > s.r.Small {
				return nil
			}
			w.cost += sizes[name] / 4
			continue
		}
		w.roles[name] = role{parted: true, key: key}
		for i, k := range key {
			types[i] = append(types[i], columnType(t.columns, k))
		}
		columns[t.name] = key[0]
	}
	if len(w.roles) == 0 {
		return nil
	}
	for _, ts := range types {
		typ := common(ts)
		if typ == "" {
			return nil
		}
		w.types = append(w.types, typ)
	}
	if len(c) == 1 && s.r.Clustered != nil && s.ranged(w.roles) && s.r.Clustered(columns) {
		w.kind = pipeline.Range
	} else {
		w.cost += hashCost(w.roles, sizes)
		if s.r.Fits() {
			return nil
		}
	}
	return w
}

// ranged reports whether the divided tables are all inputs, which have
// statistics.
func (s *splitter) ranged(roles map[string]role) bool {
	for name := range roles {
		if s.tables[name].fragment >= 0 {
			return false
		}
	}
	return true
}

func columnType(columns []pipeline.Column, name string) string {
	for _, c := range columns {
		if fold(c.Name) == name {
			return c.Type
		}
	}
	return ""
}
