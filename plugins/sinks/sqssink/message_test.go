package sqssink

import (
	"errors"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"
)

// one makes the message of a row.
func one(t *testing.T, c *config, r row, columns ...string) (*message, error) {
	t.Helper()
	for batch, err := range part("kq/r/out/7", []row{{body: "x", group: "g", s: "x", n: "1", b: []byte("x")}, r}, columns...).Batches {
		if err != nil {
			t.Fatal(err)
		}
		reader, err := newReader(c, batch)
		if err != nil {
			t.Fatal(err)
		}
		return reader.message(1, 1)
	}
	return nil, nil
}

func TestMessage(t *testing.T) {
	all := []string{"v", "g", "s0", "n1", "b2"}
	good := row{body: "häuser", group: "g-1", s: "ünï", n: "-1.5", b: []byte{0, 255}}
	c, err := parse(settings("queue", "q.fifo", "group", "g", "attributes", [][2]string{{"text", "s"}, {"num", "n"}, {"bin", "b"}}))
	if err != nil {
		t.Fatal(err)
	}
	m, err := one(t, c, good, all...)
	if err != nil {
		t.Fatal(err)
	}
	a := m.entry.MessageAttributes
	if *m.entry.MessageBody != "häuser" || *m.entry.MessageGroupId != "g-1" || *m.entry.MessageDeduplicationId != "kq/r/out/7/1" || len(a) != 4 ||
		*a["text"].StringValue != "ünï" || *a["num"].StringValue != "-1.5" || *a["num"].DataType != "Number" || string(a["bin"].BinaryValue) != "\x00\xff" ||
		*a["kq-id"].StringValue != "kq/r/out/7/1" || *a["text"].DataType != "String" || *a["bin"].DataType != "Binary" {
		t.Errorf("%+v", m.entry)
	}
	want := len("häuser") + len("text"+"String"+"ünï") + len("num"+"Number"+"-1.5") + len("bin"+"Binary") + 2 + len("kq-id"+"String"+"kq/r/out/7/1")
	if m.bytes != want {
		t.Errorf("%d bytes, want %d", m.bytes, want)
	}
	m, err = one(t, c, row{body: "x", group: "g"}, all...)
	if err != nil || len(m.entry.MessageAttributes) != 1 {
		t.Errorf("NULL attributes: %v, %v", m, err)
	}
	for name, change := range map[string]func(*row){
		"empty":                    func(r *row) { r.body = "" },
		"NULL;":                    func(r *row) { r.body = nil },
		"U+0001":                   func(r *row) { r.body = "ab\x01" },
		"character 3 of":           func(r *row) { r.body = "äb\uffff" },
		"no UTF-8":                 func(r *row) { r.body = "ab\xff" },
		"group is NULL":            func(r *row) { r.group = nil },
		`group ""`:                 func(r *row) { r.group = "" },
		`group "a b"`:              func(r *row) { r.group = "a b" },
		"md5":                      func(r *row) { r.group = strings.Repeat("g", 129) },
		"attribute text: is empty": func(r *row) { r.s = "" },
		"attribute bin: is empty":  func(r *row) { r.b = []byte{} },
		"attribute text: char":     func(r *row) { r.s = "\x00" },
	} {
		r := good
		change(&r)
		var refused *refusal
		if _, err := one(t, c, r, all...); !errors.As(err, &refused) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "row kq/r/out/7/1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestColumns: batches that aren't those of Publication are refused.
func TestColumns(t *testing.T) {
	c, err := parse(settings("queue", "q.fifo", "group", "g", "attributes", [][2]string{{"a", "s"}}))
	if err != nil {
		t.Fatal(err)
	}
	for _, columns := range [][]string{{"v"}, {"g"}, {"v", "g", "s1"}, {"v", "g", "x0"}, {"v", "g", "s"}, {"b0v"}, {"v", "g", "s-1"}} {
		for batch := range part("p", []row{{}}, columns...).Batches {
			if _, err := newReader(c, batch); err == nil {
				t.Errorf("%v was taken", columns)
			}
		}
	}
}

// FuzzBadText compares with the characters of XML 1.0 as a regular expression.
func FuzzBadText(f *testing.F) {
	xml := regexp.MustCompile(`^[\x09\x0A\x0D\x20-\x{D7FF}\x{E000}-\x{FFFD}\x{10000}-\x{10FFFF}]*$`)
	for _, s := range []string{"", "a\tb\r\n", "\x00", "\u000b", "\u0085", "\ufffd", "\ufffe", "\uffff", "\xff", "\xed\xa0\x80", "\U00010000", "\U0001ffff", "\ud7ff\ue000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		at, why := badText(s)
		if good := utf8.ValidString(s) && xml.MatchString(s); good != (why == "") {
			t.Fatalf("%q: %q", s, why)
		}
		if why != "" && (at < 1 || at > utf8.RuneCountInString(s)) {
			t.Fatalf("%q: character %d", s, at)
		}
	})
}

func TestDeduplicationID(t *testing.T) {
	for _, id := range []string{"kq/01JD/out/0/17", strings.Repeat("x", 128)} {
		if got := deduplicationID(id); got != id {
			t.Errorf("%s: %s", id, got)
		}
	}
	seen := map[string]bool{}
	for _, id := range []string{strings.Repeat("x", 129), strings.Repeat("x", 130), "kq/r/aus gang/0/1", "kq/r/ö/0/1", ""} {
		got := deduplicationID(id)
		if !isID(got) || got == id || seen[got] {
			t.Errorf("%s: %s", id, got)
		}
		seen[got] = true
	}
}
