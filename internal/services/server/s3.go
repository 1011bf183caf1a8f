package server

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
)

// The account of the S3 server. The others take any.
const (
	AWSKey    = "kqtest"
	AWSSecret = "kqtestsecret"
	AWSRegion = "us-east-1"
)

func awsVars(more ...Var) []Var {
	return append(more, Var{"AWS_ACCESS_KEY_ID", AWSKey}, Var{"AWS_SECRET_ACCESS_KEY", AWSSecret}, Var{"AWS_REGION", AWSRegion})
}

// s3 is versitygw over a folder: DIR/data/BUCKET/KEY, metadata in extended
// attributes. So a key can't be both an object and a prefix of others (409
// ObjectParentIsFile). The setting "tls" makes it speak HTTPS; others are flags
// of versitygw.
var s3 = &kind{
	name:   "s3",
	title:  "versitygw 1.8.0 (S3)",
	folder: "versitygw-1.8.0-1",
	ports:  []string{"http"},
	stop:   syscall.SIGTERM,
	crash:  syscall.SIGKILL,
	install: func(ctx context.Context, _ *kind, dir string) error {
		if err := need(ctx, dir, "go", "golang"); err != nil {
			return err
		}
		cmd := exec.Command("go", "install", "github.com/versity/versitygw/cmd/versitygw@v1.8.0")
		cmd.Dir = dir // outside of any module
		cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "GOOS=", "GOARCH=", "CGO_ENABLED=0")
		return tool(ctx, filepath.Join(dir, "go.log"), cmd)
	},
	prepare: func(_ context.Context, s *Server) error {
		for _, sub := range []string{"data", "iam"} {
			if err := makeDir(s.path(sub)); err != nil {
				return err
			}
		}
		return s.certificates()
	},
	command: func(s *Server) (*exec.Cmd, error) {
		dir, err := programs(s.kind)
		if err != nil {
			return nil, err
		}
		// --iam-dir: without it an unknown key is 404, with it 403 InvalidAccessKeyId as on S3. --keep-alive: without it each
		// request is a connection. Never --sidecar: it writes data and etag one after the other, which loses updates under If-Match.
		args := []string{"--port", s.Addr("http"), "--keep-alive", "--quiet", "--iam-dir", s.path("iam"), "--health", "/_/health", "--region", AWSRegion}
		if s.secure() {
			args = append(args, "--cert", s.path("tls", "server.crt"), "--key", s.path("tls", "server.key"))
		}
		for _, flag := range s.Settings {
			if flag != "tls" {
				args = append(args, flag)
			}
		}
		cmd := exec.Command(filepath.Join(dir, "versitygw"), append(args, "posix", s.path("data"))...)
		cmd.Env = []string{"ROOT_ACCESS_KEY=" + AWSKey, "ROOT_SECRET_KEY=" + AWSSecret}
		return cmd, nil
	},
	ready: func(ctx context.Context, s *Server) bool { return s.answers(ctx, "/_/health") },
	vars:  func(s *Server) []Var { return awsVars(Var{"AWS_ENDPOINT_URL_S3", s.URL()}) },
}

// secure tells whether the server was asked to speak HTTPS.
func (s *Server) secure() bool { return slices.Contains(s.Settings, "tls") }
