package analysis

import (
	"slices"
	"strings"
)

// Words finds what a reason speaks of in the SQL: the clause that it begins with
// ("GROUP BY brings together …") where that stands before the offset or only
// once, else the expression at the offset. An end of 0 means that there is none.
func Words(sql, why string, offset int) (start, end int) {
	toks := lex(sql)
	here := slices.IndexFunc(toks, func(t token) bool { return t.offset == offset })
	if clause := clauseOf(why); len(clause) > 0 {
		if i, n := findClause(toks, clause, here); n > 0 {
			last := i + n - 1
			if !slices.Contains(setOperations, clause[0]) && last+1 < len(toks) {
				last = expression(toks, last+1)
			}
			return toks[i].offset, toks[last].end
		}
	}
	if here < 0 {
		return 0, 0
	}
	return toks[here].offset, toks[expression(toks, here)].end
}

var setOperations = []string{"UNION", "EXCEPT", "INTERSECT"}

// clauseOf is the words in capitals that a reason begins with.
func clauseOf(why string) (words []string) {
	for _, w := range strings.Fields(why) {
		if len(w) < 2 || strings.Trim(w, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			break
		}
		words = append(words, w)
	}
	return words
}

// findClause returns the first of the tokens that spell a clause, and how many
// they are; none when it is not sure which of several is meant.
func findClause(toks []token, clause []string, here int) (at, n int) {
	var places, lengths []int
	for i := range toks {
		if k := spells(toks[i:], clause); k > 0 {
			places, lengths = append(places, i), append(lengths, k)
		}
	}
	for i := len(places) - 1; i >= 0; i-- {
		if places[i] <= here && between(toks, places[i]+lengths[i], here) {
			return places[i], lengths[i]
		}
	}
	if len(places) == 1 {
		return places[0], lengths[0]
	}
	return 0, 0
}

// spells returns how many tokens spell the words of a clause; OUTER may stand
// among them.
func spells(toks []token, words []string) int {
	n := 0
	for _, w := range words {
		if n > 0 && n < len(toks) && toks[n].is("OUTER") {
			n++
		}
		if n >= len(toks) || !toks[n].is(w) {
			return 0
		}
		n++
	}
	return n
}

func (t token) is(word string) bool { return t.kind == 'w' && strings.EqualFold(t.text, word) }

func (t token) sign(text string) bool { return t.kind == 'p' && t.text == text }

// between reports whether only what opens a query or an expression stands from
// token i up to token j.
func between(toks []token, i, j int) bool {
	for ; i < j; i++ {
		if t := toks[i]; !t.sign("(") && !t.sign("*") && !slices.ContainsFunc([]string{"ALL", "SELECT", "DISTINCT", "FROM"}, t.is) {
			return false
		}
	}
	return true
}

var joinWords = []string{"NATURAL", "LEFT", "RIGHT", "FULL", "INNER", "OUTER", "CROSS", "SEMI", "ANTI", "ASOF", "POSITIONAL", "JOIN"}

// expression returns the last token of the name, call, literal or join at token i.
func expression(toks []token, i int) int {
	for i+1 < len(toks) && slices.ContainsFunc(joinWords, toks[i].is) && !toks[i+1].sign("(") {
		i++ // to what is joined
	}
	next := func(text string) bool { return i+1 < len(toks) && toks[i+1].sign(text) }
	for next(".") && i+2 < len(toks) {
		i += 2
	}
	if next("(") {
		i = closing(toks, i+1)
	}
	for _, word := range []string{"FILTER", "OVER"} {
		if i+1 < len(toks) && toks[i+1].is(word) {
			i++
			if i++; i < len(toks) && toks[i].sign("(") {
				i = closing(toks, i)
			}
		}
	}
	return min(i, len(toks)-1)
}

// closing returns the bracket that closes the one at token i.
func closing(toks []token, i int) int {
	depth := 0
	for ; i < len(toks); i++ {
		switch {
		case toks[i].sign("("):
			depth++
		case toks[i].sign(")"):
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return len(toks) - 1
}
