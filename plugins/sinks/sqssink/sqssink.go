// Package sqssink publishes rows to a queue of Amazon SQS, or of what speaks its
// protocol: a message for each row, in batches of up to ten.
//
// SQS has no transactions, and it forgets after five minutes which messages it
// has. So a part is sent at least once: what has failed, and a part whose worker
// died, is sent again, and every message carries the row's id, which is the same
// each time. A FIFO queue gets the id as deduplication id as well and drops what
// comes again within those five minutes.
//
// In a FIFO queue, a group's messages are in the order of the part's rows: a
// message isn't sent before the one before it in its group has arrived.
package sqssink

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Sink is the type "sqs".
type Sink struct{}

var _ sinks.Remote = Sink{}

// Spec implements sinks.Remote.
func (Sink) Spec() pipeline.PluginSpec {
	text := func(doc string, values ...string) pipeline.OptionSpec {
		return pipeline.OptionSpec{Type: pipeline.StringOption, Doc: doc, Values: values}
	}
	number := func(doc string) pipeline.OptionSpec {
		return pipeline.OptionSpec{Type: pipeline.IntOption, Doc: doc}
	}
	return pipeline.PluginSpec{
		Remote:   true,
		Required: []string{"queue"},
		Settings: map[string]pipeline.OptionSpec{
			"queue":             text("the queue's name or URL; it must exist"),
			"region":            text("the region of AWS (default: that of the URL, else that of the environment)"),
			"endpoint":          text("the address of the service, as http://host:port (default: that of the URL, else that of AWS)"),
			"access_key":        text("with secret_key: credentials (default: as the SDK of AWS finds them: environment, profile, role)"),
			"secret_key":        text("with access_key: credentials"),
			"session_token":     text("of credentials that are temporary"),
			"format":            sinks.Formats,
			"columns":           {Type: pipeline.StringList, Doc: "the columns that json and csv are made of (default: all)"},
			"value":             text("of format: raw: an expression for the whole message"),
			"attributes":        {Type: pipeline.StringMap, Doc: "names of message attributes and the expressions that they hold"},
			"record_id":         text(`the name of the attribute that holds the row's id, which is the same in every attempt (default: kq-id; "" for none)`),
			"group":             text("of a FIFO queue: an expression for the message group id"),
			"ordering":          text("of a FIFO queue. strict (default): a request has one message of a group; batched: up to ten, so that one that fails alone may be overtaken", orderings...),
			"delay_seconds":     number("how long messages stay hidden, 0 to 900 (default: as the queue is set up); not of a FIFO queue"),
			"concurrency":       number("the most requests on their way from one worker (default: 16)"),
			"max_message_bytes": number("the most bytes that the service takes in a message and in a batch (default: 1048576)"),
			"request_timeout":   text("how long a request may take (default: 30s)"),
			"delivery_timeout":  text("how long nothing may get through before an attempt fails (default: 2m)"),
		},
	}
}

// Columns that the rows have as they are sent. An attribute's column is named by
// its data type and its place in the job: s0, n1, b2.
const (
	bodyColumn  = "v"
	idColumn    = "i"
	groupColumn = "g"

	stringAttribute = "s"
	numberAttribute = "n"
	binaryAttribute = "b"
)

// Publication implements sinks.Remote.
func (Sink) Publication(s pipeline.Sink, columns []pipeline.Column, bind pipeline.Binder) (*pipeline.Publication, error) {
	set := sinks.Settings(s.Settings)
	c, err := parse(set)
	errs := []error{err}
	items := []string{pipeline.RecordID + " AS " + idColumn}
	add := func(expression, as string, err error) {
		errs = append(errs, err)
		items = append(items, expression+" AS "+as)
	}
	body, err := body(set, columns, bind)
	add(body, bodyColumn, err)
	if c.group {
		group, err := text(set, "group", "a message group id", bind)
		add(group, groupColumn, err)
	}
	for i, a := range set.Pairs("attributes") {
		expression, kind, err := attribute(a[0], a[1], bind)
		add(expression, fmt.Sprint(kind, i), err)
	}
	if s.Delivery == pipeline.EffectivelyOnce {
		errs = append(errs, c.onlyOnce())
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	p := &pipeline.Publication{
		Select: strings.Join(items, ", "), RecordID: true, Target: c.target(),
		Delivery: pipeline.AtLeastOnce,
		Reason:   "what fails is sent again, and may then be there twice; each message carries its row's id",
	}
	switch {
	case c.fifo():
		p.Reason = "what fails is sent again; SQS drops duplicates within 5 minutes of the first sending, by the row's id, and no later ones"
	case c.recordID == "":
		p.Reason = "what fails is sent again, and may then be there twice"
	}
	return p, nil
}

// onlyOnce says why a queue can't promise it.
func (c *config) onlyOnce() error {
	e := &pipeline.SettingError{
		Key: "delivery", Message: "SQS has no transactions and can't tell what an earlier attempt has sent, so that effectively-once can't be held",
		Hint: "use at-least-once, and let consumers drop repetitions by the attribute that record_id names",
	}
	if c.fifo() {
		e.Message = "SQS drops duplicates only within 5 minutes of the first sending; an attempt that comes later, after a crash or an outage, would repeat messages, so that effectively-once can't be held"
	}
	return e
}

// body is the expression for a message's body, which is text.
func body(set sinks.Settings, columns []pipeline.Column, bind pipeline.Binder) (string, error) {
	expression, err := sinks.Value(set, columns, bind)
	if err != nil || set.String("format", "") != "raw" {
		return expression, err
	}
	return text(set, "value", "a message of SQS", bind)
}

// text is a setting's expression, as text.
func text(set sinks.Settings, key, what string, bind pipeline.Binder) (string, error) {
	expression, err := sinks.Text(key, set.String(key, ""), bind)
	if err != nil {
		return "", err
	}
	if columns, err := bind(set.String(key, "")); err == nil && columns[0].Type == "BLOB" {
		return "", &pipeline.SettingError{Key: key, Message: what + " is text, and this is a BLOB", Hint: "use base64(…), or decode(…) if it is text in UTF-8"}
	}
	return expression, nil
}

// numbers are the types that become attributes of the type Number.
var numbers = []string{"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"}

// attribute is the expression for a message attribute and the kind of its column.
func attribute(name, expression string, bind pipeline.Binder) (sql, kind string, err error) {
	sql, err = sinks.Text("attributes", expression, bind)
	var setting *pipeline.SettingError
	if errors.As(err, &setting) {
		setting.Message = name + ": " + setting.Message
	}
	if err != nil {
		return "", "", err
	}
	columns, err := bind(expression)
	if err != nil {
		return "", "", wrong("attributes", "", "%s: %v", name, err)
	}
	switch t := columns[0].Type; {
	case t == "BLOB":
		return sql, binaryAttribute, nil
	case t == "FLOAT" || t == "DOUBLE": // NaN is no Number; JSON doesn't have it either
		return fmt.Sprintf("CASE WHEN isfinite(%[1]s) THEN CAST((%[1]s) AS VARCHAR) END", expression), numberAttribute, nil
	case slices.Contains(numbers, t) || strings.HasPrefix(t, "DECIMAL("):
		return sql, numberAttribute, nil
	}
	return sql, stringAttribute, nil
}
