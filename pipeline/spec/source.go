package spec

import (
	"sort"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/kinequet/kq/pipeline"
)

// stride is how many characters lie between two entries of the index: a file
// may be one line of megabytes, and asking for places in it stays cheap.
const stride = 256

// source is the text of a job file, and translates between the three ways to
// say where something is: a byte offset, YAML's line and column, and the line
// and column that an editor shows. The latter two differ where YAML breaks
// lines at characters that editors don't.
type source struct {
	text  string
	marks []int // byte offset of every stride-th character
	yaml  []int // byte offsets at which YAML's lines begin
	lines []int // byte offsets at which an editor's lines begin
}

func newSource(text string) *source {
	s := &source{text: text, yaml: []int{0}, lines: []int{0}}
	count := 0
	for i := 0; i < len(text); {
		if count%stride == 0 {
			s.marks = append(s.marks, i)
		}
		w := breakWidth(text[i:])
		if w > 0 {
			s.yaml = append(s.yaml, i+w)
			if text[i] < utf8.RuneSelf {
				s.lines = append(s.lines, i+w)
			}
		}
		if w == 2 && text[i] == '\r' {
			count++ // \r\n: two characters, one break
			if count%stride == 0 {
				s.marks = append(s.marks, i+1)
			}
		}
		if w == 0 {
			_, w = utf8.DecodeRuneInString(text[i:])
		}
		i += w
		count++
	}
	return s
}

// breakWidth is the length of the line break that s begins with, or 0. YAML 1.1
// also breaks lines at NEL, LS and PS.
func breakWidth(s string) int {
	switch {
	case s == "":
	case s[0] == '\n':
		return 1
	case s[0] == '\r':
		if strings.HasPrefix(s, "\r\n") {
			return 2
		}
		return 1
	case strings.HasPrefix(s, "\u0085"):
		return 2
	case strings.HasPrefix(s, "\u2028"), strings.HasPrefix(s, "\u2029"):
		return 3
	}
	return 0
}

// last returns the index of the last entry of starts that is at most offset.
func last(starts []int, offset int) int {
	return sort.SearchInts(starts, offset+1) - 1
}

// runes counts the characters before a byte offset.
func (s *source) runes(offset int) int {
	if len(s.marks) == 0 {
		return 0
	}
	i := last(s.marks, offset)
	return i*stride + utf8.RuneCountInString(s.text[s.marks[i]:offset])
}

// pos is the place of a byte offset as an editor shows it.
func (s *source) pos(offset int) pipeline.Pos {
	offset = max(0, min(offset, len(s.text)))
	i := last(s.lines, offset)
	return pipeline.Pos{Line: i + 1, Col: s.runes(offset) - s.runes(s.lines[i]) + 1}
}

// offset is the byte offset of a line and column, both from 1, of YAML's.
func (s *source) offset(line, col int) int {
	if line < 1 || len(s.marks) == 0 {
		return 0
	}
	if line > len(s.yaml) {
		return len(s.text)
	}
	count := s.runes(s.yaml[line-1]) + max(col, 1) - 1
	if count/stride >= len(s.marks) {
		return len(s.text)
	}
	i := s.marks[count/stride]
	for range count % stride {
		if i >= len(s.text) {
			break
		}
		_, w := utf8.DecodeRuneInString(s.text[i:])
		i += w
	}
	return i
}

// content is the byte offset at which a node's content begins: where YAML says,
// or behind the anchor and the tag that stand there.
func (s *source) content(n *yaml.Node) int {
	i := s.offset(n.Line, n.Column)
	if n.Kind == yaml.AliasNode {
		return i
	}
	for k := 0; k < 2 && i < len(s.text); k++ { // at most one of each
		c := s.text[i]
		if c != '&' && c != '!' || c == '&' && n.Anchor == "" {
			break
		}
		for i < len(s.text) && !blank(s.text[i]) && breakWidth(s.text[i:]) == 0 {
			i++
		}
		i = s.skipSpace(i)
	}
	return i
}

// skipSpace skips blanks, line breaks and comments.
func (s *source) skipSpace(i int) int {
	for i < len(s.text) {
		switch w := breakWidth(s.text[i:]); {
		case w > 0:
			i += w
		case blank(s.text[i]):
			i++
		case s.text[i] == '#':
			for i < len(s.text) && breakWidth(s.text[i:]) == 0 {
				i++
			}
		default:
			return i
		}
	}
	return i
}

func blank(c byte) bool { return c == ' ' || c == '\t' }
