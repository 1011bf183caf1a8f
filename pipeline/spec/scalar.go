package spec

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"github.com/kinequet/kq/pipeline"
)

// text decodes a scalar, with references to the environment replaced.
func (d *decoder) text(path string, n *yaml.Node) (string, bool) {
	s, _, ok := d.expand(path, n)
	return s, ok
}

func (d *decoder) nonEmpty(path string, n *yaml.Node) (string, bool) {
	s, ok := d.text(path, n)
	if ok && strings.TrimSpace(s) == "" {
		d.problem(n, path, "is empty", "")
		return "", false
	}
	return s, ok
}

// shown is a scalar as the file has it: values of the environment are not shown.
func (d *decoder) shown(n *yaml.Node) string {
	s := []rune(resolve(n).Value)
	if len(s) > 80 {
		return strconv.Quote(string(s[:80])) + "…"
	}
	return strconv.Quote(string(s))
}

func (d *decoder) boolean(path string, n *yaml.Node) bool {
	s, ok := d.text(path, n)
	switch {
	case !ok:
	case s == "true" || s == "True" || s == "TRUE":
		return true
	case s == "false" || s == "False" || s == "FALSE":
	default:
		d.problem(n, path, d.shown(n)+" is neither true nor false", "")
	}
	return false
}

func (d *decoder) count(path string, n *yaml.Node, low, high int) int {
	s, ok := d.text(path, n)
	if !ok {
		return 0
	}
	v, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || v < low || v > high {
		d.problem(n, path, d.shown(n)+" is no whole number that can stand here", fmt.Sprintf("from %d to %d", low, high))
		return low
	}
	return v
}

func (d *decoder) size(path string, n *yaml.Node) int64 {
	s, ok := d.text(path, n)
	if !ok {
		return 0
	}
	v, err := size(s)
	if err != nil {
		d.problem(n, path, fmt.Sprintf("%s %v", d.shown(n), err), "")
	}
	return v
}

func (d *decoder) choice(path string, n *yaml.Node, values ...string) string {
	s, ok := d.text(path, n)
	if ok && !slices.Contains(values, s) {
		d.problem(n, path, d.shown(n)+" is none of "+strings.Join(values, ", "), "")
	}
	return s
}

// expand replaces ${NAME} and ${NAME:-default} in a scalar; $${ stands for ${.
// The function that it returns translates an offset in the result to a place in
// the file; what came from the environment is placed where its reference stands.
func (d *decoder) expand(path string, n *yaml.Node) (string, func(int) pipeline.Pos, bool) {
	n = resolve(n)
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" {
		d.problem(n, path, "must be a text, not "+kind(n), "")
		return "", nil, false
	}
	raw := n.Value
	ok := true
	var out strings.Builder
	var origin []int // offset in raw of every byte of the result
	place := func(s string, at int, follow bool) {
		for i := range len(s) {
			origin = append(origin, at)
			if follow {
				at++
			}
			out.WriteByte(s[i])
		}
	}
	var where func(int) pipeline.Pos
	for i := 0; i < len(raw); {
		if strings.HasPrefix(raw[i:], "$${") {
			place("${", i+1, true)
			i += 3
			continue
		}
		end := -1
		if strings.HasPrefix(raw[i:], "${") {
			end = strings.IndexByte(raw[i:], '}')
		}
		if end < 0 {
			place(raw[i:i+1], i, true)
			i++
			continue
		}
		name, fallback, has := strings.Cut(raw[i+2:i+end], ":-")
		value, set := d.o.Env(name)
		if !validName.MatchString(name) || !set && !has {
			message, hint := fmt.Sprintf("the environment variable %s is not set", name), fmt.Sprintf("set it, or write ${%s:-default}", name)
			if !validName.MatchString(name) {
				message, hint = "${"+name+"} is no reference to an environment variable", "write $${ for a literal ${"
			}
			if where == nil {
				where = d.locate(n)
			}
			p := pipeline.Problem{File: d.file, Pos: where(i), Path: path, Message: message, Hint: hint}
			if d.set[n] {
				p.File, p.Pos = "--set", pipeline.Pos{}
			}
			d.problems = append(d.problems, p)
			ok = false
		} else {
			if !set {
				value = fallback
			}
			if !d.env[name] {
				d.env[name] = true
				d.job.Env = append(d.job.Env, pipeline.EnvRef{Name: name, Value: value, FromFile: !set})
			}
			place(value, i, false)
		}
		i += end + 1
	}
	origin = append(origin, len(raw))
	at := func(offset int) pipeline.Pos {
		if d.set[n] {
			return pipeline.Pos{}
		}
		if where == nil {
			where = d.locate(n)
		}
		return where(origin[max(0, min(offset, len(origin)-1))])
	}
	return out.String(), at, ok
}

