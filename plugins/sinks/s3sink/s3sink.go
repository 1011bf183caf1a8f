// Package s3sink publishes files to a bucket of S3 or of a store that speaks its
// API: an object for each shard as soon as that is complete, and a manifest last.
//
// # What readers see
//
// An object's name is made of the shard and the run, so that every attempt of a
// part writes the same bytes under the same name, and no other run's. What a
// killed process still has on its way can therefore do no harm, whenever it
// arrives. Readers that go by the manifest see the old result or the new one,
// whole; its write is the instant at which one becomes the other. Objects of the
// old result are removed afterwards.
//
// # Two runs at a time
//
// The manifest is written under a condition: that there is none (If-None-Match: *),
// or that it is still the one that was there when the run began to send
// (If-Match). Each part remembers which one that was, so that no process has to
// outlive another. Of two runs into one prefix at the same time, one fails. A store
// that ignores conditions is noticed, as it takes the same write again, and people
// are told; the manifest is compared before it is written there as well, so that
// only runs which end at the same instant can go unnoticed.
//
// # Failures
//
// An object of more than a part's size is uploaded in parts. Until it is complete
// nobody sees it; an attempt that fails aborts it, one that is killed leaves it to
// the next attempt, to the end of the run, and to [Sweep].
package s3sink

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
	"github.com/kinequet/kq/plugins/sinks/csvsink"
	"github.com/kinequet/kq/plugins/sinks/jsonsink"
	"github.com/kinequet/kq/plugins/sinks/parquetsink"
)

// Sink is the type "s3".
type Sink struct{}

var _ sinks.Remote = Sink{}

// formats are the types of files that an object may be.
var formats = map[string]sinks.Sink{"parquet": parquetsink.Sink{}, "csv": csvsink.Sink{}, "json": jsonsink.Sink{}}

const defaultFormat = "parquet"

// Spec implements sinks.Remote.
func (Sink) Spec() pipeline.PluginSpec {
	text := func(doc string, values ...string) pipeline.OptionSpec {
		return pipeline.OptionSpec{Type: pipeline.StringOption, Doc: doc, Values: values}
	}
	spec := pipeline.PluginSpec{
		Remote: true, Replaces: true, Required: []string{"uri"}, Options: map[string]pipeline.OptionSpec{},
		Settings: map[string]pipeline.OptionSpec{
			"uri":              text("the bucket and the prefix that is the result's folder, as s3://bucket/prefix"),
			"format":           text("of the objects (default: parquet)", "parquet", "csv", "json"),
			"endpoint":         text("the URL of a store other than AWS, such as http://localhost:9000"),
			"region":           text("the bucket's region (default: the environment's; us-east-1 with an endpoint)"),
			"path_style":       {Type: pipeline.BoolOption, Doc: "name the bucket in the path, not in the host (default: true with an endpoint)"},
			"access_key":       text("the id of the key to sign with (default: the environment's credentials)"),
			"secret_key":       {Type: pipeline.StringOption, Secret: true, Doc: "the secret of access_key; best ${NAME}, from the environment"},
			"session_token":    {Type: pipeline.StringOption, Secret: true, Doc: "the token of temporary credentials"},
			"part_bytes":       {Type: pipeline.IntOption, Doc: "the size above which a file is uploaded in parts, and of each part (default: 16777216)"},
			"checksum":         text("crc32c: the store verifies it (default); none: for stores that don't know it", "crc32c", "none"),
			"storage_class":    text("the objects' storage class, such as STANDARD_IA"),
			"encryption":       text("encryption by the store: AES256, aws:kms, aws:kms:dsse (default: the bucket's)", "AES256", "aws:kms", "aws:kms:dsse"),
			"kms_key":          text("the key of encryption: aws:kms"),
			"delivery_timeout": text("how long a request is repeated before an attempt fails (default: 2m)"),
		},
	}
	for _, name := range []string{"parquet", "csv", "json"} {
		of := formats[name].Spec()
		maps.Copy(spec.Options, of.Options)
		for _, c := range of.Compressions {
			if !slices.Contains(spec.Compressions, c) {
				spec.Compressions = append(spec.Compressions, c)
			}
		}
	}
	return spec
}

// Publication implements sinks.Remote.
func (Sink) Publication(s pipeline.Sink, _ []pipeline.Column, _ pipeline.Binder) (*pipeline.Publication, error) {
	set, err := parse(s.Settings)
	errs := []error{err}
	name := sinks.Settings(s.Settings).String("format", defaultFormat)
	format, ok := formats[name]
	if !ok { // the decoder has refused it
		return nil, errors.Join(append(errs, &pipeline.SettingError{Key: "format", Message: fmt.Sprintf("unknown format %q", name)})...)
	}
	spec := format.Spec()
	if s.Compression != "" && !slices.Contains(spec.Compressions, s.Compression) {
		errs = append(errs, &pipeline.SettingError{
			Key: "compression", Message: fmt.Sprintf("%s can't be compressed by %s", name, s.Compression), Hint: "there are " + strings.Join(spec.Compressions, ", "),
		})
	}
	for _, o := range s.Options {
		if _, ok := spec.Options[o.Key]; !ok {
			errs = append(errs, &pipeline.SettingError{
				Key: "options." + o.Key, Message: name + " has no such option", Hint: "it has " + strings.Join(slices.Sorted(maps.Keys(spec.Options)), ", "),
			})
		}
	}
	s.URI = "" // its end would tell a compression
	options, err := format.Copy(s)
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	return &pipeline.Publication{
		Files: true, Last: true, Copy: options, Extension: extension(spec, s.Compression), Target: set.String(), Delivery: pipeline.EffectivelyOnce,
		Reason: "every attempt of a part writes the same object, and readers go by the manifest, which is written last",
	}, nil
}

// extension is that of a format's objects: readers see the compression by it,
// where the format itself doesn't tell.
func extension(spec pipeline.PluginSpec, compression string) string {
	e := spec.Extensions[0]
	if e == ".parquet" {
		return e
	}
	return e + map[string]string{"gzip": ".gz", "zstd": ".zst"}[compression]
}
