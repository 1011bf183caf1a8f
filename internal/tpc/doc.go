// Package tpc has TPC-H and TPC-DS as kq jobs: data, queries and, for each
// query, the job file that a user would write. Its tests prove the first law on
// them: a job's answer is DuckDB's answer over the same files.
//
// # Data
//
// TPC-H comes from tpchgen-cli, TPC-DS from dsdgen in DuckDB's tpcds extension;
// both are packages of PyPI, installed once into a virtual environment beside
// the data (benchmarks/data, which git ignores). Every table is a folder of
// Parquet files with small row groups, so that even a small scale factor can be
// cut into many shards. A table's folder appears complete or not at all.
//
// # Queries
//
// The 22 queries of TPC-H are written down in tpch/, with the validation
// parameters of the specification (for scale factor 1: Q11 selects more at a
// smaller one). The 99 of TPC-DS are those that DuckDB's extension offers
// (tpcds_queries(), MIT licence); they are made together with the data and are
// no part of this repository.
//
// # What counts as the same answer
//
// DuckDB runs each query without its LIMIT. kq's rows, of which there must be as
// many as the LIMIT allows, are then told one by one to rows of that answer:
// kq's i-th row must be an unused row of the answer that ties in the ORDER BY
// with the i-th one. Hence rows, multiplicities and order are compared, exactly
// as far as the query determines them: which of two tied rows comes first, or is
// cut off by the LIMIT, is open. Columns must have the same names and types, but
// for HUGEINT, which Parquet holds as DECIMAL(38,0). Doubles may differ by 1e-9
// of their value, because the order of a sum decides its last bits; everything
// else must be equal. A query whose order can't be told fails its test.
//
// # Running it
//
//	go test ./internal/tpc
//
// takes one to two minutes: TPC-H at 1, 3 and 16 shards of the biggest table and
// with workers killed, TPC-DS at 3 shards.
//
//	go test ./internal/tpc -timeout 60m -tpch.all -tpcds.all
//
// runs every query at every number of shards and in every mode of exchange.
// -tpch.sf and -tpcds.sf set the scale, -seed the kills, -kills how often a query's
// workers are killed.
package tpc
