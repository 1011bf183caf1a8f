package equality

import (
	"fmt"
	"strings"
	"testing"
)

// statements are stages that must give DuckDB's answer. A trailing /*ordered*/
// compares the order of rows as well.
var statements = strings.Split(strings.TrimSpace(`
SELECT * FROM facts
SELECT id, v * 2 + k AS e, s || '!' AS t FROM facts WHERE v > 500
FROM facts
FROM facts SELECT id WHERE b
TABLE facts
SELECT * EXCLUDE (m, ts), upper(s) AS up FROM facts
SELECT * REPLACE (k + 1 AS k) FROM facts
SELECT * RENAME (k AS kk) FROM facts
SELECT COLUMNS('k|v') FROM facts
SELECT COLUMNS(*)::VARCHAR FROM dims
SELECT id AS a, a + 1 AS b2, b2 * 2 AS c FROM facts
SELECT f.* FROM facts f WHERE f.id % 1000 = 7
SELECT facts.id FROM facts WHERE facts.s IS NULL
SELECT id FROM facts WHERE id BETWEEN 2000 AND 2050 OR id IN (1, 5, 35999)
SELECT id FROM facts WHERE ts >= TIMESTAMP '2020-01-20 00:00:00' AND ts < TIMESTAMP '2020-01-21'
SELECT id FROM facts WHERE d = DATE '2020-02-29'
SELECT id FROM facts WHERE id < -5
SELECT id FROM facts WHERE v IS NULL AND s IS NOT NULL
SELECT id FROM facts WHERE s LIKE 'name 1%' AND NOT (k < 50)
SELECT id FROM facts WHERE s ILIKE '%E 2_' OR regexp_matches(s, '4[0-9]$')
SELECT id FROM facts WHERE v IS DISTINCT FROM 31
SELECT CASE WHEN v > 900 THEN 'high' WHEN v IS NULL THEN 'none' ELSE 'low' END AS c, id FROM facts
SELECT coalesce(v, -1) AS v, nullif(k, 3) AS k, ifnull(s, '-') AS s, greatest(k, v), least(k, v) FROM facts
SELECT id, try_cast(s AS INTEGER) AS n, v::DOUBLE AS f, m::VARCHAR AS t FROM facts
SELECT id, date_trunc('month', ts) AS mo, extract(dow FROM d) AS dow, d + INTERVAL 1 MONTH AS nx, age(ts, TIMESTAMP '2020-01-01') AS ag FROM facts
SELECT id, strftime(ts, '%Y-%m') AS ym, epoch(ts) AS e, datediff('day', DATE '2020-01-01', d) AS dd FROM facts
SELECT id, list_transform([k, v], z -> z * 2) AS l, list_filter([1, 2, k], z -> z > 1) AS f FROM facts
SELECT id, [q + 1 FOR q IN [k, v] IF q > 10] AS l FROM facts
SELECT id, {'k': k, 's': s} AS st, MAP {k: v} AS mp, [k, v][1] AS first FROM facts
SELECT id, unnest([k, v]) AS e FROM facts
SELECT id, u.e FROM facts, unnest([k, v, NULL]) AS u(e) WHERE id < 3000
SELECT id, g FROM facts, generate_series(1, k % 3) AS t(g) WHERE id < 500
SELECT id, list_sum([k, v]) AS s, list_sort([v, k]) AS l, array_length([k]) AS n, list_avg([k, v]) AS a FROM facts
SELECT id, md5(s) AS h, hash(k) AS hh, length(s) AS n, substring(s, 2, 3) AS ss, split_part(s, ' ', 2) AS p FROM facts
SELECT id, printf('%05d', id) AS p, format('{:,}', id) AS f, lpad(s, 12, '*') AS l, reverse(s) AS r FROM facts
SELECT id, x + 0.1 AS a, sqrt(abs(x)) AS b, round(x, 1) AS c, x / 0 AS d, k % 0 AS e, k // 7 AS f FROM facts
SELECT id, m * 3 AS m3, m / 7 AS q, m::DECIMAL(10,1) AS d1 FROM facts
SELECT count(*) AS n FROM facts
SELECT count(*), count(v), sum(v), min(s), max(ts), avg(v), avg(m) FROM facts
SELECT count(DISTINCT k), sum(DISTINCT v), stddev(x), var_pop(x), corr(k, x), median(v) FROM facts
SELECT k, count(*) AS n, sum(v) AS t, avg(x) AS a FROM facts GROUP BY k
SELECT k, b, sum(m) FROM facts GROUP BY ALL
SELECT k % 5 AS g, string_agg(s, ',' ORDER BY id) AS l FROM facts WHERE id < 3000 GROUP BY 1
SELECT k, list(id ORDER BY id) AS ids, first(s ORDER BY id) AS f, arg_max(id, v * 100000 + id) AS am FROM facts GROUP BY k
SELECT k, count(*) FILTER (WHERE b) AS nb, sum(v) FILTER (v > 100) AS sv FROM facts GROUP BY k HAVING count(*) > 300
SELECT k, b, grouping(k, b) AS g, count(*) FROM facts GROUP BY ROLLUP (k, b)
SELECT k % 3 AS a, b, count(*) FROM facts GROUP BY CUBE (a, b)
SELECT k % 3 AS a, b, count(*) FROM facts GROUP BY GROUPING SETS ((a), (b), ())
SELECT sum(v) FROM facts WHERE false
SELECT count(*) AS n, max(v) AS m FROM nothing
SELECT k, count(*) FROM nothing GROUP BY k
SELECT * FROM nothing
SELECT id + 1 AS i FROM nothing WHERE s = 'x'
SELECT *, 1 AS c FROM one
SELECT DISTINCT k FROM facts
SELECT DISTINCT ON (k) k, id FROM facts ORDER BY k, id /*ordered*/
SELECT id, s FROM facts ORDER BY v DESC NULLS LAST, id /*ordered*/
SELECT id FROM facts ORDER BY s NULLS FIRST, id DESC /*ordered*/
SELECT id, v FROM facts ORDER BY id LIMIT 10 /*ordered*/
SELECT id FROM facts ORDER BY id DESC LIMIT 5 OFFSET 3 /*ordered*/
SELECT id FROM facts ORDER BY id LIMIT 1% /*ordered*/
SELECT * FROM (SELECT id FROM facts ORDER BY v, id LIMIT 20) ORDER BY id /*ordered*/
SELECT k, row_number() OVER (PARTITION BY k ORDER BY id) AS rn, id FROM facts
SELECT id, sum(v) OVER (ORDER BY id ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS s, lag(v) OVER (ORDER BY id) AS l FROM facts
SELECT id, rank() OVER w AS r, ntile(4) OVER w AS n FROM facts WINDOW w AS (PARTITION BY k ORDER BY v, id)
SELECT id, k FROM facts QUALIFY row_number() OVER (PARTITION BY k ORDER BY v NULLS LAST, id) <= 2
SELECT id, first_value(v IGNORE NULLS) OVER (PARTITION BY k ORDER BY id) AS f FROM facts
SELECT f.id, d.label FROM facts f JOIN dims d ON f.k = d.k
SELECT f.id, d.label FROM facts f JOIN dims d USING (k) WHERE d.w > 20
SELECT f.id, d.label FROM facts f NATURAL JOIN dims d
SELECT f.id, d.label FROM facts f LEFT JOIN dims d ON f.k = d.k
SELECT f.id, d.label FROM facts f LEFT JOIN dims d ON f.k = d.k AND d.w IS NOT NULL WHERE d.k IS NULL
SELECT f.id, d.label FROM dims d LEFT JOIN facts f ON f.k = d.k AND f.v = 93
SELECT f.id, d.label FROM facts f RIGHT JOIN dims d ON f.k = d.k AND f.id < 100
SELECT f.id, d.label FROM dims d RIGHT JOIN facts f ON f.k = d.k
SELECT f.id, d.label FROM facts f FULL JOIN dims d ON f.k = d.k AND f.id < 5000
SELECT f.id FROM facts f SEMI JOIN dims d ON f.k = d.k
SELECT f.id FROM facts f ANTI JOIN dims d ON f.k = d.k
SELECT d.label FROM dims d SEMI JOIN facts f ON f.k = d.k AND f.id > 35000
SELECT d.label FROM dims d ANTI JOIN facts f ON f.k = d.k
SELECT f.id, d.label FROM facts f, dims d WHERE f.k = d.k AND f.id < 4000
SELECT f.id, d.label FROM facts f CROSS JOIN dims d WHERE f.id % 1000 = 0
SELECT f.id, d.label FROM facts f JOIN dims d ON f.k > d.k AND f.k < d.k + 3
SELECT a.id, b.id AS other FROM facts a JOIN facts b ON a.id = b.id + 1 WHERE a.v > 900
SELECT f.id, e.id AS e FROM facts f ASOF JOIN (SELECT * FROM facts WHERE id % 50 = 0) e ON f.ts >= e.ts
SELECT f.id, w.str FROM facts f JOIN wide w ON f.id = w.id
SELECT f.id, x.label FROM facts f, LATERAL (SELECT label FROM dims d WHERE d.k = f.k) x
SELECT id FROM facts WHERE k IN (SELECT k FROM dims WHERE grp = 2)
SELECT id FROM facts WHERE k NOT IN (SELECT k FROM dims)
SELECT id FROM facts WHERE v NOT IN (SELECT w FROM dims)
SELECT id FROM facts f WHERE EXISTS (SELECT 1 FROM dims d WHERE d.k = f.k AND d.w > f.v)
SELECT id FROM facts f WHERE NOT EXISTS (SELECT 1 FROM dims d WHERE d.k = f.k)
SELECT id, (SELECT max(k) FROM dims) AS mk, (SELECT label FROM dims d WHERE d.k = f.k) AS l FROM facts f
SELECT id, (SELECT count(*) FROM dims d WHERE d.k <= f.k) AS n FROM facts f WHERE id < 5000
SELECT id FROM facts WHERE k > ALL (SELECT w FROM dims WHERE w IS NOT NULL AND w < 50)
SELECT id FROM facts WHERE v > (SELECT avg(v) FROM facts)
SELECT label FROM dims WHERE k IN (SELECT k FROM facts WHERE v > 990)
SELECT label, (SELECT count(*) FROM facts f WHERE f.k = d.k) AS n FROM dims d
WITH a AS (SELECT * FROM facts WHERE v > 500) SELECT id, v FROM a WHERE b
WITH a AS (SELECT * FROM facts WHERE v > 990) SELECT x.id, y.id AS z FROM a x JOIN a y ON x.k = y.k
WITH a AS MATERIALIZED (SELECT k, sum(v) AS t FROM facts GROUP BY k) SELECT f.id, a.t FROM facts f JOIN a USING (k) WHERE f.id < 1000
WITH facts2 AS (SELECT * FROM facts), dims AS (SELECT 1 AS k) SELECT f.id FROM facts2 f JOIN dims ON dims.k = f.k
WITH unused AS (SELECT * FROM facts) SELECT label FROM dims
WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r WHERE n < 10) SELECT f.id, r.n FROM facts f JOIN r ON r.n = f.k
WITH RECURSIVE t(i) AS (SELECT max(id) - 10 FROM facts UNION ALL SELECT i + 1 FROM t WHERE i < (SELECT max(id) FROM facts)) SELECT * FROM t
SELECT id FROM facts WHERE b UNION ALL SELECT k FROM dims
SELECT k FROM facts UNION SELECT k FROM dims
SELECT k FROM facts EXCEPT SELECT k FROM dims
SELECT k FROM facts EXCEPT ALL SELECT k FROM dims
SELECT k FROM dims INTERSECT SELECT k FROM facts
SELECT k FROM facts INTERSECT ALL SELECT grp FROM dims
SELECT id, k FROM facts WHERE id < 10 UNION ALL BY NAME SELECT k, label FROM dims
VALUES (1, 'a'), (2, NULL)
SELECT 1 AS one, NULL AS nothing, 'x' AS x
SELECT * FROM range(5) r(i)
SELECT i, f.id FROM range(3) r(i), facts f WHERE f.id < 5
PIVOT (SELECT k % 4 AS c, b, v FROM facts) ON c USING sum(v) GROUP BY b
PIVOT (SELECT k % 4 AS c, b, v FROM facts) ON c IN (0, 1) USING sum(v) GROUP BY b
SELECT * FROM (PIVOT dims ON grp USING count(*) GROUP BY w)
UNPIVOT (SELECT id, k, v FROM facts WHERE id < 100) ON k, v INTO NAME n VALUE val
SELECT id FROM facts USING SAMPLE 100%
SELECT k AS a, k AS a2, k + 0 AS "A b" FROM facts WHERE id < 10
SELECT s COLLATE NOCASE AS s, id FROM facts WHERE s COLLATE NOCASE = 'NAME 7'
SELECT id, b AND v > 3 AS c, b OR NULL AS n, NOT b AS nb, (v > 3) IS TRUE AS it FROM facts
SELECT id, k & 3 AS a, k | 8 AS o, xor(k, 5) AS x, k << 1 AS sh, ~k AS inv FROM facts
SELECT id, row(k, s) AS r, struct_pack(a := k) AS p FROM facts WHERE id % 100 = 0
SELECT id::HUGEINT * 170141183460469231 AS h, id::UHUGEINT AS u FROM facts
SELECT to_days(k) + to_hours(id) + INTERVAL '3 months 1 microsecond' AS i, id FROM facts
SELECT (k % 3)::VARCHAR::ENUM ('0', '1', '2') AS e, id FROM facts
SELECT '101'::BIT AS b, id FROM facts WHERE id < 100
SELECT TIMETZ '12:34:56+02' AS t, id FROM facts WHERE id < 100
SELECT [k, v]::INTEGER[2] AS arr, id FROM facts
SELECT {'h': id::HUGEINT, 'i': INTERVAL (id) DAY} AS st, [id::HUGEINT] AS l, MAP {'a': id::HUGEINT} AS m FROM facts
SELECT ts::TIMESTAMP_S AS a, ts::TIMESTAMP_MS AS b, ts::TIMESTAMP_NS AS c FROM facts
SELECT * FROM wide
SELECT id, f8, f8 = f8 AS e, isnan(f8) AS n FROM wide WHERE f8 > 0 OR f8 IS NULL
SELECT str, count(*) FROM wide GROUP BY str
SELECT st.a, st.b.c, mp['k1'], lst[1], nested[1][1], los[1].p FROM wide
SELECT unnest(st) FROM wide WHERE id < 3000
SELECT js->>'$.j' AS j, json_extract(js, '$.j')::BIGINT AS n FROM wide
SELECT tz AT TIME ZONE 'UTC' AS z, date_part('year', tz) AS y FROM wide
SELECT id, dec + dec4 AS a, dec38 * 2 AS b FROM wide
SELECT u, bool, tm, tns FROM wide ORDER BY id /*ordered*/
SELECT * FROM mixed
SELECT c, a + b AS ab FROM mixed WHERE a > 4000
SELECT * FROM merged
SELECT a, c IS NULL AS n FROM merged WHERE d > 100 OR c = 'u7'
SELECT * FROM hive
SELECT n, y FROM hive WHERE y = 2020 AND n < 2100
SELECT y, sum(n) FROM hive GROUP BY y
SELECT a, filename LIKE '%2.parquet' AS second FROM named
SELECT * FROM odd
SELECT "select" + "a b" AS t, "ünï", "quo""te" FROM odd WHERE "file_row_number" > 100
SELECT * FROM lines
SELECT id, txt FROM lines WHERE q IS NULL
SELECT * FROM js
SELECT id, o.a, o.b[2] AS y FROM js WHERE o.a > 500
SELECT now() IS NOT NULL AS n, id FROM facts
SELECT random() < 2 AS r, id FROM facts
SELECT f.id, r.i FROM facts f POSITIONAL JOIN (SELECT * FROM range(36000) t(i)) r
SELECT id FROM facts WHERE 1 = 0
SELECT 5 AS five FROM facts
SELECT id, current_date IS NULL AS c FROM facts
SELECT max(id) FROM facts GROUP BY ()
SELECT any_value(k) IS NOT NULL AS a FROM facts
SELECT id / (id - 20000) AS q FROM facts WHERE id <> 20000
SELECT CAST(s AS INTEGER) AS broken FROM facts
SELECT error('no') AS e FROM facts WHERE id = 30000
`), "\n")

