package services

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
)

func s3Client(c *Cloud, secret string, client *http.Client) *s3.Client {
	o := s3.Options{
		BaseEndpoint: &c.Endpoint, Region: c.Region, UsePathStyle: true,
		Credentials:                credentials.NewStaticCredentialsProvider(c.Key, secret, ""),
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
	}
	if client != nil {
		o.HTTPClient = client
	}
	return s3.New(o)
}

// roundTrip makes a bucket, writes an object under a condition, twice, and reads it.
func roundTrip(t *testing.T, client *s3.Client) {
	t.Helper()
	bucket, key := Name(t), aws.String("a/b c+ü")
	if _, err := client.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &bucket}); err != nil {
		t.Fatal(err)
	}
	put := func(body string) error {
		_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &bucket, Key: key, Body: strings.NewReader(body), IfNoneMatch: aws.String("*")})
		return err
	}
	if err := put("first"); err != nil {
		t.Fatal(err)
	}
	if code := apiCode(put("second")); code != "PreconditionFailed" {
		t.Errorf("the second conditional write: %q", code)
	}
	got, err := client.GetObject(t.Context(), &s3.GetObjectInput{Bucket: &bucket, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	if body, err := io.ReadAll(got.Body); err != nil || string(body) != "first" {
		t.Errorf("%q, %v", body, err)
	}
}

func apiCode(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func TestS3(t *testing.T) {
	c := S3(t)
	roundTrip(t, s3Client(c, c.Secret, nil))
	if _, err := s3Client(c, "wrong", nil).ListBuckets(t.Context(), nil); apiCode(err) != "SignatureDoesNotMatch" {
		t.Errorf("wrong secret: %v", err)
	}
}

func TestS3OverTLS(t *testing.T) {
	c := OwnS3(t, "tls")
	ca, err := os.ReadFile(c.CA())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	roundTrip(t, s3Client(c, c.Secret, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}))
}

// TestS3Killed: data outlive a kill.
func TestS3Killed(t *testing.T) {
	c := OwnS3(t)
	client := s3Client(c, c.Secret, nil)
	roundTrip(t, client)
	if err := errors.Join(c.Kill(), c.Start(t.Context())); err != nil {
		t.Fatal(err)
	}
	if list, err := client.ListBuckets(t.Context(), nil); err != nil || len(list.Buckets) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

// messages makes a queue, sends a message, receives it, and asks for one that isn't there.
func messages(t *testing.T, c *Cloud) {
	t.Helper()
	client := sqs.New(sqs.Options{BaseEndpoint: &c.Endpoint, Region: c.Region, Credentials: credentials.NewStaticCredentialsProvider(c.Key, c.Secret, "")})
	queue, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String(Name(t))})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(*queue.QueueUrl, c.Endpoint) {
		t.Errorf("queue %s is not at %s", *queue.QueueUrl, c.Endpoint)
	}
	if _, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: queue.QueueUrl, MessageBody: aws.String("héllo")}); err != nil {
		t.Fatal(err)
	}
	got, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: queue.QueueUrl, WaitTimeSeconds: 5})
	if err != nil || len(got.Messages) != 1 || *got.Messages[0].Body != "héllo" {
		t.Errorf("%v, %v", got, err)
	}
	var missing *types.QueueDoesNotExist
	if _, err := client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String(Name(t))}); !errors.As(err, &missing) {
		t.Errorf("unknown queue: %v", err)
	}
}

func TestSQS(t *testing.T) { messages(t, SQS(t)) }

func TestMoto(t *testing.T) {
	c := Moto(t)
	messages(t, c)
	roundTrip(t, s3Client(c, c.Secret, nil))
}
