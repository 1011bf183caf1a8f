package server

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// The account that Kafka's listeners with SASL know, by PLAIN, SCRAM-SHA-256
// and SCRAM-SHA-512. OAUTHBEARER takes any unsecured token (RFC 7519, section 6).
const (
	KafkaUser     = "kq"
	KafkaPassword = "kq-secret"
)

// kafka is one broker that is its own controller (KRaft). Everybody may do
// everything who is not forbidden it by an ACL, and nothing forbids anything to
// those who come without SASL.
var kafka = &kind{
	name:    "kafka",
	title:   "Apache Kafka 4.4.0",
	folder:  "kafka-4.4.0-1",
	ports:   []string{"plain", "controller", "tls", "sasl", "sasl+tls"},
	stop:    syscall.SIGTERM,
	crash:   syscall.SIGKILL,
	install: kafkaInstall,
	prepare: kafkaPrepare,
	command: func(s *Server) (*exec.Cmd, error) { return kafkaJava(s, "kafka.Kafka", s.path("server.properties")) },
	// An open port is too early.
	ready: func(_ context.Context, s *Server) bool {
		return bytes.Contains(s.log(), []byte("Kafka Server started"))
	},
	vars: func(s *Server) []Var {
		return []Var{
			{"KAFKA_BROKERS", s.Addr("plain")},
			{"KAFKA_BROKERS_TLS", s.Addr("tls")},
			{"KAFKA_BROKERS_SASL", s.Addr("sasl")},
			{"KAFKA_BROKERS_SASL_TLS", s.Addr("sasl+tls")},
			{"KAFKA_CA_FILE", s.CA()},
			{"KAFKA_USER", KafkaUser},
			{"KAFKA_PASSWORD", KafkaPassword},
		}
	},
}

//go:embed kafka.pom.xml
var kafkaPom []byte

func kafkaJava(s *Server, main string, args ...string) (*exec.Cmd, error) {
	cmd, err := java(s, main,
		"-Xmx512m",
		"-Djava.io.tmpdir="+s.path("tmp"), // the codecs unpack native libraries there, which a killed server leaves
		"-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
		"-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
	)
	if err != nil {
		return nil, err
	}
	cmd.Args = append(cmd.Args, args...)
	return cmd, nil
}

const (
	plainLogin = `org.apache.kafka.common.security.plain.PlainLoginModule required username="` + KafkaUser + `" password="` + KafkaPassword + `" user_` + KafkaUser + `="` + KafkaPassword + `";`
	scramLogin = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
	oauthLogin = `org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";`
)

// kafkaProperties is the broker's configuration; s.Settings come last and win.
func kafkaProperties(s *Server) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	open := fmt.Sprintf("PLAINTEXT://%s,TLS://%s,SASL://%s,SASLTLS://%s", s.Addr("plain"), s.Addr("tls"), s.Addr("sasl"), s.Addr("sasl+tls"))
	line("process.roles=broker,controller\nnode.id=1")
	line("controller.quorum.voters=1@%s", s.Addr("controller"))
	line("controller.listener.names=CONTROLLER")
	line("listeners=%s,CONTROLLER://%s", open, s.Addr("controller"))
	line("advertised.listeners=%s", open)
	line("inter.broker.listener.name=PLAINTEXT")
	line("listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SSL,SASL:SASL_PLAINTEXT,SASLTLS:SASL_SSL")
	line("ssl.keystore.type=PEM\nssl.keystore.location=%s", s.path("tls", "server.pem"))
	for _, listener := range []string{"sasl", "sasltls"} {
		prefix := "listener.name." + listener + "."
		line("%ssasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER", prefix)
		line("%splain.sasl.jaas.config=%s", prefix, plainLogin)
		line("%sscram-sha-256.sasl.jaas.config=%s", prefix, scramLogin)
		line("%sscram-sha-512.sasl.jaas.config=%s", prefix, scramLogin)
		line("%soauthbearer.sasl.jaas.config=%s", prefix, oauthLogin)
	}
	line("authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer")
	line("allow.everyone.if.no.acl.found=true\nsuper.users=User:ANONYMOUS")
	line("log.dirs=%s", s.path("data"))
	b.WriteString(kafkaSettings)
	for _, setting := range s.Settings {
		line("%s", setting)
	}
	return b.String()
}

