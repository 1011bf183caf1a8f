package sqssink

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Limits of the service.
const (
	maxBatch      = 10      // messages in a request
	maxBytes      = 1 << 20 // of a message, and of all messages of a request; 256 KiB until 2025
	maxAttributes = 10
	maxDelay      = 900 // seconds
	maxID         = 128 // characters of a group id and of a deduplication id
	remembered    = 5 * time.Minute
)

// Values of ordering.
const (
	strict  = "strict"
	batched = "batched"
)

var orderings = []string{strict, batched}

// config is a sink's settings, checked.
type config struct {
	queue    string // as the job has it
	name     string // the queue's name
	url      string // its URL, when the job gives that
	region   string // "": the environment's
	endpoint string // "": that of AWS

	accessKey, secretKey, sessionToken string

	attributes      []string // names, in the order of the job
	recordID        string   // the name of the attribute; "": none
	group           bool
	batched         bool // many messages of a group may be in a request
	delay           int32
	concurrency     int
	maxBytes        int
	requestTimeout  time.Duration
	deliveryTimeout time.Duration
}

// fifo reports whether the queue is a FIFO queue. SQS has their names end so.
func (c *config) fifo() bool { return strings.HasSuffix(c.name, ".fifo") }

func (c *config) target() string {
	s := "queue " + c.name
	switch {
	case c.endpoint != "":
		s += " at " + c.endpoint
	case c.region != "":
		s += " in " + c.region
	}
	return s
}

