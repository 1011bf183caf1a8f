package equality

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// trap is a way in which an engine that cuts statements up answers wrongly.
type trap struct {
	name       string
	statements string // one a line
}

// trapStages stand beside the sources. All are materialized: what draws lots is
// drawn once for everyone.
var trapStages = []stage{
	{name: "kinds", sql: "SELECT *, kh::HUGEINT AS hh, z::ENUM ('c', 'b', 'A', 'a', '') AS ze, to_days(30 * k) AS iv, ts AT TIME ZONE 'UTC' AS tz, {'a': k, 'b': s} AS st, [k, g] AS li, z::BLOB AS bl FROM lefts", materialize: true},
	{name: "picked", sql: "SELECT id, k FROM lefts LIMIT 10", materialize: true},
	{name: "drawn", sql: "SELECT id, k, random() AS lot FROM lefts", materialize: true},
}

// trapRows are the rows of lefts and rights: keys of many types with the same
// values, some on one side only, some NULL, -1 among them.
const trapRows = `SELECT r, r::INTEGER AS id, q AS k, q::BIGINT AS kb, abs(q)::UBIGINT AS ku, q::DECIMAL(9, 2) AS kd, q::DECIMAL(18, 4) AS kd4, q::DECIMAL(38, 0) AS kh,
	CASE WHEN q = 0 AND r %% 2 = 0 THEN '-0.0' WHEN q = 5 THEN 'NaN' WHEN q = 6 THEN '-inf' ELSE q::VARCHAR END::DOUBLE AS kx, q::FLOAT AS kf,
	['a', 'A', 'b', '', '17', 'x'][1 + r %% 6] AS s, ['a', 'A', 'b', '', 'c'][1 + (r * 3) %% 5] AS z, DATE '2020-01-01' + q AS dt,
	TIMESTAMP '2020-01-01' + to_hours(24 * q + CASE WHEN r %% 4 = 0 THEN 6 ELSE 0 END) AS ts, 9000000000000000000 - r AS huge, CASE WHEN r %% 5 > 0 THEN r %% 9 END AS n,
	1e9 + (r %% 7) / 8.0 AS far, (r %% 4)::INTEGER AS g, r %% 3 = 0 AS o, row_number() OVER (ORDER BY r * 37 %% 101) - 1 AS p
	FROM (SELECT r, CASE WHEN r %% %d = 0 THEN NULL ELSE (r * 7 %% 13 - %d)::INTEGER END AS q FROM range(%d) t(r))`

