package server

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Home is the folder of programs, data and logs: $KQ_SERVICES_HOME, or
// kq/services in the user's cache folder. For root it is /var/cache/kq/services:
// PostgreSQL runs as another user, which /root keeps out.
func Home() (string, error) {
	if dir := os.Getenv("KQ_SERVICES_HOME"); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/cache/kq/services", nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no folder for servers; set KQ_SERVICES_HOME: %w", err)
	}
	return filepath.Join(cache, "kq", "services"), nil
}

// under makes a folder below Home and gives its path.
func under(names ...string) (string, error) {
	home, err := Home()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(append([]string{home}, names...)...)
	return dir, makeDir(dir)
}

// makeDir makes a folder that other users may pass through but not list.
func makeDir(dir string) error { return os.MkdirAll(dir, 0o711) }

// A lock is a locked file. The kernel frees it when the process ends.
type lock struct{ file *os.File }

var errLocked = errors.New("locked by another process")

// takeLock locks a file, which it makes; wait says whether to wait for another
// holder or to give up with errLocked.
func takeLock(path string, wait bool) (*lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	how := syscall.LOCK_EX
	if !wait {
		how |= syscall.LOCK_NB
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	if err == nil {
		return &lock{f}, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

func (l *lock) release() { l.file.Close() }

// Ports are taken from a range that the kernel doesn't give to outgoing
// connections (Linux from 32768, others from 49152): a client that keeps
// dialling a dead server on such a port can connect to itself.
const firstPort, lastPort = 20_000, 32_000

// takePorts reserves the server's ports against other servers of this package,
// by file locks, and finds them free. A bound server keeps the locks.
func (s *Server) takePorts() error {
	if s.ports != nil {
		return nil
	}
	dir, err := under("ports")
	if err != nil {
		return err
	}
	if s.Ports != nil {
		for _, port := range s.Ports {
			l, err := takePort(dir, port)
			if err != nil && s.Pid != 0 {
				return err
			}
			if err != nil {
				s.release()
				s.Ports = nil
				break
			}
			s.ports = append(s.ports, l)
		}
	}
	if s.Ports != nil {
		return nil
	}
	s.Ports = map[string]int{}
	for tries := 0; len(s.Ports) < len(s.kind.ports); tries++ {
		port := firstPort + rand.IntN(lastPort-firstPort)
		l, err := takePort(dir, port)
		if err != nil && tries > 1000 {
			return fmt.Errorf("no free port: %w", err)
		}
		if err == nil {
			s.Ports[s.kind.ports[len(s.Ports)]] = port
			s.ports = append(s.ports, l)
		}
	}
	return nil
}

func takePort(dir string, port int) (*lock, error) {
	l, err := takeLock(filepath.Join(dir, strconv.Itoa(port)), false)
	if err != nil {
		return nil, fmt.Errorf("port %d: %w", port, err)
	}
	probe, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		l.release()
		return nil, err
	}
	_ = probe.Close()
	return l, nil
}

// portTaken tells whether one of the ports is somebody else's.
func (s *Server) portTaken() bool {
	for _, port := range s.Ports {
		probe, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			return true
		}
		_ = probe.Close()
	}
	return false
}

func (s *Server) release() {
	for _, l := range s.ports {
		l.release()
	}
	s.ports = nil
}

// A Session is the folder of the servers that belong to this process.
type Session struct{ Dir string }

// OpenSession makes the folder. It is removed after this process has ended,
// however it ended; what a crash of the machine left is removed here.
func OpenSession() (*Session, error) {
	all, err := under("tests")
	if err != nil {
		return nil, err
	}
	gate, err := takeLock(all+".lock", true)
	if err != nil {
		return nil, err
	}
	defer gate.release()
	sweep(all)
	dir, err := os.MkdirTemp(all, strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		return nil, err
	}
	held, err := takeLock(filepath.Join(dir, "lock"), true)
	if err != nil {
		return nil, err
	}
	return &Session{Dir: dir}, janitor(dir, held)
}

// sweep removes the folders whose process has ended.
func sweep(all string) {
	entries, _ := os.ReadDir(all)
	for _, e := range entries {
		dir := filepath.Join(all, e.Name())
		if l, err := takeLock(filepath.Join(dir, "lock"), false); err == nil {
			_ = os.RemoveAll(dir) // what a server that is just ending adds waits for the next sweep
			l.release()
		}
	}
}

// janitor starts a shell that waits for the end of this process, which closes
// the pipe that the shell reads, and removes dir. held lives as long.
func janitor(dir string, held *lock) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	// The servers are being killed at the same moment and may still write.
	cmd := exec.Command("/bin/sh", "-c", `read -r _; for i in 1 2 3 4 5 6 7 8 9; do rm -rf "$0" 2>/dev/null && [ ! -e "$0" ] && break; sleep 0.2; done`, dir)
	cmd.Stdin = r
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	leaked = append(leaked, w, held.file)
	return nil
}

// leaked files stay open until the process ends: closing is the signal.
var leaked []*os.File

func tailOf(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// ReuseVar is the environment variable with which `dev services env` offers its
// servers to tests: the folder that Scripted gives.
const ReuseVar = "KQ_SERVICES"

// Scripted is the folder with a folder for each server of `dev services start`.
func Scripted() (string, error) { return under("run") }
