-- What a record is follows from those that arrived before it.
WITH orders AS (FROM 'data/orders/*.parquet'),
judged AS (
  SELECT received_at, bool_or(coalesce(b.version = o.version, false)) AS repeated, bool_or(coalesce(b.version > o.version, false)) AS late,
         o.version = (SELECT max(n.version) FROM orders n WHERE n.order_id = o.order_id) AS last
  FROM orders o LEFT JOIN (SELECT order_id, version, received_at AS before FROM orders) b ON b.order_id = o.order_id AND b.before < o.received_at
  GROUP BY o.order_id, o.version, received_at
)
SELECT CAST(received_at AS DATE) AS day, count(*) AS records, count_if(repeated) AS repeated, count_if(late AND NOT repeated) AS late,
       count_if(last AND NOT repeated) AS still_newest
FROM judged
GROUP BY day
ORDER BY day
