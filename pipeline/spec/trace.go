package spec

import (
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// trace returns for every byte of a scalar's decoded value, and for its end,
// the byte offset in the file at which the character stands that it comes from.
// It decodes the scalar once more from the text, as YAML 1.1 says, keeping
// account of offsets, and reports whether that gave the same value. If it
// didn't, everything is placed where the scalar begins.
func (s *source) trace(n *yaml.Node) (at []int, same bool) {
	start := s.content(n)
	t := tracer{text: s.text, i: start, want: n.Value}
	if c := t.peek(); n.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 && (c == '|' || c == '>') {
		same = t.block(s)
	} else if n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle) != 0 && (c == '\'' || c == '"') {
		t.quoted()
		same = t.done()
	} else {
		t.plain()
		same = t.done()
	}
	if same {
		return append(t.at, t.end), true
	}
	at = make([]int, len(n.Value)+1)
	for i := range at {
		at[i] = start
	}
	return at, false
}

// tracer decodes one scalar.
type tracer struct {
	text string
	i    int    // next byte of text
	want string // what decoding has to give
	out  []byte
	at   []int // offset in text of every byte of out
	end  int   // the offset behind the last character
}

func (t *tracer) peek() byte {
	if t.i < len(t.text) {
		return t.text[t.i]
	}
	return 0
}

// emit adds what stands at an offset of the text to the value.
func (t *tracer) emit(s string, offset int) {
	t.out = append(t.out, s...)
	for range len(s) {
		t.at = append(t.at, offset)
	}
}

// copy takes one character as it is.
func (t *tracer) copy() {
	_, w := utf8.DecodeRuneInString(t.text[t.i:])
	for k := range w {
		t.out = append(t.out, t.text[t.i+k])
		t.at = append(t.at, t.i+k)
	}
	t.i += w
	t.end = t.i
}

// stop reports whether nothing more is to come.
func (t *tracer) stop() bool {
	return t.i >= len(t.text) || len(t.out) >= len(t.want)
}

func (t *tracer) done() bool { return string(t.out) == t.want }

// lineBreak is a line break on its way into the value.
type lineBreak struct {
	text string // "\n", or LS or PS as they are
	at   int
}

func (t *tracer) readBreak() lineBreak {
	w := breakWidth(t.text[t.i:])
	b := lineBreak{text: "\n", at: t.i}
	if w == 3 {
		b.text = t.text[t.i : t.i+w]
	}
	t.i += w
	return b
}

// fold emits a run of line breaks in a flow scalar: one becomes a blank, of
// several the first is dropped.
func (t *tracer) fold(breaks []lineBreak) {
	if len(breaks) == 0 {
		return
	}
	if breaks[0].text == "\n" {
		if len(breaks) == 1 {
			t.emit(" ", breaks[0].at)
		}
		breaks = breaks[1:]
	}
	for _, b := range breaks {
		t.emit(b.text, b.at)
	}
}

// gap reads blanks and line breaks within a flow scalar and emits what is left
// of them. Breaks swallow the blanks around them; escaped says that an escaped
// line break came before.
func (t *tracer) gap(escaped bool) {
	start := t.i
	var breaks []lineBreak
	broken := escaped
	for t.i < len(t.text) {
		if blank(t.peek()) {
			t.i++
		} else if breakWidth(t.text[t.i:]) > 0 {
			b := t.readBreak()
			if escaped && len(breaks) == 0 {
				breaks = append(breaks, lineBreak{}) // the escaped one; it leaves nothing itself
			}
			breaks = append(breaks, b)
			broken = true
		} else {
			break
		}
	}
	switch {
	case escaped && len(breaks) > 0:
		for _, b := range breaks[1:] {
			t.emit(b.text, b.at)
		}
	case broken:
		t.fold(breaks)
	default:
		for k := start; k < t.i; k++ {
			t.emit(t.text[k:k+1], k)
		}
	}
}

// plain decodes an unquoted scalar. It ends where the value does.
func (t *tracer) plain() {
	t.end = t.i
	for !t.stop() {
		if blank(t.peek()) || breakWidth(t.text[t.i:]) > 0 {
			t.gap(false)
			continue
		}
		t.copy()
	}
}

// quoted decodes a scalar in single or double quotes.
func (t *tracer) quoted() {
	quote := t.peek()
	t.i++
	t.end = t.i
	for t.i < len(t.text) {
		c := t.peek()
		switch {
		case c == quote && quote == '\'' && strings.HasPrefix(t.text[t.i:], "''"):
			t.emit("'", t.i)
			t.i += 2
		case c == quote:
			t.end = t.i
			return
		case c == '\\' && quote == '"':
			t.i++
			if breakWidth(t.text[t.i:]) > 0 {
				t.readBreak()
				t.gap(true)
				continue
			}
			t.escape()
		case blank(c) || breakWidth(t.text[t.i:]) > 0:
			t.gap(false)
		default:
			t.copy()
		}
	}
}

// escapes are those that stand for one character.
var escapes = map[byte]string{
	'0': "\x00", 'a': "\a", 'b': "\b", 't': "\t", '\t': "\t", 'n': "\n", 'v': "\v", 'f': "\f", 'r': "\r",
	'e': "\x1b", ' ': " ", '"': `"`, '\'': "'", '\\': `\`, 'N': "\u0085", '_': "\u00a0", 'L': "\u2028", 'P': "\u2029",
}

// escape decodes one escape of a double-quoted scalar, behind its backslash.
func (t *tracer) escape() {
	start := t.i - 1
	c := t.peek()
	t.i++
	if s, ok := escapes[c]; ok {
		t.emit(s, start)
		return
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[c]
	var r rune
	for range digits {
		r = r<<4 | rune(hex(t.peek()))
		t.i++
	}
	t.emit(string(r), start)
}

func hex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return c - 'A' + 10
}
