package server

import (
	"context"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// moto is a second S3 and SQS, for conformance: it has the right error codes and
// limits where the others differ. It keeps everything in memory, takes any
// credentials and is slow (32 messages a second).
var moto = &kind{
	name:   "moto",
	title:  "moto 5.2.5 (S3, SQS)",
	folder: "moto-5.2.5-1",
	ports:  []string{"http"},
	stop:   syscall.SIGTERM,
	crash:  syscall.SIGKILL,
	install: func(ctx context.Context, _ *kind, dir string) error {
		if err := need(ctx, dir, "python3", "python3"); err != nil {
			return err
		}
		log := filepath.Join(dir, "pip.log")
		venv := func() error { return tool(ctx, log, exec.Command("python3", "-m", "venv", filepath.Join(dir, "venv"))) }
		if err := venv(); err != nil { // Debian has it in a package of its own
			if apt(ctx, dir, "python3-venv") != nil {
				return err
			}
			if err := venv(); err != nil {
				return err
			}
		}
		return tool(ctx, log, exec.Command(filepath.Join(dir, "venv", "bin", "pip"), "install", "--disable-pip-version-check", "moto[server]==5.2.5"))
	},
	prepare: func(context.Context, *Server) error { return nil },
	command: func(s *Server) (*exec.Cmd, error) {
		dir, err := programs(s.kind)
		if err != nil {
			return nil, err
		}
		return exec.Command(filepath.Join(dir, "venv", "bin", "moto_server"), "-H", "127.0.0.1", "-p", strconv.Itoa(s.Ports["http"])), nil
	},
	ready: func(ctx context.Context, s *Server) bool { return s.answers(ctx, "/moto-api/") },
	vars:  func(s *Server) []Var { return awsVars(Var{"MOTO_URL", s.URL()}) },
}
