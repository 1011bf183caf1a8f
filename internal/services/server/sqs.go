package server

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"syscall"
)

// sqs is ElasticMQ with SQS's limits. Queues live in memory: a stop loses them.
// It takes any credentials.
var sqs = &kind{
	name:   "sqs",
	title:  "ElasticMQ 1.7.1 (SQS)",
	folder: "elasticmq-1.7.1-1",
	ports:  []string{"http"},
	stop:   syscall.SIGTERM,
	crash:  syscall.SIGKILL,
	install: func(ctx context.Context, k *kind, dir string) error {
		if err := maven(ctx, dir, elasticmqPom); err != nil {
			return err
		}
		return warmUp(ctx, k, dir, nil, nil)
	},
	prepare: func(_ context.Context, s *Server) error {
		return os.WriteFile(s.path("elasticmq.conf"), fmt.Appendf(nil, elasticmqConf, s.Ports["http"]), 0o644)
	},
	command: func(s *Server) (*exec.Cmd, error) {
		return java(s, "org.elasticmq.server.Main", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dconfig.file="+s.path("elasticmq.conf"))
	},
	ready: func(ctx context.Context, s *Server) bool { return s.answers(ctx, "/health") },
	vars:  func(s *Server) []Var { return awsVars(Var{"AWS_ENDPOINT_URL_SQS", s.URL()}) },
}

//go:embed elasticmq.pom.xml
var elasticmqPom []byte

// Queue URLs begin with node-address.
const elasticmqConf = `node-address { protocol = http, host = "127.0.0.1", port = %[1]d, context-path = "" }
rest-sqs { enabled = true, bind-hostname = "127.0.0.1", bind-port = %[1]d, sqs-limits = strict }
rest-stats { enabled = false }
generate-node-address = false
queues { }
pekko.http.parsing.illegal-header-warnings = off
pekko.http.server.parsing.illegal-header-warnings = off
`
