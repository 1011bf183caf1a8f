-- The rank is one more than the number of worse routes of the month.
WITH routes AS (
  SELECT make_date(year(date), month(date), 1) AS month, origin, destination, count(*) AS flights,
         round(sum(delay) / count(*))::INT AS mean_delay, round(100 * count(*) FILTER (delay > 15) / count(*), 1) AS late_percent
  FROM 'data/hubs/*.parquet'
  GROUP BY ALL
),
ranked AS (
  SELECT *, 1 + (SELECT count(*) FROM routes o WHERE o.flights > 19 AND o.month = r.month AND o.mean_delay > r.mean_delay) AS rank
  FROM routes r
  WHERE flights > 19
)
SELECT month, rank, origin, (SELECT city FROM 'data/airports.csv' WHERE iata = origin) AS "from",
       destination, (SELECT city FROM 'data/airports.csv' WHERE iata = destination) AS "to", flights, mean_delay, late_percent
FROM ranked
WHERE rank < 6
ORDER BY month, rank, origin, destination
