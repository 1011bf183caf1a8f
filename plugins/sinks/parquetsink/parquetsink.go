// Package parquetsink writes Parquet.
package parquetsink

import (
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Sink is the type "parquet".
type Sink struct{}

var _ sinks.Sink = Sink{}

// Spec implements sinks.Sink.
func (Sink) Spec() pipeline.PluginSpec {
	return pipeline.PluginSpec{
		Extensions:   []string{".parquet", ".parq", ".pq"},
		Compressions: []string{"snappy", "zstd", "lz4_raw", "gzip", "brotli", "uncompressed"},
		Options: map[string]pipeline.OptionSpec{
			"row_group_size":    {Type: pipeline.IntOption, Doc: "rows of a row group"},
			"compression_level": {Type: pipeline.IntOption, Doc: "of zstd"},
			"parquet_version":   {Type: pipeline.StringOption, Values: []string{"V1", "V2"}, Doc: "of the encodings"},
		},
	}
}

// Copy implements sinks.Sink.
func (k Sink) Copy(s pipeline.Sink) (string, error) {
	return sinks.Copy("parquet", sinks.Compression(s, k.Spec()), s.Options), nil
}
