// Command kq runs SQL pipelines over Parquet, shard by shard, on as many worker
// processes as it is given. See README.md.
package main

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/kinequet/kq/pipeline"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitOK          = 0
	exitRun         = 1 // the run failed
	exitJob         = 2 // the job is wrong
	exitEnvironment = 3 // the environment is wrong
)

const exitHelp = `kq ends with one of these codes:
  0    done
  1    the run failed
  2    the job is wrong, or the command line is
  3    the environment is wrong: a target that exists, a disk, a permission, a damaged state directory
  130  stopped by Ctrl-C (SIGINT)
  143  stopped by SIGTERM`

// failure is an error with the exit code that it leads to.
type failure struct {
	code int
	err  error
	hint string
	said bool // everything was said already
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// app is what the subcommands share.
type app struct {
	stdout, stderr io.Writer
	redact         *redactor
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	r := &redactor{}
	a := &app{stdout: r.writer(stdout), stderr: r.writer(stderr), redact: r}
	root := &cobra.Command{
		Use:           "kq",
		Short:         "KineQuet runs SQL pipelines over Parquet far larger than memory",
		SilenceErrors: true,
		SilenceUsage:  true,
		Long: "KineQuet (kq) runs a YAML job of SQL stages over Parquet, CSV and JSON, shard by shard,\n" +
			"on worker processes that may die at any instant, and publishes the result without losing a row.\n\n" + exitHelp,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.AddCommand(a.runCommand(), a.validateCommand(), a.planCommand(), a.statusCommand(), a.runsCommand(), a.logsCommand(),
		a.retryCommand(), a.cancelCommand(), a.gcCommand(), a.showCommand(), a.versionCommand(), a.workerCommand())
	root.AddCommand(&cobra.Command{Use: "exit-codes", Short: "What the exit codes mean", Long: exitHelp})
	return a.exitCode(root.ExecuteContext(ctx))
}

// exitCode says what went wrong and turns it into an exit code.
func (a *app) exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	var f *failure
	if errors.As(err, &f) && f.said {
		return f.code
	}
	var problems pipeline.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			a.say("%s", p)
		}
		return exitJob
	case f != nil:
		a.fail(f.err, f.hint)
		return f.code
	case errors.Is(err, pipeline.ErrNoRun):
		a.fail(err, "kq runs lists the runs")
		return exitEnvironment
	}
	a.fail(err, "")
	return exitJob // cobra: the command line is wrong
}

func environment(err error) error {
	if err == nil {
		return nil
	}
	return &failure{code: exitEnvironment, err: err}
}
