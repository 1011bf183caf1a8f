// Package kafkasink publishes rows to a Kafka topic, a part at a time
// (package partwise).
package kafkasink

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Sink is the type "kafka".
type Sink struct{}

var _ sinks.Remote = Sink{}

// Spec implements sinks.Remote.
func (Sink) Spec() pipeline.PluginSpec {
	text := func(doc string) pipeline.OptionSpec {
		return pipeline.OptionSpec{Type: pipeline.StringOption, Doc: doc}
	}
	return pipeline.PluginSpec{
		Remote:       true,
		Required:     []string{"brokers", "topic"},
		Compressions: []string{"none", "lz4", "zstd", "snappy", "gzip"},
		Settings: map[string]pipeline.OptionSpec{
			"brokers":             {Type: pipeline.StringList, Doc: "the brokers to ask first, as host:port"},
			"topic":               text("the topic; it must exist, but see partitions"),
			"partitions":          {Type: pipeline.IntOption, Doc: "make the topic with so many partitions if it isn't there"},
			"format":              sinks.Formats,
			"columns":             {Type: pipeline.StringList, Doc: "the columns that json and csv are made of (default: all)"},
			"value":               text("of format: raw: an expression for the whole message"),
			"key":                 text("an expression for the message's key; the partition is chosen by it as Java's client does"),
			"partition":           text("an expression for the number of the partition"),
			"timestamp":           text("an expression for the message's time (TIMESTAMP, or milliseconds since 1970)"),
			"headers":             {Type: pipeline.StringMap, Doc: "names of headers and the expressions that they hold"},
			"record_id":           text("the name of a header that holds the row's id, which is the same in every attempt"),
			"batch_bytes":         {Type: pipeline.IntOption, Doc: "the most bytes of a record batch, before compression (default: 524288)"},
			"compression_level":   {Type: pipeline.IntOption, Doc: "of gzip and zstd"},
			"transaction_timeout": text("how long a part may take to be sent with delivery: effectively-once (default: 10m)"),
			"delivery_timeout":    text("how long nothing may get through before an attempt fails (default: 2m)"),
			"client_id":           text("the name by which brokers know this client (default: kq)"),
			"tls":                 {Type: pipeline.StringMap, Doc: "TLS: ca, cert, key (PEM files), server_name; {} for the system's authorities"},
			"sasl":                {Type: pipeline.StringMap, SecretKeys: []string{"password", "token"}, Doc: "mechanism (PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER), user, password or token"},
		},
	}
}

// Columns that the rows have as they are sent.
const (
	keyColumn       = "k"
	valueColumn     = "v"
	partitionColumn = "p"
	timestampColumn = "t"
	headerColumn    = "h" // and a number
)

// Publication implements sinks.Remote.
func (Sink) Publication(s pipeline.Sink, columns []pipeline.Column, bind pipeline.Binder) (*pipeline.Publication, error) {
	set := sinks.Settings(s.Settings)
	var errs []error
	var items []string
	add := func(expression, as string, err error) {
		errs = append(errs, err)
		items = append(items, expression+" AS "+as)
	}
	value, err := sinks.Value(set, columns, bind)
	add(value, valueColumn, err)
	if key := set.String("key", ""); key != "" {
		text, err := sinks.Text("key", key, bind)
		add(text, keyColumn, err)
	}
	if set.Has("partition") {
		number, err := typed(set, "partition", "INTEGER", bind)
		add(number, partitionColumn, err)
	}
	if set.Has("timestamp") {
		at, err := timestamp(set, bind)
		add(at, timestampColumn, err)
	}
	for i, h := range headers(set) {
		text, err := sinks.Text("headers", h[1], bind)
		add(text, fmt.Sprint(headerColumn, i), err)
	}
	if _, err := options(nil, set, s.Compression, s.Delivery); err != nil {
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p := &pipeline.Publication{
		Select: strings.Join(items, ", "), RecordID: set.Has("record_id"),
		Target: "topic " + set.String("topic", "") + " at " + strings.Join(set.Strings("brokers"), ", "),
	}
	p.Delivery, p.Reason = pipeline.AtLeastOnce, "a part that fails is sent again, whole; delivery: effectively-once sends each part in a transaction of its own"
	if s.Delivery == pipeline.EffectivelyOnce {
		p.Delivery = pipeline.EffectivelyOnce
		p.Reason = "each part is one transaction that also commits a token by which a later attempt knows it; consumers must read with isolation.level=read_committed"
	}
	return p, nil
}

// headers are the job's headers, with the record's id.
func headers(set sinks.Settings) [][2]string {
	all := set.Pairs("headers")
	if name := set.String("record_id", ""); name != "" {
		all = append(all[:len(all):len(all)], [2]string{name, pipeline.RecordID})
	}
	return all
}

// typed is a setting's expression cast to a type that it must fit.
func typed(set sinks.Settings, key, typ string, bind pipeline.Binder) (string, error) {
	expression := set.String(key, "")
	columns, err := bind(expression)
	if err == nil && len(columns) != 1 {
		err = fmt.Errorf("it gives %d columns, not one", len(columns))
	}
	if err == nil && !strings.HasSuffix(columns[0].Type, "INT") && columns[0].Type != "INTEGER" {
		err = fmt.Errorf("it is %s, not a whole number", columns[0].Type)
	}
	if err != nil {
		return "", &pipeline.SettingError{Key: key, Message: err.Error(), Hint: "it is an SQL expression over the columns of from:"}
	}
	return "CAST((" + expression + ") AS " + typ + ")", nil
}

// timestamp is the expression for a message's time, in milliseconds.
func timestamp(set sinks.Settings, bind pipeline.Binder) (string, error) {
	expression := set.String("timestamp", "")
	columns, err := bind(expression)
	if err == nil && len(columns) == 1 && (strings.HasPrefix(columns[0].Type, "TIMESTAMP") || columns[0].Type == "DATE") {
		return "epoch_ms(CAST((" + expression + ") AS TIMESTAMP))", nil
	}
	if err != nil {
		return "", &pipeline.SettingError{Key: "timestamp", Message: err.Error(), Hint: "it is an SQL expression over the columns of from:"}
	}
	return typed(set, "timestamp", "BIGINT", bind)
}

// duration reads a setting such as 10m.
func duration(set sinks.Settings, key string) (time.Duration, error) {
	text := set.String(key, "")
	if text == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, &pipeline.SettingError{Key: key, Message: fmt.Sprintf("%q is no duration", text), Hint: "write it like 30s or 10m"}
	}
	return d, nil
}
