package fragment

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
)

// table is what a statement can name: an input of the stage or a fragment.
type table struct {
	name     string
	columns  []pipeline.Column
	bytes    []int64 // by column; nil unknown
	total    int64
	fragment int // index into fragments; -1 for inputs
	readers  int // fragments that read it already
}

type splitter struct {
	ctx       context.Context
	a         *analysis.Analyzer
	r         *pipeline.SplitRequest
	tables    map[string]*table // by folded name
	fragments []pipeline.Fragment
	named     int // fragments so far
	tries     int
}

// Split cuts r.SQL. The last fragment has the stage's name and gives the
// statement's answer.
func Split(ctx context.Context, a *analysis.Analyzer, r *pipeline.SplitRequest) ([]pipeline.Fragment, error) {
	s := &splitter{ctx: ctx, a: a, r: r, tables: map[string]*table{}}
	for _, in := range r.Inputs {
		s.tables[fold(in.Name)] = &table{name: in.Name, columns: in.Columns, bytes: in.Bytes, total: in.Total, fragment: -1}
	}
	tree, err := a.Tree(ctx, r.SQL)
	if err != nil {
		return nil, err
	}
	locate(tree, 0)
	names := mentioned(tree)
	for _, v := range r.Views { // whose names count as well
		if view, err := a.Tree(ctx, v.SQL); err == nil {
			for name := range mentioned(view) {
				names[name] = true
			}
		}
	}
	for _, t := range s.tables {
		r.Work += s.size(t, names)
	}
	if err := s.views(tree); err != nil {
		return nil, err
	}
	if name := reserved(tree, s.tables); name != "" {
		return gathered(r, fail(nil, "%s is a name that kq itself gives to columns", name)), nil
	}
	if err := s.inline(tree); err != nil {
		return nil, err
	}
	if name := s.hides(tree); name != "" {
		return gathered(r, fail(nil, "WITH %s hides another table of that name", name)), nil
	}
	positions(tree)
	if f := s.global(tree); f != nil {
		whole := gathered(r, f)
		s.attribute(&whole[0])
		return whole, nil
	}
	if err := s.plan(tree, r.Name, order{}); err != nil {
		return nil, err
	}
	return s.fragments, nil
}

// global finds what has one value for the whole statement, wherever it stands,
// or gets lost when rows are written in between.
func (s *splitter) global(tree analysis.Node) (f *failure) {
	if s.orderKept(tree) {
		return fail(nil, "it depends on the order of a query within it")
	}
	analysis.Walk(tree, func(n analysis.Node) bool {
		switch n.Str("class") {
		case "FUNCTION", "WINDOW":
			if c := s.a.Call(s.ctx, n); f == nil && !c.Aggregate && c.Reason != "" && n.Str("class") == "FUNCTION" {
				f = fail(n, "%s", c.Reason)
			}
		case "COLUMN_REF":
			names := columnNames(n)
			column := false
			for _, t := range s.tables {
				column = column || columnType(t.columns, fold(names[0])) != ""
			}
			if f == nil && len(names) == 1 && !column && analysis.Clock(names[0]) {
				f = fail(n, "%s is one value for the whole statement", names[0])
			}
		case "COLLATE":
			if f == nil {
				f = fail(lead(n), "a collation is lost where rows are written in between")
			}
		}
		return f == nil
	})
	return f
}

func fold(name string) string { return strings.ToLower(name) }

// next names a fragment.
func (s *splitter) next() string {
	s.named++
	return fmt.Sprintf("%s#%d", s.r.Name, s.named)
}

// way is a proven way to run a query over buckets.
type way struct {
	kind  pipeline.EdgeKind
	roles map[string]role
	types []string // of the key's components, as they are hashed
	cost  int64
}

func (s *splitter) prover(roles map[string]role, comps int, sorted bool) *prover {
	p := &prover{ctx: s.ctx, a: s.a, tables: map[string][]pipeline.Column{}, roles: roles, comps: comps, sorted: sorted}
	for name, t := range s.tables {
		p.tables[name] = t.columns
	}
	return p
}

// size is the decoded bytes of the columns of a table that q may read.
func (s *splitter) size(t *table, names map[string]bool) int64 {
	if t.total < 0 {
		return 1 << 50
	}
	if t.bytes == nil || names["*"] {
		return t.total
	}
	var n int64
	for i, c := range t.columns {
		if names[fold(c.Name)] {
			n += t.bytes[i]
		}
	}
	return n
}

