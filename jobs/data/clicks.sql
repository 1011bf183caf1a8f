-- clicks/: made-up clicks, a file for each day on which they arrived. A tenth of
-- the visits are one user's; every eleventh user's clicks come up to 30 hours late.
--
--   cd jobs/data && go run ../../benchmarks/duckdbrun -threads 1 -- "$(cat clicks.sql)"
CREATE TEMP MACRO rnd(n, what, below) AS (md5_number_lower(n || what) % below)::INTEGER;

CREATE TEMP TABLE clicks AS
WITH
visits AS (
  SELECT v, CASE WHEN rnd(v, 'hot', 10) = 0 THEN 7 ELSE rnd(v, 'user', 150) END AS user_id,
         TIMESTAMP '2026-03-02' + to_seconds(rnd(v, 'start', 4 * 86400)) AS start
  FROM range(800) t(v)
),
-- Mostly seconds and minutes between clicks, sometimes half an hour to the
-- second or a second more, and sometimes none.
steps AS (
  SELECT visits.*, i, v * 100 + i AS id,
         CASE rnd(v * 100 + i, 'kind', 40) WHEN 0 THEN 1800 WHEN 1 THEN 1801 WHEN 2 THEN 0 WHEN 3 THEN 2700
              ELSE rnd(v * 100 + i, 'gap', 400) END AS gap
  FROM visits, range(40) t(i)
  WHERE i <= rnd(v, 'pages', 40)
),
moments AS (
  SELECT *, start + to_seconds(sum(gap) OVER (PARTITION BY v ORDER BY i)::BIGINT) AS ts FROM steps
),
arrivals AS (
  SELECT *, ts + to_seconds(CASE WHEN user_id % 11 = 0 THEN rnd(id, 'late', 108000) ELSE rnd(id, 'net', 5) END) AS arrived FROM moments
)
SELECT row_number() OVER (ORDER BY arrived, id) AS event_id, user_id, ts,
       ['/', '/search', '/search', '/product', '/product', '/product', '/reviews', '/cart', '/checkout', '/help'][1 + rnd(id, 'page', 10)] AS page,
       least(arrived::DATE, DATE '2026-03-06') AS day
FROM arrivals;

COPY (SELECT * EXCLUDE day FROM clicks WHERE day = '2026-03-02' ORDER BY event_id) TO 'clicks/2026-03-02.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (SELECT * EXCLUDE day FROM clicks WHERE day = '2026-03-03' ORDER BY event_id) TO 'clicks/2026-03-03.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (SELECT * EXCLUDE day FROM clicks WHERE day = '2026-03-04' ORDER BY event_id) TO 'clicks/2026-03-04.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (SELECT * EXCLUDE day FROM clicks WHERE day = '2026-03-05' ORDER BY event_id) TO 'clicks/2026-03-05.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (SELECT * EXCLUDE day FROM clicks WHERE day = '2026-03-06' ORDER BY event_id) TO 'clicks/2026-03-06.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
