package s3sink

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"github.com/kinequet/kq/internal/faultproxy"
	"github.com/kinequet/kq/internal/services"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/plugins/sinks/filesink"
)

const mib = 1 << 20

var smallParts = setting{Key: "part_bytes", Value: int64(5 * mib)}

// TestResult: parts of every size arrive as they are, in the order of the shards.
func TestResult(t *testing.T) {
	stores(t, func(t *testing.T, p *place) {
		for _, checksum := range []string{"crc32c", "none"} {
			plan := p.plan(true, smallParts, setting{Key: "checksum", Value: checksum})
			one, two := p.part(run1, 0, 10, 0), p.part(run1, 1, 5*mib)
			three, four := p.part(run1, 2, 5*mib+1), p.part(run1, 11, 13*mib)
			if err := p.open(plan, run1).Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			p.all(plan, run1, one, two, three, four)
			p.holds(run1, one, two, three, four)
			if len(p.warnings) > 0 {
				t.Error(p.warnings)
			}
		}
	})
}

// TestDescription: objects say what they are, and are stored as the job wants it.
func TestDescription(t *testing.T) {
	p := newPlace(t, services.Moto(t)) // versitygw knows neither classes nor encryption
	plan := p.plan(
		false, smallParts, setting{Key: "storage_class", Value: "STANDARD_IA"}, setting{Key: "encryption", Value: "aws:kms"}, setting{Key: "kms_key", Value: "a-key"},
		setting{Key: "session_token", Value: "token"}, setting{Key: "region", Value: "us-east-1"}, setting{Key: "path_style", Value: true},
	)
	parts := p.part(run1, 3, 5, 6*mib)
	p.all(plan, run1, parts)
	for name, kind := range map[string]string{
		"part-00003-kq-" + run1 + ".parquet": "application/vnd.apache.parquet", "part-00003.1-kq-" + run1 + ".parquet": "application/vnd.apache.parquet",
		filesink.ManifestName: "application/json",
	} {
		out, err := p.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &p.bucket, Key: aws.String(folder + name)})
		if err != nil {
			t.Fatal(err)
		}
		if aws.ToString(out.ContentType) != kind || out.StorageClass != types.StorageClassStandardIa || out.ServerSideEncryption != types.ServerSideEncryptionAwsKms ||
			aws.ToString(out.SSEKMSKeyId) != "a-key" || out.Metadata[metaRun] != run1 {
			t.Errorf("%s: %s, %s, %s, %s, %v", name, aws.ToString(out.ContentType), out.StorageClass, out.ServerSideEncryption, aws.ToString(out.SSEKMSKeyId), out.Metadata)
		}
	}
}

// TestChecksums: the store has verified the very checksum of the part, and refuses
// a file that has changed since.
func TestChecksums(t *testing.T) {
	p := newPlace(t, services.S3(t))
	plan := p.plan(false, smallParts)
	for shard, size := range []int{100, 6 * mib} {
		part := p.part(run1, shard, size)
		s := p.open(plan, run1)
		o := p.publish(s, part)[0]
		out, err := p.s3.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &p.bucket, Key: aws.String(folder + o.Name), ChecksumMode: types.ChecksumModeEnabled})
		if err != nil {
			t.Fatal(err)
		}
		want, err := encodeCRC(part.Files[0].Checksum)
		if err != nil {
			t.Fatal(err)
		}
		if aws.ToString(out.ChecksumCRC32C) != *want || out.ChecksumType != types.ChecksumTypeFullObject {
			t.Errorf("checksum %s (%s), want %s", aws.ToString(out.ChecksumCRC32C), out.ChecksumType, *want)
		}
		bad := p.part(run1, shard+10, size)
		data, err := os.ReadFile(bad.Files[0].Path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(bad.Files[0].Path, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Publish(t.Context(), bad); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("a damaged file of %d bytes: %v", size, err)
		}
		bad.Files[0].Bytes++
		if _, err := s.Publish(t.Context(), bad); !pipeline.IsPermanent(err) {
			t.Errorf("a file that is too short: %v", err)
		}
		os.Remove(bad.Files[0].Path)
		if _, err := s.Publish(t.Context(), bad); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "--fresh") {
			t.Errorf("a file that is gone: %v", err)
		}
	}
	if left := p.uploads(); len(left) > 0 {
		t.Errorf("uploads are left: %v", left)
	}
}

