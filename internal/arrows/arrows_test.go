// Package arrows keeps who may import whom (RATIONALE.md, "Why do imports point
// one way?").
package arrows

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/kinequet/kq/"

// allowed lists, for each package of ours, which other packages of ours it may
// import; "x/..." stands for x and everything below it. Tests are bound by it
// too, but for the ones listed in wired.
var allowed = map[string][]string{
	"jch":                              {},
	"backpressure":                     {},
	"pipeline":                         {},
	"internal/durable":                 {},
	"pipeline/spec":                    {"pipeline"},
	"pipeline/worker":                  {"pipeline", "internal/durable"},
	"pipeline/send":                    {"pipeline", "backpressure", "plugins/sinks", "stages/sqlstage"},
	"stages/analysis":                  {"pipeline"},
	"stages/route":                     {"jch"},
	"stages/fragment":                  {"pipeline", "stages/analysis"},
	"stages/sqlstage":                  {"pipeline", "stages/analysis", "stages/fragment", "stages/route", "stages/stream", "internal/durable"},
	"stages/stream":                    {"stages/route"},
	"coord":                            {"pipeline", "jch"},
	"coord/coordtest":                  {"pipeline", "coord"},
	"plugins/sources":                  {"pipeline"},
	"plugins/sources/*":                {"pipeline", "plugins/sources"},
	"plugins/sinks":                    {"pipeline", "backpressure"},
	"plugins/sinks/*":                  {"pipeline", "plugins/sinks", "internal/durable"},
	"plugins/sinks/kafkasink":          {"pipeline", "backpressure", "plugins/sinks", "plugins/sinks/kafkasink/partwise"},
	"plugins/sinks/kafkasink/partwise": {"internal/services", "plugins/sinks/kafkasink/kafkatest"},
	"plugins/sinks/postgressink":       {"pipeline", "backpressure", "plugins/sinks", "internal/services", "internal/faultproxy"},
	"plugins/sinks/s3sink":             {"pipeline", "backpressure", "plugins/sinks", "plugins/sinks/filesink", "plugins/sinks/parquetsink", "plugins/sinks/csvsink", "plugins/sinks/jsonsink", "internal/services", "internal/faultproxy"},
	"plugins/sinks/sqssink":            {"pipeline", "plugins/sinks", "backpressure", "internal/services", "internal/faultproxy"},
	"cmd/kq":                           {"..."},
	"benchmarks":                       {"benchmarks/...", "internal/tpc"},
	"benchmarks/backpressure":          {"backpressure"},
	"benchmarks/coord":                 {"coord", "pipeline", "jch"},
	"benchmarks/duckdbrun":             {},
	"benchmarks/kafka":                 {"internal/services/server", "plugins/sinks/kafkasink/partwise"},
	"benchmarks/publish":               {"internal/services/server", "plugins/sinks/kafkasink/partwise", "stages/stream"},
	"benchmarks/tpch":                  {"internal/tpc"},
	"internal/tpc":                     {},
	"internal/equality":                {"..."},
	"internal/crash":                   {"..."},
	"internal/arrows":                  {},
	"internal/examples":                {},

	"internal/faultproxy":      {"internal/services"}, // its tests
	"internal/services":        {"internal/services/server"},
	"internal/services/server": {},
	"internal/services/dev":    {"internal/services/server"},
}

// homes are the only folders that may import a heavy library.
var homes = map[string][]string{
	"github.com/duckdb/duckdb-go": {"stages/", "internal/", "benchmarks"},
	"modernc.org/sqlite":          {"coord", "benchmarks/coord"},
	"github.com/apache/arrow-go":  {"stages/", "plugins/sinks", "benchmarks/kafka", "benchmarks/publish"},
	"github.com/IBM/sarama":       {"plugins/sinks/kafkasink", "internal/", "benchmarks/kafka", "benchmarks/publish"},
	"go.yaml.in/yaml":             {"pipeline/spec"},
	"github.com/spf13/cobra":      {"cmd/kq"},
	"github.com/vbauerster/mpb":   {"cmd/kq"},
	"gonum.org/":                  {"benchmarks"},
}

// standardOnly packages import nothing but the standard library.
var standardOnly = []string{"jch", "backpressure", "pipeline"}

func TestArrows(t *testing.T) {
	root := "../.."
	seen := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root && d.Name() != ".." || d.Name() == "testdata" || d.Name() == "data") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(path))
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		test := strings.HasSuffix(path, "_test.go")
		for _, spec := range f.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			seen++
			if why := refused(rel, imp, test); why != "" {
				t.Errorf("%s imports %s: %s", path, imp, why)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 50 {
		t.Fatalf("saw only %d imports", seen)
	}
}

// refused says why the package in folder rel may not import imp, or "".
func refused(rel, imp string, test bool) string {
	for lib, where := range homes {
		if strings.HasPrefix(imp, lib) && !slices.ContainsFunc(where, func(w string) bool { return strings.HasPrefix(rel, w) }) {
			return "only " + strings.Join(where, ", ") + " may"
		}
	}
	if !test && slices.Contains(standardOnly, rel) && strings.Contains(strings.SplitN(imp, "/", 2)[0], ".") {
		return "it keeps to the standard library"
	}
	to, ours := strings.CutPrefix(imp, module)
	if !ours || to == rel {
		return ""
	}
	may, known := allowed[rel]
	if !known {
		may, known = allowed[filepath.Dir(rel)+"/*"]
	}
	if !known {
		return "package " + rel + " is not in the table of arrows"
	}
	for _, m := range may {
		prefix, all := strings.CutSuffix(m, "...")
		if m == to || all && strings.HasPrefix(to+"/", prefix) {
			return ""
		}
	}
	if test && strings.HasPrefix(to, rel+"/") { // a package's own conformance suite
		return ""
	}
	return "arrows don't point there"
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		from, to string
		bad      bool
	}{
		{"jch", "fmt", false},
		{"jch", "golang.org/x/sys/unix", true},
		{"pipeline", module + "coord", true},
		{"coord", module + "pipeline", false},
		{"coord", module + "stages/sqlstage", true},
		{"coord", "modernc.org/sqlite", false},
		{"pipeline/worker", "modernc.org/sqlite", true},
		{"plugins/sinks/csvsink", module + "plugins/sinks", false},
		{"plugins/sinks/csvsink", module + "plugins/sources", true},
		{"cmd/kq", module + "coord", false},
		{"nowhere", module + "coord", true},
	} {
		if got := refused(c.from, c.to, false); (got != "") != c.bad {
			t.Errorf("%s -> %s: %q", c.from, c.to, got)
		}
	}
}
