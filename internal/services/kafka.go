package services

import (
	"testing"

	"github.com/kinequet/kq/internal/services/server"
)

// A Broker is a running Kafka of one node. Its addresses are host:port.
type Broker struct {
	*server.Server
	Addr    string // neither TLS nor authentication
	TLS     string
	SASL    string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 with User and Password; OAUTHBEARER with any unsecured token
	SASLTLS string
	CAFile  string // PEM, of the authority behind TLS and SASLTLS

	User, Password string
}

// Kafka gives the broker that the tests of this process share.
//
// Topics are not created by themselves. The accounts of SASL may do everything
// that no ACL forbids; who comes without SASL may do everything.
func Kafka(t testing.TB) *Broker {
	t.Helper()
	return broker(shared(t, "kafka"))
}

// OwnKafka starts a broker for this test alone; settings are lines of
// server.properties.
//
// Kafka itself can lose track of transactions that are ending when a broker of
// one node is killed, and commit aborted records or hang later: kill it between
// transactions, or cut connections instead (package faultproxy).
func OwnKafka(t testing.TB, settings ...string) *Broker {
	t.Helper()
	return broker(Own(t, "kafka", settings...))
}

func broker(s *server.Server) *Broker {
	return &Broker{
		Server: s,
		Addr:   s.Addr("plain"), TLS: s.Addr("tls"), SASL: s.Addr("sasl"), SASLTLS: s.Addr("sasl+tls"),
		CAFile: s.CA(), User: server.KafkaUser, Password: server.KafkaPassword,
	}
}
