package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// kqPeer runs kq as a user would: a job file and one command.
type kqPeer struct {
	binary   string
	exchange bool // this kq has --exchange
}

func (p *kqPeer) name() string { return "kq" }

func (p *kqPeer) prepare(tmp string, o settings) error {
	p.binary = filepath.Join(tmp, "kq")
	if err := goBuild(p.binary, "./cmd/kq"); err != nil {
		return err
	}
	help, err := exec.Command(p.binary, "run", "--help").CombinedOutput()
	if err != nil {
		return fmt.Errorf("kq run --help: %w\n%s", err, help)
	}
	p.exchange = strings.Contains(string(help), "--exchange ")
	if !p.exchange && o.exchange != "auto" {
		return fmt.Errorf("this kq has no --exchange to give %q to", o.exchange)
	}
	return nil
}

func (p *kqPeer) command(w workload, data, work string, o settings) ([]string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\nname: %s\nsources:\n", w.name)
	for _, t := range w.tables {
		fmt.Fprintf(&b, "  %s: {type: parquet, uri: %q}\n", t, filepath.Join(data, t))
	}
	query := w.with(func(t string) string { return t })
	fmt.Fprintf(&b, "stages:\n  result:\n    sql: |\n      %s\n", strings.ReplaceAll(query, "\n", "\n      "))
	fmt.Fprintf(&b, "sinks:\n  out: {type: parquet, from: result, uri: out, compression: snappy, overwrite: replace}\n")
	if o.memory != "" {
		fmt.Fprintf(&b, "memory: %s\n", o.memory)
	}
	job := filepath.Join(work, "job.yaml")
	if err := os.WriteFile(job, []byte(b.String()), 0o644); err != nil {
		return nil, err
	}
	args := []string{p.binary, "run", job, "--json", "--workers", strconv.Itoa(o.threads)}
	if p.exchange {
		args = append(args, "--exchange", o.exchange)
	}
	return args, nil
}

func (p *kqPeer) output(work string) string { return filepath.Join(work, "out", "*.parquet") }
