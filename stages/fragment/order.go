package fragment

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
)

// limitedRow is the bytes to count for each row that a LIMIT leaves: some hundred
// for the row, from each of several dozen shards.
const limitedRow = 16 << 10

// spillable is how many times its budget one worker may have to sort: DuckDB keeps
// some memory pinned for all that it has spilled. 9.5 GiB of lineitems were sorted
// with 597 MiB, and not with 240.
const spillable = 20

// order is what a fragment does with its rows at the end, in terms of its own
// columns.
type order struct {
	by     []string // "column" DESC NULLS LAST
	limit  string   // rows that may be asked for: the first of each bucket suffice
	hidden []string // columns that only the order needs
}

// top adds ORDER BY and LIMIT to a query whose rows are divided, where the
// first rows of each bucket are all that can be asked for.
func (o order) top(query string, divided bool) string {
	if o.limit == "" || !divided {
		return query
	}
	query = "SELECT * FROM (" + query + ")"
	if len(o.by) > 0 {
		query += " ORDER BY " + strings.Join(o.by, ", ")
	}
	return query + " LIMIT " + o.limit
}

// peelOrder computes the rows first, then orders and limits them.
func (s *splitter) peelOrder(q analysis.Node, name string, by order) (bool, error) {
	rest := []any{}
	var sorted, limited analysis.Node
	distinctOn := false
	for _, m := range q.List("modifiers") {
		switch m.Str("type") {
		case "ORDER_MODIFIER":
			sorted = m
		case "LIMIT_MODIFIER":
			limited = m
		case "DISTINCT_MODIFIER":
			distinctOn = len(m.List("distinct_on_targets")) > 0
			rest = append(rest, m)
		default:
			return false, nil
		}
	}
	if sorted == nil && limited == nil {
		return false, nil
	}
	columns, ok := s.bind(q)
	if !ok {
		return false, nil
	}
	inner := analysis.Clone(q).(analysis.Node)
	o := order{}
	if o.by, o.hidden, ok = s.orders(inner, sorted, columns); !ok {
		return false, nil
	}
	if distinctOn && sorted != nil {
		rest = append([]any{sorted}, rest...) // it decides which row is kept
		if len(o.hidden) > 0 {
			return false, nil
		}
	}
	inner["modifiers"] = rest
	if distinctOn && sorted != nil {
		// The order within the query only serves DISTINCT ON: below a SELECT it
		// orders nothing.
		wrapped, err := s.a.Tree(s.ctx, "SELECT * FROM (SELECT 1)")
		if err != nil {
			return false, err
		}
		wrapped.Child("from_table").Child("subquery")["node"] = inner
		inner = wrapped
	}
	limit, offset, constant := limits(limited)
	if !constant {
		return false, nil
	}
	if limited != nil && limit >= 0 {
		o.limit = strconv.FormatInt(limit+offset, 10)
	}
	between := s.next()
	if err := s.plan(inner, between, o); err != nil {
		return false, err
	}
	last := &s.fragments[len(s.fragments)-1]
	if few := min(limit+offset, 1<<30) * limitedRow; o.limit != "" && last.Kind != pipeline.Gather && last.Bytes > few {
		last.Bytes = few
		s.tables[fold(between)].total = few
	}
	query := "SELECT * FROM "
	if len(o.hidden) > 0 {
		query = "SELECT * EXCLUDE (" + strings.Join(o.hidden, ", ") + ") FROM "
	}
	tail := ""
	if len(o.by) > 0 {
		tail += " ORDER BY " + strings.Join(o.by, ", ")
	}
	if limited != nil && limit >= 0 {
		tail += fmt.Sprintf(" LIMIT %d", limit)
	}
	if offset > 0 {
		tail += fmt.Sprintf(" OFFSET %d", offset)
	}
	if limited == nil && (s.r.Always || s.r.Budget > 0 && last.Bytes/spillable > s.r.Budget) && last.Kind != pipeline.Gather {
		return true, s.sorted(name, between, o, query)
	}
	if limited == nil && last.Kind == pipeline.Forward && last.Raw == nil {
		// One DuckDB that sorts and spills is done before the rows would have moved.
		last.Kind, last.Inputs, last.Sooner = pipeline.Gather, slices.Clone(last.Inputs), true
		for i := range last.Inputs {
			if last.Inputs[i].Kind == pipeline.Forward {
				last.Inputs[i].Kind = pipeline.Gather
			}
		}
		at := first(sorted.List("orders")).Child("expression")
		last.Reason, last.Offset, last.Words = "ORDER BY orders all rows", at.Offset(), pipeline.Words{}
		s.attribute(last)
	}
	if last.Kind == pipeline.Gather {
		// It runs as one already: so it orders as well.
		f := *last
		s.fragments = s.fragments[:len(s.fragments)-1]
		delete(s.tables, fold(f.Name))
		f.Name, f.SQL, f.Order = name, query+"("+f.SQL+")"+tail, strings.Join(o.by, ", ")
		return true, s.add(f)
	}
	why := "LIMIT counts over all rows"
	at := lead(limited)
	if sorted != nil {
		why, at = "ORDER BY orders all rows", first(sorted.List("orders")).Child("expression")
	}
	if o.limit != "" {
		why += "; each shard sends its first " + o.limit
	}
	return true, s.add(pipeline.Fragment{
		Name: name, Kind: pipeline.Gather, SQL: query + ident(between) + tail, Reason: why, Offset: at.Offset(), Bytes: last.Bytes,
		Order: strings.Join(o.by, ", "), Inputs: []pipeline.FragmentInput{{Name: between, Kind: pipeline.Gather}},
	})
}

