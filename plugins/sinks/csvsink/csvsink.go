// Package csvsink writes delimited text.
package csvsink

import (
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Sink is the type "csv".
type Sink struct{}

var _ sinks.Sink = Sink{}

// Spec implements sinks.Sink.
func (Sink) Spec() pipeline.PluginSpec {
	return pipeline.PluginSpec{
		Extensions: []string{".csv", ".csv.gz", ".csv.zst", ".tsv"}, Compressions: []string{"none", "gzip", "zstd"},
		Options: map[string]pipeline.OptionSpec{
			"header":          {Type: pipeline.BoolOption, Doc: "names in the first line (default true)"},
			"delim":           {Type: pipeline.StringOption, Doc: "what separates fields"},
			"quote":           {Type: pipeline.StringOption, Doc: "what encloses fields"},
			"escape":          {Type: pipeline.StringOption, Doc: "what escapes a quote"},
			"nullstr":         {Type: pipeline.StringOption, Doc: "what NULL is written as"},
			"dateformat":      {Type: pipeline.StringOption, Doc: "of dates, as strftime"},
			"timestampformat": {Type: pipeline.StringOption, Doc: "of timestamps, as strftime"},
			"force_quote":     {Type: pipeline.StringList, Doc: "columns that are always quoted"},
		},
	}
}

// Copy implements sinks.Sink.
func (k Sink) Copy(s pipeline.Sink) (string, error) {
	return sinks.Copy("csv", sinks.Compression(s, k.Spec()), s.Options), nil
}
