"""Runs one workload with Sail, its Spark Connect server in this process: python run_sail.py JOB, a JSON object (see pythonJob in peer_python.go)."""

import json
import os
import sys

job = json.loads(sys.argv[1])
os.environ["SAIL_EXECUTION__DEFAULT_PARALLELISM"] = str(job["threads"])
os.environ["TOKIO_WORKER_THREADS"] = str(job["threads"])
os.environ["SAIL_RUNTIME__TEMPORARY_FILES__PATHS"] = json.dumps([job["spill"]])
if job["memory"]:
    os.environ["SAIL_RUNTIME__MEMORY_POOL__TYPE"] = "fair"
    os.environ["SAIL_RUNTIME__MEMORY_POOL__FAIR__MAX_SIZE"] = str(job["memory"])

from pysail.spark import SparkConnectServer  # noqa: E402  (reads the environment)
from pyspark.sql import SparkSession  # noqa: E402

server = SparkConnectServer()
server.start()
_, port = server.listening_address
spark = SparkSession.builder.remote(f"sc://localhost:{port}").getOrCreate()
for name in job["tables"]:
    spark.read.parquet(job["data"] + "/" + name).createOrReplaceTempView(name)
spark.sql(job["sql"]).write.parquet(job["out"], compression="snappy")
spark.stop()
server.stop()
