package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/kinequet/kq/internal/tpc"
)

// dataFor returns the folder with a workload's tables, and makes those that are
// not there. A table is complete when the file complete-TABLE is beside it.
func (b *bench) dataFor(w workload) (string, error) {
	if w.data == "tpch" {
		root, err := filepath.Abs(filepath.Join("benchmarks", "data"))
		if err != nil {
			return "", err
		}
		suite, err := tpc.TPCH(root, b.scale, w.tables...)
		if err != nil {
			return "", err
		}
		return suite.Dir, nil
	}
	dir, err := filepath.Abs(filepath.Join("benchmarks", "data", fmt.Sprintf("%s-sf%g", w.data, b.scale)))
	if err != nil {
		return "", err
	}
	for _, t := range w.tables {
		done := filepath.Join(dir, "complete-"+t)
		if _, err := os.Stat(done); err == nil {
			continue
		}
		fmt.Fprintf(os.Stderr, "generating %s, %s at scale factor %g\n", w.data, t, b.scale)
		folder := filepath.Join(dir, t)
		if err := os.RemoveAll(folder); err != nil {
			return "", err
		}
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return "", err
		}
		_, err = b.query(fmt.Sprintf("COPY (%s) TO '%s/%s.parquet' (FORMAT parquet)", synthetic(w.data, t, b.scale), folder, t))
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(done, nil, 0o644); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// synthetic is the statement that makes a table: facts, of which one key has
// 60 % of the rows where they are skewed, and dims with a row for each key.
// Keys are scattered over the rows, about four to a key, as many rows as
// lineitem and orders have.
func synthetic(data, table string, scale float64) string {
	rows, keys := int(6e6*scale), int(1.5e6*scale)
	hot := "0"
	if data == "skewed" {
		hot = "6"
	}
	return strings.NewReplacer("{rows}", fmt.Sprint(rows), "{keys}", fmt.Sprint(keys), "{hot}", hot).Replace(map[string]string{
		"tiny": "SELECT i AS id, i % 100 AS v FROM range(1000) t(i)",
		"dims": "SELECT i AS k, 'name ' || i AS name, (hash(i) % 1000)::BIGINT AS weight FROM range({keys}) t(i)",
		"facts": `SELECT i AS id, CASE WHEN hash(i) % 10 < {hot} THEN {keys} // 2 ELSE (hash(-i) % {keys})::BIGINT END AS k,
  (hash(3 * i + 1) % 10000)::BIGINT AS v, 'note ' || hash(7 * i + 5) % 1000003 AS note FROM range({rows}) t(i)`,
	}[table])
}