// mentioned collects every name that could be a column's, and "*" where a star,
// a number, a natural join or a relation's name as a row may mean any.
func mentioned(q analysis.Node) map[string]bool {
	names := map[string]bool{}
	relations, alone := map[string]bool{}, map[string]bool{}
	analysis.Walk(q, func(n analysis.Node) bool {
		if n.Str("class") == "" && n.Str("type") != "" {
			relations[fold(n.Str("alias"))], relations[fold(n.Str("table_name"))] = true, true
		}
		switch {
		case n.Str("class") == "COLUMN_REF":
			all := columnNames(n)
			for _, c := range all {
				names[fold(c)] = true
			}
			alone[fold(all[0])] = alone[fold(all[0])] || len(all) == 1
		case n.Str("class") == "STAR" || n.Str("class") == "POSITIONAL_REFERENCE" || n.Str("ref_type") == "NATURAL" || n.Str("type") == "PIVOT":
			names["*"] = true
		}
		raw, _ := n["using_columns"].([]any)
		for _, r := range raw {
			if c, ok := r.(string); ok {
				names[fold(c)] = true
			}
		}
		return true
	})
	for r := range relations {
		names["*"] = names["*"] || alone[r]
	}
	return names
}

// distribute looks for the cheapest way to run q over buckets. Without one it
// returns the failure that tells most. big counts the tables that are too large
// to be read whole by every bucket. whole is the query that q is a part of, and
// tells which of their columns are read.
func (s *splitter) distribute(q, whole analysis.Node) (*way, *failure) {
	probe := s.prover(nil, 0, false)
	if _, f := probe.statement(q); f != nil {
		return nil, f
	}
	names := mentioned(whole)
	sizes := map[string]int64{}
	var used, big []string
	for name := range probe.uses {
		sizes[name] = s.size(s.tables[name], names)
		used = append(used, name)
	}
	sort.Slice(used, func(i, j int) bool {
		if sizes[used[i]] != sizes[used[j]] {
			return sizes[used[i]] > sizes[used[j]]
		}
		return used[i] < used[j]
	})
	for _, name := range used {
		if sizes[name] > s.r.Small {
			big = append(big, name)
		}
	}
	if len(big) == 0 && !s.r.Always {
		return &way{kind: pipeline.Gather}, nil
	}
	var best *way
	var worst *failure
	try := func(w *way) {
		if best != nil && best.cost <= w.cost {
			return
		}
		comps := max(1, len(w.types))
		_, f := s.prover(w.roles, comps, w.kind != pipeline.Hash).statement(q)
		switch {
		case f == nil:
			best = w
		case worst == nil || worst.cut == nil && (f.cut != nil || w.kind != pipeline.Forward):
			worst = f
		}
	}
	for i, name := range used {
		if len(big) > 1 || len(big) == 1 && name != big[0] || len(big) == 0 && i > 0 {
			continue
		}
		if probe.uses[name] == 1 {
			try(&way{kind: pipeline.Forward, roles: map[string]role{name: {parted: true}}, cost: 1})
		}
	}
	for _, c := range candidates(probe, used, s.tables) {
		for _, all := range []bool{s.r.Always, !s.r.Always} {
			w := s.keyed(c, used, sizes, all)
			if w == nil {
				continue
			}
			try(w)
			if w.kind == pipeline.Range && !s.r.Fits() {
				h := *w
				h.kind, h.cost = pipeline.Hash, h.cost+hashCost(w.roles, sizes)
				try(&h)
			}
		}
	}
	if best == nil && worst == nil {
		worst = s.apart(q, used, big)
	}
	return best, worst
}

// apart says what fails when all large tables are divided, as none has a key in
// common with the others.
func (s *splitter) apart(q analysis.Node, used, big []string) *failure {
	if len(used) == 0 {
		return fail(nil, "it reads no input")
	}
	roles := map[string]role{}
	for _, name := range big {
		roles[name] = role{parted: true}
	}
	if len(big) == 0 {
		roles[used[0]] = role{parted: true}
	}
	_, f := s.prover(roles, 1, false).statement(q)
	if f == nil {
		f = fail(mention(q, used[0]), "no column of %s is equal to one of the other inputs, which are too large to be read whole by each shard", s.tables[used[0]].name)
		f.join = true
	}
	if f.cut == nil {
		f.cut = s.subquery(q, s.prover(nil, 0, false), big)
	}
	return f
}

// subquery finds a query within an expression of q that reads one of the tables
// and can be computed on its own.
func (s *splitter) subquery(q analysis.Node, p *prover, big []string) (cut analysis.Node) {
	analysis.Walk(q, func(n analysis.Node) bool {
		if cut != nil || n.Str("class") != "SUBQUERY" {
			return cut == nil
		}
		query := n.Child("subquery").Child("node")
		for _, t := range s.tablesOf(query) {
			if slices.Contains(big, t) && cut == nil {
				cut, _ = p.alone(query)
			}
		}
		return cut == nil
	})
	return cut
}

