package server

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// postgres is Debian's. Its superuser postgres needs no password; every other
// role does, so that wrong credentials can be tested. TLS is offered, not asked
// for. fsync is on: a crash must lose nothing.
var postgres = &kind{
	name:    "postgres",
	title:   "PostgreSQL",
	folder:  "postgres-1",
	ports:   []string{"sql"},
	stop:    syscall.SIGINT,  // cuts clients off
	crash:   syscall.SIGQUIT, // no checkpoint: the next start recovers from the log
	install: postgresInstall,
	prepare: postgresPrepare,
	command: func(s *Server) (*exec.Cmd, error) {
		args := []string{"-D", s.path("data"), "-p", strconv.Itoa(s.Ports["sql"])}
		for _, setting := range slices.Concat([]string{
			"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "timezone=UTC",
			"ssl=on", "ssl_cert_file=" + s.path("tls", "server.crt"), "ssl_key_file=" + s.path("tls", "server.key"),
		}, s.Settings) {
			args = append(args, "-c", setting)
		}
		return postgresTool("postgres", args...)
	},
	ready: func(_ context.Context, s *Server) bool {
		return bytes.Contains(s.log(), []byte("database system is ready to accept connections"))
	},
	vars: func(s *Server) []Var { return []Var{{"POSTGRES_URL", s.DatabaseURL("postgres")}} },
}

// postgresFolder is where the newest installed PostgreSQL has its programs.
func postgresFolder() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb") // Debian keeps them out of PATH
	if path, err := exec.LookPath("initdb"); err == nil && len(found) == 0 {
		found = []string{path}
	}
	if len(found) == 0 {
		return "", fmt.Errorf("no initdb in /usr/lib/postgresql/*/bin or PATH")
	}
	newest := slices.MaxFunc(found, func(a, b string) int { return postgresVersion(a) - postgresVersion(b) })
	return filepath.Dir(newest), nil
}

func postgresVersion(initdb string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(initdb))))
	return n
}

func postgresInstall(ctx context.Context, _ *kind, dir string) error {
	if _, err := postgresFolder(); err == nil {
		return nil
	}
	// Debian's package would start a server of its own on port 5432.
	const noServer = "/etc/postgresql-common/createcluster.conf"
	if os.Geteuid() == 0 && !exists(noServer) {
		if err := os.MkdirAll(filepath.Dir(noServer), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(noServer, []byte("create_main_cluster = false\n"), 0o644); err != nil {
			return err
		}
	}
	if err := apt(ctx, dir, "postgresql"); err != nil {
		return err
	}
	_, err := postgresFolder()
	return err
}

// postgresTool is a command of PostgreSQL; root, whom it refuses, becomes the
// user postgres.
func postgresTool(name string, args ...string) (*exec.Cmd, error) {
	dir, err := postgresFolder()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(filepath.Join(dir, name), args...)
	uid, gid, err := postgresUser()
	if err == nil && uid != os.Getuid() {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	return cmd, err
}

// postgresUser is whom the server runs as.
func postgresUser() (uid, gid int, err error) {
	if os.Geteuid() != 0 {
		return os.Getuid(), os.Getgid(), nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return 0, 0, fmt.Errorf("PostgreSQL refuses to run as root: %w", err)
	}
	if uid, err = strconv.Atoi(u.Uid); err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

const postgresAccess = `# TYPE DATABASE USER ADDRESS METHOD
host all postgres 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
`

func postgresPrepare(ctx context.Context, s *Server) error {
	if exists(s.path("data", "PG_VERSION")) && exists(s.path("data", "initialized")) {
		return nil
	}
	uid, gid, err := postgresUser()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(s.path("data")); err != nil {
		return err
	}
	if err := s.certificates(); err != nil {
		return err
	}
	for _, path := range []string{s.Dir, s.path("tmp"), s.path("tls"), s.path("tls", "server.key"), s.path("tls", "server.crt")} {
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	// --no-sync is for the new files only.
	cmd, err := postgresTool("initdb", "-D", s.path("data"), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	if err != nil {
		return err
	}
	cmd.Dir = "/"
	if err := tool(ctx, s.path("initdb.log"), cmd); err != nil {
		return fmt.Errorf("%w\n(user %d must be let through every folder above %s)", err, uid, s.Dir)
	}
	if err := os.WriteFile(s.path("data", "pg_hba.conf"), []byte(postgresAccess), 0o600); err != nil {
		return err
	}
	return os.WriteFile(s.path("data", "initialized"), nil, 0o600)
}

// DatabaseURL is the address of a database of a PostgreSQL server, as its superuser.
func (s *Server) DatabaseURL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: s.Addr("sql"), Path: database, RawQuery: "sslmode=disable"}
	return u.String()
}

// CreateDatabase makes an empty database in a PostgreSQL server.
func (s *Server) CreateDatabase(ctx context.Context, name string) error {
	return s.databaseTool(ctx, "createdb", name)
}

// DropDatabase removes a database and cuts off who is connected to it.
func (s *Server) DropDatabase(ctx context.Context, name string) error {
	return s.databaseTool(ctx, "dropdb", "--force", name)
}

func (s *Server) databaseTool(ctx context.Context, program string, args ...string) error {
	dir, err := postgresFolder()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, program), append([]string{"-h", "127.0.0.1", "-p", strconv.Itoa(s.Ports["sql"]), "-U", "postgres"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, args[len(args)-1], err, strings.TrimSpace(string(out)))
	}
	return nil
}
