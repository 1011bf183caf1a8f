package sqssink

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/kinequet/kq/pipeline"
)

// A verdict is what to do about a refusal.
type verdict uint8

const (
	again     verdict = iota // it may go through later
	throttled                // it may go through when there are fewer
	content                  // not with what the message contains
	never                    // nothing will go through
)

// codes are those that need a verdict of their own, without what stands before
// the last "." or "#": services differ in that. SQS has them in its reference of
// actions and of common errors; some are of emulators.
var codes = map[string]verdict{
	"KmsThrottled": throttled, "TooManyRequests": throttled,

	"BatchRequestTooLong": content, "InvalidMessageContents": content, "InvalidParameterValue": content,
	"InvalidAttributeValue": content, "InvalidAttributeName": content, "MissingParameter": content,

	"RequestExpired": again, "RequestTimeTooSkewed": again, "RequestTimeout": again, "RequestAbortedException": again,
	"IDPCommunicationError": again, "OverLimit": again,
}

// judge says what to do about the error of a request, and how long the service
// asks to wait.
func judge(err error) (verdict, time.Duration) {
	if err == nil {
		return again, 0
	}
	status, wait := 0, time.Duration(0)
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) && response.Response != nil {
		status = response.Response.StatusCode
		if seconds, err := strconv.Atoi(response.Response.Header.Get("Retry-After")); err == nil && seconds > 0 {
			wait = time.Duration(seconds) * time.Second
		}
	}
	var api smithy.APIError
	if !errors.As(err, &api) && status == 0 {
		return again, 0 // no answer
	}
	code, message := "", ""
	if api != nil {
		code, message = short(api.ErrorCode()), api.ErrorMessage()
	}
	if v, known := ofCode(code); known {
		return v, wait
	}
	switch {
	case status == http.StatusTooManyRequests:
		return throttled, wait
	case status == http.StatusRequestEntityTooLarge:
		return content, wait
	case code == "InvalidSignatureException" && (strings.Contains(message, "expired") || strings.Contains(message, "not yet current")):
		return again, wait // by the next request the SDK knows the service's clock
	case status >= 500 || status == http.StatusRequestTimeout || status < 400:
		return again, wait
	}
	return never, wait
}

// judgeEntry is judge for one message of a request.
func judgeEntry(f *types.BatchResultErrorEntry) verdict {
	code := short(value(f.Code))
	if v, known := ofCode(code); known && v != content {
		return v
	}
	if f.SenderFault {
		return content
	}
	return again
}

func ofCode(code string) (verdict, bool) {
	if v, known := codes[code]; known {
		return v, true
	}
	_, known := retry.DefaultThrottleErrorCodes[code]
	return throttled, known
}

func short(code string) string { return code[strings.LastIndexAny(code, ".#")+1:] }

func value(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// isForbidden reports whether the credentials are good, but not for this.
func isForbidden(err error) bool {
	var api smithy.APIError
	return errors.As(err, &api) && strings.HasPrefix(short(api.ErrorCode()), "AccessDenied")
}

// explain makes of a request's error one for people. It is Permanent where trying
// again can't help.
func (p *publisher) explain(err error) error {
	v, _ := judge(err)
	var missing *types.QueueDoesNotExist
	var api smithy.APIError
	text := ""
	switch {
	case err == nil:
		return nil
	case errors.As(err, &missing):
		text = "doesn't exist; create it, or correct queue:, region: or the account"
	case isForbidden(err):
		text = "may not be used with these credentials (needed: sqs:SendMessage, sqs:GetQueueUrl where queue: is a name, better sqs:GetQueueAttributes too)"
	case v == never && status(err) == http.StatusForbidden || errors.As(err, &api) && isCredential(short(api.ErrorCode())):
		text = "can't be asked: the service doesn't accept the credentials"
	case strings.Contains(err.Error(), "get identity"):
		text = "can't be asked: there are no credentials; give access_key: and secret_key:, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
	case !errors.As(err, &api) && status(err) == 0:
		text = "can't be reached"
	default:
		text = "refuses requests"
	}
	err = &failure{fmt.Sprintf("%s %s", p.c.target(), text), err}
	if v == never {
		return pipeline.Permanent(err)
	}
	return err
}

func status(err error) int {
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) && response.Response != nil {
		return response.Response.StatusCode
	}
	return 0
}

func isCredential(code string) bool {
	switch code {
	case "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature",
		"MissingAuthenticationToken", "InvalidAccessKeyId", "ExpiredToken", "ExpiredTokenException", "InvalidSecurity", "OptInRequired":
		return true
	}
	return false
}

// failure is an error of a request. Its text leaves out what the SDK says of
// itself.
type failure struct {
	text string
	err  error
}

func (f *failure) Error() string {
	var api smithy.APIError
	if errors.As(f.err, &api) {
		return fmt.Sprintf("%s: %s: %s", f.text, short(api.ErrorCode()), api.ErrorMessage())
	}
	var request *url.Error // without the address, which is in the text
	if errors.As(f.err, &request) {
		return f.text + ": " + request.Err.Error()
	}
	return f.text + ": " + f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// A refusal is a row whose message the queue doesn't take, for what it contains.
type refusal struct {
	row    int64 // in the part, counted from 0
	id     string
	reason string
}

func (r *refusal) Error() string { return fmt.Sprintf("row %s: %s", r.id, r.reason) }
