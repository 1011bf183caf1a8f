package spec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/kinequet/kq/pipeline"
)

var catalog = pipeline.Catalog{
	Sources: map[string]pipeline.PluginSpec{
		"parquet": {Extensions: []string{".parquet"}, Options: map[string]pipeline.OptionSpec{"union_by_name": {Type: pipeline.BoolOption}}},
		"csv":     {Extensions: []string{".csv"}, Options: map[string]pipeline.OptionSpec{"delim": {Type: pipeline.StringOption}, "skip": {Type: pipeline.IntOption}, "columns": {Type: pipeline.StringMap}, "nullstr": {Type: pipeline.StringList}}},
	},
	Sinks: map[string]pipeline.PluginSpec{"parquet": {Extensions: []string{".parquet"}, Compressions: []string{"snappy", "zstd"}}},
}

func env(name string) (string, bool) {
	v, ok := map[string]string{"DIR": "/data", "N": "7", "SECRET": "hunter2", "EMPTY": ""}[name]
	return v, ok
}

func decode(text string, set ...string) (*pipeline.Job, []string) {
	job, err := Decode("j.yaml", []byte(text), Options{Env: env, Catalog: catalog, Set: set})
	var ps pipeline.Problems
	if errors.As(err, &ps) {
		return job, strings.Split(ps.Error(), "\n")
	}
	if err != nil {
		return job, []string{err.Error()}
	}
	return job, nil
}

const good = `version: 1
workers: ${N}
memory: 2GiB
retention: 12h
sources:
  a: {uri: "${DIR}/x.parquet", options: {union_by_name: true}}
  b: {type: csv, uri: [one.csv, "sub/*.csv"], options: {delim: "|", nullstr: NA, columns: {x: INTEGER}}}
stages:
  s:
    sql: SELECT '${EMPTY:-x}' AS e, '$${DIR}' AS d, '${EMPTY}' AS f FROM a
    retry: {attempts: 2, backoff: 3s}
sinks:
  out: {type: parquet, from: s, uri: out/x, compression: zstd, overwrite: replace}
`

func TestGoodJob(t *testing.T) {
	job, problems := decode(good)
	if problems != nil {
		t.Fatal(problems)
	}
	if job.Name != "j" || job.Workers != 7 || job.Memory != 2<<30 || job.ShardSize != 128<<20 || job.Retention != 12*time.Hour {
		t.Errorf("%+v", job)
	}
	if job.Sources[0].URIs[0] != "/data/x.parquet" || !filepath.IsAbs(job.Sources[1].URIs[1]) || len(job.Sources[1].Options) != 3 {
		t.Errorf("%+v", job.Sources)
	}
	s := job.Stages[0]
	if s.SQL != "SELECT '' AS e, '${DIR}' AS d, '' AS f FROM a" || s.Retry != (pipeline.Retry{Attempts: 2, Backoff: 3 * time.Second}) {
		t.Errorf("%+v", s)
	}
	if !job.Sinks[0].Replace || job.Sinks[0].Compression != "zstd" {
		t.Errorf("%+v", job.Sinks)
	}
	if job.Positions["sinks.out.uri"] != (pipeline.Pos{Line: 13, Col: 38}) || job.Positions["sources.b"] != (pipeline.Pos{Line: 7, Col: 3}) {
		t.Errorf("%+v", job.Positions)
	}
}

