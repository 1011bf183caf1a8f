package spec

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/kinequet/kq/pipeline"
)

// later are keys and types of sinks that are to come.
var (
	laterSinkKeys  = []string{"dead_letter", "max_rejected"}
	laterSinkTypes = []string{"http", "plugin"}
)

// sink decodes one entry of sinks:. Which keys it may have depends on its type.
func (d *decoder) sink(name, path string, n *yaml.Node) bool {
	s := pipeline.Sink{Name: name, Retry: pipeline.Retry{Attempts: sinkAttempts, Backoff: defaultBackoff}}
	var types, from, uri, compression, options *yaml.Node
	fields := map[string]field{
		"type":        func(p string, v *yaml.Node) { types = v; s.Type, _ = d.text(p, v) },
		"from":        func(p string, v *yaml.Node) { from = v; s.From, _ = d.nonEmpty(p, v) },
		"uri":         func(p string, v *yaml.Node) { uri = v },
		"compression": func(p string, v *yaml.Node) { compression = v; s.Compression, _ = d.text(p, v) },
		"overwrite":   func(p string, v *yaml.Node) { s.Replace = d.choice(p, v, "refuse", "replace") == "replace" },
		"options":     func(p string, v *yaml.Node) { options = v },
	}
	order := []string{"type", "from", "uri", "compression", "overwrite", "options"}
	spec, ok := d.o.Catalog.Sinks[typeName(n)]
	if ok && spec.Remote {
		order = d.remote(&s, spec, fields)
	}
	d.object(n, path, "a sink", fields, order, laterSinkKeys)
	if resolve(n).Kind != yaml.MappingNode {
		return false
	}
	if from == nil {
		d.problem(n, path, "has no from", "add from: with the stage to publish")
	}
	switch {
	case ok && spec.Remote:
		for _, key := range spec.Required {
			if _, given := d.job.Positions[path+"."+key]; !given {
				d.problem(n, path, "has no "+key, fmt.Sprintf("add %s: %s", key, spec.Settings[key].Doc))
			}
		}
	case uri == nil:
		if !slices.Contains(laterSinkTypes, s.Type) {
			d.problem(n, path, "has no uri", "add uri: with the folder or file to publish to")
		}
	default:
		if text, ok := d.text(path+".uri", uri); ok {
			s.URI, _ = d.absolute(uri, path+".uri", text)
		}
	}
	d.sinkType(&s, path, n, types)
	spec, ok = d.o.Catalog.Sinks[s.Type]
	if ok && compression != nil && !slices.Contains(spec.Compressions, s.Compression) {
		d.problem(compression, path+".compression", fmt.Sprintf("unknown compression %s", d.shown(compression)), known(s.Compression, spec.Compressions))
	}
	if ok && options != nil {
		s.Options = d.options(path+".options", options, spec.Options)
	}
	if from == nil {
		return false
	}
	d.job.Sinks = append(d.job.Sinks, s)
	return true
}

// sinkType finds out the type of a sink that doesn't say, and refuses unknown ones.
func (d *decoder) sinkType(s *pipeline.Sink, path string, n, types *yaml.Node) {
	if types == nil && s.URI != "" {
		s.Type = typeOf(s.URI, d.o.Catalog.Sinks)
		if s.Type == "" {
			d.problem(n, path, "has no type", "add type: "+strings.Join(sorted(d.o.Catalog.Sinks), ", or "))
		}
	}
	if _, ok := d.o.Catalog.Sinks[s.Type]; !ok && types != nil {
		d.unknownType(types, path+".type", "sink", s.Type, d.o.Catalog.Sinks, laterSinkTypes...)
	}
}

// remote adds the keys of a sink that is a service to its fields, and takes away
// those of files. It returns the keys in the order in which people are told them.
func (d *decoder) remote(s *pipeline.Sink, spec pipeline.PluginSpec, fields map[string]field) []string {
	order := append([]string{"type", "from"}, spec.Required...)
	for _, name := range slices.Sorted(maps.Keys(spec.Settings)) {
		if !slices.Contains(order, name) {
			order = append(order, name)
		}
		setting := spec.Settings[name]
		fields[name] = func(p string, v *yaml.Node) {
			if value, ok := d.option(p, v, setting); ok {
				s.Settings = append(s.Settings, pipeline.Option{Key: name, Value: value})
			}
		}
	}
	if spec.Settings["uri"].Type == "" {
		delete(fields, "uri")
	}
	if len(spec.Options) == 0 {
		delete(fields, "options")
	}
	if len(spec.Compressions) == 0 {
		delete(fields, "compression")
	} else {
		order = append(order, "compression")
	}
	if !spec.Replaces {
		delete(fields, "overwrite")
	} else {
		order = append(order, "overwrite")
	}
	fields["delivery"] = func(p string, v *yaml.Node) {
		s.Delivery = pipeline.Delivery(d.choice(p, v, string(pipeline.AtLeastOnce), string(pipeline.EffectivelyOnce)))
	}
	fields["max_memory_bytes"] = func(p string, v *yaml.Node) { s.MaxMemory = d.size(p, v) }
	fields["retry"] = d.retry(&s.Retry)
	fields["max_backlog_bytes"] = func(p string, v *yaml.Node) { s.MaxBacklog = d.size(p, v) }
	return append(order, "delivery", "retry", "max_memory_bytes", "max_backlog_bytes")
}

// typeName is the type that a sink names, before anything of it is decoded.
func typeName(n *yaml.Node) string {
	n = resolve(n)
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "type" {
			return resolve(n.Content[i+1]).Value
		}
	}
	return ""
}
