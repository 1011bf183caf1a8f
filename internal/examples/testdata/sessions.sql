-- A session starts where the user has no click within the half hour before. A
-- click's session has the number of the user's starts until then.
WITH clicks AS (FROM 'data/clicks/*.parquet'),
starts AS (
  SELECT DISTINCT user_id, ts
  FROM clicks c
  WHERE NOT EXISTS (FROM clicks b WHERE b.user_id = c.user_id AND b.ts < c.ts AND b.ts >= c.ts - INTERVAL 30 MINUTE)
),
placed AS (
  SELECT c.user_id, c.event_id, c.ts, c.page, count(*) AS session
  FROM clicks c JOIN starts s ON s.user_id = c.user_id AND s.ts <= c.ts
  GROUP BY ALL
),
spans AS (
  SELECT user_id, session, min(ts) AS started, max(ts) AS ended, count(*) AS pages FROM placed GROUP BY ALL
)
SELECT *,
       (SELECT arg_min(page, event_id) FROM clicks c WHERE c.user_id = s.user_id AND c.ts = s.started) AS first_page,
       (SELECT arg_max(page, event_id) FROM clicks c WHERE c.user_id = s.user_id AND c.ts = s.ended) AS last_page
FROM spans s
ORDER BY user_id, session