var traps = []trap{
	{"outer-joins-end-equality", `
SELECT l.k, count(*) FROM lefts l RIGHT JOIN rights r ON l.k = r.k GROUP BY l.k
SELECT DISTINCT l.k FROM lefts l RIGHT JOIN rights r ON l.k = r.k
SELECT DISTINCT r.k FROM lefts l LEFT JOIN rights r ON l.k = r.k
SELECT r.k, count(*), count(l.id) FROM lefts l FULL JOIN rights r ON l.k = r.k GROUP BY r.k
SELECT l.k, count(*) FROM lefts l FULL JOIN rights r ON l.k = r.k GROUP BY l.k
SELECT k, count(*), count(l.id), count(r.id) FROM lefts l FULL JOIN rights r USING (k) GROUP BY k
SELECT coalesce(l.k, r.k) AS c, count(*) FROM lefts l FULL JOIN rights r ON l.k = r.k GROUP BY c
SELECT l.id, r.id AS r, m.id AS m FROM lefts l FULL JOIN rights r ON l.k = r.k FULL JOIN middles m ON l.k = m.k
SELECT m.id, l.id AS l, r.id AS r FROM lefts l RIGHT JOIN rights r ON l.k = r.k LEFT JOIN middles m ON m.k = l.k
SELECT l.k, r.id, row_number() OVER (PARTITION BY l.k ORDER BY r.id, l.id) AS n FROM lefts l RIGHT JOIN rights r ON l.k = r.k
SELECT l.k FROM lefts l RIGHT JOIN rights r ON l.k = r.k EXCEPT SELECT k FROM middles
SELECT count(DISTINCT l.k), count(*) FILTER (l.k IS NULL) FROM lefts l RIGHT JOIN rights r ON l.k = r.k`},
	{"types", `
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.k = r.kb
SELECT l.id, r.id AS r FROM lefts l LEFT JOIN rights r ON l.kb = r.kx
SELECT l.id, r.id AS r FROM lefts l FULL JOIN rights r ON l.kd = r.kd4
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.k = r.kd
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.kf = r.kx
SELECT l.id FROM lefts l ANTI JOIN rights r ON l.ku = r.kb
SELECT l.id, r.id AS r FROM lefts l LEFT JOIN rights r ON l.dt = r.ts
SELECT l.id, r.id AS r FROM kinds l JOIN rights r ON l.hh = r.kx
SELECT l.id, r.id AS r FROM kinds l JOIN rights r ON l.ze = r.z
SELECT l.id, r.id AS r FROM kinds l JOIN rights r ON l.hh = r.k
SELECT l.id, r.id AS r FROM kinds l JOIN kinds r ON l.st = r.st AND l.li = r.li
SELECT l.id, r.id AS r FROM kinds l LEFT JOIN kinds r ON l.tz = r.tz AND l.g <> r.g
SELECT k, count(*) FROM (SELECT k FROM lefts UNION ALL SELECT kb FROM rights UNION ALL SELECT kd FROM middles) GROUP BY k
SELECT kb FROM lefts EXCEPT SELECT kx FROM rights
SELECT k FROM lefts INTERSECT ALL SELECT kd4 FROM rights
SELECT id FROM lefts WHERE k IN (SELECT kx FROM rights WHERE g = 1)
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.k + 1 = r.kb AND l.dt <= r.ts`},
	{"equal-values-with-unequal-bits", `
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.kx = r.kx
SELECT kx + 0 AS x, count(*) FROM lefts GROUP BY ALL
SELECT count(*) FROM (SELECT DISTINCT kx FROM lefts)
SELECT count(DISTINCT kx), count(DISTINCT -kx) FROM lefts
SELECT sum(c) FROM (SELECT -1 * kx AS x, count(*) AS c FROM rights GROUP BY x)
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.z COLLATE NOCASE = r.z COLLATE NOCASE
SELECT min(lower(z)), count(*) FROM lefts GROUP BY z COLLATE NOCASE
SELECT count(*) FROM (SELECT DISTINCT z COLLATE NOCASE FROM lefts)
SELECT id, row_number() OVER (PARTITION BY z COLLATE NOCASE ORDER BY id) AS n FROM rights
SELECT count(*), min(k) FROM kinds GROUP BY iv
SELECT l.id, r.id AS r FROM kinds l JOIN (SELECT id, to_months(k) AS mo FROM rights) r ON l.iv = r.mo
SELECT st, count(*) FROM kinds GROUP BY st
SELECT l.id, r.id AS r FROM kinds l JOIN kinds r ON l.bl = r.bl AND l.st IS NOT DISTINCT FROM r.st
SELECT (k % 4)::INTEGER::BIT AS t, count(*) FROM rights WHERE k >= 0 GROUP BY t`},
	{"null-keys", `
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.k IS NOT DISTINCT FROM r.k
SELECT l.id, r.id AS r FROM lefts l FULL JOIN rights r ON l.k IS NOT DISTINCT FROM r.k AND l.g = r.g
SELECT l.id, r.id AS r FROM lefts l LEFT JOIN rights r ON l.k = r.k
SELECT k, count(*) FROM lefts GROUP BY k
SELECT DISTINCT k, o FROM lefts
SELECT id, count(*) OVER (PARTITION BY k) AS c FROM lefts
SELECT id FROM lefts WHERE k NOT IN (SELECT k FROM rights)
SELECT id FROM lefts WHERE k NOT IN (SELECT k FROM rights WHERE k IS NOT NULL)
SELECT id FROM lefts WHERE k NOT IN (SELECT k FROM empties)
SELECT id, k IN (SELECT k FROM rights) AS i, k NOT IN (SELECT k FROM rights) AS n FROM lefts
SELECT id FROM lefts l WHERE n NOT IN (SELECT n FROM rights r WHERE r.k = l.k)
SELECT l.k, count(*) FROM lefts l LEFT JOIN rights r ON l.k = r.k GROUP BY l.k
SELECT k FROM lefts EXCEPT ALL SELECT k FROM rights
SELECT k FROM lefts INTERSECT SELECT k FROM rights
SELECT id FROM lefts WHERE k <> ALL (SELECT k FROM rights WHERE g = 2)
SELECT l.id FROM lefts l ANTI JOIN rights r ON l.k = r.k
SELECT id FROM lefts WHERE (k, n) NOT IN (SELECT k, n FROM rights WHERE o)`},
	{"empty-input", `
SELECT count(*), sum(n), min(k), avg(n), list(id) FROM empties
SELECT count(*) AS c, sum(n) AS s FROM lefts WHERE k > 1000
SELECT k, count(*) FROM empties GROUP BY k
SELECT k, count(*), grouping(k) FROM empties GROUP BY ROLLUP (k)
SELECT k, g, count(*) FROM empties GROUP BY GROUPING SETS ((k), (g), (), ())
SELECT g, o, sum(n), grouping(g, o) FROM lefts GROUP BY ROLLUP (g, o)
SELECT count(*) FROM lefts l JOIN empties e ON l.k = e.k
SELECT l.id, e.id AS e FROM lefts l LEFT JOIN empties e ON l.k = e.k
SELECT l.id, e.id AS e FROM empties e FULL JOIN lefts l ON l.k = e.k
SELECT count(*) FROM (SELECT count(*) FROM lefts WHERE id < 0)
SELECT count(*) FROM lefts HAVING count(*) > 1000
SELECT 1 AS one FROM lefts HAVING count(*) > 10
SELECT l.id, x.c FROM lefts l, LATERAL (SELECT count(*) AS c FROM empties e WHERE e.k = l.k) x
SELECT count(*), max(c) FROM (SELECT k, count(*) AS c FROM lefts WHERE false GROUP BY k)
SELECT id FROM lefts WHERE NOT EXISTS (SELECT 1 FROM empties)
SELECT id, (SELECT sum(n) FROM empties) AS s, (SELECT count(*) FROM empties) AS c FROM lefts
SELECT * FROM empties UNION ALL SELECT * FROM empties
SELECT count(*) OVER () AS c FROM empties`},
	{"aggregates", `
SELECT avg(n), avg(k), avg(kd), avg(far) FROM lefts
SELECT g, avg(n), avg(n) FILTER (o), count(n) FROM lefts GROUP BY g
SELECT count(DISTINCT g), count(DISTINCT n), sum(DISTINCT n), avg(DISTINCT n) FROM lefts
SELECT g, count(DISTINCT k), string_agg(DISTINCT z, ',' ORDER BY z) FROM lefts GROUP BY g
SELECT sum(huge), min(huge) FROM lefts
SELECT g, sum(huge), sum(ku), sum(kd4), avg(huge) FROM rights GROUP BY g
SELECT round(stddev(far), 6), round(var_pop(far), 6), round(covar_pop(far, n), 6), round(corr(far, n), 6), round(regr_slope(far, n), 6) FROM lefts
SELECT g, round(stddev_samp(far), 6) AS d FROM lefts GROUP BY g
SELECT median(n), quantile_cont(n, 0.25), quantile_disc(n, [0.1, 0.9]), mad(n) FROM lefts
SELECT g, median(n), mode(g) FROM lefts GROUP BY g
SELECT string_agg(s, '' ORDER BY id), list(k ORDER BY id), first(s ORDER BY id DESC), last(s ORDER BY id) FROM lefts
SELECT o, arg_max(s, id), arg_min(s, id), max_by(s, id), arg_max(id, n * 1000 + id) FROM lefts GROUP BY o
SELECT arg_max(id, n * 1000 + id, 3), max(id, 3), min(id, 2) FROM lefts
SELECT bool_and(o), bool_or(o), bit_and(id), bit_or(id), bit_xor(id), product(1 + g / 4.0), entropy(g) FROM lefts
SELECT histogram(g), skewness(n), kurtosis(n), fsum(n), sem(n) FROM lefts
SELECT sum(n) FILTER (o), list(id ORDER BY id DESC) FILTER (g = 1), count(*) FILTER (WHERE k IS NULL) FROM lefts
SELECT z, sum(n), count(DISTINCT g), avg(n) FROM lefts GROUP BY CUBE (z)
SELECT approx_count_distinct(g) > 0 AS a, any_value(1) AS v FROM lefts
SELECT g, sum(n) / sum(n + 1) AS ratio, max(n) - min(n) AS width FROM lefts GROUP BY g HAVING avg(n) > 1
SELECT avg(dt), avg(ts), sum(CASE WHEN o THEN 1 END), sum(n::HUGEINT) FROM lefts`},
	{"nondeterminism", `
SELECT count(DISTINCT now()), count(DISTINCT current_date), count(DISTINCT current_timestamp) FROM lefts
SELECT count(DISTINCT t) FROM (SELECT now() AS t FROM lefts UNION ALL SELECT now() FROM rights)
SELECT g, count(DISTINCT now()), min(now()) = max(now()) FROM lefts GROUP BY g
SELECT count(*) FROM lefts l JOIN rights r ON l.k = r.k WHERE now() < TIMESTAMPTZ '2001-01-01 00:00:00+00'
WITH c AS MATERIALIZED (SELECT id, random() AS lot FROM lefts) SELECT count(*) FROM c a JOIN c b USING (id) WHERE a.lot <> b.lot
WITH c AS MATERIALIZED (SELECT k, uuid() AS u FROM lefts) SELECT count(DISTINCT u), count(*) FROM (SELECT u FROM c UNION ALL SELECT u FROM c)
WITH c AS MATERIALIZED (SELECT id, k FROM lefts LIMIT 10) SELECT count(*), count(b.id) FROM c a LEFT JOIN c b USING (id)
SELECT count(*), count(b.id) FROM picked a LEFT JOIN picked b USING (id)
SELECT count(*) FROM drawn a JOIN drawn b USING (id) WHERE a.lot <> b.lot
SELECT count(*), count(*) FILTER (a.lot = b.lot) FROM drawn a JOIN drawn b ON a.k = b.k AND a.id = b.id
SELECT count(DISTINCT lot) > 1 AS d FROM drawn
SELECT count(DISTINCT n), min(n), max(n) FROM (SELECT row_number() OVER () AS n FROM lefts)
SELECT count(*) FROM (SELECT id FROM lefts LIMIT 7)
SELECT count(*) FROM (SELECT l.id FROM lefts l JOIN rights r ON l.k = r.k LIMIT 7 OFFSET 3)
SELECT count(DISTINCT random()) > 1 AS d, count(DISTINCT uuid()) = count(*) AS u FROM lefts`},
	{"correlated-subqueries", `
SELECT id FROM lefts l WHERE EXISTS (SELECT 1 FROM rights r WHERE r.k = l.k AND r.g <> l.g)
SELECT id FROM lefts l WHERE NOT EXISTS (SELECT 1 FROM rights r WHERE r.k = l.k AND r.g <> l.g)
SELECT id FROM lefts l WHERE NOT EXISTS (SELECT 1 FROM lefts o WHERE o.k = l.k AND o.g <> l.g)
SELECT id FROM lefts l WHERE EXISTS (SELECT 1 FROM rights r WHERE r.k > l.k AND r.g = 3)
SELECT id, (SELECT count(*) FROM rights r WHERE r.n < l.n) AS c FROM lefts l
SELECT id, (SELECT max(r.n) FROM rights r WHERE r.k = l.k AND r.id > l.id) AS m FROM lefts l
SELECT id, (SELECT r.id FROM rights r WHERE r.k = l.k) AS r FROM lefts l
SELECT id, (SELECT r.id FROM rights r WHERE r.id = l.id) AS r FROM lefts l
SELECT (SELECT k FROM rights WHERE id IN (3, 8)) AS two
SELECT id, (SELECT r.g FROM rights r WHERE r.id = 3 OR r.id = 8) AS two FROM lefts l
SELECT id FROM lefts l WHERE n = (SELECT n FROM rights WHERE g = 1)
SELECT id FROM lefts l WHERE n > (SELECT avg(n) FROM lefts i WHERE i.k = l.k)
SELECT id FROM lefts l WHERE n > (SELECT avg(n) FROM lefts i WHERE i.g = l.g)
SELECT id FROM lefts l WHERE k = ANY (SELECT k FROM rights r WHERE r.g = l.g)
SELECT id FROM lefts l WHERE k > ALL (SELECT k FROM rights r WHERE r.g = l.g AND r.k < 3)
SELECT l.id, x.r FROM lefts l, LATERAL (SELECT r.id AS r FROM rights r WHERE r.k = l.k ORDER BY r.id LIMIT 2) x
SELECT l.id, (SELECT list(r.id ORDER BY r.id) FROM rights r WHERE r.k = l.k) AS rs FROM lefts l
SELECT k, (SELECT count(*) FROM rights r WHERE r.k = l.k) AS c, sum(n) FROM lefts l GROUP BY k`},
	{"scalar-fragments", `
SELECT id FROM lefts WHERE n > (SELECT avg(n) FROM lefts)
SELECT id, n - (SELECT min(n) FROM rights) AS d FROM lefts
SELECT g, sum(n) AS s FROM lefts GROUP BY g HAVING sum(n) > (SELECT avg(n) FROM rights)
SELECT id FROM lefts WHERE n = (SELECT max(n) FROM lefts WHERE k = (SELECT min(k) FROM rights))
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.k = r.k AND r.n >= (SELECT median(n) FROM middles)
SELECT (SELECT count(*) FROM lefts) + (SELECT count(*) FROM rights) AS c
SELECT id FROM lefts WHERE n > (SELECT max(n) FROM empties)
SELECT id, (SELECT max(n) FROM empties) AS m FROM lefts
SELECT k, count(*) * 100.0 / (SELECT count(*) FROM lefts) AS share FROM lefts GROUP BY k
SELECT id, EXISTS (SELECT 1 FROM rights WHERE n > 7) AS e FROM lefts
WITH t AS (SELECT sum(n) AS s FROM lefts) SELECT id, n / (SELECT s FROM t) AS part, (SELECT s FROM t) AS s FROM lefts
SELECT id FROM lefts WHERE (SELECT count(*) FROM rights) > 5 AND n < (SELECT avg(n) FROM rights)`},
	{"set-operations", `
SELECT k, g FROM lefts UNION SELECT k, g FROM rights
SELECT k, g FROM lefts EXCEPT SELECT k, g FROM rights
SELECT k, g FROM lefts EXCEPT ALL SELECT k, g FROM rights
SELECT k, g FROM lefts INTERSECT ALL SELECT k, g FROM rights
SELECT g FROM lefts EXCEPT ALL SELECT g FROM middles
SELECT k, z FROM lefts INTERSECT SELECT kb, z FROM rights
SELECT k, g FROM lefts UNION BY NAME SELECT g, z FROM rights
SELECT k, g FROM lefts UNION ALL BY NAME SELECT g, kb AS k, z FROM rights
SELECT kx FROM lefts UNION SELECT kd FROM rights
SELECT k FROM lefts UNION ALL (SELECT k FROM rights INTERSECT SELECT k FROM middles)
(SELECT k FROM lefts EXCEPT SELECT k FROM rights) UNION (SELECT k FROM rights EXCEPT SELECT k FROM lefts)
SELECT o FROM lefts INTERSECT ALL SELECT o FROM rights
SELECT z, count(*) FROM (SELECT z, k FROM lefts UNION SELECT z, k FROM rights) GROUP BY z
SELECT k, NULL AS x FROM lefts EXCEPT SELECT k, NULL FROM rights`},
	{"windows", `
SELECT id, row_number() OVER (PARTITION BY g ORDER BY id) AS n FROM lefts
SELECT id, sum(n) OVER (PARTITION BY z ORDER BY id ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING) AS s FROM lefts
SELECT id, sum(n) OVER (ORDER BY n) AS s, rank() OVER (ORDER BY n) AS r, dense_rank() OVER (ORDER BY g) AS d FROM lefts
SELECT id, sum(n) OVER (ORDER BY n RANGE BETWEEN 1 PRECEDING AND 1 FOLLOWING EXCLUDE TIES) AS s FROM lefts WHERE n IS NOT NULL
SELECT id, lag(n) OVER (ORDER BY id) AS l, lead(n IGNORE NULLS) OVER (ORDER BY id) AS f FROM lefts
SELECT id, first_value(n IGNORE NULLS) OVER (PARTITION BY g ORDER BY id) AS f, last_value(n) OVER (PARTITION BY g ORDER BY id) AS l FROM lefts
SELECT id FROM lefts QUALIFY row_number() OVER (PARTITION BY k ORDER BY id DESC) = 1
SELECT id FROM lefts QUALIFY count(*) OVER (PARTITION BY k) > 4
SELECT id, k, ntile(3) OVER (PARTITION BY k ORDER BY id) AS t, percent_rank() OVER (PARTITION BY k ORDER BY id) AS p FROM lefts
SELECT id, count(*) OVER () AS c, sum(n) OVER () AS s FROM lefts
SELECT id, count(*) OVER (PARTITION BY k) AS c, count(*) OVER (PARTITION BY g) AS d FROM lefts
SELECT g, sum(n) AS s, sum(sum(n)) OVER () AS total, rank() OVER (ORDER BY sum(n), g) AS r FROM lefts GROUP BY g
SELECT l.id, r.id AS r, row_number() OVER (PARTITION BY l.k ORDER BY l.id, r.id) AS n FROM lefts l LEFT JOIN rights r ON l.k = r.k
SELECT id, sum(n) OVER w AS s, max(n) OVER w AS m FROM lefts WINDOW w AS (PARTITION BY k, g ORDER BY id GROUPS BETWEEN 1 PRECEDING AND CURRENT ROW)
SELECT id, nth_value(id, 2) OVER (PARTITION BY z ORDER BY id ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS v FROM lefts`},
	{"errors", `
SELECT id, CAST(s AS INTEGER) AS c FROM lefts
SELECT id, CAST(s AS INTEGER) AS c FROM lefts WHERE s = '17'
SELECT l.id, CAST(l.s AS INTEGER) AS c FROM lefts l JOIN rights r ON l.k = r.k WHERE l.s = '17'
SELECT g, sum(CASE WHEN s = '17' THEN CAST(s AS INTEGER) END) AS c FROM lefts GROUP BY g
SELECT g, sum(CAST(s AS INTEGER)) AS c FROM lefts GROUP BY g
SELECT sum(huge)::BIGINT AS c FROM lefts
SELECT g, sum(huge)::BIGINT AS c FROM lefts GROUP BY g
SELECT error('no') AS e FROM lefts WHERE id = 30
SELECT error('no') AS e FROM lefts WHERE id = 3000
SELECT g, max(CASE WHEN id = 44 THEN error('no')::VARCHAR END) AS e FROM lefts GROUP BY g
SELECT id, k // 0 AS a, k % 0 AS b, k / 0 AS c FROM lefts
SELECT id, (k + 2147483640)::INTEGER AS c FROM lefts
SELECT id, k::UTINYINT AS c FROM rights
SELECT max(id) + 9223372036854775807 AS c FROM lefts
SELECT try_cast(s AS INTEGER) AS c, count(*) FROM lefts GROUP BY c`},
	{"swallowed-errors-in-planning", `
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.k = r.k
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON abs(l.k) = abs(r.k)
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.k = r.k AND l.z = r.z AND l.g = r.g
SELECT l.id, r.id AS r, m.id AS m FROM lefts l JOIN rights r ON l.k = r.k JOIN middles m ON r.g = m.g AND l.z = m.z
SELECT l.id, r.c FROM lefts l JOIN (SELECT k, count(*) AS c FROM rights GROUP BY k) r ON l.k = r.k
SELECT l.id, r.c FROM lefts l JOIN (SELECT g, count(*) AS c FROM rights GROUP BY g) r ON l.k = r.g
SELECT l.id, r.c FROM lefts l LEFT JOIN (SELECT z, k, count(*) AS c FROM rights GROUP BY ALL) r ON l.k = r.k
SELECT l.id, r.k FROM (SELECT DISTINCT k, id FROM lefts) l JOIN (SELECT DISTINCT k FROM rights) r ON l.id % 5 = r.k
SELECT a.g, count(*) FROM (SELECT g, k FROM lefts UNION ALL SELECT g, k FROM rights) a JOIN middles m ON a.k = m.k GROUP BY a.g
WITH c AS (SELECT k, sum(n) AS s FROM lefts GROUP BY k) SELECT a.k, b.s FROM c a JOIN c b ON a.s = b.s
SELECT l.id FROM lefts l JOIN (SELECT k, row_number() OVER (PARTITION BY g ORDER BY id) AS n FROM rights) r ON l.k = r.k AND r.n = 1
SELECT l.id, m.id AS m FROM lefts l, rights r, middles m WHERE l.k = r.k AND r.id = m.id AND m.g = l.g
SELECT l.id FROM lefts l WHERE l.k IN (SELECT r.k FROM rights r JOIN middles m ON r.g = m.g WHERE m.o)`},
	{"order", `
SELECT id FROM lefts ORDER BY n, id
SELECT id FROM lefts ORDER BY n DESC NULLS FIRST, id DESC
SELECT id, n FROM lefts ORDER BY n NULLS FIRST, id LIMIT 11 OFFSET 4
SELECT id FROM lefts ORDER BY z COLLATE NOCASE, id
SELECT id, z FROM lefts ORDER BY z, id
SELECT id, kx FROM lefts ORDER BY kx DESC, id
SELECT g, count(*) AS c FROM lefts GROUP BY g ORDER BY c DESC, g
SELECT k, sum(n) AS s FROM lefts GROUP BY k ORDER BY s NULLS FIRST, k LIMIT 5
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.k = r.k ORDER BY r.id DESC, l.id LIMIT 20
SELECT id FROM (SELECT id FROM lefts ORDER BY n, id LIMIT 9) ORDER BY id DESC
SELECT count(*), sum(id) FROM (SELECT id FROM lefts ORDER BY n NULLS LAST, id LIMIT 9)
SELECT DISTINCT n FROM lefts ORDER BY n DESC NULLS LAST LIMIT 4
SELECT DISTINCT ON (k) k, id FROM lefts ORDER BY k, id DESC
SELECT n FROM lefts UNION ALL SELECT n FROM rights ORDER BY n NULLS LAST LIMIT 13
SELECT id FROM lefts ORDER BY id LIMIT 0
SELECT id FROM lefts ORDER BY id LIMIT 10%
SELECT id FROM lefts ORDER BY ALL DESC LIMIT 5
SELECT id FROM lefts ORDER BY (SELECT count(*) FROM rights r WHERE r.k = lefts.k), id LIMIT 6
SELECT ze, id FROM kinds ORDER BY ze, id
SELECT id, iv FROM kinds ORDER BY iv NULLS FIRST, id LIMIT 17`},
	{"global-state", `
SELECT count(*) FROM (SELECT * FROM lefts USING SAMPLE 10 ROWS)
SELECT id FROM lefts USING SAMPLE 100%
SELECT l.id, r.id AS r FROM lefts l ASOF JOIN rights r ON l.g = r.g AND l.id >= r.id
SELECT l.id, r.id AS r FROM lefts l ASOF LEFT JOIN rights r ON l.id < r.id
SELECT a.id, b.id AS b FROM (SELECT id FROM lefts ORDER BY id) a POSITIONAL JOIN (SELECT id FROM rights ORDER BY id DESC) b
WITH RECURSIVE t(i) AS (SELECT min(id) FROM lefts UNION ALL SELECT l.id FROM t JOIN lefts l ON l.id = t.i + 3) SELECT i FROM t
WITH RECURSIVE t(k, d) AS (SELECT k, 0 FROM rights WHERE g = 1 UNION SELECT l.k, d + 1 FROM t JOIN lefts l ON l.n = t.k WHERE d < 3) SELECT k, min(d), count(*) FROM t GROUP BY k
SELECT u.w, u.i FROM (SELECT list(id ORDER BY id) AS l FROM lefts) t, unnest(t.l) WITH ORDINALITY AS u(w, i)
SELECT unnest(l) AS w FROM (SELECT list(id ORDER BY id) AS l FROM lefts)
SELECT l.id, s.i FROM lefts l, generate_series(1, 3) AS s(i) WHERE l.id % 4 = s.i
SELECT s.i, count(l.id) FROM generate_series(0, 20) AS s(i) LEFT JOIN lefts l ON l.k = s.i GROUP BY s.i
SELECT l.id, s.i FROM lefts l, LATERAL (SELECT unnest(range(0, l.g)) AS i) s
PIVOT (SELECT g, z, n FROM lefts) ON z USING sum(n) GROUP BY g
PIVOT (SELECT g, z, n FROM lefts) ON z IN ('a', 'b') USING sum(n), count(*) AS c GROUP BY g
UNPIVOT (SELECT id, k, g FROM lefts) ON k, g INTO NAME name VALUE value
SELECT g, list(id ORDER BY id)[2:4] AS l, len(list(k)) AS c FROM lefts GROUP BY g`},
}

