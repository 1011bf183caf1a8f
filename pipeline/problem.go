package pipeline

import (
	"fmt"
	"slices"
	"strings"
)

// Pos is a place in a job file. Line and Col count from 1, Col in characters;
// the zero Pos means unknown.
type Pos struct{ Line, Col int }

// Problem is one thing wrong with a job, where it is and what to do about it.
type Problem struct {
	File    string // as the user named it
	Pos     Pos
	Path    string // dotted path of the key, such as "stages.routes.sql"
	Message string
	Hint    string // may be empty
}

// String renders the problem as one line: "file:line:col: path: message, hint".
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Pos.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Pos.Line, p.Pos.Col)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(oneLine(p.Path) + ": ")
	}
	b.WriteString(oneLine(p.Message))
	if p.Hint != "" {
		b.WriteString("; " + oneLine(p.Hint))
	}
	return b.String()
}

// oneLine keeps a message from breaking the one-problem-per-line form.
func oneLine(s string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)), " ")
}

// Problems is every problem found in a job, in file order. It is the error
// that decoding and compiling return for a job that is wrong.
type Problems []Problem

// Error joins the problems, one a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Sort orders problems by their place in the file.
func (ps Problems) Sort() {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if a.Pos.Line != b.Pos.Line {
			return a.Pos.Line - b.Pos.Line
		}
		return a.Pos.Col - b.Pos.Col
	})
}

// Err returns nil for an empty list, so that callers can return it as an error.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}