// emit adds the fragment that runs q as w says.
func (s *splitter) emit(q analysis.Node, name string, w *way, why string, at int, by order) error {
	query, err := s.a.SQL(s.ctx, q)
	if err != nil {
		return err
	}
	names := mentioned(q)
	probe := s.prover(nil, 0, false)
	probe.statement(q)
	f := pipeline.Fragment{Name: name, Kind: w.kind, Reason: why, Offset: at, Does: s.describe(q), Means: s.meanings(q)}
	used := make([]string, 0, len(probe.uses))
	for n := range probe.uses {
		used = append(used, n)
	}
	if w.kind == pipeline.Gather { // also of what the proof doesn't know
		used = s.tablesOf(q)
	}
	sort.Strings(used)
	split, largest := -1, int64(-1)
	for _, n := range used {
		t := s.tables[n]
		in := pipeline.FragmentInput{Name: t.name, Kind: pipeline.Broadcast}
		part := w.roles[n]
		switch {
		case w.kind == pipeline.Gather:
			in.Kind = pipeline.Gather
		case part.parted:
			in.Kind, in.Key, in.Hash = w.kind, part.key, hashed(t.columns, part.key, w.types)
			f.Bytes += s.size(t, names)
		default:
			in.Columns, in.Where = s.read(t, names, nil), s.filter(q, t)
		}
		if size := s.size(t, names); in.Kind == pipeline.Hash && size > largest {
			if _, failed := s.prover(map[string]role{n: {parted: true}}, 1, false).statement(q); failed == nil {
				split, largest = len(f.Inputs), size
			}
		}
		t.readers++
		f.Inputs = append(f.Inputs, in)
	}
	if split >= 0 { // one alone: each of its pieces meets all rows of the others
		f.Inputs[split].Split = true
	}
	if w.kind == pipeline.Hash {
		if err := s.exchange(q, &f, w, names); err != nil {
			return err
		}
	}
	f.SQL = by.top(query, w.kind != pipeline.Gather)
	return s.add(f)
}

// tablesOf lists the declared tables below q.
func (s *splitter) tablesOf(q analysis.Node) (names []string) {
	analysis.Walk(q, func(n analysis.Node) bool {
		name := fold(n.Str("table_name"))
		if n.Str("type") == "BASE_TABLE" && s.tables[name] != nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
		return true
	})
	return names
}

// add declares a fragment as a table and appends it.
func (s *splitter) add(f pipeline.Fragment) error {
	columns, e := s.a.Bind(s.ctx, f.SQL)
	if e != nil {
		return fmt.Errorf("fragment %s: %s: %s", f.Name, e.Message, f.SQL)
	}
	if err := s.a.Declare(s.ctx, f.Name, columns); err != nil {
		return err
	}
	f.Columns = columns
	s.attribute(&f)
	s.fragments = append(s.fragments, f)
	s.tables[fold(f.Name)] = &table{name: f.Name, columns: columns, total: f.Bytes, fragment: len(s.fragments) - 1}
	return nil
}

// exchange routes what a hash fragment reads: a fragment that nobody else reads
// by its own output, everything else by a fragment that reads it once.
func (s *splitter) exchange(q analysis.Node, f *pipeline.Fragment, w *way, names map[string]bool) error {
	for i := range f.Inputs {
		in := &f.Inputs[i]
		if in.Kind != pipeline.Hash {
			continue
		}
		t := s.tables[fold(in.Name)]
		route := in.Hash
		if t.fragment >= 0 && t.readers == 1 {
			s.fragments[t.fragment].Route = route
			continue
		}
		p := pipeline.Fragment{
			Name: f.Name + ":" + t.name, Kind: pipeline.Forward, Route: route, Bytes: s.size(t, names), Offset: -1,
			Reason: "its rows are needed by the hash of " + strings.Join(in.Key, ", "),
			Inputs: []pipeline.FragmentInput{{Name: t.name, Kind: pipeline.Forward}},
		}
		var items []string
		for _, c := range s.read(t, names, in.Key) {
			items = append(items, ident(c))
		}
		p.SQL = "SELECT " + strings.Join(items, ", ") + " FROM " + ident(t.name)
		if where := s.filter(q, t); where != "" {
			p.SQL += " WHERE " + where
		}
		if err := s.add(p); err != nil {
			return err
		}
		in.From = p.Name
	}
	return nil
}

// hashed renders the columns of a key so that equal ones hash alike whatever
// their types.
func hashed(columns []pipeline.Column, key, types []string) []string {
	var out []string
	for i, k := range key {
		e := ident(k)
		if i < len(types) && columnType(columns, k) != types[i] {
			e = fmt.Sprintf("CAST(%s AS %s)", e, types[i])
		}
		out = append(out, e)
	}
	return out
}

// read lists the columns of a table that q may read: those that it mentions.
func (s *splitter) read(t *table, mentioned map[string]bool, key []string) (columns []string) {
	for _, c := range t.columns {
		if n := fold(c.Name); mentioned["*"] || mentioned[n] || slices.Contains(key, n) {
			columns = append(columns, c.Name)
		}
	}
	if len(columns) == 0 {
		columns = []string{t.columns[0].Name}
	}
	return columns
}

func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
