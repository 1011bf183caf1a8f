package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var update = flag.Bool("update", false, "rewrite golden plans")

// bin is a folder with the real kq.
var bin string

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "kq-script-")
	if err != nil {
		panic(err)
	}
	bin = dir
	if out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "kq"), ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build kq: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// TestScripts runs the command lines of testdata/*.txtar. exits N CMD… runs a
// command that must end with exit code N.
func TestScripts(t *testing.T) {
	jobs, err := filepath.Abs("../../jobs")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("JOBS", jobs)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": func(ts *testscript.TestScript, _ bool, args []string) {
				err := ts.Exec(args[1], args[2:]...)
				got := "0"
				if exit, ok := err.(*exec.ExitError); ok { //nolint:errorlint // testscript returns it as it is
					got = fmt.Sprint(exit.ExitCode())
				} else if err != nil {
					ts.Fatalf("%v", err)
				}
				if got != args[0] {
					ts.Fatalf("exit code %s, want %s", got, args[0])
				}
			},
		},
	})
}

var planHashes = regexp.MustCompile(`, hash [0-9a-f]{16}`)

// TestPlans compares the plans of the example jobs with the golden ones beside
// them.
func TestPlans(t *testing.T) {
	jobs, err := filepath.Glob("../../jobs/*.yaml")
	if err != nil || len(jobs) == 0 {
		t.Fatal("no jobs", err)
	}
	for _, job := range jobs {
		cmd := exec.Command(filepath.Join(bin, "kq"), "plan", "--set", "memory=4GiB", "--set", "workers=4", filepath.Base(job))
		cmd.Dir = filepath.Dir(job)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", job, err, out)
		}
		// The hash covers the time at which the inputs were checked out.
		got := planHashes.ReplaceAllString(string(out), ", hash …")
		if i := strings.Index(got, "\nrun exactly this"); i > 0 {
			got = got[:i]
		}
		golden := strings.TrimSuffix(job, ".yaml") + ".plan"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s: the plan is now\n%s", job, got)
		}
	}
}
