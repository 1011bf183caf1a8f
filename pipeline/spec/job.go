package spec

import (
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/kinequet/kq/pipeline"
)

// Defaults of a job.
const (
	defaultShardSize = 128 << 20
	defaultRetention = 7 * 24 * time.Hour
	defaultAttempts  = 4
	sinkAttempts     = 8 // of a part that a service doesn't take: about two minutes
	defaultBackoff   = time.Second
)

func (d *decoder) root(n *yaml.Node) {
	j := d.job
	j.ShardSize, j.Retention = defaultShardSize, defaultRetention
	version := false
	var sinks *yaml.Node
	d.object(n, "", "a job", map[string]field{
		"version": func(p string, v *yaml.Node) {
			version = true
			if s, ok := d.text(p, v); ok && s != "1" {
				d.problem(v, p, fmt.Sprintf("version %s of the job format is unknown", d.shown(v)), "this kq knows version: 1")
			}
		},
		"name":       func(p string, v *yaml.Node) { j.Name, _ = d.nonEmpty(p, v) },
		"sources":    func(p string, v *yaml.Node) { d.named(v, p, "source", d.source) },
		"stages":     func(p string, v *yaml.Node) { d.named(v, p, "stage", d.stage) },
		"sinks":      func(p string, v *yaml.Node) { sinks = v },
		"workers":    func(p string, v *yaml.Node) { j.Workers = d.count(p, v, 1, 1024) },
		"memory":     func(p string, v *yaml.Node) { j.Memory = d.size(p, v) },
		"shard_size": func(p string, v *yaml.Node) { j.ShardSize = d.size(p, v) },
		"exchange":   func(p string, v *yaml.Node) { d.job.Exchange = d.exchange(p, v) },
		"state": func(p string, v *yaml.Node) {
			if s, ok := d.nonEmpty(p, v); ok {
				j.State, _ = d.absolute(v, p, s)
			}
		},
		"retention": func(p string, v *yaml.Node) {
			if s, ok := d.text(p, v); ok {
				var err error
				if j.Retention, err = duration(s); err != nil {
					d.problem(v, p, fmt.Sprintf("%s %v", d.shown(v), err), "")
				}
			}
		},
	}, []string{"version", "name", "sources", "stages", "sinks", "workers", "memory", "shard_size", "exchange", "state", "retention"}, []string{"udfs"})
	if sinks != nil { // after the others, whose names they may not take
		d.named(sinks, "sinks", "sink", d.sink)
	}
	if resolve(n).Kind != yaml.MappingNode {
		return
	}
	if !version {
		d.problem(n, "version", "is missing", "start the file with version: 1")
	}
	if len(j.Stages)+len(j.Sinks) == 0 && len(d.problems) == 0 {
		d.problem(n, "", "the job does nothing: it has neither stages nor sinks", "")
	}
	if j.Name == "" {
		j.Name = strings.TrimSuffix(filepath.Base(d.file), filepath.Ext(d.file))
	}
}

func (d *decoder) source(name, path string, n *yaml.Node) bool {
	s := pipeline.Source{Name: name}
	var types, uris, options *yaml.Node
	d.object(n, path, "a source", map[string]field{
		"type": func(p string, v *yaml.Node) { types = v; s.Type, _ = d.text(p, v) },
		"uri":  func(p string, v *yaml.Node) { uris = v; s.URIs = d.uris(p, v) },
		"options": func(p string, v *yaml.Node) {
			options = v
		},
	}, []string{"type", "uri", "options"}, []string{"partition_by"})
	if resolve(n).Kind != yaml.MappingNode {
		return false
	}
	if uris == nil {
		d.problem(n, path, "has no uri", "add uri: with a file, a folder or a glob")
	}
	if types == nil && len(s.URIs) > 0 {
		s.Type = typeOf(s.URIs[0], d.o.Catalog.Sources)
		if s.Type == "" {
			d.problem(n, path, "has no type, and the uri doesn't tell", "add type: "+strings.Join(sorted(d.o.Catalog.Sources), ", or "))
			return false
		}
	}
	before := len(d.problems)
	spec, ok := d.o.Catalog.Sources[s.Type]
	if !ok && types != nil {
		d.unknownType(types, path+".type", "source", s.Type, d.o.Catalog.Sources, "kafka", "s3", "postgres", "plugin")
		return false
	}
	if options != nil {
		s.Options = d.options(path+".options", options, spec.Options)
	}
	if !ok || len(s.URIs) == 0 || len(d.problems) > before {
		return false
	}
	d.job.Sources = append(d.job.Sources, s)
	return true
}

func (d *decoder) unknownType(n *yaml.Node, path, what, typ string, have map[string]pipeline.PluginSpec, later ...string) {
	if slices.Contains(later, typ) {
		d.problem(n, path, fmt.Sprintf("%s type %s is not available in this version of kq", what, d.shown(n)), "there are "+strings.Join(sorted(have), ", "))
		return
	}
	d.problem(n, path, fmt.Sprintf("unknown %s type %s", what, d.shown(n)), known(typ, sorted(have)))
}

func sorted(m map[string]pipeline.PluginSpec) (names []string) {
	for k := range m {
		names = append(names, k)
	}
	sort.Strings(names)
	return names
}

// typeOf finds the type whose extension the uri has.
func typeOf(uri string, types map[string]pipeline.PluginSpec) string {
	for _, name := range sorted(types) {
		for _, e := range types[name].Extensions {
			if strings.HasSuffix(strings.ToLower(uri), e) {
				return name
			}
		}
	}
	return ""
}