// TestReplace: a result takes the place of another one, whose objects go, and
// nothing else does.
func TestReplace(t *testing.T) {
	stores(t, func(t *testing.T, p *place) {
		p.write("out/für alle und mehr/x.parquet", "beside it")
		p.write("out/other.parquet", "above it")
		beside := 2
		old := p.plan(false, setting{Key: "format", Value: "csv"})
		p.all(old, run1, p.part(run1, 0, 10), p.part(run1, 1, 20), p.part(run1, 2, 30))
		plan := p.plan(true)
		if err := p.open(plan, run2).Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.all(plan, run2, p.part(run2, 0, 11))
		got := slices.Sorted(maps.Keys(p.objects()))
		if len(got) != 2+beside {
			t.Errorf("there are %v", got)
		}
		for _, key := range got[2:] {
			if _, err := p.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &p.bucket, Key: aws.String(key)}); err != nil {
				t.Fatal(err)
			}
		}
		// No shard has sent anything.
		p.all(plan, "20261125-160002-cccc")
		if got := p.objects(); strings.Contains(string(got[folder+filesink.ManifestName]), run2) || !strings.Contains(string(got[folder+filesink.ManifestName]), `"files": []`) {
			t.Errorf("%s", got[folder+filesink.ManifestName])
		}
	})
}

// TestCopied: a folder that was published elsewhere and copied here is an earlier
// result, whatever its names.
func TestCopied(t *testing.T) {
	p := newPlace(t, services.S3(t))
	p.write(folder+"part-00000.parquet", "x")
	plan := p.plan(true)
	if err := p.open(plan, run1).Check(t.Context()); !pipeline.IsPermanent(err) {
		t.Errorf("without a manifest: %v", err)
	}
	p.write(folder+filesink.ManifestName, `{"run": "elsewhere", "files": [{"name": "part-00000.parquet"}]}`)
	if err := p.open(plan, run1).Check(t.Context()); err != nil {
		t.Errorf("with a manifest: %v", err)
	}
	part := p.part(run1, 0, 10)
	p.all(plan, run1, part)
	p.holds(run1, part)
}

// TestRefuse: what stands there is left as it is.
func TestRefuse(t *testing.T) {
	stores(t, func(t *testing.T, p *place) {
		refuse, replace := p.plan(false), p.plan(true)
		first := p.part(run1, 0, 10)
		p.all(refuse, run1, first)
		for _, test := range []func() error{
			func() error { return p.open(refuse, run2).Check(t.Context()) },
			func() error { _, err := p.open(refuse, run2).Publish(t.Context(), p.part(run2, 0, 10)); return err },
			func() error { _, err := p.open(refuse, run2).Last(t.Context(), nil); return err },
		} {
			if err := test(); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "overwrite: replace") {
				t.Errorf("%v", err)
			}
		}
		p.holds(run1, first)
		for _, key := range []string{"mine.parquet", "sub/mine.parquet"} {
			p.write(folder+key, "x")
			if err := p.open(replace, run2).Check(t.Context()); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), strings.SplitAfter(key, "/")[0]) {
				t.Errorf("with %s: %v", key, err)
			}
			if _, err := p.s3.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &p.bucket, Key: aws.String(folder + key)}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestUnfinished: what a run that never ended has left keeps nobody from
// publishing, and goes.
func TestUnfinished(t *testing.T) {
	p := newPlace(t, services.S3(t))
	p.publish(p.open(p.plan(false), run1), p.part(run1, 0, 10))
	plan := p.plan(false)
	if err := p.open(plan, run2).Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	part := p.part(run2, 5, 10)
	p.all(plan, run2, part)
	p.holds(run2, part)
}

