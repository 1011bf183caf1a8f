-- hubs/: every twelfth flight between the twelve busiest airports, January to
-- June 2001, a file a month. From flights-3m.parquet of the npm package
-- vega-datasets 3.2.1 (US Bureau of Transportation Statistics, public domain).
--
--   cd jobs/data && go run ../../benchmarks/duckdbrun -threads 1 -- "$(cat hubs.sql)"
CREATE TEMP VIEW flights AS FROM 'flights-3m.parquet';

CREATE TEMP TABLE hubs AS
WITH busiest AS (SELECT origin FROM flights GROUP BY origin ORDER BY count(*) DESC LIMIT 12)
SELECT date, delay, distance, origin, destination
FROM flights
WHERE origin IN (FROM busiest) AND destination IN (FROM busiest) AND date < '2001-07-01'
QUALIFY row_number() OVER (ORDER BY date, origin, destination, distance, delay) % 12 = 0;

COPY (FROM hubs WHERE month(date) = 1 ORDER BY ALL) TO 'hubs/2001-01.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM hubs WHERE month(date) = 2 ORDER BY ALL) TO 'hubs/2001-02.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM hubs WHERE month(date) = 3 ORDER BY ALL) TO 'hubs/2001-03.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM hubs WHERE month(date) = 4 ORDER BY ALL) TO 'hubs/2001-04.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM hubs WHERE month(date) = 5 ORDER BY ALL) TO 'hubs/2001-05.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
COPY (FROM hubs WHERE month(date) = 6 ORDER BY ALL) TO 'hubs/2001-06.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 2048);
