// Package server installs, starts and ends the real servers that kq is tested
// against: Apache Kafka, ElasticMQ (SQS), versitygw (S3), PostgreSQL, and moto
// as a second SQS and S3. They need no containers and listen on 127.0.0.1 only.
//
// Programs, data and logs lie below [Home], outside of the repository. What is
// missing is installed on first use, by Maven, go install, pip or (as root)
// apt, under a file lock, so that any number of processes may ask at once.
// Each server has a folder and ports of its own.
//
// A server either belongs to the process that started it (Options.Bound) and
// ends with it, however that ends, or outlives it and is found again by its
// folder ([Running]).
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A Var is an environment variable that a job or a client of the server needs.
type Var struct{ Name, Value string }

// A kind is what differs between servers. All times are bounded by the context.
type kind struct {
	name   string   // as the command line has it
	title  string   // name and version for people
	folder string   // of its programs, below Home; names the version, and the revision of install
	ports  []string // what each port is for; the first is the server's address
	// install puts the programs into dir, which is empty or holds what an interrupted install left.
	install func(ctx context.Context, k *kind, dir string) error
	// prepare makes s.Dir ready for a start: settings always, data where there is none.
	prepare func(ctx context.Context, s *Server) error
	command func(s *Server) (*exec.Cmd, error)
	ready   func(ctx context.Context, s *Server) bool
	vars    func(s *Server) []Var
	stop    syscall.Signal // asks for an end in good order
	crash   syscall.Signal // ends it as a crash would, and is what it gets when its owner dies
}

// kinds in the order that `dev services start` starts them.
func kinds() []*kind { return []*kind{kafka, postgres, s3, sqs, moto} }

// Names lists the servers.
func Names() []string {
	var names []string
	for _, k := range kinds() {
		names = append(names, k.name)
	}
	return names
}

func kindOf(name string) (*kind, error) {
	for _, k := range kinds() {
		if k.name == name {
			return k, nil
		}
	}
	return nil, fmt.Errorf("unknown server %q; known: %s", name, strings.Join(Names(), ", "))
}

// A Server is one that was started. Its methods are not safe for concurrent use;
// its fields don't change between Start and the next one.
type Server struct {
	Name     string         `json:"name"`
	Dir      string         `json:"dir"`
	Ports    map[string]int `json:"ports"`
	Pid      int            `json:"pid"`
	Born     string         `json:"born"` // tells the process from a later one with its pid
	Settings []string       `json:"settings,omitempty"`

	kind    *kind
	bound   bool
	exited  chan struct{} // closed when our child has ended; nil if it is no child of ours
	ports   []*lock       // kept while a bound server may be started again
	logEnd  int64         // where the log of this start begins
	archive string        // where a Java server is to write its archive of classes, while installing
}

// Options of Start.
type Options struct {
	// Bound ends the server with this process, even when that is SIGKILLed (on Linux).
	Bound bool
	// Settings are added to the server's own and win: lines of Kafka's
	// server.properties, name=value of PostgreSQL. Others take none.
	Settings []string
}

// Start installs the named server if need be and starts it with everything it
// writes under dir; data that an earlier server left there are carried on with,
// on the same ports if they are free. It returns when the server answers. A
// server that runs in dir already is an error.
func Start(ctx context.Context, name, dir string, o Options) (*Server, error) {
	k, err := kindOf(name)
	if err != nil {
		return nil, err
	}
	if err := Install(ctx, name); err != nil {
		return nil, err
	}
	if old, err := Running(dir); err == nil {
		return nil, fmt.Errorf("start %s: one runs in %s already (process %d)", name, dir, old.Pid)
	}
	s := &Server{Name: name, Dir: dir, Settings: o.Settings, kind: k, bound: o.Bound}
	if err := makeDir(filepath.Join(dir, "tmp")); err != nil {
		return nil, err
	}
	var old Server
	if readState(dir, &old) == nil && len(old.Ports) == len(k.ports) {
		s.Ports = old.Ports
	}
	if err := s.Start(ctx); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

// Start starts the server again after Stop or Kill, on its data and ports. A
// port that somebody else has meanwhile is replaced only if the server never ran.
func (s *Server) Start(ctx context.Context) error {
	for try := 1; ; try++ {
		if err := s.takePorts(); err != nil {
			return fmt.Errorf("start %s: %w", s.Name, err)
		}
		err := s.startOnce(ctx)
		if err == nil || try == 5 || s.Pid != 0 || !s.portTaken() {
			return err
		}
		s.release() // the ports were free, and a stranger was quicker
		s.Ports = nil
	}
}

func (s *Server) startOnce(ctx context.Context) error {
	if s.alive() {
		return fmt.Errorf("start %s: it runs (process %d)", s.Name, s.Pid)
	}
	if err := s.kind.prepare(ctx, s); err != nil {
		return fmt.Errorf("start %s: prepare %s: %w", s.Name, s.Dir, err)
	}
	cmd, err := s.kind.command(s)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	pid, err := s.launch(cmd)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	if err := s.awaitReady(ctx, pid); err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	s.Pid, s.Born = pid, birth(pid)
	if !s.bound {
		s.release() // the server itself has them now
	}
	return s.writeState()
}

// awaitReady returns when the server answers, or says why it never will.
func (s *Server) awaitReady(ctx context.Context, pid int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not ready after 3 minutes"))
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-s.exited:
			return fmt.Errorf("it ended while starting; %s ends with:\n%s", s.logPath(), s.LogTail(8))
		case <-ctx.Done():
			_ = syscall.Kill(pid, syscall.SIGKILL)
			<-s.exited
			return fmt.Errorf("%w; %s ends with:\n%s", context.Cause(ctx), s.logPath(), s.LogTail(8))
		case <-tick.C:
			if s.kind.ready(ctx, s) {
				return nil
			}
		}
	}
}

