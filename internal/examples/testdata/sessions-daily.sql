WITH sessions AS (FROM 'sessions.expected.csv')
SELECT strftime(started, '%Y-%m-%d') AS day, count(*) AS sessions, len(list_distinct(list(user_id))) AS users, sum(pages) AS pages,
       sum((pages = 1)::INT) AS bounces, sum((last_page = '/checkout')::INT) AS checkouts,
       quantile_cont(epoch(ended) - epoch(started), 0.5)::INT AS median_seconds
FROM sessions
GROUP BY day
ORDER BY day