const kafkaSettings = `# A misspelt topic is an error, as in production.
auto.create.topics.enable=false
# One node has all replicas.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
# After a kill the next start waits until the session of the one before is over: 3.5 s, with the defaults 12.5 s.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# 128 MiB by default.
log.cleaner.dedupe.buffer.size=2097152
num.network.threads=2
num.io.threads=4
`

func kafkaPrepare(_ context.Context, s *Server) error {
	if err := kafkaConfigure(s); err != nil || exists(s.path("data", "meta.properties")) {
		return err
	}
	home, err := programs(s.kind)
	if err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(s.path("data")), os.RemoveAll(s.path("data.new"))); err != nil {
		return err
	}
	if err := os.CopyFS(s.path("data.new"), os.DirFS(filepath.Join(home, "formatted"))); err != nil {
		return err
	}
	return os.Rename(s.path("data.new"), s.path("data"))
}

func kafkaConfigure(s *Server) error {
	if err := s.certificates(); err != nil {
		return err
	}
	return os.WriteFile(s.path("server.properties"), []byte(kafkaProperties(s)), 0o644)
}

// kafkaInstall fetches the jars and makes a data folder for others to copy:
// formatted, with the account, and with the coordinators' internal topics, for
// which clients of a new broker wait 3-10 s.
func kafkaInstall(ctx context.Context, k *kind, dir string) error {
	if err := maven(ctx, dir, kafkaPom); err != nil {
		return err
	}
	return warmUp(ctx, k, dir,
		func(s *Server) error { return kafkaFormat(ctx, dir, s) },
		func(s *Server) error { return kafkaTopics(ctx, s) })
}

func kafkaFormat(ctx context.Context, dir string, s *Server) error {
	if err := errors.Join(makeDir(s.path("data")), kafkaConfigure(s)); err != nil {
		return err
	}
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	id[0] &= 0x7f // an id that begins with "-" would look like an option
	args := []string{"format", "-t", base64.RawURLEncoding.EncodeToString(id), "-c", s.path("server.properties")}
	for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
		args = append(args, "--add-scram", fmt.Sprintf("%s=[name=%s,password=%s]", mechanism, KafkaUser, KafkaPassword))
	}
	formatter := *s
	formatter.archive = ""
	cmd, err := kafkaJava(&formatter, "kafka.tools.StorageTool", args...)
	if err != nil {
		return err
	}
	return tool(ctx, filepath.Join(dir, "format.log"), cmd)
}

// kafkaTopics makes the broker create its internal topics: the first request for
// a coordinator of each kind does.
func kafkaTopics(ctx context.Context, s *Server) error {
	for kind, topic := range []string{"__consumer_offsets", "__transaction_state"} {
		for !exists(s.path("data", topic+"-0")) {
			if err := kafkaFindCoordinator(ctx, s.Addr("plain"), byte(kind)); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("no topic %s: %w", topic, ctx.Err())
			case <-s.exited:
				return fmt.Errorf("it ended before it made %s", topic)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

// kafkaFindCoordinator asks for the coordinator of a group (kind 0) or a
// transactional id (1), and doesn't care for the answer.
func kafkaFindCoordinator(ctx context.Context, addr string, kind byte) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	request := []byte{
		0, 0, 0, 14, // size
		0, 10, 0, 1, // FindCoordinator, version 1
		0, 0, 0, 0, // correlation id
		0xff, 0xff, // no client id
		0, 1, 'x', kind,
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 4))
	return err
}

// path is a path below the server's folder.
func (s *Server) path(names ...string) string {
	return filepath.Join(append([]string{s.Dir}, names...)...)
}
