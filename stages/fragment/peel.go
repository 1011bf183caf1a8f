package fragment

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
)

// plan cuts q until each piece is parallel, and adds its fragments; the last
// one is called name.
func (s *splitter) plan(q analysis.Node, name string, by order) error {
	return s.planned(q, name, by, true)
}

func (s *splitter) planned(q analysis.Node, name string, by order, combine bool) error {
	var w *way
	var f *failure
	for {
		if s.tries++; s.tries > 200 {
			return fmt.Errorf("the statement has too many parts to plan")
		}
		if w, f = s.distribute(q, q); w != nil {
			if w.kind == pipeline.Hash && combine {
				// What one table's groups need is better combined where it lies.
				if r, _ := s.rows(q); r != nil && (r.kind == pipeline.Forward || r.kind == pipeline.Range) {
					if done, err := s.peelAggregate(q, name, by); done || err != nil {
						return err
					}
				}
			}
			why := ""
			if w.kind == pipeline.Gather {
				why = "its inputs are small"
			}
			return s.emit(q, name, w, why, -1, by)
		}
		if f.cut == nil || sameNode(f.cut, q) || s.isFragment(f.cut) {
			break
		}
		if err := s.cut(f.cut); err != nil {
			return err
		}
	}
	if done, err := s.peelOrder(q, name, by); done || err != nil {
		return err
	}
	for combine && s.tries < 200 {
		r, g := s.rows(q)
		if r != nil || g == nil || !g.join {
			break
		}
		done, err := s.peelJoin(q)
		for _, sub := range s.nested(q) {
			if !done && err == nil {
				done, err = s.peelJoin(sub)
			}
		}
		if err != nil {
			return err
		}
		if !done {
			break
		}
		if w, f = s.distribute(q, q); w != nil {
			return s.planned(q, name, by, combine)
		}
	}
	if done, err := s.peelSetOperation(q, name, by); done || err != nil {
		return err
	}
	if combine {
		if done, err := s.peelAggregate(q, name, by); done || err != nil {
			return err
		}
		if done, err := s.peelFrom(q, name, by); done || err != nil {
			return err
		}
	}
	return s.emit(q, name, &way{kind: pipeline.Gather}, f.why, f.offset, by)
}

// cut computes a query on its own first; in its place its rows are read.
func (s *splitter) cut(q analysis.Node) error {
	name := s.next()
	if err := s.plan(analysis.Clone(q).(analysis.Node), name, order{}); err != nil {
		return err
	}
	return s.become(q, "SELECT * FROM "+ident(name))
}

// nested lists the queries that only select, filter and join within FROM.
func (s *splitter) nested(q analysis.Node) (all []analysis.Node) {
	p := s.prover(nil, 0, false)
	analysis.Walk(q["from_table"], func(n analysis.Node) bool {
		if n.Str("class") == "SUBQUERY" {
			return false
		}
		if n.Str("type") == "SUBQUERY" {
			if sub := n.Child("subquery").Child("node"); simple(sub) {
				if cut, _ := p.alone(sub); cut != nil {
					all = append(all, cut)
				}
			}
		}
		return true
	})
	return all
}

// become replaces a query node in place.
func (s *splitter) become(q analysis.Node, query string) error {
	tree, err := s.a.Tree(s.ctx, query)
	if err != nil {
		return err
	}
	clear(q)
	for k, v := range tree {
		q[k] = v
	}
	return nil
}

// key is an expression without where it stands and what it is called.
func key(e analysis.Node) string {
	c := analysis.Clone(e).(analysis.Node)
	analysis.Walk(c, func(n analysis.Node) bool {
		delete(n, "query_location")
		if n.Str("class") == "COLUMN_REF" {
			names := columnNames(n)
			for i := range names {
				names[i] = fold(names[i])
			}
			n["column_names"] = []any{strings.Join(names, "\x00")}
		}
		return true
	})
	delete(c, "alias")
	data, _ := json.Marshal(c)
	return string(data)
}

