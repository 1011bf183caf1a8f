// Package jsonsource reads JSON, one value a line.
package jsonsource

import (
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sources"
)

// Source is the type "json".
type Source struct{}

var _ sources.Source = Source{}

// Spec implements sources.Source.
func (Source) Spec() pipeline.PluginSpec {
	return pipeline.PluginSpec{Extensions: []string{".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz"}, Options: map[string]pipeline.OptionSpec{
		"columns":             {Type: pipeline.StringMap, Doc: "names and types to read"},
		"format":              {Type: pipeline.StringOption, Values: []string{"newline_delimited", "array", "auto"}, Doc: "one value a line (default), or one array"},
		"records":             {Type: pipeline.StringOption, Values: []string{"auto", "true", "false"}, Doc: "whether values are objects to unpack"},
		"compression":         {Type: pipeline.StringOption, Values: []string{"auto_detect", "uncompressed", "gzip", "zstd"}, Doc: "of the files"},
		"dateformat":          {Type: pipeline.StringOption, Doc: "of dates, as strptime"},
		"timestampformat":     {Type: pipeline.StringOption, Doc: "of timestamps, as strptime"},
		"ignore_errors":       {Type: pipeline.BoolOption, Doc: "broken lines become NULL"},
		"maximum_depth":       {Type: pipeline.IntOption, Doc: "of types that are guessed; -1 no limit"},
		"maximum_object_size": {Type: pipeline.IntOption, Doc: "bytes of the largest value"},
		"sample_size":         {Type: pipeline.IntOption, Doc: "values to look at for types; -1 all"},
		"union_by_name":       {Type: pipeline.BoolOption, Doc: "columns are the union of all files', by name"},
		"hive_partitioning":   {Type: pipeline.BoolOption, Doc: "folders named key=value become columns"},
		"filename":            {Type: pipeline.BoolOption, Doc: "a column filename with each row's file"},
	}}
}

// Relation implements sources.Source.
func (Source) Relation(options []pipeline.Option) (pipeline.Relation, error) {
	given := false
	for _, o := range options {
		given = given || o.Key == "format"
	}
	if !given {
		options = append([]pipeline.Option{{Key: "format", Value: "newline_delimited"}}, options...)
	}
	return pipeline.Relation{Function: "read_json", Args: sources.Args(options)}, nil
}
