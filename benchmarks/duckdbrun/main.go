// Command duckdbrun is the baseline of the benchmarks: one process that opens
// DuckDB, with the library that kq links, and runs one statement.
package main

import (
	"database/sql"
	"flag"
	"fmt"
	"os"
	"strings"

	_ "github.com/duckdb/duckdb-go/v2"
)

func main() {
	threads := flag.Int("threads", 2, "threads of DuckDB")
	memory := flag.String("memory", "", "memory_limit, such as 1GB; empty for DuckDB's default")
	spill := flag.String("spill", "", "folder for temporary files")
	print := flag.Bool("print", false, "print the value that the statement returns")
	flag.Parse()
	if err := run(*threads, *memory, *spill, flag.Arg(0), *print); err != nil {
		fmt.Fprintln(os.Stderr, "duckdbrun:", err)
		os.Exit(1)
	}
}

func run(threads int, memory, spill, query string, print bool) error {
	db, err := sql.Open("duckdb", fmt.Sprintf("?threads=%d", threads))
	if err != nil {
		return err
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	for name, value := range map[string]string{"memory_limit": memory, "temp_directory": spill} {
		if value == "" {
			continue
		}
		if _, err := db.Exec(fmt.Sprintf("SET %s = '%s'", name, strings.ReplaceAll(value, "'", "''"))); err != nil {
			return err
		}
	}
	if !print {
		_, err = db.Exec(query)
		return err
	}
	var value string
	if err := db.QueryRow(query).Scan(&value); err != nil {
		return err
	}
	fmt.Println(value)
	return nil
}
