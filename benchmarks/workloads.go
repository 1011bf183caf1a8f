package main

import "strings"

// workload is one statement over TPC-H, run as it is by every system. {lineitem}
// stands for the table.
type workload struct {
	name, what, sql string
	tables          []string
	tiny            bool // over a file of a few rows instead of TPC-H
}

var workloads = []workload{
	{name: "q1", what: "scan and aggregate into few groups (like TPC-H Q1)", tables: []string{"lineitem"}, sql: `
SELECT l_returnflag, l_linestatus, sum(l_quantity) AS sum_qty, sum(l_extendedprice) AS sum_base_price,
  sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price, sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge,
  avg(l_quantity) AS avg_qty, avg(l_extendedprice) AS avg_price, avg(l_discount) AS avg_disc, count(*) AS count_order
FROM {lineitem} WHERE l_shipdate <= DATE '1998-09-02'
GROUP BY l_returnflag, l_linestatus ORDER BY l_returnflag, l_linestatus`},
	{name: "etl", what: "row-wise filter and projection that keeps half of the rows", tables: []string{"lineitem"}, sql: `
SELECT l_orderkey, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice * (1 - l_discount) AS net,
  l_extendedprice * (1 - l_discount) * (1 + l_tax) AS gross, l_returnflag || l_linestatus AS flags, l_shipdate,
  date_diff('day', l_commitdate, l_receiptdate) AS late, upper(l_shipmode) AS mode
FROM {lineitem} WHERE l_quantity > 25`},
	{name: "tiny", what: "one small shard: what starting and committing cost", tables: []string{"tiny"}, tiny: true, sql: `
SELECT id, v * 2 AS v2 FROM {tiny} WHERE v > 10`},
}

// with puts relations in place of the tables.
func (w workload) with(relation func(table string) string) string {
	q := w.sql
	for _, t := range w.tables {
		q = strings.ReplaceAll(q, "{"+t+"}", relation(t))
	}
	return strings.TrimSpace(q)
}
