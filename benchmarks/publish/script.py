"""Sends a query's rows as JSON to Kafka with DuckDB and confluent-kafka: script.py BROKER TOPIC FILES QUERY"""

import sys

import duckdb
from confluent_kafka import Producer

broker, topic, files, query = sys.argv[1:]
failed = []


def delivered(error, _):
    if error:
        failed.append(error)


producer = Producer({
    "bootstrap.servers": broker, "enable.idempotence": True, "linger.ms": 50,
    "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 512 << 10,
})
rows = duckdb.execute("SELECT CAST(to_json(r) AS VARCHAR) FROM (" + query.replace("{flights}", f"'{files}'") + ") r")
while batch := rows.fetchmany(10_000):
    for (value,) in batch:
        while True:
            try:
                producer.produce(topic, value, on_delivery=delivered)
                break
            except BufferError:
                producer.poll(0.1)
    producer.poll(0)
producer.flush()
if failed:
    sys.exit(f"{len(failed)} messages failed: {failed[0]}")
