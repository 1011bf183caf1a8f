package postgressink

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// name is that of a table. A schema of "" is found by the search path.
type name struct{ schema, table string }

// String is the name as SQL reads it.
func (n name) String() string {
	if n.schema == "" {
		return ident(n.table)
	}
	return ident(n.schema) + "." + ident(n.table)
}

func ident(s string) string { return pgx.Identifier{s}.Sanitize() }

// idents lists names as SQL reads them, each after a prefix.
func idents(names []string, prefix string) string {
	quoted := make([]string, len(names))
	for i, n := range names {
		quoted[i] = prefix + ident(n)
	}
	return strings.Join(quoted, ", ")
}

// parseName reads table or schema.table by PostgreSQL's rules: what isn't quoted
// is folded to small letters.
func parseName(text string) (name, error) {
	var parts []string
	for rest := text; ; rest = rest[1:] {
		part, after, err := cutIdent(rest)
		if err != nil {
			return name{}, fmt.Errorf("%q is no name of a table: %w", text, err)
		}
		parts, rest = append(parts, part), after
		if rest == "" {
			break
		}
		if rest[0] != '.' {
			return name{}, fmt.Errorf("%q is no name of a table", text)
		}
	}
	switch len(parts) {
	case 1:
		return name{"", parts[0]}, nil
	case 2:
		return name{parts[0], parts[1]}, nil
	}
	return name{}, fmt.Errorf("%q has %d parts, not a schema and a table", text, len(parts))
}

// cutIdent takes an identifier off the beginning of s.
func cutIdent(s string) (ident, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		if ident, rest, err = cutQuoted(s); err != nil {
			return "", "", err
		}
		return ident, rest, fits(ident)
	}
	i := 0
	for i < len(s) && (s[i] == '_' || s[i] >= 0x80 || 'a' <= s[i]|0x20 && s[i]|0x20 <= 'z' || i > 0 && (s[i] == '$' || '0' <= s[i] && s[i] <= '9')) {
		i++
	}
	ident = strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s[:i])
	return ident, s[i:], fits(ident)
}

func fits(ident string) error {
	switch {
	case ident == "":
		return errors.New("a part of it is empty, or needs double quotes")
	case len(ident) > 63:
		return errors.New("a part of it is longer than 63 bytes")
	case strings.ContainsRune(ident, 0):
		return errors.New("it has a zero byte")
	}
	return nil
}
