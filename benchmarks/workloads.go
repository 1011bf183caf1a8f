package main

import "strings"

// workload is one statement, run as it is by every system that speaks SQL.
// {lineitem} stands for the table.
type workload struct {
	name, what, sql string
	data            string // the data set: tpch, tiny, skewed, even
	tables          []string
	sorted          string   // the column by which the result must be ordered
	spark           []string // pairs of what to write otherwise for Spark and Sail
	even            string   // the same work over data without skew
}

const (
	joinSkew = `
SELECT f.id, f.k, f.v, f.note, d.name, d.weight FROM {facts} f JOIN {dims} d ON f.k = d.k`
	windowSkew = `
SELECT id, k, row_number() OVER (PARTITION BY k ORDER BY v, id) AS place, v - lag(v) OVER (PARTITION BY k ORDER BY v, id) AS step,
  CAST(sum(v) OVER (PARTITION BY k) AS BIGINT) AS total
FROM {facts}`
)

var workloads = []workload{
	{
		name: "q1", what: "scan and aggregate into few groups (like TPC-H Q1)", data: "tpch", tables: []string{"lineitem"}, sql: `
SELECT l_returnflag, l_linestatus, sum(l_quantity) AS sum_qty, sum(l_extendedprice) AS sum_base_price,
  sum(l_extendedprice * (1 - l_discount)) AS sum_disc_price, sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)) AS sum_charge,
  avg(l_quantity) AS avg_qty, avg(l_extendedprice) AS avg_price, avg(l_discount) AS avg_disc, count(*) AS count_order
FROM {lineitem} WHERE l_shipdate <= DATE '1998-09-02'
GROUP BY l_returnflag, l_linestatus ORDER BY l_returnflag, l_linestatus`,
		// Their averages of decimals are decimals of six digits after the point.
		spark: []string{"avg(l_quantity)", "avg(DOUBLE(l_quantity))", "avg(l_extendedprice)", "avg(DOUBLE(l_extendedprice))", "avg(l_discount)", "avg(DOUBLE(l_discount))"},
	},
	{
		name: "etl", what: "row-wise filter and projection that keeps half of the rows", data: "tpch", tables: []string{"lineitem"}, sql: `
SELECT l_orderkey, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice * (1 - l_discount) AS net,
  l_extendedprice * (1 - l_discount) * (1 + l_tax) AS gross, l_returnflag || l_linestatus AS flags, l_shipdate,
  date_diff('day', l_commitdate, l_receiptdate) AS late, upper(l_shipmode) AS mode
FROM {lineitem} WHERE l_quantity > 25`,
		spark: []string{"date_diff('day', l_commitdate, l_receiptdate)", "datediff(l_receiptdate, l_commitdate)"},
	},
	{name: "tiny", what: "one small shard: what starting and committing cost", data: "tiny", tables: []string{"tiny"}, sql: `
SELECT id, v * 2 AS v2 FROM {tiny} WHERE v > 10`},
	{name: "group", what: "GROUP BY a key that the files are clustered by, a group for every 4 rows", data: "tpch", tables: []string{"lineitem"}, sql: `
SELECT l_orderkey, sum(l_quantity) AS quantity, sum(l_extendedprice) AS price FROM {lineitem} GROUP BY l_orderkey`},
	{name: "scatter", what: "GROUP BY keys that are scattered over the files, a group for every 8 rows", data: "tpch", tables: []string{"lineitem"}, sql: `
SELECT l_partkey, l_suppkey, sum(l_quantity) AS quantity, sum(l_extendedprice) AS price FROM {lineitem} GROUP BY l_partkey, l_suppkey`},
	{name: "join", what: "two large tables joined, half of the rows written", data: "tpch", tables: []string{"lineitem", "orders"}, sql: `
SELECT l_orderkey, l_linenumber, l_partkey, l_quantity, l_extendedprice, l_shipdate, l_shipmode,
  o_custkey, o_orderdate, o_orderpriority, o_totalprice
FROM {lineitem} l JOIN {orders} o ON l.l_orderkey = o.o_orderkey WHERE l_quantity > 25`},
	{name: "joingroup", what: "the same join aggregated to few groups", data: "tpch", tables: []string{"lineitem", "orders"}, sql: `
SELECT o_orderpriority, l_shipmode, count(*) AS items, sum(l_quantity) AS quantity, sum(l_extendedprice * (1 - l_discount)) AS revenue
FROM {lineitem} l JOIN {orders} o ON l.l_orderkey = o.o_orderkey WHERE l_quantity > 25
GROUP BY o_orderpriority, l_shipmode`},
	{name: "selfjoin", what: "a table joined with itself, two rows written for each of its rows", data: "tpch", tables: []string{"lineitem"}, sql: `
SELECT a.l_orderkey, a.l_linenumber AS line1, b.l_linenumber AS line2, a.l_comment AS comment1, b.l_comment AS comment2
FROM {lineitem} a JOIN {lineitem} b ON a.l_orderkey = b.l_orderkey AND a.l_linenumber < b.l_linenumber`},
	{name: "sort", what: "all columns of all rows in order", data: "tpch", tables: []string{"lineitem"}, sorted: "l_extendedprice", sql: `
SELECT * FROM {lineitem} ORDER BY l_extendedprice`},
	{name: "skewjoin", what: "a join where one key has 60 % of the rows", data: "skewed", tables: []string{"facts", "dims"}, even: "evenjoin", sql: joinSkew},
	{name: "evenjoin", what: "the same without skew", data: "even", tables: []string{"facts", "dims"}, sql: joinSkew},
	{name: "skewwindow", what: "a window where one key has 60 % of the rows", data: "skewed", tables: []string{"facts"}, even: "evenwindow", sql: windowSkew},
	{name: "evenwindow", what: "the same without skew", data: "even", tables: []string{"facts"}, sql: windowSkew},
}

// with puts relations in place of the tables.
func (w workload) with(relation func(table string) string) string {
	q := w.sql
	for _, t := range w.tables {
		q = strings.ReplaceAll(q, "{"+t+"}", relation(t))
	}
	return strings.TrimSpace(q)
}
