package analysis

import "strings"

// token is a word, a quoted name, a literal or a sign.
type token struct {
	text   string // names without their quotes
	kind   byte   // 'w' word, 'q' quoted name, 's' string, 'n' number, 'p' sign
	offset int
	end    int // where the next one may begin
}

// lex cuts SQL into tokens, without comments. It serves the few statements that
// have no syntax tree; what it can't make sense of comes out as signs.
func lex(sql string) (toks []token) {
	for i := 0; i < len(sql); {
		c := sql[i]
		start := i
		switch {
		case c <= ' ':
			i++
			continue
		case strings.HasPrefix(sql[i:], "--"):
			for i < len(sql) && sql[i] != '\n' {
				i++
			}
			continue
		case strings.HasPrefix(sql[i:], "/*"):
			depth := 1
			for i += 2; i < len(sql) && depth > 0; i++ {
				switch {
				case strings.HasPrefix(sql[i:], "/*"):
					depth++
					i++
				case strings.HasPrefix(sql[i:], "*/"):
					depth--
					i++
				}
			}
			continue
		case c == '\'' || c == '"':
			var b strings.Builder
			escapes := c == '\'' && start > 0 && (sql[start-1]|0x20) == 'e'
			for i++; i < len(sql); i++ {
				if escapes && sql[i] == '\\' && i+1 < len(sql) {
					i++
				} else if sql[i] == c {
					if i+1 >= len(sql) || sql[i+1] != c {
						break
					}
					i++
				}
				b.WriteByte(sql[i])
			}
			i++
			kind := byte('s')
			if c == '"' {
				kind = 'q'
			}
			toks = append(toks, token{b.String(), kind, start, min(i, len(sql))})
			continue
		case c == '$':
			if tag, ok := dollarTag(sql[i:]); ok {
				end := strings.Index(sql[i+len(tag):], tag)
				if end < 0 {
					end = len(sql) - i - len(tag)
				}
				text := sql[i+len(tag) : i+len(tag)+end]
				i = min(len(sql), i+2*len(tag)+end)
				toks = append(toks, token{text, 's', start, i})
				continue
			}
			i++
		case word(c):
			for i < len(sql) && (word(sql[i]) || sql[i] >= '0' && sql[i] <= '9') {
				i++
			}
			toks = append(toks, token{sql[start:i], 'w', start, i})
			continue
		case c >= '0' && c <= '9':
			for i < len(sql) && (word(sql[i]) || sql[i] >= '0' && sql[i] <= '9' || sql[i] == '.') {
				i++
			}
			toks = append(toks, token{sql[start:i], 'n', start, i})
			continue
		default:
			i++
		}
		toks = append(toks, token{sql[start:i], 'p', start, i})
	}
	return toks
}

func word(c byte) bool { return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80 }

// dollarTag returns the opening "$tag$" of a dollar-quoted string.
func dollarTag(s string) (string, bool) {
	for i := 1; i < len(s); i++ {
		if s[i] == '$' {
			return s[:i+1], true
		}
		if !word(s[i]) && (i == 1 || s[i] < '0' || s[i] > '9') {
			return "", false
		}
	}
	return "", false
}
