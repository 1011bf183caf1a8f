package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/apache/arrow-go/v18/arrow"
	_ "github.com/duckdb/duckdb-go/v2"

	"github.com/kinequet/kq/plugins/sinks/kafkasink/partwise"
	"github.com/kinequet/kq/stages/stream"
)

var systems = []system{
	{name: "kq", prepare: buildKQ, command: kq("at-least-once")},
	{name: "kq-once", command: kq("effectively-once")},
	{name: "bare", prepare: makeBytes, send: bare},
	{name: "script", prepare: venv("confluent-kafka==2.12.1", "duckdb==1.5.4"), command: python("script.py")},
	{name: "pyspark", prepare: venv("pyspark==4.3.0"), command: python("spark.py")},
}

// data makes six million flights, unless there are some.
func (b *bench) data(ctx context.Context) error {
	db, err := sql.Open("duckdb", "")
	if err != nil {
		return err
	}
	defer db.Close()
	if b.flights == "" {
		b.flights = filepath.Join(b.tmp, "flights.parquet")
		if _, err := db.ExecContext(ctx, "COPY (SELECT f.* FROM 'jobs/data/flights.parquet' f, range(20)) TO '"+b.flights+"'"); err != nil {
			return err
		}
	}
	return db.QueryRowContext(ctx, "SELECT count(*) FROM ("+b.query()+")").Scan(&b.rows)
}

func (b *bench) query() string { return strings.ReplaceAll(query, "{flights}", "'"+b.flights+"'") }

func buildKQ(ctx context.Context, b *bench) error {
	out, err := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(b.tmp, "kq"), "./cmd/kq").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

func kq(delivery string) func(*bench, string) (*exec.Cmd, error) {
	return func(b *bench, topic string) (*exec.Cmd, error) {
		job := fmt.Sprintf(`version: 1
name: publish
sources:
  flights: {type: parquet, uri: %q}
stages:
  rows:
    sql: %s
sinks:
  out: {type: kafka, from: rows, brokers: [%q], topic: %s, delivery: %s}
`, b.flights, strings.ReplaceAll(query, "{flights}", "flights"), b.broker, topic, delivery)
		file := filepath.Join(b.tmp, "job.yaml")
		if err := errors.Join(os.RemoveAll(filepath.Join(b.tmp, ".kq")), os.WriteFile(file, []byte(job), 0o644)); err != nil {
			return nil, err
		}
		return exec.Command(filepath.Join(b.tmp, "kq"), "run", file, "--json"), nil
	}
}

// made is the messages that the bare producer sends, as DuckDB makes them.
var made []arrow.RecordBatch

func makeBytes(ctx context.Context, b *bench) error {
	db, err := sql.Open("duckdb", "")
	if err != nil {
		return err
	}
	defer db.Close()
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	for batch, err := range stream.Query(ctx, conn, "SELECT CAST(to_json(r) AS VARCHAR) AS v FROM ("+b.query()+") r") {
		if err != nil {
			return err
		}
		batch.Retain()
		made = append(made, batch)
	}
	return nil
}

// bare sends two parts at a time, as two workers would.
func bare(ctx context.Context, b *bench, topic string) error {
	p, err := partwise.Open(partwise.Options{Brokers: []string{b.broker}, Topic: topic, Columns: partwise.Columns{Value: "v"}})
	if err != nil {
		return err
	}
	defer p.Close()
	errs := make(chan error, 2)
	for half := range 2 {
		go func() {
			batches := made[half*len(made)/2 : (half+1)*len(made)/2]
			_, err := p.Publish(ctx, partwise.Part{ID: fmt.Sprint(topic, half), Rows: -1, Batches: all(batches)})
			errs <- err
		}()
	}
	return errors.Join(<-errs, <-errs)
}

func all(batches []arrow.RecordBatch) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		for _, batch := range batches {
			if !yield(batch, nil) {
				return
			}
		}
	}
}

// venv installs packages of PyPI into the environment that all scripts share.
func venv(packages ...string) func(context.Context, *bench) error {
	return func(ctx context.Context, _ *bench) error {
		dir := filepath.Join("benchmarks", "data", "venvs", "publish")
		if _, err := os.Stat(filepath.Join(dir, "bin", "python")); err != nil {
			if out, err := exec.CommandContext(ctx, "python3", "-m", "venv", dir).CombinedOutput(); err != nil {
				return fmt.Errorf("%w\n%s", err, out)
			}
		}
		args := append([]string{"install", "--quiet", "--disable-pip-version-check"}, packages...)
		if out, err := exec.CommandContext(ctx, filepath.Join(dir, "bin", "pip"), args...).CombinedOutput(); err != nil {
			return fmt.Errorf("pip %s: %w\n%s", strings.Join(args, " "), err, out)
		}
		return nil
	}
}

func python(script string) func(*bench, string) (*exec.Cmd, error) {
	return func(b *bench, topic string) (*exec.Cmd, error) {
		python := filepath.Join("benchmarks", "data", "venvs", "publish", "bin", "python")
		return exec.Command(python, filepath.Join("benchmarks", "publish", script), b.broker, topic, b.flights, query), nil
	}
}
