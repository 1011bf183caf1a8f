package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// An InstallError says what could not be installed and why.
type InstallError struct {
	Title string
	Err   error
}

func (e *InstallError) Error() string { return fmt.Sprintf("can't install %s: %v", e.Title, e.Err) }
func (e *InstallError) Unwrap() error { return e.Err }

// Progress, when set before anything else of this package is used, is told what
// takes long.
var Progress = func(what string) {}

// Install fetches what the named server needs and is not here, once for all
// processes of this machine. Its errors are of type *InstallError.
func Install(ctx context.Context, name string) error {
	k, err := kindOf(name)
	if err != nil {
		return err
	}
	dir, err := programs(k)
	if err == nil {
		err = installOnce(ctx, k, dir)
	}
	if err != nil {
		return &InstallError{k.title, err}
	}
	return nil
}

// programs is the folder of a kind's programs.
func programs(k *kind) (string, error) { return under(k.folder) }

// installed says, by a file, that an installation is whole.
const installed = "installed"

func installOnce(ctx context.Context, k *kind, dir string) error {
	mark := filepath.Join(dir, installed)
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	held, err := takeLock(dir+".lock", true) // several processes may come here at once
	if err != nil {
		return err
	}
	defer held.release()
	if _, err := os.Stat(mark); err == nil {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil { // what an interrupted install left
		return err
	}
	if err := makeDir(dir); err != nil {
		return err
	}
	Progress("installing " + k.title + " in " + dir)
	if err := k.install(ctx, k, dir); err != nil {
		return err
	}
	return os.WriteFile(mark, []byte(k.title+"\n"), 0o644)
}

// tool runs a program to its end; its output goes to a file, whose last lines
// are part of the error.
func tool(ctx context.Context, logFile string, cmd *exec.Cmd) error {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	if err := cmd.Wait(); err != nil {
		text, _ := os.ReadFile(logFile)
		return fmt.Errorf("%s: %w; %s ends with:\n%s", filepath.Base(cmd.Path), err, logFile, tailOf(string(text), 8))
	}
	return nil
}

// need makes sure that a program is in PATH, by Debian's package of it if we
// may, and otherwise says what to do.
func need(ctx context.Context, dir, program, debian string) error {
	if _, err := exec.LookPath(program); err == nil {
		return nil
	}
	if err := apt(ctx, dir, debian); err != nil {
		return fmt.Errorf("no %s in PATH: %w", program, err)
	}
	_, err := exec.LookPath(program)
	return err
}

// apt installs a Debian package if this is root on such a system.
func apt(ctx context.Context, dir, debian string) error {
	path, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("install it (Debian's package is %s)", debian)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("run: sudo apt-get install %s", debian)
	}
	Progress("installing Debian's " + debian)
	held, err := takeLock(filepath.Join(filepath.Dir(dir), "apt.lock"), true)
	if err != nil {
		return err
	}
	defer held.release()
	log := filepath.Join(dir, "apt.log")
	get := func(args ...string) error {
		cmd := exec.Command(path, args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		return tool(ctx, log, cmd)
	}
	install := []string{"install", "-y", "--no-install-recommends", debian}
	if get(install...) == nil {
		return nil
	}
	return errors.Join(get("update"), get(install...)) // the lists may be old or missing
}

// maven copies the jars of a pom, and all that they need, into dir/lib.
func maven(ctx context.Context, dir string, pom []byte) error {
	if err := need(ctx, dir, "java", "openjdk-17-jre-headless"); err != nil {
		return err
	}
	if err := need(ctx, dir, "mvn", "maven"); err != nil {
		return err
	}
	path := filepath.Join(dir, "pom.xml")
	if err := os.WriteFile(path, pom, 0o644); err != nil {
		return err
	}
	return tool(ctx, filepath.Join(dir, "mvn.log"), exec.Command("mvn", "-q", "-B", "-f", path, "package", "-Dlib="+filepath.Join(dir, "lib")))
}
