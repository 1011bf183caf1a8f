// Package jsonsink writes JSON, one object a line.
package jsonsink

import (
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Sink is the type "json".
type Sink struct{}

var _ sinks.Sink = Sink{}

// Spec implements sinks.Sink.
func (Sink) Spec() pipeline.PluginSpec {
	return pipeline.PluginSpec{
		Extensions: []string{".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz"}, Compressions: []string{"none", "gzip", "zstd"},
		Options: map[string]pipeline.OptionSpec{
			"dateformat":      {Type: pipeline.StringOption, Doc: "of dates, as strftime"},
			"timestampformat": {Type: pipeline.StringOption, Doc: "of timestamps, as strftime"},
		},
	}
}

// Copy implements sinks.Sink.
func (k Sink) Copy(s pipeline.Sink) (string, error) {
	return sinks.Copy("json", sinks.Compression(s, k.Spec()), s.Options), nil
}
