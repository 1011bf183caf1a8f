package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/pipeline"
)

// Metrics of a run, read from the ledger when they are asked for, so that they
// are those of all workers and survive this process. Names follow
// https://prometheus.io/docs/practices/naming/.
var (
	runState   = prometheus.NewDesc("kq_run_state", "1 for the state that the run is in.", []string{"job", "run", "state"}, nil)
	runWorkers = prometheus.NewDesc("kq_workers", "Live worker processes.", []string{"job", "run"}, nil)
	taskShards = prometheus.NewDesc("kq_task_shards", "Shards of a task by state.", []string{"job", "run", "task", "kind", "state"}, nil)

	taskLabels  = []string{"job", "run", "task", "kind"}
	taskRowsIn  = prometheus.NewDesc("kq_task_rows_in_total", "Rows that completed shards have read.", taskLabels, nil)
	taskRowsOut = prometheus.NewDesc("kq_task_rows_out_total", "Rows that completed shards have written or sent.", taskLabels, nil)
	taskRead    = prometheus.NewDesc("kq_task_read_bytes_total", "Bytes that completed shards have read from storage.", taskLabels, nil)
	taskWritten = prometheus.NewDesc("kq_task_written_bytes_total", "Bytes that completed shards have written or sent.", taskLabels, nil)
	taskBusy    = prometheus.NewDesc("kq_task_busy_seconds_total", "Time that completed shards took, added up.", taskLabels, nil)
	taskRetries = prometheus.NewDesc("kq_task_retries_total", "Attempts that failed or were lost.", taskLabels, nil)
	taskSpilled = prometheus.NewDesc("kq_task_spilled_max_bytes", "The most temporary files that a shard had at a time.", taskLabels, nil)
	taskMemory  = prometheus.NewDesc("kq_task_memory_max_bytes", "The most resident memory that a worker had.", taskLabels, nil)
	sinkBacklog = prometheus.NewDesc("kq_sink_backlog_bytes", "Bytes of parts that wait for a sink.", []string{"job", "run", "sink"}, nil)
)

// exporter implements prometheus.Collector.
type exporter struct {
	store *coord.Store
	graph *pipeline.Graph
	run   string
}

// Describe sends nothing: what there is depends on the run.
func (*exporter) Describe(chan<- *prometheus.Desc) {}

// Collect reads the run's status.
func (e *exporter) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	st, err := e.store.Status(ctx, e.run)
	if err != nil {
		out <- prometheus.NewInvalidMetric(runState, err)
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{st.Job, st.Run}, labels...)...)
	}
	gauge(runState, 1, st.State.String())
	gauge(runWorkers, float64(len(st.Workers)))
	byName := map[string]pipeline.TaskStatus{}
	for _, t := range st.Tasks {
		count := func(d *prometheus.Desc, v float64) {
			out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, st.Job, st.Run, t.Task, string(t.Kind))
		}
		for state, n := range map[pipeline.ShardState]int64{
			pipeline.ShardPending: t.Pending, pipeline.ShardProcessing: t.Processing, pipeline.ShardCompleted: t.Completed, pipeline.ShardFailed: t.Failed,
		} {
			gauge(taskShards, float64(n), t.Task, string(t.Kind), state.String())
		}
		count(taskRowsIn, float64(t.Metrics.RowsIn))
		count(taskRowsOut, float64(t.Metrics.RowsOut))
		count(taskRead, float64(t.Metrics.BytesRead))
		count(taskWritten, float64(t.Metrics.BytesOut))
		count(taskBusy, t.Metrics.Elapsed.Seconds())
		count(taskRetries, float64(t.Retries))
		gauge(taskSpilled, float64(t.Metrics.Spilled), t.Task, string(t.Kind))
		gauge(taskMemory, float64(t.Metrics.Memory), t.Task, string(t.Kind))
		byName[t.Task] = t
		if task := e.graph.Task(t.Task); task != nil && task.Kind == pipeline.Publish {
			gauge(sinkBacklog, float64(t.Waiting(byName[task.Follows])), task.Sink.Name)
		}
	}
}

// serveMetrics answers GET /metrics on an address until stop is called.
func serveMetrics(address string, e *exporter) (at string, stop func(), err error) {
	registry := prometheus.NewRegistry()
	if err := registry.Register(e); err != nil {
		return "", nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", nil, fmt.Errorf("--metrics %s: %w", address, err)
	}
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	return l.Addr().String(), func() {
		_ = s.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			slog.Warn("metrics", "error", err)
		}
	}, nil
}
