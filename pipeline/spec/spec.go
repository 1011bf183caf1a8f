// Package spec decodes a job file: YAML to pipeline.Job, strictly, with the
// place of everything. It reports all problems of a file at once.
package spec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/agnivade/levenshtein"
	"go.yaml.in/yaml/v3"

	"github.com/kinequet/kq/pipeline"
)

// Limits of a job file, far beyond any honest one.
const (
	maxBytes = 4 << 20
	maxNodes = 200_000
	maxDepth = 64
)

// Options of Load and Decode.
type Options struct {
	Env     func(string) (string, bool) // nil means the process's environment
	Set     []string                    // "sinks.lake.overwrite=replace": overrides of keys
	Catalog pipeline.Catalog            // what sources and sinks there are
}

// Load reads and decodes a job file. The error is pipeline.Problems when the
// file could be read but is wrong; the job then has what could be decoded, so
// that the rest of it can be checked as well.
func Load(file string, o Options) (*pipeline.Job, error) {
	info, err := os.Stat(file)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("there is no job file %s", file)
		}
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file; name the job file itself", file)
	}
	if info.Size() > maxBytes {
		return nil, pipeline.Problems{{File: file, Message: fmt.Sprintf("the file has %d bytes; a job file has at most %d", info.Size(), maxBytes)}}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return Decode(file, data, o)
}

// Decode decodes the content of a job file. file is used in messages and as
// what relative paths start from.
func Decode(file string, data []byte, o Options) (*pipeline.Job, error) {
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	d := &decoder{file: file, o: o, lines: splitLines(data), job: &pipeline.Job{File: file, Positions: map[string]pipeline.Pos{}}, env: map[string]bool{}, names: map[string]string{}}
	if root := d.parse(data); root != nil {
		d.root(root)
	}
	if len(d.problems) > 0 {
		d.problems.Sort()
		d.job.Wrong = true
		return d.job, d.problems
	}
	return d.job, nil
}

type decoder struct {
	file     string
	o        Options
	lines    []string
	job      *pipeline.Job
	problems pipeline.Problems
	env      map[string]bool   // references noted so far
	names    map[string]string // folded name to "source", "stage" or "sink"
	set      map[*yaml.Node]bool
}

func (d *decoder) problem(n *yaml.Node, path, message, hint string) {
	p := pipeline.Problem{File: d.file, Path: path, Message: message, Hint: hint}
	switch {
	case n == nil:
	case d.set[n]:
		p.File = "--set"
	default:
		p.Pos = d.pos(n)
	}
	d.problems = append(d.problems, p)
}

