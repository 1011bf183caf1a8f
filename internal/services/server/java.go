package server

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// classArchive is a file of loaded classes that one run writes and later starts
// map: it halves the time to start. Java ignores it silently unless class path
// and jars are the very same, so the folder of an installation never moves.
const classArchive = "classes.jsa"

// java is the command of a Java server from an installation in dir.
func java(dir, main string, flags ...string) (*exec.Cmd, error) {
	path, err := exec.LookPath("java")
	if err != nil {
		return nil, err
	}
	jars, err := filepath.Glob(filepath.Join(dir, "lib", "*.jar"))
	if err != nil {
		return nil, err
	}
	args := append([]string{"-XX:+UseSerialGC", "-XX:-UsePerfData", "-XX:+ExitOnOutOfMemoryError"}, flags...)
	if archive := filepath.Join(dir, classArchive); exists(archive) {
		args = append(args, "-XX:SharedArchiveFile="+archive)
	}
	return exec.Command(path, append(args, "-cp", strings.Join(jars, ":"), main)...), nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
