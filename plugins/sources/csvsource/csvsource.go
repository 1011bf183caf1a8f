// Package csvsource reads delimited text.
package csvsource

import (
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sources"
)

// Source is the type "csv".
type Source struct{}

var _ sources.Source = Source{}

// Spec implements sources.Source.
func (Source) Spec() pipeline.PluginSpec {
	text := func(doc string) pipeline.OptionSpec {
		return pipeline.OptionSpec{Type: pipeline.StringOption, Doc: doc}
	}
	flag := func(doc string) pipeline.OptionSpec { return pipeline.OptionSpec{Type: pipeline.BoolOption, Doc: doc} }
	count := func(doc string) pipeline.OptionSpec { return pipeline.OptionSpec{Type: pipeline.IntOption, Doc: doc} }
	return pipeline.PluginSpec{Extensions: []string{".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.zst"}, Options: map[string]pipeline.OptionSpec{
		"header": flag("the first line has the names"), "delim": text("what separates fields"), "sep": text("the same as delim"),
		"quote": text("what encloses fields"), "escape": text("what escapes a quote"), "comment": text("what starts a comment"),
		"nullstr":     {Type: pipeline.StringList, Doc: "texts that mean NULL"},
		"columns":     {Type: pipeline.StringMap, Doc: "all names and types, in order"},
		"types":       {Type: pipeline.StringMap, Doc: "types of some columns"},
		"names":       {Type: pipeline.StringList, Doc: "names of the columns"},
		"compression": {Type: pipeline.StringOption, Values: []string{"auto", "none", "gzip", "zstd"}, Doc: "of the files"},
		"dateformat":  text("of dates, as strptime"), "timestampformat": text("of timestamps, as strptime"),
		"decimal_separator": text("of numbers"), "thousands": text("separator in numbers"), "encoding": text("of the text: utf-8, utf-16, latin-1"),
		"new_line": text("what ends lines"), "skip": count("lines to skip at the start"), "sample_size": count("rows to look at for types; -1 all"),
		"max_line_size": count("bytes of the longest line"), "ignore_errors": flag("leave out broken lines"), "null_padding": flag("short lines end in NULLs"),
		"all_varchar": flag("no types are guessed"), "auto_detect": flag("guess what isn't given"), "strict_mode": flag("refuse what RFC 4180 does not know"),
		"normalize_names": flag("names become identifiers"), "union_by_name": flag("columns are the union of all files', by name"),
		"hive_partitioning": flag("folders named key=value become columns"), "filename": flag("a column filename with each row's file"),
		"allow_quoted_nulls": flag("quoted texts may be NULL"), "force_not_null": {Type: pipeline.StringList, Doc: "columns without NULLs"},
	}}
}

// Relation implements sources.Source.
func (Source) Relation(options []pipeline.Option) (pipeline.Relation, error) {
	return pipeline.Relation{Function: "read_csv", Args: sources.Args(options)}, nil
}
