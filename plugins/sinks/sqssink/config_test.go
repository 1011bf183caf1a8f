package sqssink

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kinequet/kq/pipeline"
)

// columnsOf is a stage of the tests; bind knows its columns and nothing else.
var columnsOf = []pipeline.Column{
	{Name: "id", Type: "BIGINT"},
	{Name: "name", Type: "VARCHAR"},
	{Name: "price", Type: "DECIMAL(18,3)"},
	{Name: "x", Type: "DOUBLE"},
	{Name: "raw", Type: "BLOB"},
	{Name: "tags", Type: "VARCHAR[]"},
	{Name: "big", Type: "HUGEINT"},
}

func bind(selected string) ([]pipeline.Column, error) {
	if i := slices.IndexFunc(columnsOf, func(c pipeline.Column) bool { return c.Name == selected }); i >= 0 {
		return columnsOf[i : i+1], nil
	}
	if selected == "two" {
		return columnsOf[:2], nil
	}
	return nil, fmt.Errorf("there is no column %q", selected)
}

// problems are the keys of all that is wrong with settings.
func problems(t *testing.T, delivery pipeline.Delivery, pairs ...any) (keys []string) {
	t.Helper()
	_, err := Sink{}.Publication(pipeline.Sink{Name: "out", Settings: settings(pairs...), Delivery: delivery}, columnsOf, bind)
	var walk func(error)
	walk = func(err error) {
		if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // one level after the other
			for _, e := range joined.Unwrap() {
				walk(e)
			}
			return
		}
		var s *pipeline.SettingError
		if !errors.As(err, &s) {
			t.Fatalf("%T %v is no SettingError", err, err)
		}
		keys = append(keys, s.Key)
	}
	if err != nil {
		walk(err)
	}
	slices.Sort(keys)
	return keys
}

func TestSettings(t *testing.T) {
	many := func(n int) (m [][2]string) {
		for i := range n {
			m = append(m, [2]string{fmt.Sprint("a", i), "id"})
		}
		return m
	}
	for _, c := range []struct {
		wrong string // keys
		pairs []any
	}{
		{"", []any{"queue", "q"}},
		{"", []any{"queue", "https://sqs.eu-west-1.amazonaws.com/123456789012/q-1_2"}},
		{"", []any{"queue", "https://sqs.eu-west-1.amazonaws.com/123456789012/q", "region", "eu-west-1"}},
		{"region", []any{"queue", "https://sqs.eu-west-1.amazonaws.com/123456789012/q", "region", "eu-west-2"}},
		{"queue", []any{"queue", ""}},
		{"queue", []any{"queue", "arn:aws:sqs:eu-west-1:123456789012:q"}},
		{"queue", []any{"queue", "a b"}},
		{"queue", []any{"queue", strings.Repeat("q", 81)}},
		{"queue", []any{"queue", strings.Repeat("q", 76) + ".fifo", "group", "id"}},
		{"queue", []any{"queue", "ftp://host/q"}},
		{"queue", []any{"queue", "http://host/"}},
		{"queue", []any{"queue", "http://user:secret@host/q"}},
		{"endpoint", []any{"queue", "q", "endpoint", "localhost:9324"}},
		{"access_key", []any{"queue", "q", "access_key", "a"}},
		{"secret_key", []any{"queue", "q", "secret_key", "s"}},
		{"session_token", []any{"queue", "q", "session_token", "s"}},
		{"", []any{"queue", "q", "access_key", "a", "secret_key", "s", "session_token", "t"}},
		{"group", []any{"queue", "q.fifo"}},
		{"group", []any{"queue", "http://host/0/q.fifo"}},
		{"", []any{"queue", "q.fifo", "group", "name"}},
		{"", []any{"queue", "q.fifo", "group", "tags", "ordering", "batched"}},
		{"group", []any{"queue", "q.fifo", "group", "raw"}},
		{"group", []any{"queue", "q.fifo", "group", "nothing"}},
		{"group", []any{"queue", "q.fifo", "group", "two"}},
		{"group ordering", []any{"queue", "q", "group", "name", "ordering", "strict"}},
		{"delay_seconds", []any{"queue", "q.fifo", "group", "name", "delay_seconds", int64(1)}},
		{"", []any{"queue", "q", "delay_seconds", int64(900)}},
		{"delay_seconds", []any{"queue", "q", "delay_seconds", int64(901)}},
		{"delay_seconds", []any{"queue", "q", "delay_seconds", int64(-1)}},
		{"concurrency", []any{"queue", "q", "concurrency", int64(0)}},
		{"max_message_bytes", []any{"queue", "q", "max_message_bytes", int64(10)}},
		{"request_timeout", []any{"queue", "q", "request_timeout", "soon"}},
		{"delivery_timeout", []any{"queue", "q", "delivery_timeout", "-1s"}},
		{"", []any{"queue", "q", "attributes", many(9)}},
		{"attributes", []any{"queue", "q", "attributes", many(10)}},
		{"", []any{"queue", "q", "attributes", many(10), "record_id", ""}},
		{"attributes", []any{"queue", "q", "attributes", [][2]string{{"kq-id", "id"}}}},
		{"attributes attributes", []any{"queue", "q", "attributes", [][2]string{{"AWS.x", "id"}, {"a..b", "id"}}}},
		{"attributes", []any{"queue", "q", "attributes", [][2]string{{"a", "nothing"}}}},
		{"record_id", []any{"queue", "q", "record_id", "a b"}},
		{"value", []any{"queue", "q", "format", "raw", "value", "raw"}},
		{"", []any{"queue", "q", "format", "raw", "value", "tags"}},
		{"format", []any{"queue", "q", "format", "raw"}},
		{"value", []any{"queue", "q", "value", "name"}},
		{"columns", []any{"queue", "q", "columns", []any{"nothing"}}},
		{"columns concurrency group queue", []any{"queue", "a/b", "concurrency", int64(-5), "group", "name", "columns", []any{"?"}}}, // all at once
	} {
		if got := strings.Join(problems(t, "", c.pairs...), " "); got != c.wrong {
			t.Errorf("%v: wrong are %q, want %q", c.pairs, got, c.wrong)
		}
	}
}

