package services

import (
	"testing"

	"github.com/kinequet/kq/internal/services/server"
)

// A Cloud is a server that speaks an API of AWS. Region, Key and Secret are what
// it wants; all but S3 take any.
type Cloud struct {
	*server.Server
	Endpoint            string // http://host:port, for the SDK's BaseEndpoint
	Region, Key, Secret string
}

// SQS gives the ElasticMQ that the tests of this process share.
func SQS(t testing.TB) *Cloud {
	t.Helper()
	return cloud(shared(t, "sqs"))
}

// S3 gives the versitygw that the tests of this process share. Use path style.
// Its data/BUCKET/KEY are plain files.
func S3(t testing.TB) *Cloud {
	t.Helper()
	return cloud(shared(t, "s3"))
}

// OwnS3 starts a versitygw for this test alone; the setting "tls" makes its
// endpoint HTTPS, with a certificate of the authority in CA().
func OwnS3(t testing.TB, settings ...string) *Cloud {
	t.Helper()
	return cloud(Own(t, "s3", settings...))
}

// OwnSQS starts an ElasticMQ for this test alone. It forgets its queues when it ends.
func OwnSQS(t testing.TB) *Cloud {
	t.Helper()
	return cloud(Own(t, "sqs"))
}

// Moto gives the moto that the tests of this process share: a second S3 and SQS
// behind one endpoint.
func Moto(t testing.TB) *Cloud {
	t.Helper()
	return cloud(shared(t, "moto"))
}

func cloud(s *server.Server) *Cloud {
	return &Cloud{Server: s, Endpoint: s.URL(), Region: server.AWSRegion, Key: server.AWSKey, Secret: server.AWSSecret}
}