// Each mistake gives exactly these lines.
func TestMistakes(t *testing.T) {
	head := "version: 1\nsources: {a: {type: csv, uri: a.csv}}\n"
	for _, c := range []struct{ text, want string }{
		{"", "j.yaml:1:1: the file is empty; a job has stages: and sinks:"},
		{"version: 1\n", "j.yaml:1:1: the job does nothing: it has neither stages nor sinks"},
		{"version: 2\nstages: {a: {sql: SELECT 1}}", `j.yaml:1:10: version: version "2" of the job format is unknown; this kq knows version: 1`},
		{"stages: {a: {sql: SELECT 1}}", "j.yaml:1:1: version: is missing; start the file with version: 1"},
		{"[1, 2]", "j.yaml:1:1: a job must be a mapping of keys, not a list; the keys are version, name, sources, stages, sinks, workers, memory, shard_size, exchange, state, retention"},
		{head + "stagse: {}", `j.yaml:3:1: stagse: unknown key "stagse"; did you mean "stages"?`},
		{head + "stages: {a: {sql: SELECT 1}}", `j.yaml:3:10: stages.a: the name "a" is taken by a source; sources, stages and sinks share their names, whatever the case of letters`},
		{head + "stages: {A: {sql: SELECT 1}}", `j.yaml:3:10: stages.A: the name "A" is taken by a source; sources, stages and sinks share their names, whatever the case of letters`},
		{head + `stages: {"x; DROP TABLE y": {sql: SELECT 1}}`, `j.yaml:3:10: stages.x; DROP TABLE y: "x; DROP TABLE y" is no name for a stage; letters, digits and _ only, not starting with a digit, at most 63 of them`},
		{head + "stages: {s: {sql: 3}}\nworkers: many", `j.yaml:4:10: workers: "many" is no whole number that can stand here; from 1 to 1024`},
		{head + "stages: {s: {sql: [1]}}", "j.yaml:3:19: stages.s.sql: must be a text, not a list"},
		{head + "stages: {s: {sql: ' '}}", "j.yaml:3:19: stages.s.sql: is empty; write one SELECT"},
		{head + "stages: {s: {}}", "j.yaml:3:13: stages.s: has no sql; add sql: with one SELECT"},
		{head + "stages: {s: {sql: SELECT 1, sql: SELECT 2}}", "j.yaml:3:29: stages.s.sql: the key stands here twice"},
		{head + "stages: {s: {sql: SELECT 1, buckets: 3}}", "j.yaml:3:29: stages.s.buckets: this version of kq does not have it yet"},
		{head + "memory: 12parsecs\nstages: {s: {sql: SELECT 1}}", `j.yaml:3:9: memory: "12parsecs" is no size; write one like 512MiB or 2GB`},
		{"version: 1\nsources: {a: {type: kafka, uri: x}}", "j.yaml:2:21: sources.a.type: source type \"kafka\" is not available in this version of kq; there are csv, parquet"},
		{"version: 1\nsources: {a: {type: csv, uri: s3://b/x.csv}}", "j.yaml:2:31: sources.a.uri: s3:// is not available in this version of kq; name a local file, folder or glob"},
		{"version: 1\nsources: {a: {type: csv, uri: x, options: {delimm: 1}}}", `j.yaml:2:44: sources.a.options.delimm: unknown key "delimm"; did you mean "delim"?`},
		{"version: 1\nsources: {a: {type: csv, uri: x, options: {skip: lots}}}", `j.yaml:2:50: sources.a.options.skip: "lots" is no whole number that can stand here; from -2147483648 to 1099511627776`},
		{head + "stages: {s: {sql: SELECT 1}}\nsinks: {o: {type: parquet, from: s, uri: x, compression: zip}}", `j.yaml:4:58: sinks.o.compression: unknown compression "zip"; there are snappy, zstd`},
		{head + "stages: {s: {sql: SELECT 1}}\nsinks: {o: {type: parquet, uri: x}}", "j.yaml:4:12: sinks.o: has no from; add from: with the stage to publish"},
		{head + "stages:\n  s:\n    sql: |\n      SELECT\n        '${NOPE}'", "j.yaml:7:10: stages.s.sql: the environment variable NOPE is not set; set it, or write ${NOPE:-default}"},
		{head + "workers: ${SECRET}\nstages: {s: {sql: SELECT 1}}", `j.yaml:3:10: workers: "${SECRET}" is no whole number that can stand here; from 1 to 1024`},
		{"a: \x00", "j.yaml:1:4: a NUL byte; this is not a text file"},
		{"a: \xff", "j.yaml:1:1: this line is not UTF-8"},
		{"a: [1", "j.yaml:1:1: not YAML: did not find expected ',' or ']'"},
		{"version: 1\n---\nversion: 1\n", "j.yaml:2:1: a second document; a job file has one"},
		{strings.Repeat("[", 100) + strings.Repeat("]", 100), "j.yaml:1:66: aliases that multiply, or nesting beyond reason; write the job out"},
		{head + "retention: NaNd\nstages: {s: {sql: SELECT 1}}", `j.yaml:3:12: retention: "NaNd" is no duration; write one like 30s, 12h or 7d`},
		{head + "stages: {\"a\\nb\": {sql: SELECT 1}}", `j.yaml:3:10: stages.a b: "a\nb" is no name for a stage; letters, digits and _ only, not starting with a digit, at most 63 of them`},
		{"version: 1\nsources: {a: {type: csv, uri: \"${SECRET}://x\"}}", "j.yaml:2:31: sources.a.uri: …:// is not available in this version of kq; name a local file, folder or glob"},
	} {
		if _, got := decode(c.text); strings.Join(got, "\n") != c.want {
			t.Errorf("%q:\n got %s\nwant %s", c.text, strings.Join(got, "\n"), c.want)
		}
	}
}