func TestDelivery(t *testing.T) {
	for _, queue := range []string{"q", "q.fifo"} {
		set := settings("queue", queue)
		if queue == "q.fifo" {
			set = with(set, "group", "name")
		}
		s := pipeline.Sink{Settings: set}
		p, err := Sink{}.Publication(s, columnsOf, bind)
		if err != nil || p.Delivery != pipeline.AtLeastOnce || !p.RecordID {
			t.Errorf("%s: %+v, %v", queue, p, err)
		}
		if says := strings.Contains(p.Reason, "5 minutes"); says != (queue == "q.fifo") {
			t.Errorf("%s: %s", queue, p.Reason)
		}
		s.Delivery = pipeline.EffectivelyOnce
		var wrong *pipeline.SettingError
		if _, err := (Sink{}).Publication(s, columnsOf, bind); !errors.As(err, &wrong) || wrong.Key != "delivery" || !strings.Contains(wrong.Message, "can't be held") {
			t.Errorf("%s: %v", queue, err)
		}
	}
}

// TestSelect: what is selected, with the types of attributes.
func TestSelect(t *testing.T) {
	p, err := Sink{}.Publication(pipeline.Sink{Settings: settings("queue", "q.fifo", "group", "id", "format", "raw", "value", "name", "attributes", [][2]string{
		{"a", "id"}, {"b", "price"}, {"c", "x"}, {"d", "raw"}, {"e", "tags"}, {"f", "big"},
	})}, columnsOf, bind)
	want := "__kq_id AS i, (name) AS v, CAST((id) AS VARCHAR) AS g, CAST((id) AS VARCHAR) AS n0, CAST((price) AS VARCHAR) AS n1, " +
		"CASE WHEN isfinite(x) THEN CAST((x) AS VARCHAR) END AS n2, (raw) AS b3, CAST(to_json(tags) AS VARCHAR) AS s4, CAST((big) AS VARCHAR) AS n5"
	if err != nil || p.Select != want {
		t.Errorf("%v\n%s\nwant\n%s", err, p.Select, want)
	}
}

// TestAddress: what a queue's URL tells.
func TestAddress(t *testing.T) {
	for _, c := range []struct{ queue, region, endpoint string }{
		{"q", "", ""},
		{"https://sqs.eu-west-1.amazonaws.com/1/q", "eu-west-1", "https://sqs.eu-west-1.amazonaws.com"},
		{"https://sqs-fips.us-west-2.amazonaws.com/1/q", "us-west-2", "https://sqs-fips.us-west-2.amazonaws.com"},
		{"https://sqs.cn-north-1.amazonaws.com.cn/1/q", "cn-north-1", "https://sqs.cn-north-1.amazonaws.com.cn"},
		{"https://sqs.eu-west-1.api.aws/1/q", "eu-west-1", "https://sqs.eu-west-1.api.aws"},
		{"https://vpce-0a-b1.sqs.eu-west-1.vpce.amazonaws.com/1/q", "eu-west-1", "https://vpce-0a-b1.sqs.eu-west-1.vpce.amazonaws.com"},
		{"https://eu-west-2.queue.amazonaws.com/1/q", "eu-west-2", ""}, // the SDK knows better
		{"https://queue.amazonaws.com/1/q", "us-east-1", ""},
		{"http://127.0.0.1:9324/000000000000/q", "", "http://127.0.0.1:9324"},
	} {
		got, err := parse(settings("queue", c.queue))
		if err != nil || got.region != c.region || got.endpoint != c.endpoint || got.name != "q" {
			t.Errorf("%s: region %q, endpoint %q, name %q, %v", c.queue, got.region, got.endpoint, got.name, err)
		}
	}
	if got, err := parse(settings("queue", "http://a:1/0/q", "endpoint", "http://b:2/")); err != nil || got.endpoint != "http://b:2" {
		t.Errorf("the job's endpoint: %q, %v", got.endpoint, err)
	}
}

func TestNoRegion(t *testing.T) {
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	open := func() error {
		_, err := Sink{}.Open(&pipeline.SinkPlan{Settings: settings("queue", "q")}, optionsOf(newGate()))
		return err
	}
	var wrong *pipeline.SettingError
	if err := open(); !errors.As(err, &wrong) || wrong.Key != "region" {
		t.Errorf("%v", err)
	}
	t.Setenv("AWS_REGION", "eu-west-1")
	if err := open(); err != nil {
		t.Error(err)
	}
}
