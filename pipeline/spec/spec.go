// Package spec decodes a job file: YAML to pipeline.Job, strictly, with the
// place of everything. It reports all problems of a file at once.
//
// The YAML library gives the tree and where each node starts; source.go and
// trace.go know the text, so that every byte of a decoded scalar can be placed
// in the file, whatever its style and through references to the environment.
package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/kinequet/kq/pipeline"
)

// Limits of a job file, far beyond any honest one.
const (
	maxBytes    = 4 << 20
	maxNodes    = 200_000
	maxDepth    = 64
	maxNames    = 10_000 // sources, stages and sinks together
	maxProblems = 1_000
)

// Options of Load and Decode.
type Options struct {
	Env     func(string) (string, bool) // nil means the process's environment
	Set     []string                    // "sinks.lake.overwrite=replace": keys overridden or added
	Catalog pipeline.Catalog            // what sources and sinks there are
}

// Load reads and decodes a job file. The error is pipeline.Problems when the
// file could be read but is wrong; the job then has what could be decoded, so
// that the rest of it can be checked as well. For other errors it is nil.
func Load(file string, o Options) (*pipeline.Job, error) {
	data, err := read(file)
	if err != nil {
		return nil, err
	}
	return Decode(file, data, o)
}

func read(file string) ([]byte, error) {
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no job file %s", file)
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, fmt.Errorf("%s is a folder; name the job file itself", file)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file; name the job file itself", file)
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBytes+1)) // it may grow meanwhile
	if err != nil {
		return nil, fmt.Errorf("read the job file: %w", err)
	}
	if size := max(info.Size(), int64(len(data))); size > maxBytes {
		return nil, fmt.Errorf("%s: %s", file, tooLarge(size))
	}
	return data, nil
}

func tooLarge(size int64) string {
	return fmt.Sprintf("the file has %d bytes; a job file has at most %d", size, maxBytes)
}

// Decode decodes the content of a job file. file is used in messages and as
// what relative paths start from. It returns what Load does.
func Decode(file string, data []byte, o Options) (*pipeline.Job, error) {
	if o.Env == nil {
		o.Env = os.LookupEnv
	}
	d := &decoder{
		file:  file,
		o:     o,
		job:   &pipeline.Job{File: file, Positions: map[string]pipeline.Pos{}},
		set:   map[*yaml.Node]bool{},
		env:   map[pipeline.EnvRef]bool{},
		names: map[string]declared{},
	}
	if root := d.parse(data); root != nil {
		d.root(root)
	}
	if len(d.problems) > 0 {
		d.problems.Sort()
		if d.dropped > 0 {
			d.problems = append(d.problems, pipeline.Problem{File: file, Message: fmt.Sprintf("%d more problems are not shown", d.dropped)})
		}
		d.job.Wrong = true
		return d.job, d.problems
	}
	return d.job, nil
}

// decoder is the state of one Decode.
type decoder struct {
	file     string
	o        Options
	src      *source
	job      *pipeline.Job
	problems pipeline.Problems
	dropped  int                      // problems beyond maxProblems
	set      map[*yaml.Node]bool      // nodes that come from Options.Set
	env      map[pipeline.EnvRef]bool // references noted so far
	names    map[string]declared      // by folded name
	later    []func()                 // checks that need all names
}

// declared is who has a name of the one namespace.
type declared struct {
	what string // source, stage or sink
	name string // as written
	line int    // 0 for one that Options.Set made
}

// problem reports what is wrong with node n, or with the key that n is.
func (d *decoder) problem(n *yaml.Node, path, message, hint string) {
	d.problemAt(n, d.pos(n), path, message, hint)
}

// problemAt is problem for a place within the node.
func (d *decoder) problemAt(n *yaml.Node, pos pipeline.Pos, path, message, hint string) {
	p := pipeline.Problem{File: d.file, Pos: pos, Path: path, Message: message, Hint: hint}
	if d.set[n] {
		p.File, p.Pos = "--set", pipeline.Pos{}
	}
	d.add(p)
}

func (d *decoder) add(p pipeline.Problem) {
	if len(d.problems) >= maxProblems {
		d.dropped++
		return
	}
	d.problems = append(d.problems, p)
}

// near is a suggestion for a hint, or "". It costs time, so that there is none
// for problems that aren't shown.
func (d *decoder) near(name string, known []string) string {
	if len(d.problems) >= maxProblems {
		return ""
	}
	return Suggest(name, known)
}

// pos is where a node's content begins, behind its anchor and tag.
func (d *decoder) pos(n *yaml.Node) pipeline.Pos {
	if n == nil || d.set[n] || n.Line == 0 {
		return pipeline.Pos{}
	}
	return d.src.pos(d.src.content(n))
}

// broken notes a name that is declared, but not usable.
func (d *decoder) broken(name string) {
	if !slices.Contains(d.job.Broken, name) {
		d.job.Broken = append(d.job.Broken, name)
	}
}