// trapWorld has the inputs of the traps, in three files of six row groups.
func trapWorld(t *testing.T) *world {
	w := openWorld(t)
	for _, d := range []struct {
		name                string
		every, shift, count int
	}{{"lefts", 7, 2, 72}, {"rights", 11, -1, 54}, {"middles", 5, 4, 36}, {"empties", 3, 0, 0}} {
		files, groups := 3, 18
		if d.count == 0 {
			files, groups = 1, 1
		}
		w.source(d.name, "read_parquet", "", w.write(d.name, fmt.Sprintf(trapRows, d.every, d.shift, d.count), d.count, files, groups, "r, p"))
	}
	return w
}

// sizeFor is a shard size that cuts two columns of rights into n shards.
func (w *world) sizeFor(t *testing.T, n int) int64 {
	for size := int64(1); size < 1<<20; size += size/8 + 1 {
		g, err := w.compile([]stage{{name: "s", sql: "SELECT id, k FROM rights"}}, []string{"s"}, settings{size: size})
		if err != nil {
			t.Fatal(err)
		}
		if len(g.Tasks[0].Shards) <= n {
			return size
		}
	}
	t.Fatalf("no shard size gives %d shards", n)
	return 0
}

func TestTraps(t *testing.T) {
	w := trapWorld(t)
	one, three, all := w.sizeFor(t, 1), w.sizeFor(t, 3), w.sizeFor(t, 18)
	for _, tr := range traps {
		t.Run(tr.name, func(t *testing.T) {
			var stages []stage
			want := map[string]outcome{}
			wrong := 0
			for i, text := range strings.Split(strings.TrimSpace(tr.statements), "\n") {
				s := stage{name: fmt.Sprintf("s%02d", i+1), sql: text}
				stages = append(stages, s)
				want[s.name] = w.reference(append(slices.Clone(trapStages), s))
				if refused(want[s.name].err) {
					t.Fatalf("%s: %v", text, want[s.name].err)
				}
				if same(want[s.name], w.naive(text), ordered(text)) != "" {
					wrong++
				}
			}
			if wrong == 0 {
				t.Error("buckets of k give the right answer to every statement: the data is no trap")
			}
			for _, o := range []settings{
				{size: one}, {size: three}, {size: all, small: 1}, {size: three, small: 1}, // small: no side of a join is read whole
			} {
				o.threads = 1
				got, plan := w.all(trapStages, stages, o)
				for _, s := range stages {
					why := same(want[s.name], got[s.name], ordered(s.sql))
					if why == "" {
						why = sameError(want[s.name], got[s.name])
					}
					if why != "" {
						t.Errorf("shard size %d, small %d (%s): %s\n  %s", o.size, o.small, planOf(plan, s.name), why, s.sql)
					}
				}
			}
		})
	}
}

