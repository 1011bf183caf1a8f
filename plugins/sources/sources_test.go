package sources

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"a.csv", "b.csv", "c.parquet", "sub/d.csv", "sub/_e.csv", ".hidden/f.csv", "odd[1].csv", "x.csv/inner.csv", "none/readme.txt"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo.csv"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ uris, want, wrong string }{
		{uris: "a.csv", want: "a.csv"},
		{uris: "b.csv a.csv b.csv", want: "b.csv a.csv b.csv"},
		{uris: "?.csv", want: "a.csv b.csv"},
		{uris: "{b,a}.csv", want: "a.csv b.csv"},
		{uris: "**/d.csv", want: "sub/d.csv"},
		{uris: "odd[1].csv", want: "odd[1].csv"}, // a name that exists wins over the pattern
		{uris: ".", want: "a.csv b.csv odd[1].csv sub/d.csv x.csv/inner.csv"},
		{uris: "sub", want: "sub/d.csv"},
		{uris: "x.csv", want: "x.csv/inner.csv"},
		{uris: "aa.csv", wrong: "did you mean a.csv?"},
		{uris: "nowhere/a.csv", wrong: "there is no folder"},
		{uris: "*.json", wrong: "no file matches"},
		{uris: "none", wrong: "has no file that ends in .csv"},
		{uris: "fifo.csv", wrong: "neither a file nor a folder"},
		{uris: "[", wrong: "["},
	} {
		var uris []string
		for _, u := range strings.Fields(c.uris) {
			uris = append(uris, filepath.Join(dir, u))
		}
		got, err := Resolve(uris, []string{".csv"})
		for i := range got {
			got[i], _ = filepath.Rel(dir, got[i])
		}
		switch {
		case c.wrong != "" && (err == nil || !strings.Contains(err.Error(), c.wrong)):
			t.Errorf("%s: %v", c.uris, err)
		case c.wrong == "" && (err != nil || !slices.Equal(got, strings.Fields(c.want))):
			t.Errorf("%s: %q, %v", c.uris, got, err)
		}
	}
}

func TestLiteralsAreQuoted(t *testing.T) {
	for want, v := range map[string]any{
		`'a''); DROP TABLE x; --'`:      `a'); DROP TABLE x; --`,
		`['x''', 'y']`:                  []any{"x'", "y"},
		`{'a''b': 'INTEGER', 'c': 'D'}`: [][2]string{{"a'b", "INTEGER"}, {"c", "D"}},
		`true`:                          true,
		`-1`:                            int64(-1),
	} {
		if got := Literal(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}
