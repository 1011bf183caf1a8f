// Command dev starts and ends the servers of package server for a person, or for
// several test runs in a row. ./dev services runs it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/kinequet/kq/internal/services/server"
)

const usage = `usage: dev services COMMAND [NAME…]

  start    install what is missing, start, and say where they are; data of an
           earlier start are carried on with
  env      print it for a shell: eval "$(./dev services env)"; then jobs find
           the servers by these names, and tests use them instead of their own
  status   what runs, and where its data and log are
  stop     end them; data stay
  reset    end them and remove their data
  install  only install

NAME: %s; without one, all.
Programs, data and logs: %s (KQ_SERVICES_HOME).
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run exits with 2 for a wrong command line and 1 for what failed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	server.Progress = func(what string) { fmt.Fprintln(stderr, what) }
	commands := map[string]func(context.Context, string, io.Writer) error{
		"start": start, "env": env, "status": status, "stop": end, "reset": reset, "install": install,
	}
	var command func(context.Context, string, io.Writer) error
	if len(args) > 0 {
		command = commands[args[0]]
	}
	if command == nil {
		home, _ := server.Home()
		fmt.Fprintf(stderr, usage, strings.Join(server.Names(), ", "), home)
		return 2
	}
	names := args[1:]
	for _, name := range names {
		if !slices.Contains(server.Names(), name) {
			fmt.Fprintf(stderr, "dev: error: unknown server %q; known: %s\n", name, strings.Join(server.Names(), ", "))
			return 2
		}
	}
	explicit := len(names) > 0
	if !explicit {
		names = server.Names()
	}
	code := 0
	for _, name := range names {
		err := command(ctx, name, stdout)
		if errors.Is(err, errNotRunning) && !explicit {
			continue
		}
		if err != nil {
			fmt.Fprintln(stderr, "dev: error:", err)
			code = 1
		}
	}
	if args[0] == "env" && code == 0 {
		dir, _ := server.Scripted()
		printVar(stdout, server.Var{Name: server.ReuseVar, Value: dir})
	}
	return code
}

var errNotRunning = errors.New("it does not run")

// running finds the server of this command.
func running(name string) (*server.Server, error) {
	dir, err := folder(name)
	if err != nil {
		return nil, err
	}
	s, err := server.Running(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", name, errNotRunning)
	}
	return s, err
}

func folder(name string) (string, error) {
	all, err := server.Scripted()
	return filepath.Join(all, name), err
}

func install(ctx context.Context, name string, _ io.Writer) error { return server.Install(ctx, name) }

func start(ctx context.Context, name string, out io.Writer) error {
	s, err := running(name)
	if errors.Is(err, errNotRunning) {
		dir, _ := folder(name)
		s, err = server.Start(ctx, name, dir, server.Options{})
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-9s %s on %s\n", name, s.Title(), s.Addr(""))
	return nil
}

func status(_ context.Context, name string, out io.Writer) error {
	s, err := running(name)
	if errors.Is(err, errNotRunning) {
		fmt.Fprintf(out, "%-9s does not run\n", name)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%-9s %s on %s, process %d, %s\n", name, s.Title(), s.Addr(""), s.Pid, s.Dir)
	return nil
}

func env(_ context.Context, name string, out io.Writer) error {
	s, err := running(name)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "# %s\n", s.Title())
	for _, v := range s.Vars() {
		printVar(out, v)
	}
	return nil
}

// printVar prints v so that any POSIX shell reads exactly its value.
func printVar(out io.Writer, v server.Var) {
	fmt.Fprintf(out, "export %s='%s'\n", v.Name, strings.ReplaceAll(v.Value, "'", `'\''`))
}

func end(_ context.Context, name string, _ io.Writer) error {
	s, err := running(name)
	if errors.Is(err, errNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Stop()
}

func reset(ctx context.Context, name string, out io.Writer) error {
	if err := end(ctx, name, out); err != nil {
		return err
	}
	dir, err := folder(name)
	if err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
