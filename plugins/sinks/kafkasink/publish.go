package kafkasink

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/IBM/sarama"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
	"github.com/kinequet/kq/plugins/sinks/kafkasink/partwise"
)

// options makes a producer's options of settings. What needs no broker to be seen
// is checked.
func options(gate partwise.Gate, set sinks.Settings, compression string, delivery pipeline.Delivery) (o partwise.Options, err error) {
	var errs []error
	o = partwise.Options{
		Brokers: set.Strings("brokers"), Topic: set.String("topic", ""), Gate: gate,
		Compression: compression, CompressionLevel: int(set.Int("compression_level", 0)),
		BatchBytes: int(set.Int("batch_bytes", 0)), ClientID: set.String("client_id", ""),
		Columns: partwise.Columns{Value: valueColumn},
	}
	if delivery == pipeline.EffectivelyOnce {
		o.Delivery = partwise.EffectivelyOnce
	}
	if set.Has("key") {
		o.Columns.Key = keyColumn
	}
	if set.Has("partition") {
		o.Columns.Partition = partitionColumn
	}
	if set.Has("timestamp") {
		o.Columns.Timestamp = timestampColumn
	}
	for i, h := range headers(set) {
		o.Columns.Header = append(o.Columns.Header, partwise.HeaderColumn{Name: h[0], Column: fmt.Sprint(headerColumn, i)})
	}
	o.TransactionTimeout, err = duration(set, "transaction_timeout")
	errs = append(errs, err)
	o.DeliveryTimeout, err = duration(set, "delivery_timeout")
	errs = append(errs, err)
	o.TLS, err = tls(set)
	errs = append(errs, err)
	o.SASL, err = sasl(set)
	errs = append(errs, err)
	return o, errors.Join(errs...)
}

func tls(set sinks.Settings) (*partwise.TLS, error) {
	if !set.Has("tls") {
		return nil, nil
	}
	t := new(partwise.TLS)
	for _, p := range set.Pairs("tls") {
		switch p[0] {
		case "ca":
			t.CAFile = p[1]
		case "cert":
			t.CertFile = p[1]
		case "key":
			t.KeyFile = p[1]
		case "server_name":
			t.ServerName = p[1]
		case "insecure_skip_verify":
			t.InsecureSkipVerify = p[1] == "true"
		default:
			return nil, &pipeline.SettingError{Key: "tls", Message: fmt.Sprintf("unknown key %q", p[0]), Hint: "there are ca, cert, key, server_name, insecure_skip_verify"}
		}
	}
	return t, nil
}

func sasl(set sinks.Settings) (*partwise.SASL, error) {
	if !set.Has("sasl") {
		return nil, nil
	}
	s := &partwise.SASL{Mechanism: "PLAIN"}
	for _, p := range set.Pairs("sasl") {
		switch p[0] {
		case "mechanism":
			s.Mechanism = strings.ToUpper(p[1])
		case "user":
			s.User = p[1]
		case "password":
			s.Password = partwise.NewSecret(p[1])
		case "token":
			token := partwise.NewSecret(p[1])
			s.Token = func(context.Context) (partwise.Secret, error) { return token, nil }
		default:
			return nil, &pipeline.SettingError{Key: "sasl", Message: fmt.Sprintf("unknown key %q", p[0]), Hint: "there are mechanism, user, password, token"}
		}
	}
	switch s.Mechanism {
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER":
		return s, nil
	}
	return nil, &pipeline.SettingError{Key: "sasl", Message: fmt.Sprintf("unknown mechanism %q", s.Mechanism), Hint: "there are PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER"}
}

// Open implements sinks.Remote.
func (Sink) Open(p *pipeline.SinkPlan, o sinks.Options) (sinks.Publisher, error) {
	opts, err := options(gate{o.Gate}, p.Settings, p.Compression, p.Publication.Delivery)
	if err != nil {
		return nil, err
	}
	opts.MaxBytes = o.Gate.Limit()
	producer, err := partwise.Open(opts)
	if err != nil {
		return nil, err
	}
	return &publisher{producer, int(sinks.Settings(p.Settings).Int("partitions", 0))}, nil
}

// gate tells the sink's controller what became of a batch.
type gate struct{ sinks.Gate }

func (g gate) Release(bytes int64, o partwise.Outcome) {
	out := backpressure.Outcome{RetryAfter: o.Throttled}
	switch class := partwise.ClassOf(o.Err); {
	case o.Err == nil && o.Throttled > 0:
		out.Result = backpressure.Throttled
	case o.Err == nil:
	case errors.Is(o.Err, context.Canceled):
		out.Result = backpressure.Abandoned
	case class == partwise.Record:
		out.Result = backpressure.Rejected
	default:
		out.Result = backpressure.Failed
	}
	g.Gate.Release(bytes, out)
}

type publisher struct {
	producer   *partwise.Producer
	partitions int // of a topic that is to be made; 0: it must be there
}

// Check implements sinks.Publisher.
func (p *publisher) Check(ctx context.Context) error {
	var made error
	if p.partitions > 0 {
		made = p.producer.Create(ctx, p.partitions)
	}
	_, err := p.producer.Check(ctx)
	var e *partwise.Error
	switch {
	case err == nil: // it is there, whether it might be made or not
		return nil
	case made != nil:
		return made
	case errors.As(err, &e) && e.Code == sarama.ErrUnknownTopicOrPartition:
		return fmt.Errorf("%w; make it, or let partitions: N make it", err)
	}
	return err
}

// Publish implements sinks.Publisher.
func (p *publisher) Publish(ctx context.Context, part *sinks.Part) (sinks.Result, error) {
	var refused sinks.Rejections
	r, err := p.producer.Publish(ctx, partwise.Part{
		ID: part.ID, Checksum: part.Checksum, Rows: part.Rows, FirstAttempt: part.FirstAttempt, Batches: part.Batches,
		// All rows are tried, so that all that is wrong is told at once; nothing is
		// committed then.
		Reject: func(ordinal int64, why error) error {
			refused.Add(ordinal, why)
			return nil
		},
		Settle: func(context.Context) error { return refused.Err(part.ID) },
	})
	if err != nil {
		switch partwise.ClassOf(err) {
		case partwise.Sink, partwise.Record:
			err = pipeline.Permanent(err)
		}
		return sinks.Result{}, err
	}
	return sinks.Result{Rows: r.Rows, Bytes: r.Bytes, Resent: r.Resent, Already: r.Committed}, nil
}

// Last implements sinks.Publisher.
func (*publisher) Last(context.Context, [][]pipeline.Part) (sinks.Result, error) {
	return sinks.Result{}, nil
}

// Close implements sinks.Publisher.
func (p *publisher) Close() error {
	p.producer.Close()
	return nil
}