// sorted orders the rows of the fragment called between, the last one: they go to
// buckets that are ranges of the order, found by a sample, and each is sorted.
func (s *splitter) sorted(name, between string, o order, query string) error {
	last := len(s.fragments) - 1
	rows := s.fragments[last]
	by := sortKey(o.by)
	sample := pipeline.Fragment{Name: name + ":sample", Reason: "a sample of the rows tells the ranges of the order", Offset: -1, Bytes: 1 << 20}
	const size = 5000 // rows of each shard
	from := rows.SQL
	if once := rows.Kind == pipeline.Forward || rows.Kind == pipeline.Range; once && len(rows.Inputs) == 1 && rows.Raw == nil {
		// Cheap to read twice, as the sample needs few columns.
		sample.Kind, sample.Inputs = rows.Kind, rows.Inputs
		s.fragments = s.fragments[:last]
	} else {
		copied := rows
		copied.Name = name + ":rows"
		s.fragments[last] = copied
		if err := s.a.Declare(s.ctx, copied.Name, rows.Columns); err != nil {
			return err
		}
		sample.Kind, sample.Inputs = pipeline.Forward, []pipeline.FragmentInput{{Name: copied.Name, Kind: pipeline.Forward}}
		from = "SELECT * FROM " + ident(copied.Name)
		rows = pipeline.Fragment{Name: between, SQL: from, Kind: pipeline.Forward, Inputs: sample.Inputs, Bytes: rows.Bytes, Offset: -1}
	}
	sample.SQL = fmt.Sprintf("SELECT __kq_key FROM (SELECT %s AS __kq_key FROM (%s)) USING SAMPLE reservoir(%d ROWS) REPEATABLE (1)", by, from, size)
	if err := s.add(sample); err != nil {
		return err
	}
	rows.Sort, rows.Bounds, rows.Reason = by, sample.Name, "its rows go to the ranges of the order"
	if err := s.add(rows); err != nil {
		return err
	}
	return s.add(pipeline.Fragment{
		Name: name, Kind: pipeline.Sort, SQL: query + ident(between) + " ORDER BY " + strings.Join(o.by, ", "), Bytes: rows.Bytes, Offset: -1,
		Reason: "each shard sorts one range of the order", Order: strings.Join(o.by, ", "),
		Inputs: []pipeline.FragmentInput{{Name: between, Kind: pipeline.Sort}},
	})
}

// sortKey is an expression whose values order as ORDER BY does.
func sortKey(by []string) string {
	args := make([]string, len(by))
	for i, b := range by {
		// The column's name stands in quotes; what follows are keywords.
		end := strings.LastIndexByte(b, '"') + 1
		order := b[end:]
		if !strings.Contains(order, "DESC") && !strings.Contains(order, "ASC") {
			order = " ASC" + order
		}
		if !strings.Contains(order, "NULLS") {
			order += " NULLS LAST"
		}
		args[i] = b[:end] + ", '" + strings.TrimSpace(order) + "'"
	}
	return "create_sort_key(" + strings.Join(args, ", ") + ")"
}