// planOf is the part of a plan that is about a stage.
func planOf(plan, name string) string {
	var parts []string
	for _, p := range strings.Split(plan, "; ") {
		if strings.HasPrefix(p, name) {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, "; ")
}

// sameError reports whether kq's error tells what DuckDB's does.
func sameError(want, got outcome) string {
	if want.err == nil || got.err == nil {
		return ""
	}
	_, text, _ := strings.Cut(want.err.Error(), "Error: ")
	text = text[:min(len(text), 24)]
	if !strings.Contains(got.err.Error(), text) {
		return fmt.Sprintf("the error is %q, DuckDB's %q", got.err, want.err)
	}
	return ""
}

// naive is what an engine answers that deals all rows into buckets of k and runs
// the statement in each.
func (w *world) naive(text string) (all outcome) {
	sources := []string{"lefts", "rights", "middles", "empties"}
	for bucket := range 3 {
		var views []stage
		for _, name := range sources {
			views = append(views, stage{name: name, sql: fmt.Sprintf("SELECT * FROM memory.main.%s WHERE coalesce(k, 0) %% 3 IN (%d, %d)", name, bucket, -bucket)})
		}
		o := w.reference(append(append(views, trapStages...), stage{sql: text}))
		if o.err != nil {
			return o
		}
		all.columns, all.rows = o.columns, append(all.rows, o.rows...)
	}
	return all
}