// chains are jobs of several stages; the last one is the result. A name that
// begins with ! is materialized.
var chains = [][]string{
	{"a: SELECT id, k, v FROM facts WHERE v > 100", "b: SELECT id, v * 2 AS w FROM a", "c: SELECT * FROM b WHERE w > 500"},
	{"!a: SELECT id, k, v FROM facts WHERE v > 100", "b: SELECT k, sum(v) AS t FROM a GROUP BY k", "c: SELECT * FROM b ORDER BY t DESC, k /*ordered*/"},
	{"!a: SELECT id, id::HUGEINT * 170141183460469231731 AS h, INTERVAL (id) SECOND AS i, (id % 3)::VARCHAR::ENUM('0','1','2') AS e, '11'::BIT AS bt, TIMETZ '01:02:03+04' AS tz FROM facts", "b: SELECT h, i, e, bt, tz, typeof(h), typeof(e), typeof(i), id FROM a"},
	{"!a: SELECT {'h': id::HUGEINT, 'l': [INTERVAL (id) DAY]} AS st, MAP {'x': id::HUGEINT} AS m, id FROM facts", "b: SELECT st.h + 1 AS h, st.l[1] AS l, m['x'] AS x FROM a"},
	{"!a: SELECT * FROM wide", "b: SELECT * FROM a"},
	{"!a: SELECT NULL AS n, id FROM facts", "b: SELECT n, id FROM a WHERE n IS NULL"},
	{"a: SELECT k, count(*) AS n FROM facts GROUP BY k", "b: SELECT f.id, a.n FROM facts f JOIN a ON a.k = f.k"},
	{"!a: SELECT * FROM facts ORDER BY v, id", "b: SELECT id FROM a LIMIT 7 /*ordered*/"},
	{"a: SELECT * FROM facts WHERE b", "b: SELECT x.id FROM a x JOIN a y ON x.id = y.id"},
	{"a: SELECT k, label FROM dims WHERE grp < 3", "b: SELECT f.id, a.label FROM facts f LEFT JOIN a USING (k)"},
	{"!a: SELECT k, label FROM dims WHERE grp < 3", "b: SELECT f.id, a.label FROM facts f JOIN a USING (k)", "c: SELECT label, count(*) FROM b GROUP BY label"},
	{"a: SELECT id, k FROM facts", "b: SELECT k, label FROM dims", "c: SELECT a.id, b.label FROM a JOIN b USING (k) WHERE a.id > 100", "d: SELECT label, count(*) AS n FROM c GROUP BY ALL"},
	{"a: PIVOT (SELECT k % 4 AS c, b, v FROM facts) ON c USING sum(v) GROUP BY b", "b: SELECT b, \"0\" + 1 AS z FROM a"},
	{"!a: SELECT id, k FROM facts WHERE id < 0", "b: SELECT k, count(*) FROM a GROUP BY k", "c: SELECT count(*) FROM b"},
	{"!a: SELECT k AS a, k + 1 AS \"A\" , id FROM facts", "b: SELECT * FROM a"},
	{"a: SELECT id, id AS id FROM facts", "b: SELECT * FROM a"},
	{"a: SELECT f.*, g.* FROM facts f JOIN dims g USING (k)", "b: SELECT id, label FROM a WHERE k > 50"},
	{"!a: SELECT id, s FROM facts", "!b: SELECT id, v FROM facts", "c: SELECT a.s, b.v FROM a JOIN b USING (id) WHERE b.v < 50"},
	{"a: SELECT id, random() AS r FROM facts", "b: SELECT count(*) AS n, min(r) >= 0 AS p FROM a"},
}

