// Command duckdbrun is the baseline of the benchmarks: one process that opens
// DuckDB, with the library that kq links, and runs one statement.
package main

import (
	"database/sql"
	"flag"
	"fmt"
	"os"

	_ "github.com/duckdb/duckdb-go/v2"
)

func main() {
	threads := flag.Int("threads", 2, "threads of DuckDB")
	memory := flag.String("memory", "", "memory_limit, such as 1GB; empty for DuckDB's default")
	spill := flag.String("spill", "", "folder for temporary files")
	flag.Parse()
	if err := run(*threads, *memory, *spill, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "duckdbrun:", err)
		os.Exit(1)
	}
}

func run(threads int, memory, spill, query string) error {
	db, err := sql.Open("duckdb", fmt.Sprintf("?threads=%d", threads))
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if memory != "" {
		if _, err := db.Exec(fmt.Sprintf("SET memory_limit = '%s'; SET temp_directory = '%s'", memory, spill)); err != nil {
			return err
		}
	}
	_, err = db.Exec(query)
	return err
}
