"""Sends a query's rows as JSON to Kafka with PySpark: spark.py BROKER TOPIC FILES QUERY"""

import os
import sys

import pyspark
from pyspark.sql import SparkSession

broker, topic, files, query = sys.argv[1:]
heap = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 5 // 10
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.driver.memory", f"{heap >> 20}m")
    .config("spark.ui.enabled", "false")
    .config("spark.jars.packages", f"org.apache.spark:spark-sql-kafka-0-10_2.13:{pyspark.__version__}")
    .getOrCreate()
)
spark.read.parquet(files).createOrReplaceTempView("flights")
spark.sql("SELECT to_json(struct(*)) AS value FROM (" + query.replace("{flights}", "flights") + ")").write.format("kafka").option(
    "kafka.bootstrap.servers", broker
).option("topic", topic).save()
spark.stop()
