package main

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"

	_ "github.com/duckdb/duckdb-go/v2"

	"github.com/kinequet/kq/internal/tpc"
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
	suite, err := tpc.TPCH(root, scale, w.tables...)
	if err != nil {
		return "", err
	}
	return suite.Dir, nil
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