func TestStatements(t *testing.T) {
	w := newWorld(t)
	forwarded := 0
	check := func(name string, stages []stage, ordered bool) {
		t.Run(name, func(t *testing.T) {
			want := w.reference(stages)
			for _, size := range []int64{1 << 40, 128 << 10, 1} { // one shard, some, one per row group
				got, plan := w.run(stages, settings{size: size})
				if why := same(want, got, ordered); why != "" {
					t.Errorf("shard size %d (%s): %s", size, plan, why)
				}
				if strings.Contains(strings.ReplaceAll(plan, ": 1 shards", ""), " shards") {
					forwarded++
				}
			}
		})
	}
	for i, s := range statements {
		text, ordered := strings.CutSuffix(s, "/*ordered*/")
		check(fmt.Sprintf("%03d", i+1), []stage{{name: "result", sql: text}}, ordered)
	}
	for i, c := range chains {
		var stages []stage
		ordered := false
		for _, s := range c {
			name, text, _ := strings.Cut(s, ": ")
			text, ordered = strings.CutSuffix(text, "/*ordered*/")
			name, materialized := strings.CutPrefix(name, "!")
			stages = append(stages, stage{name: name, sql: text, materialize: materialized})
		}
		check(fmt.Sprintf("chain-%02d", i+1), stages, ordered)
	}
	if forwarded < 100 {
		t.Errorf("only %d executions had several shards: the test does not test", forwarded)
	}
}
