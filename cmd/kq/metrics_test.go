package main

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/pipeline"
)

// A run's metrics are what its ledger says, by Prometheus's own text format.
func TestMetrics(t *testing.T) {
	ctx := t.Context()
	store, err := coord.Open(ctx, t.TempDir(), &coord.Options{Lease: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	shards := []pipeline.Shard{{Ordinal: 0, Key: "a"}, {Ordinal: 1, Key: "b"}, {Ordinal: 2, Key: "c"}}
	g := &pipeline.Graph{Job: "job", Tasks: []pipeline.Task{
		{Name: "s", Kind: pipeline.Compute, Buckets: 1, Shards: shards, Retry: pipeline.Retry{Attempts: 2}},
		{Name: "out:publish", Kind: pipeline.Publish, Follows: "s", Buckets: 1, Shards: shards, Sink: &pipeline.SinkPlan{Name: "out"}},
	}}
	if err := store.Submit(ctx, pipeline.Submission{Run: "r", Job: "job", File: "/f", Plan: []byte("{}"), Tasks: g.Tasks}); err != nil {
		t.Fatal(err)
	}
	w, err := store.Join(ctx, "r", 1)
	if err != nil {
		t.Fatal(err)
	}
	finish := func(lane pipeline.Lane, m pipeline.Metrics) {
		t.Helper()
		claims, err := store.Claim(ctx, w, lane, 1)
		if err != nil || len(claims) != 1 {
			t.Fatal(claims, err)
		}
		if _, err := store.Complete(ctx, w, []pipeline.Completion{{Claim: claims[0], Metrics: m}}); err != nil {
			t.Fatal(err)
		}
	}
	finish(pipeline.Computing, pipeline.Metrics{RowsIn: 10, RowsOut: 7, BytesRead: 100, BytesOut: 70, Memory: 1 << 20, Elapsed: 1500 * time.Millisecond})
	finish(pipeline.Computing, pipeline.Metrics{RowsIn: 10, RowsOut: 7, BytesRead: 100, BytesOut: 50, Memory: 1 << 21, Elapsed: 500 * time.Millisecond})
	finish(g.Tasks[1].Lane(), pipeline.Metrics{RowsIn: 7, RowsOut: 7, BytesRead: 70, BytesOut: 200})

	at, stop, err := serveMetrics("127.0.0.1:0", &exporter{store: store, graph: g, run: "r"})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	answer, err := http.Get("http://" + at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status, err)
	}
	for _, want := range []string{
		`kq_run_state{job="job",run="r",state="RUNNING"} 1`,
		`kq_workers{job="job",run="r"} 1`,
		`kq_task_shards{job="job",kind="compute",run="r",state="COMPLETED",task="s"} 2`,
		`kq_task_shards{job="job",kind="compute",run="r",state="PENDING",task="s"} 1`,
		`kq_task_rows_out_total{job="job",kind="compute",run="r",task="s"} 14`,
		`kq_task_busy_seconds_total{job="job",kind="compute",run="r",task="s"} 2`,
		`kq_task_memory_max_bytes{job="job",kind="compute",run="r",task="s"} 2.097152e+06`,
		`kq_task_written_bytes_total{job="job",kind="publish",run="r",task="out:publish"} 200`,
		`kq_sink_backlog_bytes{job="job",run="r",sink="out"} 50`,
		"# TYPE kq_task_rows_out_total counter",
	} {
		if !strings.Contains(string(text), want+"\n") {
			t.Errorf("no line %s in\n%s", want, text)
		}
	}
	if _, _, err := serveMetrics(at, &exporter{}); err == nil {
		t.Error("an address that is taken is served twice")
	}
}
