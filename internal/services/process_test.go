package services

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kinequet/kq/internal/services/server"
)

// The tests of this file need processes that end: the test binary, started
// again with childVar naming the server that it is to start.
const childVar = "KQ_SERVICES_TEST_CHILD"

// child starts a server, prints "DIR PID ADDR", and waits for the end of its input.
func child(name string) int {
	s, err := find(name)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(s.Dir, s.Pid, s.Addr(""))
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

type process struct {
	cmd   *exec.Cmd
	stdin io.Closer

	dir, addr string
	pid       int
}

// startChild starts one and returns when its server answers.
func startChild(t *testing.T, name string, env ...string) (*process, error) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), childVar+"="+name, server.ReuseVar+"="), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, stdin: stdin}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
		if p.pid != 0 && filepath.Base(filepath.Dir(filepath.Dir(p.dir))) == "tests" { // its own, not one it was told of
			p.gone(t)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err == nil {
		_, err = fmt.Sscan(line, &p.dir, &p.pid, &p.addr)
	}
	if err != nil {
		stdin.Close()
		return nil, errors.Join(err, cmd.Wait(), errors.New(stderr.String()))
	}
	return p, nil
}

// gone waits until the process has ended and its folder is away.
func (p *process) gone(t *testing.T) {
	t.Helper()
	for alive := true; alive; time.Sleep(5 * time.Millisecond) {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
		alive = len(status) > 0 && (!strings.Contains(string(status), "State:\tZ") || !strings.Contains(string(status), "Threads:\t1\n"))
	}
	for {
		if _, err := os.Stat(filepath.Dir(p.dir)); errors.Is(err, os.ErrNotExist) {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if conn, err := net.Dial("tcp", p.addr); err == nil {
		conn.Close()
		t.Errorf("somebody still listens on %s", p.addr)
	}
}

// newHome is a folder for KQ_SERVICES_HOME that PostgreSQL's user can pass through.
func newHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	if err := os.Chmod(filepath.Dir(home), 0o711); err != nil {
		t.Fatal(err)
	}
	return home
}

// TestServersEndWithTheirOwner ends a process that has a server, by SIGKILL and
// by itself. Neither may leave a process or a file.
func TestServersEndWithTheirOwner(t *testing.T) {
	for _, name := range server.Names() {
		t.Run(name, func(t *testing.T) {
			shared(t, name) // it can be installed
			for _, killed := range []bool{true, false} {
				p, err := startChild(t, name)
				if err != nil {
					t.Fatal(err)
				}
				if killed {
					err = p.cmd.Process.Signal(syscall.SIGKILL)
				} else {
					err = p.stdin.Close()
				}
				if err != nil {
					t.Fatal(err)
				}
				p.gone(t)
			}
		})
	}
}

// TestTogether installs and starts a server in many processes at once.
func TestTogether(t *testing.T) {
	shared(t, "s3")
	home := newHome(t) // with nothing installed
	var wait sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]bool{}
	for range 8 {
		wait.Go(func() {
			p, err := startChild(t, "s3", "KQ_SERVICES_HOME="+home)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				t.Error(err)
				return
			}
			if seen[p.addr] || seen[p.dir] {
				t.Errorf("two servers at %s in %s", p.addr, p.dir)
			}
			seen[p.addr], seen[p.dir] = true, true
			defer p.gone(t)
			p.stdin.Close()
		})
	}
	wait.Wait()
	if installs, err := filepath.Glob(filepath.Join(home, "*", "installed")); err != nil || len(installs) != 1 {
		t.Errorf("%v, %v", installs, err)
	}
}

// TestReuse: a child that is told of a running server uses it, one that is told
// of a dead one starts its own.
func TestReuse(t *testing.T) {
	shared(t, "s3")
	all := t.TempDir()
	s, err := server.Start(t.Context(), "s3", filepath.Join(all, "s3"), server.Options{Bound: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := server.Start(t.Context(), "s3", filepath.Join(all, "s3"), server.Options{Bound: true}); err == nil || !strings.Contains(err.Error(), "one runs") {
		t.Errorf("a second server in its folder: %v", err)
	}
	env := server.ReuseVar + "=" + all
	p, err := startChild(t, "s3", env)
	if err != nil {
		t.Fatal(err)
	}
	if p.pid != s.Pid || p.addr != s.Addr("") {
		t.Errorf("the child uses process %d on %s, not %d on %s", p.pid, p.addr, s.Pid, s.Addr(""))
	}
	if err := s.Kill(); err != nil {
		t.Fatal(err)
	}
	if p, err = startChild(t, "s3", env); err != nil {
		t.Fatal(err)
	}
	if p.pid == s.Pid {
		t.Error("the child uses a dead server")
	}
}

// TestSweep: a folder whose owner is gone, as after a power failure, is removed
// by the next session; one whose owner lives is not.
func TestSweep(t *testing.T) {
	shared(t, "postgres")
	home := newHome(t)
	old := filepath.Join(home, "tests", "1-old")
	if err := os.MkdirAll(filepath.Join(old, "kafka", "data"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(old, "kafka", "data", "x"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	first, err := startChild(t, "postgres", "KQ_SERVICES_HOME="+home)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s: %v", old, err)
	}
	if _, err := startChild(t, "postgres", "KQ_SERVICES_HOME="+home); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(first.dir, "server.json")); err != nil {
		t.Errorf("a living owner's folder was swept: %v", err)
	}
}

// TestPortTaken starts a server again whose port a stranger has taken meanwhile.
func TestPortTaken(t *testing.T) {
	shared(t, "s3")
	dir := t.TempDir()
	s, err := server.Start(context.Background(), "s3", dir, server.Options{Bound: true})
	if err != nil {
		t.Fatal(err)
	}
	addr := s.Addr("")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	stranger, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	again, err := server.Start(context.Background(), "s3", dir, server.Options{Bound: true})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.Addr("") == addr {
		t.Errorf("it claims to listen on %s, which is taken", addr)
	}
}

// missingVar makes TestMissing ask for a server that can't be installed.
const missingVar = "KQ_SERVICES_TEST_MISSING"

// TestMissing: without the means to install a server a test is skipped with the
// reason; in CI it fails.
func TestMissing(t *testing.T) {
	if os.Getenv(missingVar) != "" {
		Kafka(t)
		return
	}
	for _, c := range []struct{ ci, want string }{{"", "--- SKIP"}, {"false", "--- SKIP"}, {"true", "--- FAIL"}, {"1", "--- FAIL"}} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestMissing$", "-test.v")
		cmd.Env = []string{missingVar + "=1", "KQ_SERVICES_HOME=" + t.TempDir(), "PATH=/nowhere", "CI=" + c.ci}
		out, err := cmd.CombinedOutput()
		for _, want := range []string{c.want, "can't install Apache Kafka 4.4.0", "no java in PATH", "openjdk-17-jre-headless"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("CI=%q: no %q in\n%s", c.ci, want, out)
			}
		}
		if failed := err != nil; failed != (c.want == "--- FAIL") {
			t.Errorf("CI=%q: %v\n%s", c.ci, err, out)
		}
	}
}

func TestName(t *testing.T) {
	seen := map[string]bool{}
	t.Run("Größe, and a name that is much longer than any bucket's may be", func(t *testing.T) {
		for range 1000 {
			name := Name(t)
			if seen[name] || len(name) > 40 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || name[0] < 'a' {
				t.Fatalf("bad or second name %q", name)
			}
			seen[name] = true
		}
	})
}