// limits reads a constant LIMIT and OFFSET; -1 means no limit.
func limits(m analysis.Node) (limit, offset int64, ok bool) {
	if m == nil {
		return -1, 0, true
	}
	read := func(key string, missing int64) int64 {
		e := m.Child(key)
		if e == nil {
			return missing
		}
		n, whole := integer(e)
		ok = ok && whole && n >= 0 && n < 1<<62 // so that the sum of both is a number
		return n
	}
	ok = true
	limit, offset = read("limit", -1), read("offset", 0)
	return limit, offset, ok
}

// orders turns ORDER BY into one over the columns of q's result, adding hidden
// ones to q for expressions that are not among them.
func (s *splitter) orders(q, m analysis.Node, columns []pipeline.Column) (by, hidden []string, ok bool) {
	if m == nil {
		return nil, nil, true
	}
	selected := q.List("select_list")
	star := hasStar(selected)
	for i, o := range m.List("orders") {
		e := o.Child("expression")
		target := ""
		switch e.Str("class") {
		case "CONSTANT":
			n, whole := integer(e)
			if !whole || n < 1 || int(n) > len(columns) {
				return nil, nil, false
			}
			target = ident(columns[n-1].Name)
		case "COLUMN_REF":
			names := columnNames(e)
			last := names[len(names)-1]
			for _, c := range columns {
				if len(names) == 1 && strings.EqualFold(c.Name, last+"_1") {
					return nil, nil, false // which of two
				}
				// Qualified, it is a column of FROM, which a name of the result may hide.
				if strings.EqualFold(c.Name, last) && (len(names) == 1 || len(names) == 2 && s.same(e, selected, last)) {
					target = ident(c.Name)
				}
			}
		}
		if target == "" {
			if q.Str("type") != "SELECT_NODE" || star && len(q.List("group_expressions")) > 0 || mentionsAlias(e, selected) || collates(e) {
				return nil, nil, false
			}
			name := fmt.Sprintf("__kq_order_%d", i)
			item := analysis.Clone(e).(analysis.Node)
			item["alias"] = name
			list, _ := q["select_list"].([]any)
			q["select_list"] = append(slices.Clone(list), map[string]any(item))
			target = ident(name)
			hidden = append(hidden, target)
		}
		switch o.Str("type") {
		case "DESCENDING":
			target += " DESC"
		case "ASCENDING":
			target += " ASC"
		}
		switch o.Str("null_order") {
		case "NULLS_FIRST", "NULLS FIRST":
			target += " NULLS FIRST"
		case "NULLS_LAST", "NULLS LAST":
			target += " NULLS LAST"
		}
		by = append(by, target)
	}
	return by, hidden, true
}

// aliased reports whether a select item has a name for its alias.
func aliased(name string, selected []analysis.Node) bool {
	return slices.ContainsFunc(selected, func(item analysis.Node) bool { return strings.EqualFold(item.Str("alias"), name) })
}

// same reports whether the select list has e itself, unrenamed, under name.
func (s *splitter) same(e analysis.Node, selected []analysis.Node, name string) bool {
	for _, item := range selected {
		if item.Str("class") == "COLUMN_REF" && key(item) == key(e) && (item.Str("alias") == "" || strings.EqualFold(item.Str("alias"), name)) {
			return true
		}
	}
	return false
}

// mentionsAlias reports whether an expression uses a name that is a select
// alias, so that moving it could change what it means.
func mentionsAlias(e analysis.Node, selected []analysis.Node) (found bool) {
	analysis.Walk(e, func(n analysis.Node) bool {
		if n.Str("class") == "SUBQUERY" || n.Str("class") == "STAR" {
			found = true
		}
		if names := columnNames(n); n.Str("class") == "COLUMN_REF" && len(names) == 1 {
			found = found || aliased(names[0], selected)
		}
		return true
	})
	return found
}

func collates(e any) (found bool) {
	analysis.Walk(e, func(n analysis.Node) bool {
		found = found || n.Str("class") == "COLLATE"
		return true
	})
	return found
}