// TestRefusals: what can't be mended is said so at once, with what to do and
// without any secret.
func TestRefusals(t *testing.T) {
	p := newPlace(t, services.S3(t))
	proxy := p.proxy()
	endpoint := setting{Key: "endpoint", Value: proxy.URL()}
	for _, c := range []struct {
		name   string
		more   []setting
		rule   faultproxy.HTTPRule
		advice string
	}{
		{"wrong secret", []setting{{Key: "secret_key", Value: "wr0ng-secret"}}, faultproxy.HTTPRule{}, "secret_key"},
		{"unknown key", []setting{{Key: "access_key", Value: "nobody"}}, faultproxy.HTTPRule{}, "access_key"},
		{"no bucket", []setting{{Key: "uri", Value: "s3://" + services.Name(t) + "/x"}}, faultproxy.HTTPRule{}, "create the bucket"},
		{"no right", nil, faultproxy.HTTPRule{Reply: faultproxy.S3Error(403, "AccessDenied")}, "s3:PutObject"},
		{"no right to write", nil, faultproxy.HTTPRule{Match: faultproxy.Operations("PutObject", "CreateMultipartUpload"), Reply: faultproxy.S3Error(403, "AccessDenied")}, "s3:PutObject"},
		{"other region", nil, faultproxy.HTTPRule{Reply: faultproxy.S3Error(301, "PermanentRedirect")}, "region"},
		{"other region", nil, faultproxy.HTTPRule{Reply: faultproxy.S3Error(400, "AuthorizationHeaderMalformed")}, "region"},
	} {
		proxy.Set(c.rule)
		plan := p.plan(false, append(c.more, endpoint)...)
		if c.rule.Reply == nil {
			proxy.Set()
		}
		_, err := p.open(plan, run1).Publish(t.Context(), p.part(run1, 0, 10))
		for what, err := range map[string]error{"check": p.open(plan, run1).Check(t.Context()), "publish": err} {
			if !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), c.advice) {
				t.Errorf("%s: %s: %v", c.name, what, err)
			}
			for _, secret := range []string{p.cloud.Secret, "wr0ng-secret"} {
				if err != nil && strings.Contains(err.Error(), secret) {
					t.Errorf("%s: %s tells a secret: %v", c.name, what, err)
				}
			}
		}
		if c.rule.Reply != nil && proxy.Seen() > 8 {
			t.Errorf("%s: %d requests", c.name, proxy.Seen())
		}
	}
}

// TestEnvironment: address, keys and region are the environment's where the job
// doesn't give them, also over TLS with an authority of one's own.
func TestEnvironment(t *testing.T) {
	p := newPlace(t, services.S3(t))
	secure := services.OwnS3(t, "tls")
	bare := []setting{{Key: "endpoint"}, {Key: "access_key"}, {Key: "secret_key"}}
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nowhere")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	if _, err := connect(mustParse(t, p.plan(false, bare...)), nil); !pipeline.IsPermanent(err) || !strings.Contains(err.Error(), "region") {
		t.Errorf("without a region: %v", err)
	}
	t.Setenv("AWS_ENDPOINT_URL_S3", p.cloud.Endpoint)
	if err := p.open(p.plan(false, bare...), run1).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("without credentials: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", p.cloud.Key)
	t.Setenv("AWS_SECRET_ACCESS_KEY", p.cloud.Secret)
	part := p.part(run1, 0, 6*mib)
	p.all(p.plan(false, append(bare, smallParts)...), run1, part)
	p.holds(run1, part)

	t.Setenv("AWS_CA_BUNDLE", secure.CA())
	set := mustParse(t, p.plan(false, setting{Key: "endpoint", Value: secure.Endpoint}, smallParts))
	c, err := connect(set, newGate(0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.s3.CreateBucket(t.Context(), &s3.CreateBucketInput{Bucket: &p.bucket}); err != nil {
		t.Fatal(err)
	}
	plan := p.plan(false, setting{Key: "endpoint", Value: secure.Endpoint}, smallParts)
	s := p.open(plan, run1)
	sent := p.publish(s, p.part(run1, 0, 100, 11*mib))
	p.last(s, [][]pipeline.Part{sent})
	here, err := c.list(t.Context())
	if err != nil || len(here.objects) != 3 {
		t.Errorf("over TLS: %v, %v", here, err)
	}
}

func mustParse(t *testing.T, plan *pipeline.SinkPlan) *settings {
	t.Helper()
	set, err := parse(plan.Settings)
	if err != nil {
		t.Fatal(errors.Join(err))
	}
	return set
}
