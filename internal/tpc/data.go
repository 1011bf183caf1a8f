package tpc

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The packages of PyPI that make the data.
var (
	tpchPackages  = []string{"tpchgen-cli==4.0.0"}
	tpcdsPackages = []string{"duckdb==1.5.5", "duckdb-extension-tpcds==1.5.5"}
)

//go:embed tpcds.py
var tpcdsScript string

// TPCHTables are the tables of TPC-H.
var TPCHTables = []string{"customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"}

// TPCH returns TPC-H at a scale factor with the named tables (none: all), and
// makes below root what is not there yet.
func TPCH(root string, scale float64, tables ...string) (*Suite, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &Suite{Name: "tpch", Dir: filepath.Join(root, fmt.Sprintf("tpch-sf%g", scale)), Tables: TPCHTables}
	if s.Queries, err = queriesIn(tpch, "tpch"); err != nil {
		return nil, err
	}
	if len(tables) == 0 {
		tables = TPCHTables
	}
	missing := slices.DeleteFunc(slices.Clone(tables), func(t string) bool { return exists(s.Folder(t)) })
	if len(missing) == 0 {
		return s, nil
	}
	groups := "7MiB"
	if scale < 1 {
		groups = "512KiB" // more row groups than shards, even here
	}
	err = staged(s.Dir, func(staging string) error {
		venv, err := environment(root, tpchPackages)
		if err != nil {
			return err
		}
		fmt.Fprintf(os.Stderr, "making TPC-H at scale factor %g: %s\n", scale, strings.Join(missing, ", "))
		err = command(filepath.Join(venv, "bin", "tpchgen-cli"), "parquet", "--quiet", "-s", fmt.Sprint(scale), "--tables", strings.Join(missing, ","),
			"--parts", fmt.Sprint(max(3, min(10, int(scale)))), "--row-group-bytes", groups, "--output-dir", staging)
		if err != nil {
			return err
		}
		for _, t := range missing {
			if err := moveIn(filepath.Join(staging, t), s.Folder(t)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("TPC-H: %w", err)
	}
	return s, nil
}

// TPCDS returns TPC-DS at a scale factor, and makes below root what is not there
// yet.
func TPCDS(root string, scale float64) (*Suite, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s := &Suite{Name: "tpcds", Dir: filepath.Join(root, fmt.Sprintf("tpcds-sf%g", scale))}
	if !exists(s.Dir) {
		err := staged(root, func(staging string) error {
			venv, err := environment(root, tpcdsPackages)
			if err != nil {
				return err
			}
			fmt.Fprintf(os.Stderr, "making TPC-DS at scale factor %g\n", scale)
			made := filepath.Join(staging, "tpcds")
			if err := command(filepath.Join(venv, "bin", "python"), "-c", tpcdsScript, fmt.Sprint(scale), made); err != nil {
				return err
			}
			return moveIn(made, s.Dir)
		})
		if err != nil {
			return nil, fmt.Errorf("TPC-DS: %w", err)
		}
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name() != "queries" {
			s.Tables = append(s.Tables, e.Name())
		}
	}
	s.Queries, err = queriesIn(os.DirFS(s.Dir), "queries")
	return s, err
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// staged calls make with a folder in dir, which is gone afterwards.
func staged(dir string, make func(staging string) error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	staging, err := os.MkdirTemp(dir, ".making-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(staging) }()
	return make(staging)
}

// moveIn renames what is complete; that another process was faster is no error.
func moveIn(from, to string) error {
	if err := os.Rename(from, to); err != nil && !exists(to) {
		return err
	}
	return nil
}

// environment returns a virtual environment of Python below root that holds the
// packages.
func environment(root string, packages []string) (string, error) {
	venv := filepath.Join(root, "venv")
	pip := filepath.Join(venv, "bin", "pip")
	if !exists(pip) {
		if err := command("python3", "-m", "venv", venv); err != nil {
			return "", err
		}
	}
	return venv, command(pip, append([]string{"install", "--quiet", "--disable-pip-version-check"}, packages...)...)
}

func command(name string, args ...string) error {
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, out)
	}
	return nil
}
