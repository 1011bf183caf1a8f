package main

import (
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	_ "github.com/duckdb/duckdb-go/v2"
)

// dataFor returns the folder with a workload's tables, and makes it if need be.
func dataFor(w workload, scale float64) (string, error) {
	root, err := filepath.Abs("benchmarks/data")
	if err != nil {
		return "", err
	}
	if w.tiny {
		dir := filepath.Join(root, "tiny")
		if err := os.MkdirAll(filepath.Join(dir, "tiny"), 0o755); err != nil {
			return "", err
		}
		return dir, query(fmt.Sprintf("COPY (SELECT i AS id, i %% 100 AS v FROM range(1000) t(i)) TO '%s/tiny/tiny.parquet' (FORMAT parquet)", dir), nil)
	}
	dir := filepath.Join(root, fmt.Sprintf("tpch-sf%g", scale))
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return dir, nil
	}
	tool, err := generator(root)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "generating TPC-H at scale factor %g\n", scale)
	args := []string{"parquet", "-s", fmt.Sprint(scale), "--tables", "lineitem", "--parts", fmt.Sprint(max(1, min(10, int(scale)))), "--output-dir", dir}
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		return "", fmt.Errorf("tpchgen-cli: %w\n%s", err, out)
	}
	return dir, os.WriteFile(filepath.Join(dir, "complete"), nil, 0o644)
}

// generator finds tpchgen-cli, or installs it from PyPI beside the data.
func generator(root string) (string, error) {
	if path, err := exec.LookPath("tpchgen-cli"); err == nil {
		return path, nil
	}
	venv := filepath.Join(root, "venv")
	tool := filepath.Join(venv, "bin", "tpchgen-cli")
	if _, err := os.Stat(tool); err == nil {
		return tool, nil
	}
	for _, args := range [][]string{{"python3", "-m", "venv", venv}, {filepath.Join(venv, "bin", "pip"), "install", "-q", "tpchgen-cli"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%v: %w\n%s", args, err, out)
		}
	}
	return tool, nil
}

// answer is the number of rows of a result and a hash of them that does not
// depend on their order.
func answer(glob string) (s string, err error) {
	err = query("SELECT count(*) || ' rows ' || coalesce(sum(hash(t::VARCHAR) >> 20), 0) FROM read_parquet('"+glob+"') t", &s)
	return s, err
}

func query(q string, result *string) error {
	db, err := sql.Open("duckdb", "")
	if err != nil {
		return err
	}
	defer db.Close()
	if result == nil {
		_, err = db.Exec(q)
		return err
	}
	return db.QueryRow(q).Scan(result)
}
