package s3sink

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/kinequet/kq/backpressure"
	"github.com/kinequet/kq/pipeline"
)

// failure is what an error of the SDK says.
type failure struct {
	err    error
	status int    // of HTTP; 0: there was no answer
	code   string // S3's word for it; "" where the answer had none
	text   string
	id     string // of the request, for the store's support

	again  bool // the same request may succeed
	result backpressure.Result
	after  time.Duration // how long the store asks to wait
}

// passing are codes of S3 that the same request may not get again, beside all of
// 5xx: it was busy, or the request did not arrive whole.
var passing = map[string]bool{
	"RequestTimeout": true, "RequestTimeTooSkewed": true, "IncompleteBody": true, "OperationAborted": true, "ConditionalRequestConflict": true,
	"RequestAborted": true, "Conflict": true, // as the SDK calls a 409 without a body
}

// mangled are codes that say that what arrived has another checksum.
var mangled = map[string]bool{"BadDigest": true, "InvalidDigest": true, "XAmzContentChecksumMismatch": true, "XAmzContentSHA256Mismatch": true}

// throttling are S3's and other stores' codes for too many requests.
var throttling = map[string]bool{
	"SlowDown": true, "SlowDownRead": true, "SlowDownWrite": true, "Throttling": true, "ThrottlingException": true, "ThrottledException": true,
	"RequestThrottled": true, "RequestThrottledException": true, "RequestLimitExceeded": true, "TooManyRequests": true,
	"TooManyRequestsException": true, "BandwidthLimitExceeded": true, "ServiceUnavailable": true,
}

// diagnose reads an error of the SDK.
func diagnose(err error) *failure {
	f := &failure{err: err}
	var api smithy.APIError
	if errors.As(err, &api) {
		f.code, f.text = api.ErrorCode(), api.ErrorMessage()
	}
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) && answer.Response != nil && answer.Response.Response != nil {
		f.status, f.id = answer.HTTPStatusCode(), answer.ServiceRequestID()
		if s, err := strconv.Atoi(answer.Response.Header.Get("Retry-After")); err == nil && s > 0 {
			f.after = min(time.Duration(s)*time.Second, time.Minute)
		}
	}
	switch {
	case throttling[f.code] || f.status == http.StatusTooManyRequests || f.status == http.StatusServiceUnavailable:
		f.again, f.result = true, backpressure.Throttled
	case f.status >= 500 && f.status != http.StatusNotImplemented || passing[f.code]:
		f.again, f.result = true, backpressure.Failed
	case f.code == "InternalError": // within an answer of 200, as for CompleteMultipartUpload
		f.again, f.result = true, backpressure.Failed
	case f.status >= 300 && f.status < 500, f.status == http.StatusNotImplemented:
		f.result = backpressure.Rejected
	case errors.Is(err, context.Canceled):
		f.again, f.result = true, backpressure.Abandoned
	case f.code != "": // the SDK refuses by itself
		f.result = backpressure.Rejected
	default: // no answer, or none that can be understood
		f.again, f.result = !f.unsigned(), backpressure.Failed
	}
	return f
}

// unsigned: there were no credentials to sign the request with.
func (f *failure) unsigned() bool {
	return f.status == 0 && strings.Contains(f.err.Error(), "get identity:")
}

// missing reports whether what was asked for is not there. HEAD has no body, so
// that there is no code either.
func (f *failure) missing() bool {
	return f.status == http.StatusNotFound && f.code != "NoSuchBucket"
}

// damaged reports whether the store got other bytes than it should have.
func (f *failure) damaged() bool { return mangled[f.code] }

// refused reports whether a condition of the request did not hold.
func (f *failure) refused() bool { return f.status == http.StatusPreconditionFailed }

// Error is what people are told. The SDK's own words name neither bucket nor key,
// and what its cause is stands far behind.
func (f *failure) Error() string {
	if f.status == 0 && f.code == "" {
		return f.silence()
	}
	words := f.text
	if words == "" {
		words = http.StatusText(f.status)
	}
	var notes []string
	if f.status != 0 {
		notes = append(notes, strconv.Itoa(f.status))
	}
	if f.code != "" {
		notes = append(notes, f.code)
	}
	if f.id != "" {
		notes = append(notes, "request "+f.id)
	}
	return strings.TrimSuffix(words, ".") + " (" + strings.Join(notes, ", ") + ")"
}

// silence is why there was no answer.
func (f *failure) silence() string {
	if f.unsigned() {
		return "there are no credentials to sign with"
	}
	var operation *net.OpError
	if errors.As(f.err, &operation) {
		return operation.Error()
	}
	text := f.err.Error()
	if i := strings.LastIndex(text, "exceeded maximum number of attempts"); i >= 0 {
		text = text[i:]
	}
	text = strings.ReplaceAll(text, "\n", ": ")
	for _, noise := range []string{"operation error S3: ", "https response error StatusCode: 0, ", "RequestID: , ", "HostID: , "} {
		text = strings.ReplaceAll(text, noise, "")
	}
	return text
}

func (f *failure) Unwrap() error { return f.err }

// explain says what went wrong, where, and what to do.
func (f *failure) explain(what string, s *settings) error {
	advice := f.advice(s)
	if advice != "" {
		advice = "; " + advice
	}
	err := fmt.Errorf("%s: %w%s", what, f, advice)
	if f.result == backpressure.Rejected && !f.missing() && !f.refused() && !f.damaged() && f.code != "ExpiredToken" {
		err = pipeline.Permanent(err)
	}
	return err
}

func (f *failure) advice(s *settings) string {
	switch f.code {
	case "NoSuchBucket":
		return "create the bucket " + s.bucket + ", or correct uri:"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "TokenRefreshRequired":
		return "correct access_key: and secret_key:, or the environment's credentials"
	case "ExpiredToken":
		return "its session_token: or the environment's credentials have to be renewed"
	case "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException":
		return "set region: to the bucket's"
	case "RequestTimeTooSkewed":
		return "set this machine's clock"
	case "EntityTooLarge", "TooManyParts":
		return "make smaller shards by shard_size:"
	}
	switch {
	case f.unsigned():
		return "set access_key: and secret_key:, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	case f.status == http.StatusForbidden:
		return "the credentials need s3:ListBucket, s3:ListBucketMultipartUploads, s3:GetObject, s3:PutObject, s3:AbortMultipartUpload and s3:DeleteObject below " + s.uri("")
	case f.status == http.StatusMovedPermanently:
		return "set region: to the bucket's, or correct endpoint:"
	case f.status == 0 && f.code == "" && s.endpoint != "":
		return "is " + s.endpoint + " the store's address?"
	}
	return ""
}
