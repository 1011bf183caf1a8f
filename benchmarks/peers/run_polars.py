"""Runs one workload with Polars' streaming engine: python run_polars.py JOB, a JSON object (see pythonJob in peer_python.go)."""

import json
import os
import sys

job = json.loads(sys.argv[1])
os.environ["POLARS_MAX_THREADS"] = str(job["threads"])
if job["memory"]:
    os.environ["POLARS_OOC_MEMORY_BUDGET_MB"] = str(job["memory"] >> 20)
    os.environ["POLARS_OOC_SPILL_DIR"] = job["spill"]

import polars as pl  # noqa: E402  (reads the environment)
from polars import col  # noqa: E402


def table(name):
    return pl.scan_parquet(job["data"] + "/" + name + "/*.parquet")


def wide(name, scale):
    """Polars rounds a product of decimals to the scale of its factors: widen one first."""
    return col(name).cast(pl.Decimal(38, scale))


def q1():
    net = wide("l_extendedprice", 4) * (1 - col.l_discount)
    gross = wide("l_extendedprice", 6) * (1 - col.l_discount) * (1 + col.l_tax)
    return (
        table("lineitem").filter(col.l_shipdate <= pl.date(1998, 9, 2)).group_by("l_returnflag", "l_linestatus")
        .agg(
            sum_qty=col.l_quantity.sum(), sum_base_price=col.l_extendedprice.sum(), sum_disc_price=net.sum(), sum_charge=gross.sum(),
            avg_qty=col.l_quantity.mean(), avg_price=col.l_extendedprice.mean(), avg_disc=col.l_discount.mean(), count_order=pl.len(),
        )
        .sort("l_returnflag", "l_linestatus")
    )


def etl():
    return table("lineitem").filter(col.l_quantity > 25).select(
        "l_orderkey", "l_partkey", "l_suppkey", "l_linenumber", "l_quantity",
        net=wide("l_extendedprice", 4) * (1 - col.l_discount),
        gross=wide("l_extendedprice", 6) * (1 - col.l_discount) * (1 + col.l_tax),
        flags=col.l_returnflag + col.l_linestatus, l_shipdate=col.l_shipdate,
        late=(col.l_receiptdate - col.l_commitdate).dt.total_days(), mode=col.l_shipmode.str.to_uppercase(),
    )


def tiny():
    return table("tiny").filter(col.v > 10).select("id", v2=col.v * 2)


def group():
    return table("lineitem").group_by("l_orderkey").agg(quantity=col.l_quantity.sum(), price=col.l_extendedprice.sum())


def scatter():
    return table("lineitem").group_by("l_partkey", "l_suppkey").agg(quantity=col.l_quantity.sum(), price=col.l_extendedprice.sum())


def joined():
    return table("lineitem").filter(col.l_quantity > 25).join(table("orders"), left_on="l_orderkey", right_on="o_orderkey")


def join():
    return joined().select(
        "l_orderkey", "l_linenumber", "l_partkey", "l_quantity", "l_extendedprice", "l_shipdate", "l_shipmode",
        "o_custkey", "o_orderdate", "o_orderpriority", "o_totalprice",
    )


def joingroup():
    return joined().group_by("o_orderpriority", "l_shipmode").agg(
        items=pl.len(), quantity=col.l_quantity.sum(), revenue=(wide("l_extendedprice", 4) * (1 - col.l_discount)).sum()
    )


def selfjoin():
    lines = table("lineitem")
    a = lines.select("l_orderkey", line1="l_linenumber", comment1="l_comment")
    b = lines.select("l_orderkey", line2="l_linenumber", comment2="l_comment")
    return a.join(b, on="l_orderkey").filter(col.line1 < col.line2).select("l_orderkey", "line1", "line2", "comment1", "comment2")


def sort():
    return table("lineitem").sort("l_extendedprice")


def skewjoin():
    return table("facts").join(table("dims"), on="k").select("id", "k", "v", "note", "name", "weight")


def skewwindow():
    return table("facts").select(
        "id", "k",
        place=pl.int_range(1, pl.len() + 1).over("k", order_by=["v", "id"]),
        step=(col.v - col.v.shift(1)).over("k", order_by=["v", "id"]), total=col.v.sum().over("k"),
    )


evenjoin, evenwindow = skewjoin, skewwindow

os.makedirs(job["out"])
query = globals()[job["workload"]]()
query.sink_parquet(job["out"] + "/out.parquet", compression="snappy", engine="streaming")
