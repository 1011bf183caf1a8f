package faultproxy_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"

	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
)

func httpProxy(t *testing.T, c *services.Cloud) *faultproxy.HTTP {
	t.Helper()
	p, err := faultproxy.NewHTTP(c.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func attempts(n int) aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) { o.MaxAttempts, o.MaxBackoff = n, time.Millisecond })
}

func s3Client(c *services.Cloud, endpoint string, tries int) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &endpoint, Region: c.Region, UsePathStyle: true, Retryer: attempts(tries),
		Credentials:                credentials.NewStaticCredentialsProvider(c.Key, c.Secret, ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
	})
}

func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// TestRealS3: signatures hold through the proxy; a write whose answer is lost is
// there; refusals have the codes of S3.
func TestRealS3(t *testing.T) {
	c := services.S3(t)
	p := httpProxy(t, c)
	client, bucket := s3Client(c, p.URL(), 1), services.Name(t)
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	const large, small = 3 << 20, 1 << 10 // the SDK sends a large body with Expect: 100-continue
	put := func(client *s3.Client, key string, size int) error {
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: &bucket, Key: &key, IfNoneMatch: aws.String("*"), Body: strings.NewReader(strings.Repeat("x", size)),
		})
		return err
	}
	there := func(key string) bool {
		_, err := s3Client(c, c.Endpoint, 1).HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &bucket, Key: &key})
		return err == nil
	}
	match := faultproxy.Operations("PutObject")
	for _, f := range []struct {
		key   string
		rule  faultproxy.HTTPRule
		code  string
		there bool
	}{
		{"a b/ü+", faultproxy.HTTPRule{Match: func(*http.Request) bool { return false }}, "", true},
		{"lost answer", faultproxy.HTTPRule{Match: match, Fault: faultproxy.Fault{Answer: faultproxy.Cut(0)}}, "", true},
		{"lost", faultproxy.HTTPRule{Match: match, Fault: faultproxy.Fault{Request: faultproxy.Cut(0)}}, "", false},
		{"cut", faultproxy.HTTPRule{Match: match, Fault: faultproxy.Fault{Request: faultproxy.Reset(1 << 20)}}, "", false},
		{"slow", faultproxy.HTTPRule{Match: match, Reply: faultproxy.S3Error(503, "SlowDown")}, "SlowDown", false},
		{"conflict", faultproxy.HTTPRule{Match: match, Reply: faultproxy.S3Error(409, "ConditionalRequestConflict")}, "ConditionalRequestConflict", false},
		{"often", faultproxy.HTTPRule{Match: match, Reply: faultproxy.S3Error(429, "TooManyRequests")}, "TooManyRequests", false},
	} {
		p.Set(f.rule)
		err := put(client, f.key, large)
		if (err == nil) != (f.rule.Reply == nil && f.rule.Fault == faultproxy.Fault{}) || code(err) != f.code || there(f.key) != f.there {
			t.Errorf("%s: %v, there %v", f.key, err, there(f.key))
		}
	}
	// The SDK repeats the write whose answer was lost, and learns that somebody has
	// written. A small one: a refusal can overtake a large one that is still sent.
	p.Set(faultproxy.HTTPRule{Match: match, Times: 1, Fault: faultproxy.Fault{Answer: faultproxy.Cut(0)}})
	if err := put(s3Client(c, p.URL(), 3), "twice", small); code(err) != "PreconditionFailed" || p.Seen() != 2 {
		t.Errorf("%v, %d requests", err, p.Seen())
	}
	p.Set(faultproxy.HTTPRule{Times: 2, Reply: faultproxy.S3Error(503, "SlowDown")})
	if err := put(s3Client(c, p.URL(), 3), "at last", small); err != nil || !there("at last") {
		t.Error(err)
	}
}

func TestRealSQS(t *testing.T) {
	c := services.SQS(t)
	p := httpProxy(t, c)
	client := sqs.New(sqs.Options{BaseEndpoint: aws.String(p.URL()), Region: c.Region, Retryer: attempts(1), Credentials: credentials.NewStaticCredentialsProvider(c.Key, c.Secret, "")})
	queue, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String(services.Name(t))})
	if err != nil {
		t.Fatal(err)
	}
	send := func() error {
		_, err := client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: queue.QueueUrl, Entries: []sqstypes.SendMessageBatchRequestEntry{{Id: aws.String("1"), MessageBody: aws.String("x")}}})
		return err
	}
	match := faultproxy.Operations("SendMessageBatch")
	p.Set(
		faultproxy.HTTPRule{Match: match, From: 2, Times: 1, Reply: faultproxy.SQSError(400, "RequestThrottled")},
		faultproxy.HTTPRule{Match: match, From: 3, Times: 1, Fault: faultproxy.Fault{Answer: faultproxy.Cut(0)}},
		faultproxy.HTTPRule{Match: match, From: 4, Times: 1, Reply: faultproxy.SQSError(503, "ServiceUnavailable")},
	)
	for i, want := range []string{"ok", "RequestThrottled", "", "ServiceUnavailable", "ok"} {
		err := send()
		if got := code(err); want == "ok" && err != nil || want != "ok" && (err == nil || got != want) {
			t.Errorf("batch %d: %v", i, err)
		}
	}
	var throttled *sqstypes.RequestThrottled
	p.Set(faultproxy.HTTPRule{Match: match, Times: 1, Reply: faultproxy.SQSError(400, "RequestThrottled")})
	if err := send(); !errors.As(err, &throttled) {
		t.Errorf("%T", err)
	}
	n := sqstypes.QueueAttributeNameApproximateNumberOfMessages
	got, err := client.GetQueueAttributes(t.Context(), &sqs.GetQueueAttributesInput{QueueUrl: queue.QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{n}})
	if err != nil || got.Attributes[string(n)] != "3" {
		t.Errorf("%v messages, want 3: sent, answer lost, sent; %v", got, err)
	}
	if p.Seen() != 2 {
		t.Errorf("the client went past the proxy: %d requests", p.Seen())
	}
}