func TestManyMistakesAtOnce(t *testing.T) {
	_, got := decode("version: 3\nworkrs: 1\nmemory: x\nsources:\n  a: {type: cvs, uri: a}\n  1b: {type: csv, uri: a}\nstages:\n  s: {sql: '', materialise: true}\n  t: {sql: SELECT 1, scope: moon}\nsinks:\n  o: {type: parquet, from: s, overwrite: x, uri: o}\n  t: {type: parquet, from: s, uri: p}\n")
	for i, at := range []string{"1:10", "2:1", "3:9", "5:13", "6:3", "8:12", "8:16", "9:29", "11:42", "12:3"} {
		if i >= len(got) || !strings.HasPrefix(got[i], "j.yaml:"+at+": ") {
			t.Errorf("problem %d is not at %s:\n%s", i, at, strings.Join(got, "\n"))
			break
		}
	}
}

func TestBombs(t *testing.T) {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 8), i-1)
	}
	if _, got := decode(b.String()); len(got) != 1 || !strings.Contains(got[0], "aliases") && !strings.Contains(got[0], "excessive") {
		t.Errorf("%q", got)
	}
	big := filepath.Join(t.TempDir(), "big.yaml")
	if err := os.WriteFile(big, make([]byte, 10<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(big, Options{}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("10 MB: %v", err)
	}
	for _, path := range []string{t.TempDir(), "no-such.yaml"} {
		if _, err := Load(path, Options{}); err == nil {
			t.Errorf("%s loads", path)
		}
	}
}

func TestSet(t *testing.T) {
	job, problems := decode(good, "workers=3", "sinks.out.overwrite=refuse", "stages.s.memory=1GiB", "name=other")
	if problems != nil || job.Workers != 3 || job.Sinks[0].Replace || job.Stages[0].Memory != 1<<30 || job.Name != "other" {
		t.Errorf("%+v, %v", job, problems)
	}
	for set, want := range map[string]string{"workers=x": "--set: workers: ", "bad": "--set: bad: must be KEY=VALUE", "workers.x=1": "--set: workers.x: workers has no keys", "nope=1": "--set: nope: unknown key"} {
		if _, got := decode(good, set); len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%s: %q", set, got)
		}
	}
}

// Every byte of SQL is found again where it stands in the file, whatever the
// style of the scalar.
func TestPositions(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		word := rapid.StringMatching(`[a-zA-Zäé0-9_,*()=]{1,8}`)
		lines := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) string { return strings.Join(rapid.SliceOfN(word, 1, 4).Draw(rt, "words"), " ") }), 1, 5).Draw(rt, "lines")
		lines[0] = "S" + lines[0]
		indent := strings.Repeat(" ", rapid.IntRange(5, 9).Draw(rt, "indent"))
		style := rapid.SampledFrom([]string{"|", "|-", ">", "plain", `"`, "'"}).Draw(rt, "style")
		var text string
		switch style {
		case "plain":
			text = "S" + strings.NewReplacer(",", "", "*", "", "(", "", ")", "", "=", "").Replace(lines[0])
		case `"`, "'":
			text = style + strings.Join(lines, "\n"+indent) + style
		default:
			text = style + "\n" + indent + strings.Join(lines, "\n"+indent)
		}
		file := "version: 1\nstages:\n  s:\n    sql: " + text + "\n"
		job, problems := decode(file)
		if problems != nil {
			rt.Fatalf("%s\n%s", file, problems)
		}
		s := job.Stages[0]
		rows := strings.Split(file, "\n")
		for i, r := range s.SQL {
			if r == ' ' || r == '\n' {
				continue
			}
			at := s.SQLAt(i)
			if at.Line < 1 || at.Line > len(rows) || utf8.RuneCountInString(rows[at.Line-1]) < at.Col || []rune(rows[at.Line-1])[at.Col-1] != r {
				rt.Fatalf("%q at %d of %q is not at %+v of\n%s", r, i, s.SQL, at, file)
			}
		}
	})
}

func TestPositionsOfSubstitutions(t *testing.T) {
	job, problems := decode("version: 1\nstages:\n  s:\n    sql: |\n      SELECT '${SECRET}' AS a,\n        b\n")
	if problems != nil {
		t.Fatal(problems)
	}
	s := job.Stages[0]
	if at := s.SQLAt(strings.Index(s.SQL, "hunter2") + 3); at != (pipeline.Pos{Line: 5, Col: 15}) {
		t.Errorf("inside a value: %+v", at)
	}
	if at := s.SQLAt(strings.Index(s.SQL, "b\n")); at != (pipeline.Pos{Line: 6, Col: 9}) {
		t.Errorf("after a value: %+v", at)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("version: 1\nstages: {a: {sql: \"\\u00e9 ${X} \\\n  y\"}}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		job, err := Decode("j.yaml", data, Options{Env: env, Catalog: catalog})
		if err == nil && job == nil {
			t.Fatal("neither a job nor an error")
		}
		if job == nil {
			return
		}
		for _, s := range job.Stages {
			for i := range len(s.SQL) + 1 {
				s.SQLAt(i)
			}
		}
	})
}