func wrong(key, hint, format string, args ...any) error {
	return &pipeline.SettingError{Key: key, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// parse checks settings, as far as they can be without the service. The config is
// of use, in part, also with an error.
func parse(set sinks.Settings) (*config, error) {
	c := &config{
		queue: set.String("queue", ""), region: set.String("region", ""), endpoint: strings.TrimSuffix(set.String("endpoint", ""), "/"),
		accessKey: set.String("access_key", ""), secretKey: set.String("secret_key", ""), sessionToken: set.String("session_token", ""),
		recordID: set.String("record_id", "kq-id"), group: set.String("group", "") != "", batched: set.String("ordering", strict) == batched,
	}
	errs := []error{c.parseQueue(), c.parseEndpoint(), c.parseCredentials(), c.parseAttributes(set), c.parseOrder(set)}
	number := func(key string, other, least, most int64) int64 {
		n := set.Int(key, other)
		if n < least || n > most {
			errs = append(errs, wrong(key, "", "%d is not from %d to %d", n, least, most))
		}
		return n
	}
	c.concurrency = int(number("concurrency", 16, 1, 1000))
	c.maxBytes = int(number("max_message_bytes", maxBytes, 1024, 16<<20))
	c.delay = int32(number("delay_seconds", 0, 0, maxDelay))
	var err error
	c.requestTimeout, err = duration(set, "request_timeout", 30*time.Second)
	errs = append(errs, err)
	c.deliveryTimeout, err = duration(set, "delivery_timeout", 2*time.Minute)
	return c, errors.Join(append(errs, err)...)
}

var (
	queueName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,80}$`)
	// hosts of SQS in a queue's URL, of a VPC's endpoint too; and as they were once,
	// with which the SDK's protocol can't speak
	awsHost    = regexp.MustCompile(`(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.(?:vpce\.)?(?:amazonaws\.com|api\.aws|amazonaws\.com\.cn)$`)
	awsOldHost = regexp.MustCompile(`^(?:([a-z0-9-]+)\.)?queue\.amazonaws\.com(?:\.cn)?$`)
)

// parseQueue finds the queue's name, and what else its URL tells.
func (c *config) parseQueue() error {
	c.name = c.queue
	switch {
	case strings.HasPrefix(c.queue, "arn:"):
		return wrong("queue", "give its URL, or its name", "this is the queue's ARN")
	case strings.Contains(c.queue, "://"):
		u, err := url.Parse(c.queue)
		if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") == "" || u.User != nil {
			return wrong("queue", "write it like https://sqs.eu-west-1.amazonaws.com/123456789012/name", "this is not the URL of a queue")
		}
		c.url, c.name = c.queue, path.Base(u.Path)
		if err := c.fromHost(u); err != nil {
			return err
		}
	}
	if !queueName.MatchString(strings.TrimSuffix(c.name, ".fifo")) || len(c.name) > 80 {
		return wrong("queue", "a queue's name has up to 80 of A-Z, a-z, 0-9, - and _, and that of a FIFO queue ends in .fifo", "%q can't be the name of a queue", c.name)
	}
	return nil
}

// fromHost takes region and endpoint from the host of a queue's URL.
func (c *config) fromHost(u *url.URL) error {
	region, endpoint := "", u.Scheme+"://"+u.Host
	if m := awsHost.FindStringSubmatch(u.Hostname()); m != nil {
		region = m[1]
	} else if m := awsOldHost.FindStringSubmatch(u.Hostname()); m != nil {
		region, endpoint = m[1], ""
		if region == "" {
			region = "us-east-1"
		}
	}
	if region != "" && c.region != "" && c.region != region {
		return wrong("region", "leave it out: the URL tells it", "the queue's URL is of %s, not of %s", region, c.region)
	}
	if c.region == "" {
		c.region = region
	}
	if c.endpoint == "" {
		c.endpoint = endpoint
	}
	return nil
}

func (c *config) parseEndpoint() error {
	if c.endpoint == "" {
		return nil
	}
	u, err := url.Parse(c.endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil {
		return wrong("endpoint", "write it like http://localhost:9324", "this is not the address of a service")
	}
	return nil
}

func (c *config) parseCredentials() error {
	switch {
	case c.accessKey != "" && c.secretKey == "":
		return wrong("access_key", "add secret_key:, or leave both out to use those of the environment", "there is no secret_key with it")
	case c.accessKey == "" && c.secretKey != "":
		return wrong("secret_key", "add access_key:, or leave both out to use those of the environment", "there is no access_key with it")
	case c.sessionToken != "" && c.accessKey == "":
		return wrong("session_token", "add access_key: and secret_key:", "it belongs to credentials, and there are none")
	}
	return nil
}

var attributeName = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)

func checkName(key, name string) error {
	lower := strings.ToLower(name)
	if !attributeName.MatchString(name) || len(name) > 256 || strings.HasPrefix(lower, "aws.") || strings.HasPrefix(lower, "amazon.") {
		return wrong(key, "it has up to 256 of A-Z, a-z, 0-9, -, _ and single dots within, and doesn't begin with AWS. or Amazon.", "%q can't be the name of a message attribute", name)
	}
	return nil
}

func (c *config) parseAttributes(set sinks.Settings) error {
	var errs []error
	if c.recordID != "" {
		errs = append(errs, checkName("record_id", c.recordID))
	}
	for _, a := range set.Pairs("attributes") {
		errs = append(errs, checkName("attributes", a[0]))
		if a[0] == c.recordID {
			errs = append(errs, wrong("attributes", "give one of them another name", "%q is also the attribute of the row's id", a[0]))
		}
		c.attributes = append(c.attributes, a[0])
	}
	all := len(c.attributes)
	if c.recordID != "" {
		all++
	}
	if all > maxAttributes {
		errs = append(errs, wrong("attributes", "put some into the message", "a message has at most %d attributes, with the row's id, and these are %d", maxAttributes, all))
	}
	return errors.Join(errs...)
}

// parseOrder checks what only one of the two kinds of queues has.
func (c *config) parseOrder(set sinks.Settings) error {
	var errs []error
	switch {
	case c.fifo() && !c.group:
		errs = append(errs, wrong("group", "add group: with a column or an expression; messages of one group are in order", "a FIFO queue needs a group for each message"))
	case !c.fifo() && set.Has("group"):
		errs = append(errs, wrong("group", "leave it out, or use a FIFO queue, whose name ends in .fifo", "only FIFO queues have groups"))
	}
	if !c.fifo() && set.Has("ordering") {
		errs = append(errs, wrong("ordering", "leave it out, or use a FIFO queue, whose name ends in .fifo", "only FIFO queues have an order"))
	}
	if c.fifo() && set.Has("delay_seconds") {
		errs = append(errs, wrong("delay_seconds", "set the delay of the queue", "a FIFO queue has no delay for single messages"))
	}
	return errors.Join(errs...)
}

// duration reads a setting such as 30s.
func duration(set sinks.Settings, key string, other time.Duration) (time.Duration, error) {
	text := set.String(key, "")
	if text == "" {
		return other, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d <= 0 {
		return 0, wrong(key, "write it like 30s or 2m", "%q is no duration", text)
	}
	return d, nil
}
