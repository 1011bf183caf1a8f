// Package sinks is what a sink type has to say for itself: which options a job
// may give it, and how its format is written (Sink), or how rows are sent to a
// service (Remote). Each built-in type has a folder; filesink publishes the files,
// and package send calls the services.
package sinks

import (
	"fmt"
	"strings"

	"github.com/kinequet/kq/pipeline"
)

// Sink is a sink type that writes files. Implementations have no state.
type Sink interface {
	// Spec describes the type to the job file's decoder. The first extension
	// is that of the files in a folder, the first compression the default.
	Spec() pipeline.PluginSpec
	// Copy returns the options of DuckDB's COPY TO that write the format.
	Copy(s pipeline.Sink) (string, error)
}

// Copy renders a format, a compression and options that the type allows.
func Copy(format, compression string, options []pipeline.Option) string {
	items := []string{"FORMAT " + format}
	if compression != "" {
		items = append(items, "COMPRESSION '"+compression+"'")
	}
	for _, o := range options {
		switch v := o.Value.(type) {
		case string:
			items = append(items, fmt.Sprintf("%s '%s'", o.Key, strings.ReplaceAll(v, "'", "''")))
		case []any:
			names := make([]string, len(v))
			for i, n := range v {
				names[i] = `"` + strings.ReplaceAll(fmt.Sprint(n), `"`, `""`) + `"`
			}
			items = append(items, o.Key+" ("+strings.Join(names, ", ")+")")
		default:
			items = append(items, fmt.Sprintf("%s %v", o.Key, v))
		}
	}
	return strings.Join(items, ", ")
}

// Compression is the sink's, or what its target's extension tells, or the
// type's default.
func Compression(s pipeline.Sink, spec pipeline.PluginSpec) string {
	switch {
	case s.Compression != "":
		return s.Compression
	case strings.HasSuffix(strings.ToLower(s.URI), ".gz"):
		return "gzip"
	case strings.HasSuffix(strings.ToLower(s.URI), ".zst"):
		return "zstd"
	}
	return spec.Compressions[0]
}