// pos is where a node's content begins. yaml.v3 counts columns in characters.
func (d *decoder) pos(n *yaml.Node) pipeline.Pos {
	return pipeline.Pos{Line: n.Line, Col: n.Column}
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(.*)$`)

// parse checks the bytes and reads the one document.
func (d *decoder) parse(data []byte) *yaml.Node {
	whole := func(line, col int, message string) *yaml.Node {
		d.problems = append(d.problems, pipeline.Problem{File: d.file, Pos: pipeline.Pos{Line: line, Col: col}, Message: message})
		return nil
	}
	if len(data) > maxBytes {
		return whole(0, 0, fmt.Sprintf("the file has %d bytes; a job file has at most %d", len(data), maxBytes))
	}
	for i, l := range d.lines {
		if j := strings.IndexByte(l, 0); j >= 0 {
			return whole(i+1, utf8.RuneCountInString(l[:j])+1, "a NUL byte; this is not a text file")
		}
		if !utf8.ValidString(l) {
			return whole(i+1, 1, "this line is not UTF-8")
		}
	}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc, second yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if err.Error() == "EOF" {
			return whole(1, 1, "the file is empty; a job has stages: and sinks:")
		}
		m := yamlLine.FindStringSubmatch(strings.SplitN(err.Error(), "\n", 2)[0])
		line, _ := strconv.Atoi(m[1])
		return whole(max(line, 1), 1, "not YAML: "+m[2])
	}
	if dec.Decode(&second) == nil {
		return whole(second.Line, second.Column, "a second document; a job file has one")
	}
	root := doc.Content[0]
	count := 0
	if n := odd(root, 0, &count, map[*yaml.Node]bool{}); n != nil {
		d.problem(n, "", "aliases that multiply, or nesting beyond reason", "write the job out")
		return nil
	}
	d.override(root)
	return root
}

// odd returns a node at which the tree, aliases followed, gets too deep or too
// large, or nil.
func odd(n *yaml.Node, depth int, count *int, open map[*yaml.Node]bool) *yaml.Node {
	*count++
	if depth > maxDepth || *count > maxNodes || open[n] {
		return n
	}
	open[n] = true
	defer delete(open, n)
	children := n.Content
	if n.Alias != nil {
		children = append(children, n.Alias)
	}
	for _, c := range children {
		if bad := odd(c, depth+1, count, open); bad != nil {
			return bad
		}
	}
	return nil
}

// override applies --set.
func (d *decoder) override(root *yaml.Node) {
	d.set = map[*yaml.Node]bool{}
	for _, s := range d.o.Set {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			d.problems = append(d.problems, pipeline.Problem{File: "--set", Path: s, Message: "must be KEY=VALUE, such as sinks.lake.overwrite=replace"})
			continue
		}
		at := root
		parts := strings.Split(key, ".")
		for i, p := range parts {
			if at.Kind != yaml.MappingNode {
				d.problems = append(d.problems, pipeline.Problem{File: "--set", Path: key, Message: strings.Join(parts[:i], ".") + " has no keys"})
				break
			}
			next := child(at, p)
			last := i == len(parts)-1
			if next == nil {
				next = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
				name := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: p}
				d.set[name], d.set[next] = true, true
				at.Content = append(at.Content, name, next)
			}
			if last {
				*next = yaml.Node{Kind: yaml.ScalarNode, Value: value}
				if tag := next.ShortTag(); tag != "" {
					next.Tag = tag
				}
				d.set[next] = true
			}
			at = next
		}
	}
}

func child(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

// Suggest returns the known name that is nearest to a misspelt one, or "".
func Suggest(name string, known []string) string {
	best, distance := "", 2+len(name)/4
	for _, k := range known {
		if n := levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(k)); n < distance {
			best, distance = k, n
		}
	}
	return best
}

func known(name string, all []string) string {
	if near := Suggest(name, all); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "there are " + strings.Join(all, ", ")
}

// field decodes the value of one key.
type field func(path string, v *yaml.Node)

// object decodes a mapping strictly: every key must be one of fields, or one of
// later, which name what this version does not have yet.
func (d *decoder) object(n *yaml.Node, path, what string, fields map[string]field, order, later []string) {
	n = resolve(n)
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, fmt.Sprintf("%s must be a mapping of keys, not %s", what, kind(n)), "the keys are "+strings.Join(order, ", "))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		sub := join(path, k.Value)
		f, ok := fields[k.Value]
		switch {
		case k.Kind != yaml.ScalarNode:
			d.problem(k, path, "a key must be a word", "")
		case seen[k.Value]:
			d.problem(k, sub, "the key stands here twice", "")
		case !ok && contains(later, k.Value):
			d.problem(k, sub, "this version of kq does not have it yet", "")
		case !ok:
			d.problem(k, sub, fmt.Sprintf("unknown key %q", k.Value), known(k.Value, order))
		default:
			d.job.Positions[sub] = d.pos(v)
			f(sub, v)
		}
		seen[k.Value] = true
	}
}

func contains(all []string, s string) bool {
	for _, a := range all {
		if a == s {
			return true
		}
	}
	return false
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode && n.Alias != nil {
		n = n.Alias
	}
	return n
}

func kind(n *yaml.Node) string {
	switch resolve(n).Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch resolve(n).ShortTag() {
	case "!!null":
		return "nothing"
	case "!!bool":
		return "a truth value"
	case "!!int", "!!float":
		return "a number"
	}
	return "a text"
}

var validName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,62}$`)

