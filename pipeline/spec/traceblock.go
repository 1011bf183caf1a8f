package spec

// block decodes a literal (|) or folded (>) scalar. The indentation of an
// explicit indicator counts from the parent's, which is not at hand: the one
// that gives the value is the right one.
func (t *tracer) block(s *source) bool {
	b := blockScalar{tracer: t, folded: t.peek() == '>'}
	t.i++
	explicit := 0
	for {
		switch c := t.peek(); {
		case c == '+' || c == '-':
			b.chomp = c
		case c >= '1' && c <= '9':
			explicit = int(c - '0')
		default:
			c = 0
			t.i = b.header(s)
			start := t.i
			if explicit == 0 {
				b.indent = b.guess(start)
				b.decode()
				return t.done()
			}
			for b.indent = explicit; b.indent <= b.widest(start)+explicit; b.indent++ {
				t.i, t.out, t.at = start, nil, nil
				b.decode()
				if t.done() {
					return true
				}
			}
			return false
		}
		t.i++
	}
}

// blockScalar decodes the lines of a block scalar.
type blockScalar struct {
	*tracer
	folded bool
	chomp  byte // '+', '-' or 0
	indent int
}

// header skips the rest of the indicator's line.
func (b *blockScalar) header(*source) int {
	i := b.i
	for i < len(b.text) && breakWidth(b.text[i:]) == 0 {
		i++
	}
	if i < len(b.text) {
		i += breakWidth(b.text[i:])
	}
	return i
}

// guess is the indentation of the first line that isn't empty. Should lines of
// nothing but blanks before it be wider, they count, as they do for YAML.
func (b *blockScalar) guess(i int) int {
	widest := 0
	for i < len(b.text) {
		start := i
		for i < len(b.text) && b.text[i] == ' ' {
			i++
		}
		widest = max(widest, i-start)
		w := breakWidth(b.text[i:])
		if w == 0 {
			break
		}
		i += w
	}
	return max(widest, 1)
}

// widest is the most that any line of the rest can be indented, up to a bound
// that only a hostile file passes.
func (b *blockScalar) widest(i int) int {
	widest := 0
	for lines := 0; i < len(b.text) && lines < 100; lines++ {
		start := i
		for i < len(b.text) && b.text[i] == ' ' {
			i++
		}
		widest = max(widest, i-start)
		for i < len(b.text) && breakWidth(b.text[i:]) == 0 {
			i++
		}
		if i < len(b.text) {
			i += breakWidth(b.text[i:])
		}
	}
	return min(widest, 2*maxDepth)
}

// decode reads lines of the indentation until one has less.
func (b *blockScalar) decode() {
	b.end = b.i
	column, breaks := b.skip(nil)
	var leading *lineBreak
	wasBlank := false
	for column == b.indent && b.i < len(b.text) {
		isBlank := blank(b.peek())
		switch {
		case leading == nil:
		case b.folded && !wasBlank && !isBlank && leading.text == "\n":
			if len(breaks) == 0 {
				b.emit(" ", leading.at)
			}
		default:
			b.emit(leading.text, leading.at)
		}
		for _, k := range breaks {
			b.emit(k.text, k.at)
		}
		wasBlank = isBlank
		for b.i < len(b.text) && breakWidth(b.text[b.i:]) == 0 {
			b.copy()
		}
		leading, breaks = nil, nil
		if b.i < len(b.text) {
			k := b.readBreak()
			leading = &k
		}
		if len(b.out) > len(b.want) {
			return
		}
		column, breaks = b.skip(nil)
	}
	if b.chomp != '-' && leading != nil {
		b.end = leading.at
		b.emit(leading.text, leading.at)
	}
	if b.chomp == '+' {
		for _, k := range breaks {
			b.end = k.at
			b.emit(k.text, k.at)
		}
	}
}

// skip passes the indentation and empty lines, and returns the column it got to.
func (b *blockScalar) skip(breaks []lineBreak) (int, []lineBreak) {
	for {
		column := 0
		for column < b.indent && b.peek() == ' ' {
			b.i++
			column++
		}
		if b.i >= len(b.text) || breakWidth(b.text[b.i:]) == 0 {
			return column, breaks
		}
		breaks = append(breaks, b.readBreak())
	}
}
