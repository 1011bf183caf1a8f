SELECT DISTINCT order_id, version, status, amount, updated_at
FROM 'data/orders/*.parquet' o
WHERE version = (SELECT max(version) FROM 'data/orders/*.parquet' n WHERE n.order_id = o.order_id)
  AND NOT EXISTS (FROM 'data/deletions.csv' d WHERE d.order_id = o.order_id AND d.deleted_at >= o.updated_at)
ORDER BY order_id