// named decodes the entries of sources:, stages: or sinks:. entry reports
// whether it could make enough of one to check it further.
func (d *decoder) named(n *yaml.Node, path, what string, entry func(name, path string, v *yaml.Node) bool) {
	n = resolve(n)
	if n.ShortTag() == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		d.problem(n, path, fmt.Sprintf("must be a mapping of names to %ss, not %s", what, kind(n)), "")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		sub := join(path, k.Value)
		folded := strings.ToLower(k.Value)
		switch other := d.names[folded]; {
		case k.Kind != yaml.ScalarNode || !validName.MatchString(k.Value):
			d.problem(k, sub, fmt.Sprintf("%q is no name for a %s", k.Value, what), "letters, digits and _ only, not starting with a digit, at most 63 of them")
			continue
		case seen[folded] || other != "":
			if other == "" {
				other = what
			}
			d.problem(k, sub, fmt.Sprintf("the name %q is taken by a %s", k.Value, other), "sources, stages and sinks share their names, whatever the case of letters")
			continue
		}
		seen[folded] = true
		d.names[folded] = what
		d.job.Positions[sub] = d.pos(k)
		if !entry(k.Value, sub, v) {
			d.job.Broken = append(d.job.Broken, k.Value)
		}
	}
}

// size parses "512MiB", "2GB" or plain bytes.
func size(s string) (int64, error) {
	m := regexp.MustCompile(`^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$`).FindStringSubmatch(s)
	unit := map[string]float64{"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
	if m == nil || unit[strings.ToLower(m[2])] == 0 {
		return 0, errors.New("is no size; write one like 512MiB or 2GB")
	}
	f, err := strconv.ParseFloat(m[1], 64)
	v := f * unit[strings.ToLower(m[2])]
	if err != nil || v < 1 || v > 1<<60 {
		return 0, errors.New("is no size that can be; write one like 512MiB or 2GB")
	}
	return int64(v), nil
}

// ParseSize parses a size as job files write it, in bytes.
func ParseSize(s string) (int64, error) {
	n, err := size(s)
	if err != nil {
		return 0, fmt.Errorf("%q %w", s, err)
	}
	return n, nil
}

// duration parses "7d", "12h" or what time.ParseDuration takes.
func duration(s string) (time.Duration, error) {
	bad := errors.New("is no duration; write one like 30s, 12h or 7d")
	s = strings.TrimSpace(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		f, err := strconv.ParseFloat(days, 64)
		if err != nil || !(f >= 0 && f <= 36500) { // NaN is neither
			return 0, bad
		}
		return time.Duration(f * 24 * float64(time.Hour)), nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return 0, bad
	}
	return v, nil
}

// absolute makes a local path absolute, from the job file's folder on.
func (d *decoder) absolute(n *yaml.Node, path, uri string) (string, bool) {
	if i := strings.Index(uri, "://"); i > 0 {
		scheme := uri[:i]
		if scheme != "file" {
			if !strings.Contains(resolve(n).Value, scheme) { // it came from the environment
				scheme = "…"
			}
			d.problem(n, path, fmt.Sprintf("%s:// is not available in this version of kq", scheme), "name a local file, folder or glob")
			return "", false
		}
		uri = uri[i+3:]
	}
	if uri == "" {
		d.problem(n, path, "is empty", "name a local file, folder or glob")
		return "", false
	}
	if !filepath.IsAbs(uri) {
		base, err := filepath.Abs(filepath.Dir(d.file))
		if err != nil {
			d.problem(n, path, err.Error(), "")
			return "", false
		}
		uri = filepath.Join(base, uri)
	}
	return filepath.Clean(uri), true
}
