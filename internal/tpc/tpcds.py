"""Writes TPC-DS at a scale factor (argument 1) into a folder (argument 2).

Each table becomes a folder of Parquet files; the folder queries holds the 99
queries as DuckDB's extension has them.
"""

import os
import sys

import duckdb
import duckdb_extension_tpcds

scale, folder = float(sys.argv[1]), sys.argv[2]
db = duckdb.connect(config={"threads": 1})
extensions = os.path.join(os.path.dirname(duckdb_extension_tpcds.__file__), "extensions")
db.execute(f"LOAD '{extensions}/v{duckdb.__version__}/tpcds.duckdb_extension'")
db.execute(f"CALL dsdgen(sf = {scale})")

for table, rows in db.execute("SELECT table_name, estimated_size FROM duckdb_tables()").fetchall():
    os.makedirs(f"{folder}/{table}")
    files = 3 if rows > 5000 else 1
    group = max(2048, rows // 64)
    for i in range(files):
        db.execute(
            f"COPY (SELECT * FROM {table} WHERE rowid >= {rows * i // files} AND rowid < {rows * (i + 1) // files}) "
            f"TO '{folder}/{table}/{table}.{i + 1}.parquet' (FORMAT parquet, ROW_GROUP_SIZE {group})"
        )
    written = db.execute(f"SELECT count(*) FROM '{folder}/{table}/*.parquet'").fetchone()[0]
    assert written == db.execute(f"SELECT count(*) FROM {table}").fetchone()[0], table

os.makedirs(f"{folder}/queries")
for number, query in db.execute("SELECT query_nr, query FROM tpcds_queries()").fetchall():
    with open(f"{folder}/queries/q{number:02d}.sql", "w") as f:
        f.write(query)
