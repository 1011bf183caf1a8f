// Package parquetsource reads Parquet files.
package parquetsource

import (
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sources"
)

// Source is the type "parquet".
type Source struct{}

var _ sources.Source = Source{}

// Spec implements sources.Source.
func (Source) Spec() pipeline.PluginSpec {
	return pipeline.PluginSpec{Extensions: []string{".parquet", ".parq", ".pq"}, Options: map[string]pipeline.OptionSpec{
		"union_by_name":     {Type: pipeline.BoolOption, Doc: "columns are the union of all files', by name"},
		"hive_partitioning": {Type: pipeline.BoolOption, Doc: "folders named key=value become columns"},
		"hive_types":        {Type: pipeline.StringMap, Doc: "types of those columns"},
		"filename":          {Type: pipeline.BoolOption, Doc: "a column filename with each row's file"},
		"binary_as_string":  {Type: pipeline.BoolOption, Doc: "binary columns are text"},
	}}
}

// Relation implements sources.Source.
func (Source) Relation(options []pipeline.Option) (pipeline.Relation, error) {
	return pipeline.Relation{Function: "read_parquet", Args: sources.Args(options)}, nil
}
