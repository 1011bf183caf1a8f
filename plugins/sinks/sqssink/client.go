package sqssink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go/logging"

	"github.com/kinequet/kq/pipeline"
)

// newClient makes the SDK's client. It tries nothing twice: this package does, so
// that the sink's controller hears of every refusal.
func newClient(c *config) (*sqs.Client, error) {
	transport := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConns, t.MaxIdleConnsPerHost = c.concurrency, c.concurrency
	})
	with := []func(*awsconfig.LoadOptions) error{awsconfig.WithHTTPClient(transport), awsconfig.WithLogger(logging.Nop{})}
	if c.region != "" {
		with = append(with, awsconfig.WithRegion(c.region))
	}
	if c.accessKey != "" {
		with = append(with, awsconfig.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(c.accessKey, c.secretKey, c.sessionToken)))
	}
	found, err := awsconfig.LoadDefaultConfig(context.Background(), with...) // reads files and the environment only
	if err != nil {
		return nil, fmt.Errorf("SQS: configuration of the SDK for AWS: %w", err)
	}
	if found.Region == "" {
		if c.endpoint == "" {
			return nil, pipeline.Permanent(wrong("region", "add region:, or set AWS_REGION", "neither the job nor the environment says in which region the queue is"))
		}
		found.Region = "us-east-1" // what other services of the protocol take
	}
	return sqs.NewFromConfig(found, func(o *sqs.Options) {
		o.Retryer = aws.NopRetryer{}
		if c.endpoint != "" {
			o.BaseEndpoint = &c.endpoint
		}
	}), nil
}

// Check implements sinks.Publisher: the queue is there, and of the kind that its
// name says.
func (p *publisher) Check(ctx context.Context) error {
	if err := p.find(ctx); err != nil {
		return p.explain(err)
	}
	attributes, err := p.queueAttributes(ctx)
	switch {
	case isForbidden(err):
		p.warn("may not look at its attributes (sqs:GetQueueAttributes), so that whether it can be sent to shows when that is done")
		return nil
	case err != nil:
		return p.explain(err)
	}
	fifo := attributes["FifoQueue"] == "true"
	if fifo != p.c.fifo() {
		kind := map[bool]string{true: "a FIFO queue", false: "a standard queue"}
		return pipeline.Permanent(fmt.Errorf("%s is %s, its name says %s", p.c.target(), kind[fifo], kind[!fifo]))
	}
	return nil
}

// find asks for the queue's URL, unless it is known.
func (p *publisher) find(ctx context.Context) error {
	if p.c.url != "" {
		return nil
	}
	return p.ask(ctx, func(ctx context.Context) error {
		out, err := p.client.GetQueueUrl(ctx, &sqs.GetQueueUrlInput{QueueName: &p.c.name})
		if err == nil {
			p.c.url = aws.ToString(out.QueueUrl)
		}
		return err
	})
}

func (p *publisher) queueAttributes(ctx context.Context) (found map[string]string, err error) {
	err = p.ask(ctx, func(ctx context.Context) error {
		out, err := p.client.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{QueueUrl: &p.c.url, AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameAll}})
		if err == nil {
			found = out.Attributes
		}
		return err
	})
	return found, err
}

// prepare finds out, once, where the queue is and which messages it takes.
func (p *publisher) prepare(ctx context.Context) error {
	if p.ready {
		return nil
	}
	if err := p.find(ctx); err != nil {
		return err
	}
	attributes, err := p.queueAttributes(ctx)
	if err != nil && !isForbidden(err) { // who may only send doesn't get to know them
		return err
	}
	p.maxMessage = p.c.maxBytes
	if n, err := strconv.Atoi(attributes["MaximumMessageSize"]); err == nil {
		p.maxMessage = min(p.maxMessage, n)
	}
	p.ready = true
	return nil
}

// ask makes a request that changes nothing, up to five times.
func (p *publisher) ask(ctx context.Context, request func(context.Context) error) error {
	for try := 1; ; try++ {
		within, cancel := context.WithTimeout(ctx, p.c.requestTimeout)
		err := request(within)
		cancel()
		if v, _ := judge(err); err == nil || v == never || v == content || try == 5 || !sleep(ctx, pause(try)) {
			return err
		}
	}
}

// pause is how long to wait after the n-th failure (n ≥ 1): exponential, up to
// five seconds, half of it by chance so that many don't come back at once.
func pause(n int) time.Duration {
	d := 50 * time.Millisecond << min(n, 7)
	d = min(d, 5*time.Second)
	return d/2 + rand.N(d/2)
}

// sleep reports whether d passed before the end of ctx.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
