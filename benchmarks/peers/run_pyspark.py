"""Runs one workload with PySpark in local mode: python run_pyspark.py JOB, a JSON object (see pythonJob in peer_python.go)."""

import json
import os
import sys

from pyspark.sql import SparkSession

job = json.loads(sys.argv[1])
# Spark's own default is a heap of 1 GiB, whatever the machine has.
heap = job["memory"] or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 6 // 10
spark = (
    SparkSession.builder.master(f"local[{job['threads']}]")
    .config("spark.driver.memory", f"{heap >> 20}m")
    .config("spark.local.dir", job["spill"])
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
for name in job["tables"]:
    spark.read.parquet(job["data"] + "/" + name).createOrReplaceTempView(name)
spark.sql(job["sql"]).write.parquet(job["out"], compression="snappy")
spark.stop()
