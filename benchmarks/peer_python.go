package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// pythonPeer is a system that its users start from Python: a script
// benchmarks/peers/run_NAME.py and its packages, all pinned, in NAME.txt beside it.
type pythonPeer struct {
	label    string
	needs    []string // commands that must be there
	overlaps bool     // see overlapping
	python   string
}

// pythonJob is what such a script is told, as JSON.
type pythonJob struct {
	Workload string   `json:"workload"`
	SQL      string   `json:"sql"` // for those that speak it, over views with the tables' names
	Tables   []string `json:"tables"`
	Data     string   `json:"data"` // has a folder of Parquet files for each table
	Out      string   `json:"out"`  // a folder to make and to write Parquet files to
	Spill    string   `json:"spill"`
	Threads  int      `json:"threads"`
	Memory   int64    `json:"memory"` // bytes; 0: the system's default
}

func (p *pythonPeer) name() string { return p.label }

// prepare installs the packages into a virtual environment beside the data,
// unless they are there.
func (p *pythonPeer) prepare(string, settings) error {
	for _, n := range p.needs {
		if _, err := exec.LookPath(n); err != nil {
			return unavailable{fmt.Errorf("it needs %s: %w", n, err)}
		}
	}
	pins, err := os.ReadFile(filepath.Join("benchmarks", "peers", p.label+".txt"))
	if err != nil {
		return err
	}
	venv, err := filepath.Abs(filepath.Join("benchmarks", "data", "venvs", p.label))
	if err != nil {
		return err
	}
	p.python = filepath.Join(venv, "bin", "python")
	installed := filepath.Join(venv, "installed.txt")
	if have, err := os.ReadFile(installed); err == nil && string(have) == string(pins) {
		return nil
	}
	if err := install(venv, strings.Fields(string(pins))...); err != nil {
		return unavailable{err}
	}
	return os.WriteFile(installed, pins, 0o644)
}

func (p *pythonPeer) command(w workload, data, work string, o settings) ([]string, error) {
	spill := filepath.Join(work, "spill")
	if err := os.Mkdir(spill, 0o755); err != nil {
		return nil, err
	}
	memory, err := parseSize(o.memory)
	if err != nil {
		return nil, err
	}
	query := strings.NewReplacer(w.spark...).Replace(w.with(func(t string) string { return t }))
	job, err := json.Marshal(pythonJob{
		Workload: w.name, SQL: query, Tables: w.tables, Data: data, Out: filepath.Join(work, "out"), Spill: spill,
		Threads: o.threads, Memory: memory,
	})
	return []string{p.python, filepath.Join("benchmarks", "peers", "run_"+p.label+".py"), string(job)}, err
}

func (p *pythonPeer) output(work string) string { return filepath.Join(work, "out", "*.parquet") }

func (p *pythonPeer) overlapping() bool { return p.overlaps }

// install makes a virtual environment with some packages, and nothing that
// another one left there.
func install(venv string, packages ...string) error {
	if err := os.RemoveAll(venv); err != nil {
		return err
	}
	pip := append([]string{filepath.Join(venv, "bin", "pip"), "install", "--quiet", "--disable-pip-version-check"}, packages...)
	for _, args := range [][]string{{"python3", "-m", "venv", venv}, pip} {
		fmt.Fprintln(os.Stderr, strings.Join(args, " "))
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return errors.Join(fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, lastLine(out)), os.RemoveAll(venv))
		}
	}
	return nil
}
