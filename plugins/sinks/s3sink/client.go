package s3sink

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// slowest is the bytes a second below which a request counts as stuck.
const slowest = 128 << 10

// client is the store, with requests repeated by us: what each came to has to be
// told to the gate, which the SDK's own repetitions would hide.
type client struct {
	*settings
	s3     *s3.Client
	gate   sinks.Gate
	resent atomic.Int64
}

// connect prepares a client. The store is asked nothing.
func connect(set *settings, gate sinks.Gate) (*client, error) {
	options := []func(*config.LoadOptions) error{
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithAppID("kq"),
		config.WithLogger(logging.Nop{}), // what it would warn of, such as a host without credentials, comes as an error as well
	}
	if set.region != "" {
		options = append(options, config.WithRegion(set.region))
	}
	if set.accessKey != "" {
		options = append(options, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(set.accessKey, set.secretKey, set.sessionToken)))
	}
	c, err := config.LoadDefaultConfig(context.Background(), options...)
	if err != nil {
		return nil, pipeline.Permanent(fmt.Errorf("the environment's settings of AWS: %w", err))
	}
	store := s3.NewFromConfig(c, func(o *s3.Options) { set.apply(o) })
	if store.Options().Region == "" {
		return nil, pipeline.Permanent(errors.New("no region is known; set region: or AWS_REGION"))
	}
	return &client{settings: set, s3: store, gate: gate}, nil
}

// apply makes the SDK's options, which hold what the environment says, those of
// the sink.
func (s *settings) apply(o *s3.Options) {
	if s.endpoint != "" {
		o.BaseEndpoint = &s.endpoint
	}
	o.UsePathStyle = o.BaseEndpoint != nil // few stores have a host name for each bucket
	if s.pathStyle != nil {
		o.UsePathStyle = *s.pathStyle
	}
	if o.Region == "" && o.BaseEndpoint != nil {
		o.Region = "us-east-1" // signatures need one, and stores of one's own take it
	}
	o.DisableLogOutputChecksumValidationSkipped = true
	o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenSupported
	o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenSupported
	if !s.checksum {
		o.RequestChecksumCalculation = aws.RequestChecksumCalculationWhenRequired
		o.ResponseChecksumValidation = aws.ResponseChecksumValidationWhenRequired
	}
}

// do makes a request until it is answered well, refused for good, or nothing has
// come of it for the sink's timeout. bytes is what it carries; 0 passes the gate by.
func (c *client) do(ctx context.Context, what string, bytes int64, request func(context.Context) error) error {
	begin := time.Now()
	var last *failure // that tells more than that time is up
	for try := 0; ; try++ {
		err := c.once(ctx, bytes, request)
		if err == nil {
			return nil
		}
		f := diagnose(err)
		switch {
		case ctx.Err() == nil:
			last = f
		case last != nil:
			return fmt.Errorf("%w; %w", last.explain(what, c.settings), ctx.Err())
		default:
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
		if !f.again || time.Since(begin) > c.timeout {
			return f.explain(what, c.settings)
		}
		c.resent.Add(1)
		select {
		case <-time.After(c.pause(try, f)):
		case <-ctx.Done():
		}
	}
}

// pause is how long to wait after a failure: exponential with full jitter in its
// upper half, and no less than the store asks for.
func (c *client) pause(try int, f *failure) time.Duration {
	wait := min(50*time.Millisecond<<min(try, 8), 5*time.Second)
	return max(wait/2+rand.N(wait/2+1), min(f.after, c.timeout))
}

// once makes a request, when the gate lets it.
func (c *client) once(ctx context.Context, bytes int64, request func(context.Context) error) error {
	if bytes > 0 {
		if err := c.gate.Acquire(ctx, bytes); err != nil {
			return err
		}
	}
	patience := max(c.timeout/4, time.Second) + time.Duration(bytes/slowest)*time.Second
	limited, cancel := context.WithTimeout(ctx, patience)
	err := request(limited)
	cancel()
	if bytes > 0 {
		outcome := backpressure.Outcome{}
		if err != nil {
			f := diagnose(err)
			outcome = backpressure.Outcome{Result: f.result, RetryAfter: f.after}
		}
		if ctx.Err() != nil {
			outcome = backpressure.Outcome{Result: backpressure.Abandoned}
		}
		c.gate.Release(bytes, outcome)
	}
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		err = errors.Join(fmt.Errorf("no answer within %v", patience.Round(time.Second)), err)
	}
	return err
}
