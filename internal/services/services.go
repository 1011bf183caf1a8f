// Package services gives tests real servers (package server): Kafka, SQS, S3,
// PostgreSQL and moto.
//
// Each is started on its first use in a test binary and serves all its tests;
// it ends with the process, also when that is killed, and leaves no data behind.
// So tests share it: they name topics, queues, buckets and groups by [Name], and
// leave the server as it was. A test that wants to kill, pause or configure a
// server starts [Own].
//
// With KQ_SERVICES in the environment (`eval "$(./dev services env)"`) the
// servers of `./dev services start` are used where they run, which saves the
// seconds of a start for each test binary.
//
// A server that can't be installed skips the test with the reason and what to
// do, but where CI is set it fails: a skip there would pass for success. One that
// is installed and doesn't start always fails.
package services

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kinequet/kq/internal/services/server"
)

// session is this process's folder for servers.
var session = sync.OnceValues(server.OpenSession)

// started holds the servers that the tests of this process share.
var started struct {
	sync.Mutex
	servers map[string]func() (*server.Server, error)
}

// shared gives the server of that name that all tests of this process use.
func shared(t testing.TB, name string) *server.Server {
	t.Helper()
	started.Lock()
	get := started.servers[name]
	if get == nil {
		get = sync.OnceValues(func() (*server.Server, error) { return find(name) })
		if started.servers == nil {
			started.servers = map[string]func() (*server.Server, error){}
		}
		started.servers[name] = get
	}
	started.Unlock()
	s, err := get()
	check(t, err)
	showLog(t, s)
	return s
}

// find takes the server that `dev services` started, or starts one.
func find(name string) (*server.Server, error) {
	if dir := os.Getenv(server.ReuseVar); dir != "" {
		if s, err := server.Running(filepath.Join(dir, name)); err == nil {
			return s, nil
		}
	}
	return begin(name, name, server.Options{})
}

func begin(name, folder string, o server.Options) (*server.Server, error) {
	here, err := session()
	if err != nil {
		return nil, err
	}
	o.Bound = true
	return server.Start(context.Background(), name, filepath.Join(here.Dir, folder), o)
}

// Own starts a server for this test alone, which may kill it, pause it and start
// it again. It ends with the test and leaves nothing. settings are as in
// [server.Options].
func Own(t testing.TB, name string, settings ...string) *server.Server {
	t.Helper()
	s, err := begin(name, fmt.Sprintf("%s-%d", name, rand.Uint32()), server.Options{Settings: settings})
	check(t, err)
	t.Cleanup(func() {
		if err := errors.Join(s.Kill(), s.Close(), os.RemoveAll(s.Dir)); err != nil {
			t.Error(err)
		}
	})
	showLog(t, s)
	return s
}

// check ends the test if there is no server.
func check(t testing.TB, err error) {
	t.Helper()
	var missing *server.InstallError
	switch {
	case err == nil:
	case errors.As(err, &missing) && !inCI():
		t.Skip(err)
	default:
		t.Fatal(err)
	}
}

func inCI() bool {
	ci := os.Getenv("CI")
	return ci != "" && ci != "false" && ci != "0"
}

// showLog prints the end of the server's log if the test fails.
func showLog(t testing.TB, s *server.Server) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the log of %s ends with:\n%s", s.Title(), s.LogTail(15))
		}
	})
}

// Name makes a name that no other test has, also in another process: for topics,
// queues, buckets, databases and groups. It has only a-z, 0-9 and "-", begins with
// a letter and is at most 40 characters long.
func Name(t testing.TB) string {
	var b strings.Builder
	for _, r := range strings.ToLower(t.Name()) {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			b.WriteRune(r)
		} else {
			b.WriteByte('-')
		}
	}
	name := strings.Trim(b.String()[:min(b.Len(), 27)], "-")
	return fmt.Sprintf("%s-%012x", name, rand.Uint64()>>16)
}
