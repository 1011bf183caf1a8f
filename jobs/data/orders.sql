-- orders/: made-up versions of orders, a file for each day on which they arrived.
-- Many arrive more than once, some after a newer version. deletions.csv has the
-- orders that were deleted, some of which came back.
--
--   cd jobs/data && go run ../../benchmarks/duckdbrun -threads 1 -- "$(cat orders.sql)"
CREATE TEMP MACRO rnd(n, what, below) AS (md5_number_lower(n || what) % below)::INTEGER;

CREATE TEMP TABLE versions AS
SELECT 1000 + o AS order_id, v AS version, o * 10 + v AS id,
       ['placed', 'paid', 'changed', 'packed', 'shipped', 'delivered', 'returned', 'refunded'][v] AS status,
       (500 + rnd(o, 'amount', 20000) + 100 * v * rnd(o, 'change', 3))::DECIMAL(10, 2) / 100 AS amount,
       TIMESTAMP '2026-03-02' + to_seconds(o * 200 + rnd(o, 'placed', 200) + (v - 1) * (600 + rnd(o, 'pace', 36000)) + rnd(o * 10 + v, 'moment', 500)) AS updated_at
FROM range(1200) t(o), range(1, 9) s(v)
WHERE v <= 1 + rnd(o, 'versions', 8);

CREATE TEMP TABLE orders AS
SELECT order_id, version, status, amount::DECIMAL(10, 2) AS amount, updated_at,
       -- The microseconds keep the arrivals of an order apart.
       updated_at + to_seconds(CASE WHEN rnd(id, 'late', 12) = 0 THEN rnd(id, 'how late', 90000) ELSE rnd(id, 'net', 30) END
                               + CASE WHEN copy > 0 THEN rnd(id * 10 + copy, 'again', 130000) ELSE 0 END)
                  + to_microseconds(id * 10 + copy) AS received_at
FROM versions, range(4) t(copy)
WHERE copy = 0 OR copy <= rnd(id, 'copies', 10) - 6;

COPY (FROM orders WHERE received_at::DATE = '2026-03-02' ORDER BY received_at) TO 'orders/2026-03-02.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM orders WHERE received_at::DATE = '2026-03-03' ORDER BY received_at) TO 'orders/2026-03-03.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM orders WHERE received_at::DATE = '2026-03-04' ORDER BY received_at) TO 'orders/2026-03-04.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM orders WHERE received_at::DATE = '2026-03-05' ORDER BY received_at) TO 'orders/2026-03-05.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM orders WHERE received_at::DATE = '2026-03-06' ORDER BY received_at) TO 'orders/2026-03-06.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM orders WHERE received_at::DATE > '2026-03-06' ORDER BY received_at) TO 'orders/2026-03-07.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);

-- Half of the deletions come after the order's last version, half before it.
COPY (
  SELECT order_id, max(updated_at) + to_hours(CASE WHEN rnd(order_id, 'back', 2) = 0 THEN 2 ELSE -2 END) AS deleted_at
  FROM versions GROUP BY order_id HAVING rnd(order_id, 'deleted', 15) = 0 ORDER BY order_id
) TO 'deletions.csv';
