package server

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// classArchive is a file of loaded classes that one run writes and later starts
// map: it halves the time to start. Java ignores it silently unless class path
// and jars are the very same, so the folder of an installation never moves.
const classArchive = "classes.jsa"

// java is the command of a Java server.
func java(s *Server, main string, flags ...string) (*exec.Cmd, error) {
	dir, err := programs(s.kind)
	if err != nil {
		return nil, err
	}
	path, err := exec.LookPath("java")
	if err != nil {
		return nil, err
	}
	jars, err := filepath.Glob(filepath.Join(dir, "lib", "*.jar"))
	if err != nil {
		return nil, err
	}
	args := append([]string{"-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError"}, flags...)
	if archive := filepath.Join(dir, classArchive); s.archive != "" {
		args = append(args, "-XX:ArchiveClassesAtExit="+s.archive)
	} else if exists(archive) {
		args = append(args, "-XX:SharedArchiveFile="+archive)
	}
	return exec.Command(path, append(args, "-cp", strings.Join(jars, ":"), main)...), nil
}

// warmUp runs a freshly installed server once, for its archive of classes and
// for what during does with it. before comes first and after last, when the
// server has ended; each may be nil.
func warmUp(ctx context.Context, k *kind, dir string, before, during func(*Server) error) error {
	s := &Server{Name: k.name, Dir: filepath.Join(dir, "warm"), kind: k, bound: true, archive: filepath.Join(dir, "archive.new")}
	defer s.release()
	if err := errors.Join(makeDir(s.path("tmp")), s.takePorts()); err != nil {
		return err
	}
	if before != nil {
		if err := before(s); err != nil {
			return err
		}
	}
	if err := s.startOnce(ctx); err != nil {
		return err
	}
	var err error
	if during != nil {
		err = during(s)
	}
	if err := errors.Join(err, s.Stop()); err != nil {
		return err
	}
	if exists(s.path("data")) {
		if err := os.Rename(s.path("data"), filepath.Join(dir, "formatted")); err != nil {
			return err
		}
	}
	_ = os.Rename(s.archive, filepath.Join(dir, classArchive)) // without it starts are slower, no more
	return os.RemoveAll(s.Dir)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
