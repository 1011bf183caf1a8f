package main

import (
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/pipeline/worker"
)

// lease is how long a worker lives without a heartbeat. KQ_LEASE shortens it
// for tests.
func lease() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("KQ_LEASE")); err == nil && d > 0 {
		return d
	}
	return 30 * time.Second
}

func (a *app) workerCommand() *cobra.Command {
	var state, runID string
	var cores, among int
	var memory int64
	c := &cobra.Command{
		Use:   "worker --state DIR --run ID",
		Short: "Work on a run until it has ended",
		Long: "A worker claims shards of a run, executes them and publishes the result. kq run starts workers by itself;\n" +
			"more can be started by hand at any time, and any of them may be killed.\n\n" +
			"SIGTERM lets it finish or release what it holds; a second one kills it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := openStore(cmd.Context(), state)
			if err != nil {
				return err
			}
			defer store.Close()
			stopped := make(chan struct{})
			signals := make(chan os.Signal, 2)
			signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
			go func() {
				<-signals
				close(stopped)
				<-signals
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			}()
			log := slog.New(slog.NewTextHandler(a.stderr, nil))
			err = worker.Run(cmd.Context(), worker.Config{
				StateDir: state, Run: runID, Coordinator: store, Open: openSession, Publish: publish, Sender: openSender(store, log),
				Decode: func(data []byte) (*pipeline.Graph, error) { return unseal(data, a.redact) },
				Redact: a.redact.text,
				Cores:  cores, Memory: memory, Among: among, Lease: lease(), Stopped: stopped,
				Log: log,
			})
			if err != nil {
				return &failure{code: exitRun, err: err}
			}
			return nil
		},
	}
	c.Flags().StringVar(&state, "state", ".kq", "state directory")
	c.Flags().StringVar(&runID, "run", "", "id of the run")
	c.Flags().IntVar(&cores, "cores", 0, "processor cores to share with the run's other workers (0: all)")
	c.Flags().IntVar(&among, "among", 0, "workers that are being started together, to share with before they are there")
	c.Flags().Int64Var(&memory, "memory", 0, "bytes of memory to share likewise (0: the job's)")
	_ = c.MarkFlagRequired("run")
	return c
}
