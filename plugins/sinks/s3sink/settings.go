package s3sink

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks"
)

// Sizes of parts, in bytes. S3 takes 10,000 parts of 5 MiB to 5 GiB; only the
// last one may be smaller.
const (
	defaultPart  = 16 << 20
	smallestPart = 5 << 20
	largestPart  = 5 << 30
	mostParts    = 10_000
)

// longestKey is the bytes of an object's key; nameRoom of them are for what stands
// after the prefix.
const (
	longestKey = 1024
	nameRoom   = 100
)

// settings are a sink's, checked.
type settings struct {
	bucket, prefix                     string // the prefix is empty or ends in a slash
	format                             string
	endpoint, region                   string // "" means what the environment says
	pathStyle                          *bool  // nil: with an endpoint
	accessKey, secretKey, sessionToken string
	partBytes                          int64
	checksum                           bool
	storageClass, encryption, kmsKey   string
	timeout                            time.Duration
}

// String is where the objects go, for people.
func (s *settings) String() string {
	text := s.uri("")
	if s.endpoint != "" {
		text += " at " + s.endpoint
	}
	return text
}

func (s *settings) uri(name string) string {
	return strings.TrimSuffix("s3://"+s.bucket+"/"+s.prefix+name, "/")
}

// parse checks settings as far as no store is needed.
func parse(options []pipeline.Option) (*settings, error) {
	set := sinks.Settings(options)
	s := &settings{
		format: set.String("format", defaultFormat), endpoint: strings.TrimSuffix(set.String("endpoint", ""), "/"), region: set.String("region", ""),
		accessKey: set.String("access_key", ""), secretKey: set.String("secret_key", ""), sessionToken: set.String("session_token", ""),
		partBytes: set.Int("part_bytes", defaultPart), checksum: set.String("checksum", "crc32c") != "none",
		storageClass: set.String("storage_class", ""), encryption: set.String("encryption", ""), kmsKey: set.String("kms_key", ""),
		timeout: 2 * time.Minute,
	}
	if set.Has("path_style") {
		style := set.Bool("path_style", false)
		s.pathStyle = &style
	}
	errs := []error{s.parseURI(set.String("uri", "")), s.checkEndpoint(), s.checkKeys(set)}
	if s.partBytes < smallestPart || s.partBytes > largestPart {
		errs = append(errs, wrong("part_bytes", fmt.Sprintf("%d is no size of a part", s.partBytes), "stores take parts of 5242880 (5 MiB) to 5368709120 bytes (5 GiB)"))
	}
	if s.kmsKey != "" && !strings.HasPrefix(s.encryption, "aws:kms") {
		errs = append(errs, wrong("kms_key", "is for encryption: aws:kms", "add it, or remove kms_key"))
	}
	if set.Has("delivery_timeout") {
		text := set.String("delivery_timeout", "")
		var err error
		if s.timeout, err = time.ParseDuration(text); err != nil || s.timeout <= 0 {
			errs = append(errs, wrong("delivery_timeout", fmt.Sprintf("%q is no duration", text), "write it like 30s or 10m"))
		}
	}
	return s, errors.Join(errs...)
}

func wrong(key, message, hint string) error {
	return &pipeline.SettingError{Key: key, Message: message, Hint: hint}
}

var (
	bucketName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]$`)
	fileName   = regexp.MustCompile(`(?i)\.(parquet|parq|pq|csv|tsv|json|jsonl|ndjson)(\.gz|\.zst)?$`)
)

// parseURI takes s3://bucket/prefix apart.
func (s *settings) parseURI(uri string) error {
	const hint = "write it like s3://bucket/folder"
	rest, ok := strings.CutPrefix(uri, "s3://")
	if !ok {
		return wrong("uri", fmt.Sprintf("%q is no address of S3", uri), hint)
	}
	bucket, prefix, _ := strings.Cut(rest, "/")
	s.bucket = bucket
	if !bucketName.MatchString(bucket) {
		return wrong("uri", fmt.Sprintf("%q is no name of a bucket", bucket), hint)
	}
	prefix = strings.TrimSuffix(prefix, "/")
	if prefix == "" {
		return nil
	}
	switch {
	case path.Clean("/"+prefix) != "/"+prefix:
		return wrong("uri", fmt.Sprintf("the prefix %q has an empty name, . or .. in it", prefix), hint)
	case !utf8.ValidString(prefix) || strings.ContainsFunc(prefix, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return wrong("uri", fmt.Sprintf("the prefix %q has characters that no name can have", prefix), hint)
	case len(prefix) > longestKey-nameRoom:
		return wrong("uri", fmt.Sprintf("the prefix has %d bytes, more than %d", len(prefix), longestKey-nameRoom), hint)
	case fileName.MatchString(prefix):
		return wrong("uri", fmt.Sprintf("%q is named like a file, but the sink makes an object for each shard below it", path.Base(prefix)), "name a folder, and the format by format:")
	}
	s.prefix = prefix + "/"
	return nil
}

func (s *settings) checkEndpoint() error {
	if s.endpoint == "" {
		return nil
	}
	u, err := url.Parse(s.endpoint)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return wrong("endpoint", fmt.Sprintf("%q is no URL of a store", s.endpoint), "write it like https://storage.example.com or http://localhost:9000")
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return wrong("endpoint", "has more than scheme, host, port and path", "credentials stand in access_key: and secret_key:")
	}
	return nil
}

// checkKeys wants the id and the secret of a key, or neither.
func (s *settings) checkKeys(set sinks.Settings) error {
	switch {
	case set.Has("access_key") && s.secretKey == "":
		return wrong("access_key", "has no secret", "add secret_key:, or remove both for the credentials of the environment")
	case set.Has("secret_key") && s.accessKey == "":
		return wrong("secret_key", "is of no key", "add access_key:, or remove both for the credentials of the environment")
	case set.Has("session_token") && s.accessKey == "":
		return wrong("session_token", "is of no key", "add access_key: and secret_key:")
	}
	return nil
}
