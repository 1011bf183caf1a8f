package s3sink

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/kinequet/kq/pipeline"
)

// keys are those of the SettingErrors of an error.
func keys(t *testing.T, err error) (all []string) {
	t.Helper()
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // its parts are looked at
		for _, e := range joined.Unwrap() {
			all = append(all, keys(t, e)...)
		}
		return all
	}
	var s *pipeline.SettingError
	if !errors.As(err, &s) || s.Hint == "" {
		t.Errorf("no SettingError with a hint: %#v", err)
		return nil
	}
	return append(all, s.Key)
}

func TestWrongSettings(t *testing.T) {
	for _, c := range []struct {
		key   string
		value any
		wrong string // keys, joined; "" none
	}{
		{"uri", "s3://bucket", ""},
		{"uri", "s3://bucket/", ""},
		{"uri", "s3://my.bucket-1/a/b=c/ü %20+&?#/", ""},
		{"uri", "bucket/x", "uri"},
		{"uri", "https://bucket/x", "uri"},
		{"uri", "s3://", "uri"},
		{"uri", "s3:///x", "uri"},
		{"uri", "s3://b!cket/x", "uri"},
		{"uri", "s3://bucket//x", "uri"},
		{"uri", "s3://bucket/a//b", "uri"},
		{"uri", "s3://bucket/a/../b", "uri"},
		{"uri", "s3://bucket/./b", "uri"},
		{"uri", "s3://bucket/a\nb", "uri"},
		{"uri", "s3://bucket/\xff", "uri"},
		{"uri", "s3://bucket/" + strings.Repeat("x", 1000), "uri"},
		{"uri", "s3://bucket/flights.parquet", "uri"},
		{"uri", "s3://bucket/flights.CSV.gz", "uri"},
		{"endpoint", "http://localhost:9000/", ""},
		{"endpoint", "https://x.example.com/storage/v1/s3", ""},
		{"endpoint", "localhost:9000", "endpoint"},
		{"endpoint", "ftp://localhost", "endpoint"},
		{"endpoint", "http://user:word@localhost", "endpoint"},
		{"endpoint", "http://localhost?x=1", "endpoint"},
		{"access_key", "a", "access_key"},
		{"secret_key", "b", "secret_key"},
		{"session_token", "c", "session_token"},
		{"part_bytes", int64(5<<20 - 1), "part_bytes"},
		{"part_bytes", int64(5<<30 + 1), "part_bytes"},
		{"part_bytes", int64(5 << 20), ""},
		{"kms_key", "k", "kms_key"},
		{"delivery_timeout", "soon", "delivery_timeout"},
		{"delivery_timeout", "-1s", "delivery_timeout"},
		{"delivery_timeout", "90s", ""},
	} {
		all := []pipeline.Option{{Key: "uri", Value: "s3://bucket/x"}}
		if c.key == "uri" {
			all = nil
		}
		_, err := Sink{}.Publication(pipeline.Sink{Settings: append(all, pipeline.Option{Key: c.key, Value: c.value})}, nil, nil)
		if got := strings.Join(keys(t, err), ","); got != c.wrong {
			t.Errorf("%s: %q: wrong is %q, want %q", c.key, c.value, got, c.wrong)
		}
	}
}

// TestAllAtOnce: every wrong setting is told, not the first.
func TestAllAtOnce(t *testing.T) {
	_, err := Sink{}.Publication(pipeline.Sink{
		Compression: "snappy", Options: []pipeline.Option{{Key: "row_group_size", Value: int64(1)}, {Key: "header", Value: true}},
		Settings: []pipeline.Option{
			{Key: "uri", Value: "nowhere"},
			{Key: "endpoint", Value: "x"},
			{Key: "access_key", Value: "x"},
			{Key: "part_bytes", Value: int64(1)},
			{Key: "kms_key", Value: "x"},
			{Key: "delivery_timeout", Value: "x"},
			{Key: "format", Value: "csv"},
		},
	}, nil, nil)
	got := keys(t, err)
	slices.Sort(got)
	if want := "access_key,compression,delivery_timeout,endpoint,kms_key,options.row_group_size,part_bytes,uri"; strings.Join(got, ",") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestFormats(t *testing.T) {
	for _, c := range []struct {
		format, compression string
		option              pipeline.Option
		copy, extension     string
	}{
		{"", "", pipeline.Option{}, "FORMAT parquet, COMPRESSION 'snappy'", ".parquet"},
		{"parquet", "gzip", pipeline.Option{Key: "row_group_size", Value: int64(7)}, "FORMAT parquet, COMPRESSION 'gzip', row_group_size 7", ".parquet"},
		{"csv", "", pipeline.Option{Key: "header", Value: false}, "FORMAT csv, COMPRESSION 'none', header false", ".csv"},
		{"csv", "gzip", pipeline.Option{Key: "nullstr", Value: "it's"}, "FORMAT csv, COMPRESSION 'gzip', nullstr 'it''s'", ".csv.gz"},
		{"json", "zstd", pipeline.Option{}, "FORMAT json, COMPRESSION 'zstd'", ".json.zst"},
	} {
		s := pipeline.Sink{Compression: c.compression, Settings: []pipeline.Option{{Key: "uri", Value: "s3://bucket/is.gz/x"}}}
		if c.format != "" {
			s.Settings = append(s.Settings, pipeline.Option{Key: "format", Value: c.format})
		}
		if c.option.Key != "" {
			s.Options = append(s.Options, c.option)
		}
		p, err := Sink{}.Publication(s, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		if p.Copy != c.copy || p.Extension != c.extension || !p.Files || !p.Last || p.Delivery != pipeline.EffectivelyOnce {
			t.Errorf("%s %s: %+v", c.format, c.compression, p)
		}
		if name := (&publisher{plan: &pipeline.SinkPlan{Extension: p.Extension}}).name(7, 1); runOf(name) != "" { // of no run
			t.Errorf("%s is %s's", name, runOf(name))
		}
	}
}

func TestNames(t *testing.T) {
	p := &publisher{plan: &pipeline.SinkPlan{Extension: ".csv.gz"}}
	p.o.Run = run1
	for _, c := range []struct {
		shard, file int
		name        string
	}{
		{0, 0, "part-00000-kq-" + run1 + ".csv.gz"},
		{0, 1, "part-00000.1-kq-" + run1 + ".csv.gz"},
		{1, 0, "part-00001-kq-" + run1 + ".csv.gz"},
		{123456, 12, "part-123456.12-kq-" + run1 + ".csv.gz"},
	} {
		if got := p.name(c.shard, c.file); got != c.name || runOf(got) != run1 {
			t.Errorf("%s of run %q, want %s", got, runOf(got), c.name)
		}
	}
	for _, other := range []string{
		"part-00000.parquet", "part-00000-5f0c8b1e-7c59-4d0a-a0f5-5d6f4d4f0d4f-c000.snappy.parquet", "part-0-kq-x.parquet", "xpart-00000-kq-r.parquet",
		"part-00000-kq-r.parquet.bak", "part-00000-kq-.parquet", "data_0.parquet", "_manifest.json", "",
	} {
		if runOf(other) != "" {
			t.Errorf("%q counts as ours", other)
		}
	}
}