func (d *decoder) uris(path string, n *yaml.Node) (uris []string) {
	if r := resolve(n); r.Kind == yaml.SequenceNode {
		if len(r.Content) == 0 {
			d.problem(n, path, "is an empty list", "name a file, a folder or a glob")
		}
		for i, item := range r.Content {
			p := fmt.Sprintf("%s[%d]", path, i)
			d.job.Positions[p] = d.pos(item)
			if s, ok := d.text(p, item); ok {
				if s, ok := d.absolute(item, p, s); ok {
					uris = append(uris, s)
				}
			}
		}
		return uris
	}
	if s, ok := d.text(path, n); ok {
		if s, ok := d.absolute(n, path, s); ok {
			uris = append(uris, s)
		}
	}
	return uris
}

func (d *decoder) stage(name, path string, n *yaml.Node) bool {
	s := pipeline.Stage{Name: name, Retry: pipeline.Retry{Attempts: defaultAttempts, Backoff: defaultBackoff}}
	var query *yaml.Node
	readable := false
	d.object(n, path, "a stage", map[string]field{
		"sql": func(p string, v *yaml.Node) {
			query = v
			text, at, ok := d.expand(p, v)
			if ok && strings.TrimSpace(text) == "" {
				d.problem(v, p, "is empty", "write one SELECT")
				ok = false
			}
			readable = ok
			s.SQL, s.SQLAt = text, at
		},
		"materialize": func(p string, v *yaml.Node) { s.Materialize = d.boolean(p, v) },
		"scope":       func(p string, v *yaml.Node) { s.PerShard = d.choice(p, v, "shard", "job") == "shard" },
		"memory":      func(p string, v *yaml.Node) { s.Memory = d.size(p, v) },
		"exchange":    func(p string, v *yaml.Node) { s.Exchange = d.exchange(p, v) },
		"retry":       d.retry(&s.Retry),
	}, []string{"sql", "materialize", "scope", "memory", "exchange", "retry"}, []string{"partition_by", "buckets", "checks", "wasm", "function", "from", "config"})
	if query == nil && resolve(n).Kind == yaml.MappingNode {
		d.problem(n, path, "has no sql", "add sql: with one SELECT")
	}
	if readable {
		d.job.Stages = append(d.job.Stages, s)
	}
	return readable
}

// retry decodes how often and how soon a shard is tried again.
func (d *decoder) retry(r *pipeline.Retry) field {
	return func(p string, v *yaml.Node) {
		d.object(v, p, "retry", map[string]field{
			"attempts": func(p string, v *yaml.Node) { r.Attempts = d.count(p, v, 1, 1000) },
			"backoff": func(p string, v *yaml.Node) {
				if text, ok := d.text(p, v); ok {
					var err error
					if r.Backoff, err = duration(text); err != nil {
						d.problem(v, p, fmt.Sprintf("%s %v", d.shown(v), err), "")
					}
				}
			},
		}, []string{"attempts", "backoff"}, nil)
	}
}

func (d *decoder) exchange(path string, n *yaml.Node) pipeline.Exchange {
	return pipeline.Exchange(d.choice(path, n, string(pipeline.ExchangeAuto), string(pipeline.ExchangeAlways), string(pipeline.ExchangeNever)))
}

// options decodes what is passed on to a reader or writer.
func (d *decoder) options(path string, n *yaml.Node, specs map[string]pipeline.OptionSpec) (out []pipeline.Option) {
	var names []string
	for k := range specs {
		names = append(names, k)
	}
	sort.Strings(names)
	fields := map[string]field{}
	for _, name := range names {
		spec := specs[name]
		fields[name] = func(p string, v *yaml.Node) {
			if value, ok := d.option(p, v, spec); ok {
				out = append(out, pipeline.Option{Key: name, Value: value})
			}
		}
	}
	d.object(n, path, "options", fields, names, nil)
	return out
}

func (d *decoder) option(path string, n *yaml.Node, spec pipeline.OptionSpec) (any, bool) {
	before := len(d.problems)
	var value any
	switch spec.Type {
	case pipeline.BoolOption:
		value = d.boolean(path, n)
	case pipeline.IntOption:
		value = int64(d.count(path, n, -1<<31, 1<<40))
	case pipeline.FloatOption:
		s, _ := d.text(path, n)
		f, err := strconv.ParseFloat(s, 64)
		if err != nil {
			d.problem(n, path, d.shown(n)+" is no number", "")
		}
		value = f
	case pipeline.StringList:
		var items []any
		r := resolve(n)
		if r.Kind != yaml.SequenceNode {
			r = &yaml.Node{Content: []*yaml.Node{n}}
		}
		for i, item := range r.Content {
			s, _ := d.text(fmt.Sprintf("%s[%d]", path, i), item)
			items = append(items, s)
		}
		value = items
	case pipeline.StringMap:
		pairs := [][2]string{}
		if r := resolve(n); r.Kind == yaml.MappingNode {
			for i := 0; i+1 < len(r.Content); i += 2 {
				s, _ := d.text(join(path, r.Content[i].Value), r.Content[i+1])
				pairs = append(pairs, [2]string{r.Content[i].Value, s})
			}
		} else {
			d.problem(n, path, "must be a mapping of names to texts, not "+kind(n), "")
		}
		value = pairs
	default:
		s, _ := d.text(path, n)
		if len(spec.Values) > 0 && !slices.Contains(spec.Values, s) && len(d.problems) == before {
			d.problem(n, path, d.shown(n)+" is none of "+strings.Join(spec.Values, ", "), "")
		}
		value = s
	}
	return value, len(d.problems) == before
}