func splitLines(data []byte) []string {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	lines := strings.Split(string(data), "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	return lines
}

// locate returns the function that translates an offset in a scalar's decoded
// value to its place in the file. It walks the file's text and the value side
// by side: the value is the text, but for indentation, folding and escapes.
func (d *decoder) locate(n *yaml.Node) func(int) pipeline.Pos {
	starts := make([]pipeline.Pos, len(n.Value)+1)
	switch {
	case n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		d.locateBlock(n, starts)
	default:
		d.locateFlow(n, starts)
	}
	return func(offset int) pipeline.Pos { return starts[max(0, min(offset, len(starts)-1))] }
}

// locateBlock handles | and >: content lines follow the indicator's line, and
// each begins at the block's indentation.
func (d *decoder) locateBlock(n *yaml.Node, starts []pipeline.Pos) {
	value := n.Value
	line := n.Line // index of the line after the indicator, counted from 0
	indent := -1
	for l := line; l < len(d.lines); l++ {
		if t := strings.TrimLeft(d.lines[l], " "); t != "" {
			indent = len(d.lines[l]) - len(t)
			break
		}
	}
	if header := strings.TrimSpace(d.lines[min(n.Line, len(d.lines))-1]); len(header) > 0 {
		// An explicit indentation indicator leaves leading blanks in the value.
		i := strings.LastIndexAny(header, "|>")
		for _, c := range header[max(i, 0):] {
			if c >= '1' && c <= '9' && strings.HasPrefix(value, " ") {
				indent -= len(value) - len(strings.TrimLeft(value, " "))
			}
		}
	}
	i, l, col := 0, line, 0
	for i < len(value) {
		if l >= len(d.lines) {
			break
		}
		text := ""
		if len(d.lines[l]) > indent && indent >= 0 {
			text = d.lines[l][indent:]
		}
		if col >= len(text) { // the end of the line: a newline, a blank where folded, or nothing
			if value[i] == '\n' || value[i] == ' ' {
				starts[i] = pipeline.Pos{Line: l + 1, Col: indent + utf8.RuneCountInString(text) + 1}
				i++
			}
			l, col = l+1, 0
			// Folding drops one of several newlines.
			for n.Style&yaml.FoldedStyle != 0 && i < len(value) && value[i] != '\n' && l < len(d.lines) && strings.TrimSpace(d.lines[l]) == "" {
				l++
			}
			continue
		}
		starts[i] = pipeline.Pos{Line: l + 1, Col: indent + utf8.RuneCountInString(text[:col]) + 1}
		i++
		col++
	}
	for ; i < len(starts); i++ {
		starts[i] = pipeline.Pos{Line: min(l, len(d.lines)-1) + 1, Col: max(indent, 0) + col + 1}
	}
}

// locateFlow handles plain and quoted scalars, which may span lines.
func (d *decoder) locateFlow(n *yaml.Node, starts []pipeline.Pos) {
	value := n.Value
	l := n.Line - 1
	if l < 0 || l >= len(d.lines) {
		return
	}
	text := d.lines[l]
	col := byteColumn(text, n.Column)
	quote := byte(0)
	if n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 && col < len(text) {
		quote = text[col]
		col++
	}
	pos := func() pipeline.Pos {
		return pipeline.Pos{Line: l + 1, Col: utf8.RuneCountInString(text[:min(col, len(text))]) + 1}
	}
	for i := 0; i < len(value); {
		// The end of a line, and what is around it, folds to one blank or to newlines.
		if (value[i] == ' ' || value[i] == '\n') && strings.TrimSpace(text[min(col, len(text)):]) == "" {
			starts[i] = pos()
			breaks := value[i] == '\n'
			i++
			for l+1 < len(d.lines) {
				l++
				text = d.lines[l]
				if t := strings.TrimLeft(text, " \t"); t != "" {
					col = len(text) - len(t)
					break
				}
				if breaks && i < len(value) && value[i] == '\n' {
					starts[i] = pipeline.Pos{Line: l + 1, Col: 1}
					i++
				}
			}
			continue
		}
		starts[i] = pos()
		width := 1 // bytes of the file that one byte of the value took
		switch {
		case col >= len(text):
		case quote == '\'' && strings.HasPrefix(text[col:], "''"):
			width = 2
		case quote == '"' && text[col] == '\\':
			width = escapeWidth(text[col:])
			// One escape may give several bytes.
			_, size := utf8.DecodeRuneInString(value[i:])
			for k := 1; k < size; k++ {
				starts[i+k] = starts[i]
			}
			i += size - 1
			if width == 1 { // an escaped end of line: nothing of the value
				i -= size
				if l+1 < len(d.lines) {
					l++
					text = d.lines[l]
					col = len(text) - len(strings.TrimLeft(text, " \t"))
					width = 0
				}
			}
		}
		i++
		col += width
	}
	starts[len(value)] = pos()
}

// byteColumn turns a column in characters, from 1, into a byte index.
func byteColumn(s string, col int) int {
	for i := range s {
		col--
		if col == 0 {
			return i
		}
	}
	return len(s)
}

// escapeWidth is the length of the escape that s begins with; 1 for a backslash
// at the end of a line.
func escapeWidth(s string) int {
	if len(s) < 2 {
		return 1
	}
	n := map[byte]int{'x': 4, 'u': 6, 'U': 10}[s[1]]
	if n == 0 {
		n = 2
	}
	return min(n, len(s))
}
