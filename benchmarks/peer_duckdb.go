package main

import (
	"path/filepath"
	"strconv"
)

// duckdbPeer is the baseline: the statement in one DuckDB process.
type duckdbPeer struct{ binary string }

func (p *duckdbPeer) name() string { return "duckdb" }

func (p *duckdbPeer) prepare(tmp string, _ settings) (err error) {
	p.binary, err = duckdbrun(tmp)
	return err
}

func (p *duckdbPeer) command(w workload, data, work string, o settings) ([]string, error) {
	query := w.with(func(t string) string { return "read_parquet('" + filepath.Join(data, t, "*.parquet") + "')" })
	return []string{
		p.binary, "-threads", strconv.Itoa(o.threads), "-memory", o.memory, "-spill", filepath.Join(work, "spill"),
		"COPY (" + query + ") TO '" + p.output(work) + "' (FORMAT parquet, COMPRESSION snappy)",
	}, nil
}

func (p *duckdbPeer) output(work string) string { return filepath.Join(work, "out.parquet") }