// launch starts the process, its output appended to the log.
func (s *Server) launch(cmd *exec.Cmd) (pid int, err error) {
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	if s.logEnd, err = log.Seek(0, 2); err != nil {
		return 0, err
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.Dir, log, log
	cmd.Env = append(cmd.Env, "PATH="+os.Getenv("PATH"), "HOME="+s.Dir, "TMPDIR="+filepath.Join(s.Dir, "tmp"), "TZ=UTC", "LC_ALL=C.UTF-8")
	if err := spawn(cmd, s.bound, s.kind.crash); err != nil {
		return 0, err
	}
	exited := make(chan struct{})
	s.exited = exited
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(exited)
	}()
	return cmd.Process.Pid, nil
}

// Stop ends the server in good order and returns when it has ended; one that
// does not end within 30 seconds is killed. Its data stay. A server that does
// not run is fine.
func (s *Server) Stop() error { return s.end(s.kind.stop) }

// Kill ends the server as a crash does: SIGKILL, or for PostgreSQL, whose
// processes would outlive it for a moment, an end without a checkpoint.
func (s *Server) Kill() error { return s.end(s.kind.crash) }

func (s *Server) end(sig syscall.Signal) error {
	deadline := time.Now().Add(30 * time.Second)
	for tries := 0; s.alive(); tries++ {
		if late := time.Now().After(deadline); late || tries == 0 {
			if late {
				sig = syscall.SIGKILL
				deadline = deadline.Add(30 * time.Second)
			}
			if err := syscall.Kill(s.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end %s (process %d): %w", s.Name, s.Pid, err)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	if s.exited != nil {
		<-s.exited
	}
	return nil
}

// Pause stops the server's processes where they are (SIGSTOP): connections stay
// open and nobody answers. Stop and Kill need a Resume first.
func (s *Server) Pause() error { return s.signalAll(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() error { return s.signalAll(syscall.SIGCONT) }

func (s *Server) signalAll(sig syscall.Signal) error {
	if !s.alive() {
		return fmt.Errorf("%v to %s: it does not run", sig, s.Name)
	}
	for _, pid := range family(s.Pid) { // the parent first: a stopped one makes no more
		if err := syscall.Kill(pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("%v to %s: %w", sig, s.Name, err)
		}
	}
	return nil
}

// Close stops the server and gives its ports back.
func (s *Server) Close() error {
	err := s.Stop()
	s.release()
	return err
}

func (s *Server) alive() bool { return s.Pid != 0 && s.Born != "" && birth(s.Pid) == s.Born }

// Addr is host:port of the server's port of that use; "" is its main one.
func (s *Server) Addr(use string) string {
	if use == "" {
		use = s.kind.ports[0]
	}
	port, ok := s.Ports[use]
	if !ok {
		panic(fmt.Sprintf("%s has no port %q", s.Name, use))
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// Title names the server and its version for people.
func (s *Server) Title() string { return s.kind.title }

// Vars are what a client needs to know, as environment variables.
func (s *Server) Vars() []Var { return s.kind.vars(s) }

func (s *Server) logPath() string { return filepath.Join(s.Dir, "log") }

// log is what this start of the server has written.
func (s *Server) log() []byte {
	data, err := os.ReadFile(s.logPath())
	if err != nil || int64(len(data)) < s.logEnd {
		return nil
	}
	return data[s.logEnd:]
}

// LogTail gives the last lines that the server wrote since its start.
func (s *Server) LogTail(lines int) string {
	return tailOf(string(s.log()), lines)
}

const stateFile = "server.json"

func (s *Server) writeState() error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	path := filepath.Join(s.Dir, stateFile)
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func readState(dir string, s *Server) error {
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, s)
}

// Running finds the server that runs in dir, whoever started it. If none does
// the error is fs.ErrNotExist.
func Running(dir string) (*Server, error) {
	s := &Server{}
	if err := readState(dir, s); err != nil {
		return nil, fmt.Errorf("server in %s: %w", dir, err)
	}
	k, err := kindOf(s.Name)
	if err != nil {
		return nil, err
	}
	s.kind = k
	if !s.alive() {
		return nil, fmt.Errorf("server in %s: %w (it ended)", dir, fs.ErrNotExist)
	}
	return s, nil
}