// bind returns the columns of a query.
func (s *splitter) bind(q analysis.Node) ([]pipeline.Column, bool) {
	query, err := s.a.SQL(s.ctx, q)
	if err != nil {
		return nil, false
	}
	columns, e := s.a.Bind(s.ctx, query)
	return columns, e == nil
}

// peelSetOperation computes the operands first.
func (s *splitter) peelSetOperation(q analysis.Node, name string, by order) (bool, error) {
	if q.Str("type") != "SET_OPERATION_NODE" || len(q.List("modifiers")) > 0 {
		return false, nil
	}
	children := q.List("children")
	for _, side := range []string{"left", "right"} {
		if c := q.Child(side); c != nil {
			children = append(children, c)
		}
	}
	cut := false
	for _, c := range children {
		if s.isFragment(c) {
			continue
		}
		if err := s.cut(c); err != nil {
			return false, err
		}
		cut = true
	}
	if !cut {
		return false, nil
	}
	return true, s.plan(q, name, by)
}

// isFragment reports whether a query is nothing but all rows of a fragment.
func (s *splitter) isFragment(q analysis.Node) bool {
	from := q.Child("from_table")
	t := s.tables[fold(from.Str("table_name"))]
	return q.Str("type") == "SELECT_NODE" && from.Str("type") == "BASE_TABLE" && t != nil && t.fragment >= 0 &&
		len(q.List("select_list")) == 1 && hasStar(q.List("select_list")) && q["where_clause"] == nil && len(q.List("modifiers")) == 0
}

// filter renders the conditions of q that hold of every row of t that it can
// use: those of its WHERE on t alone, when t stands in its FROM once.
func (s *splitter) filter(q analysis.Node, t *table) string {
	p := s.prover(nil, 0, false)
	if _, f := p.statement(q); f != nil || p.uses[fold(t.name)] != 1 || q.Str("type") != "SELECT_NODE" {
		return ""
	}
	alias, ok := preserved(q.Child("from_table"), t.name)
	if !ok || p.rootSel == nil {
		return ""
	}
	var keep []string
	for _, c := range conjuncts(q.Child("where_clause")) {
		c = analysis.Clone(c).(analysis.Node)
		mine := true
		analysis.Walk(c, func(n analysis.Node) bool {
			switch n.Str("class") {
			case "SUBQUERY", "LAMBDA", "STAR":
				mine = false
			case "COLUMN_REF":
				k, it, depth := p.rootSel.lookup(columnNames(n))
				if k == nil || depth != 0 || it.alias != alias || k.from.table != fold(t.name) {
					mine = false
					return false
				}
				n["column_names"] = []any{k.from.column}
			}
			return mine
		})
		if !mine {
			continue
		}
		probe, err := s.a.Tree(s.ctx, "SELECT 1 WHERE true")
		if err != nil {
			return ""
		}
		probe["where_clause"] = map[string]any(c)
		if text, err := s.a.SQL(s.ctx, probe); err == nil {
			if _, where, found := strings.Cut(text, " WHERE "); found {
				keep = append(keep, where)
			}
		}
	}
	if len(keep) == 0 {
		return ""
	}
	return strings.Join(keep, " AND ")
}

// preserved finds the alias of a table that stands where WHERE filters its rows:
// below inner joins, or on the side of an outer join that is kept.
func preserved(n analysis.Node, name string) (alias string, ok bool) {
	switch n.Str("type") {
	case "BASE_TABLE":
		if raw, _ := n["column_name_alias"].([]any); !strings.EqualFold(n.Str("table_name"), name) || len(raw) > 0 {
			return "", false
		}
		if alias = n.Str("alias"); alias == "" {
			alias = name
		}
		return fold(alias), true
	case "JOIN":
		kind := n.Str("join_type")
		if n.Str("ref_type") != "REGULAR" && n.Str("ref_type") != "CROSS" {
			return "", false
		}
		if kind == "INNER" || kind == "LEFT" || kind == "SEMI" || kind == "ANTI" {
			if alias, ok = preserved(n.Child("left"), name); ok {
				return alias, true
			}
		}
		if kind == "INNER" || kind == "RIGHT" {
			return preserved(n.Child("right"), name)
		}
	}
	return "", false
}
