package equality

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

var lexeme = regexp.MustCompile(`'(?:[^']|'')*'|"(?:[^"]|"")*"|[A-Za-z0-9_.]+|<>|>=|<=|!=|\|\||::|[^\s]`)

// shrink removes what it can from a statement for as long as bad holds of it. It
// knows nothing of SQL but brackets: what it breaks, bad must refuse.
func shrink(sql string, bad func(string) bool) string {
	tokens := lexeme.FindAllString(sql, -1)
	try := func(candidate []string) bool {
		if len(candidate) >= len(tokens) || !bad(strings.Join(candidate, " ")) {
			return false
		}
		tokens = candidate
		return true
	}
	for again := true; again; {
		again = false
		for size := len(tokens) / 2; size > 0; size = size * 2 / 3 {
			for i := 0; i+size <= len(tokens); {
				if balanced(tokens[i:i+size]) && try(slices.Delete(slices.Clone(tokens), i, i+size)) {
					again = true
				} else {
					i++
				}
			}
		}
		for i := 0; i < len(tokens); i++ {
			end := closing(tokens, i)
			if end < 0 {
				continue
			}
			for _, with := range [][]string{{"NULL"}, {"1"}, {"(", "1", ")"}, tokens[i+1 : end]} {
				if try(slices.Replace(slices.Clone(tokens), i, end+1, with...)) {
					again = true
					break
				}
			}
		}
	}
	return strings.Join(tokens, " ")
}

// closing is where the bracket at i closes, or -1.
func closing(tokens []string, i int) int {
	if tokens[i] != "(" {
		return -1
	}
	for j, depth := i, 0; j < len(tokens); j++ {
		switch tokens[j] {
		case "(":
			depth++
		case ")":
			depth--
		}
		if depth == 0 {
			return j
		}
	}
	return -1
}

func balanced(tokens []string) bool {
	depth := 0
	for _, t := range tokens {
		switch t {
		case "(", "[", "{":
			depth++
		case ")", "]", "}":
			depth--
		}
		if depth < 0 {
			return false
		}
	}
	return depth == 0
}

// ordered reports whether a statement ends in ORDER BY.
func ordered(sql string) bool {
	tokens := lexeme.FindAllString(sql, -1)
	for i, t := range tokens {
		if strings.EqualFold(t, "ORDER") && balanced(tokens[i:]) {
			return true
		}
	}
	return false
}

func TestShrink(t *testing.T) {
	const sql = `WITH q AS (SELECT 1) SELECT a.i AS c1, (SELECT max(b.v) FROM hot b WHERE b.i = a.i) AS c2 FROM spread a LEFT JOIN tiny t ON (t.i = a.i) WHERE NOT (a.s = 'it''s (')`
	got := shrink(sql, func(s string) bool {
		return strings.Contains(s, "LEFT JOIN") && strings.Contains(s, "'it''s ('") && balanced(lexeme.FindAllString(s, -1))
	})
	if got != "LEFT JOIN 'it''s ('" {
		t.Errorf("shrinks to %s", got)
	}
	if !ordered("SELECT 1 ORDER BY 1 LIMIT 3") || ordered("SELECT (SELECT 1 ORDER BY 1)") {
		t.Error("ORDER BY is not told from that of a subquery")
	}
}
