package fragment

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
)

// textBits is what an offset of a located node is shifted by: above are the
// number of the text that it stands in, from 1, and below the offset there.
// Nodes that the splitter makes itself have small offsets, of text 0: no place.
const textBits = 40

// locate makes the offsets below a parsed tree those of the numbered text.
func locate(tree analysis.Node, text int) {
	analysis.Walk(tree, func(n analysis.Node) bool {
		if at := n.Offset(); at >= 0 {
			n["query_location"] = json.Number(strconv.Itoa((text+1)<<textBits | at))
		}
		return true
	})
}

// lead returns the node below v that stands first in the SQL.
func lead(v any) (found analysis.Node) {
	analysis.Walk(v, func(n analysis.Node) bool {
		if at := n.Offset(); at>>textBits > 0 && (found == nil || at < found.Offset()) {
			found = n
		}
		return true
	})
	return found
}

// located is n, or where it begins when it has no place of its own, as a comma
// between tables.
func located(n analysis.Node) analysis.Node {
	if n.Offset() < 0 {
		return lead(n)
	}
	return n
}

// second is where the second operand of a set operation begins.
func second(operands []analysis.Node) analysis.Node {
	if len(operands) < 2 {
		return nil
	}
	return lead(operands[1])
}

// mention returns the first place where q names a table in FROM.
func mention(q analysis.Node, table string) (found analysis.Node) {
	analysis.Walk(q, func(n analysis.Node) bool {
		if n.Str("type") == "BASE_TABLE" && fold(n.Str("table_name")) == table && (found == nil || n.Offset() < found.Offset()) {
			found = n
		}
		return true
	})
	return found
}

// attribute finds the words that the fragment's reason speaks of.
func (s *splitter) attribute(f *pipeline.Fragment) {
	if f.Words.End > 0 { // of a fragment that another one absorbs
		return
	}
	texts := append([]pipeline.View{{Name: s.r.Name, SQL: s.r.SQL}}, s.r.Views...)
	if i := f.Offset>>textBits - 1; i >= 0 && i < len(texts) {
		f.Words = words(texts[i], f.Reason, f.Offset&(1<<textBits-1))
	} else {
		var all []pipeline.Words
		for _, t := range texts {
			if w := words(t, f.Reason, -1); w.End > 0 {
				all = append(all, w)
			}
		}
		if len(all) == 1 && f.Kind == pipeline.Gather {
			f.Words = all[0]
		}
	}
	f.Offset = -1
	if f.Words.End > 0 && f.Words.Stage == s.r.Name {
		f.Offset = f.Words.Start
	}
}

func words(t pipeline.View, why string, offset int) pipeline.Words {
	start, end := analysis.Words(t.SQL, why, offset)
	return pipeline.Words{Stage: t.Name, Start: start, End: end}
}

// describe says what a query computes.
func (s *splitter) describe(q analysis.Node) string {
	tables := s.tablesOf(q)
	for i, name := range tables {
		tables[i] = s.tables[name].name
	}
	slices.Sort(tables)
	if q.Str("type") != "SELECT_NODE" {
		return fmt.Sprintf("the %s of %s", strings.ReplaceAll(q.Str("setop_type"), "_", " "), list(tables))
	}
	parts := []string{"reads " + list(tables)}
	if q.Child("from_table").Str("type") == "JOIN" {
		parts[0] = "joins " + list(tables)
	}
	if q["where_clause"] != nil {
		parts = append(parts, "filters")
	}
	p, sel := s.prover(nil, 0, false), &selection{}
	for _, k := range []string{"select_list", "having", "qualify", "modifiers"} {
		p.collect(q[k], sel)
	}
	switch by := s.groupText(q); {
	case by != "":
		parts = append(parts, "groups by "+by)
	case len(tables) == 1 && s.tables[fold(tables[0])].fragment >= 0 && grouped(q, sel):
		parts = append(parts, "combines its groups")
	case grouped(q, sel):
		parts = append(parts, "aggregates")
	}
	if len(sel.windows) > 0 {
		parts = append(parts, "computes windows")
	}
	if slices.ContainsFunc(q.List("modifiers"), func(m analysis.Node) bool { return m.Str("type") == "DISTINCT_MODIFIER" }) {
		parts = append(parts, "makes rows distinct")
	}
	return list(parts)
}

// groupText is what a query groups by, unless only names of the splitter's would
// say it.
func (s *splitter) groupText(q analysis.Node) string {
	var keys []string
	for _, e := range q.List("group_expressions") {
		text, ok := s.expression(dereference(e, &scope{}, q.List("select_list")))
		if !ok || strings.Contains(text, "__kq_") {
			return ""
		}
		keys = append(keys, text)
	}
	return strings.Join(keys, ", ")
}

// meanings are the expressions that stand behind columns whose names the
// splitter made up.
func (s *splitter) meanings(q analysis.Node) map[string]string {
	means := map[string]string{}
	for _, e := range q.List("select_list") {
		name := e.Str("alias")
		if !strings.HasPrefix(name, "__kq_") {
			continue
		}
		if text, ok := s.expression(e); ok && !strings.Contains(text, "__kq_") {
			means[name] = text
		}
	}
	return means
}

// list joins words as a sentence does.
func list(words []string) string {
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " and " + words[n-1]
	}
	return strings.Join(words, "")
}
