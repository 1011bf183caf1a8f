package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// shortestSecret is the length from which on values of the environment are
// hidden: shorter ones would black out half of every line.
const shortestSecret = 3

// redactor replaces values that came from the environment by their references,
// and secrets that stand in the file by a mark.
type redactor struct {
	mu      sync.Mutex
	envs    []pipeline.EnvRef
	secrets []string
	to      *strings.Replacer
}

// hide adds references whose values are secret.
func (r *redactor) hide(envs []pipeline.EnvRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range envs {
		if !e.FromFile && len(e.Value) >= shortestSecret {
			r.envs = append(r.envs, e)
		}
	}
	// The longest first, so that a value within another one does not break it.
	sort.SliceStable(r.envs, func(i, j int) bool { return len(r.envs[i].Value) > len(r.envs[j].Value) })
	r.rebuild()
}

// hideSettings adds the settings of a sink that its type calls secret.
func (r *redactor) hideSettings(typ string, settings []pipeline.Option) {
	r.mu.Lock()
	defer r.mu.Unlock()
	remote, ok := remoteTypes[typ]
	if !ok {
		return
	}
	spec := remote.Spec().Settings
	for _, o := range settings {
		if text, ok := o.Value.(string); ok && spec[o.Key].Secret && len(text) >= shortestSecret {
			r.secrets = append(r.secrets, text)
		}
		for _, pair := range sinks.Settings(settings).Pairs(o.Key) {
			if slices.Contains(spec[o.Key].SecretKeys, pair[0]) && len(pair[1]) >= shortestSecret {
				r.secrets = append(r.secrets, pair[1])
			}
		}
	}
	r.rebuild()
}

// rebuild makes the replacer. Values may also stand inside JSON.
func (r *redactor) rebuild() {
	var pairs []string
	add := func(value, by string) {
		pairs = append(pairs, value, by)
		if e := escaped(value); e != value {
			pairs = append(pairs, e, by)
		}
	}
	for _, e := range r.envs {
		add(e.Value, "${"+e.Name+"}")
	}
	for _, s := range r.secrets {
		add(s, "…")
	}
	r.to = strings.NewReplacer(pairs...)
}

func (r *redactor) text(s string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.to == nil {
		return s
	}
	return r.to.Replace(s)
}

func (r *redactor) writer(w io.Writer) io.Writer { return redacted{r, w} }

type redacted struct {
	r *redactor
	w io.Writer
}

func (w redacted) Write(p []byte) (int, error) {
	_, err := io.WriteString(w.w, w.r.text(string(p)))
	return len(p), err
}

// escaped is a string as it stands inside JSON.
func escaped(s string) string {
	data, _ := json.Marshal(s)
	return strings.Trim(string(data), `"`)
}

func mark(name string) string { return `\u0000` + name + `\u0000` }

// seal renders a graph for storage: values of the environment are left out.
func seal(g *pipeline.Graph, r *redactor) ([]byte, error) {
	data, err := json.Marshal(g)
	if err != nil {
		return nil, err
	}
	text := string(data)
	for _, e := range r.envs {
		text = strings.ReplaceAll(text, escaped(e.Value), mark(e.Name))
	}
	return []byte(text), nil
}

// unseal reads a stored graph back, with this process's environment.
func unseal(data []byte, r *redactor) (*pipeline.Graph, error) {
	text := string(data)
	var names struct {
		Env []string `json:"env"`
	}
	if err := json.Unmarshal(data, &names); err != nil {
		return nil, err
	}
	var envs []pipeline.EnvRef
	for _, name := range names.Env {
		value, set := os.LookupEnv(name)
		if !strings.Contains(text, mark(name)) {
			if set {
				envs = append(envs, pipeline.EnvRef{Name: name, Value: value})
			}
			continue
		}
		if !set {
			return nil, fmt.Errorf("the environment variable %s is not set here; the job needs it", name)
		}
		envs = append(envs, pipeline.EnvRef{Name: name, Value: value})
		text = strings.ReplaceAll(text, mark(name), escaped(value))
	}
	r.hide(envs)
	g := new(pipeline.Graph)
	if err := json.Unmarshal([]byte(text), g); err != nil {
		return nil, err
	}
	for _, t := range g.Tasks {
		if t.Sink != nil {
			r.hideSettings(t.Sink.Type, t.Sink.Settings)
		}
	}
	return g, nil
}
