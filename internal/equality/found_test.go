package equality

import (
	"slices"
	"strings"
	"testing"
)

// found are statements that kq once answered wrongly, each line one.
var found = []trap{
	{"split-of-one-side", `
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.k = r.k
SELECT l.id, r.id AS r FROM lefts l JOIN rights r ON l.g = r.g
SELECT l.id, r.id AS r FROM kinds l JOIN rights r ON l.ze = r.z`},
	{"groups-by-nothing", `
SELECT 1 AS one FROM lefts GROUP BY ()
SELECT 1 AS one FROM empties GROUP BY ()
SELECT count(*) FROM lefts GROUP BY GROUPING SETS ((), ())
SELECT sum(n) AS s FROM empties GROUP BY GROUPING SETS ((), (), ())
SELECT l.id, x.one FROM lefts l, (SELECT 1 AS one FROM rights GROUP BY ()) x`},
	{"asof-using", `
SELECT l.id, r.n FROM (SELECT DISTINCT id, k FROM lefts WHERE k IS NOT NULL) l ASOF JOIN (SELECT k, min(n) AS n FROM rights WHERE k IS NOT NULL GROUP BY k) r USING (k)
SELECT l.id, r.n FROM (SELECT id, g, k FROM lefts WHERE k IS NOT NULL) l ASOF LEFT JOIN (SELECT g, k, min(n) AS n FROM rights WHERE k IS NOT NULL GROUP BY g, k) r USING (g, k)
SELECT id, k, g, n2 FROM (SELECT id, g, k FROM lefts WHERE k IS NOT NULL) l ASOF LEFT JOIN (SELECT g, k, min(n) AS n2 FROM rights WHERE k IS NOT NULL GROUP BY g, k) r USING (g, k)
SELECT * FROM (SELECT id, g, k FROM lefts WHERE k IS NOT NULL) l ASOF LEFT JOIN (SELECT min(n) AS n, g, k FROM rights WHERE k IS NOT NULL GROUP BY g, k) r USING (g, k)`},
	{"aggregates-of-the-query-around", `
SELECT (SELECT sum(l.n)) AS s FROM lefts l
SELECT (SELECT count(*) FROM rights r WHERE r.k = max(l.k)) AS s FROM lefts l
SELECT g, (SELECT sum(l.n) + max(r.n) FROM rights r WHERE r.g = l.g) AS s FROM lefts l GROUP BY g
SELECT g FROM lefts l GROUP BY g HAVING EXISTS (SELECT 1 FROM rights r WHERE r.k = l.g AND r.n > min(l.n))
SELECT id, (SELECT sum(r.n + l.n) FROM rights r WHERE r.k = l.k) AS s FROM lefts l`},
	{"windows-above-grouping-sets", `
SELECT l.k, rank() OVER (PARTITION BY l.k ORDER BY median(l.n)) AS r FROM lefts l JOIN rights r ON l.k = r.k GROUP BY GROUPING SETS ((l.k), (r.k))
SELECT DISTINCT ON (l.k) l.k, 1 AS one FROM lefts l JOIN rights r ON l.k = r.k GROUP BY GROUPING SETS ((l.k), (r.k))
SELECT DISTINCT l.k FROM lefts l JOIN rights r ON l.k = r.k GROUP BY GROUPING SETS ((l.k), (r.k))
SELECT l.k, median(r.n) AS m FROM lefts l JOIN rights r ON l.k = r.k GROUP BY GROUPING SETS ((l.k), (r.k)) QUALIFY count(*) OVER (PARTITION BY l.k) > 1`},
	{"pinned-below-a-divided-query", `
SELECT l.id, y.c FROM lefts l, LATERAL (SELECT x.k, count(*) AS c FROM (SELECT r.k FROM rights r WHERE r.k = l.k) x, middles m GROUP BY x.k) y WHERE l.k = y.k AND EXISTS (SELECT 1 FROM middles m2 WHERE m2.k = l.k)
SELECT l.id, y.c FROM lefts l, LATERAL (SELECT DISTINCT x.k, m.g AS c FROM (SELECT r.k FROM rights r WHERE r.k = l.k) x, middles m) y WHERE l.k = y.k AND l.k IN (SELECT k FROM middles)`},
	{"names-in-nested-joins", `
SELECT x.a, y.b, z.c FROM (SELECT k AS a, k AS b FROM lefts) x JOIN ((SELECT g AS b FROM middles) y JOIN (SELECT k AS c FROM rights) z ON b = c) ON true
SELECT x.a, y.b, z.c FROM (SELECT k AS a, k AS b FROM lefts) x JOIN ((SELECT k AS b FROM middles) y JOIN (SELECT k AS c FROM rights) z ON b = c) ON x.a = y.b
SELECT x.a, y.b, z.c FROM (SELECT k AS a, k AS b FROM lefts) x JOIN ((SELECT g AS b FROM middles) y LEFT JOIN (SELECT k AS c FROM rights) z ON b = c) ON x.a = z.c
SELECT x.a, y.b, z.c FROM (SELECT k AS a, k AS b FROM lefts) x LEFT JOIN ((SELECT g AS b, k FROM middles) y JOIN (SELECT k AS c FROM rights) z ON b = c) ON x.b = z.c AND x.a > y.k`},
	{"columns-by-position", `
SELECT a, median(q) FROM (SELECT l.id AS q, * FROM lefts l FULL JOIN rights r USING (k)) t(q, a, b, c, d, e, f) GROUP BY a
SELECT a, median(b) FROM (SELECT * FROM (SELECT g, k FROM lefts) l FULL JOIN (SELECT n, k FROM rights) r USING (k)) t(a, b, c) GROUP BY a
SELECT b, median(a) FROM (SELECT * FROM (SELECT g, k FROM lefts) l FULL JOIN (SELECT n, k FROM rights) r USING (k)) t(a, b, c) GROUP BY b
SELECT c, median(b) FROM (SELECT * FROM (SELECT g, k FROM lefts) l RIGHT JOIN (SELECT n, k FROM rights) r USING (k)) t(a, b, c) GROUP BY c
SELECT *, median(n) OVER (PARTITION BY n % 3) AS m FROM (SELECT g, k FROM lefts) l RIGHT JOIN (SELECT n, k FROM rights) r USING (k)
SELECT *, median(n) OVER (PARTITION BY n % 3) AS m FROM (SELECT g, k FROM lefts) l FULL JOIN (SELECT n, k FROM rights) r USING (k)
SELECT *, median(n) OVER (PARTITION BY n % 3) AS m FROM (SELECT g, k FROM lefts) l NATURAL RIGHT JOIN (SELECT n, k FROM rights) r
SELECT *, median(n) OVER (PARTITION BY n % 3) AS m FROM (SELECT g, k FROM lefts) l RIGHT JOIN ((SELECT n, k FROM rights) r RIGHT JOIN (SELECT o, k FROM middles) m USING (k)) USING (k)
SELECT * FROM (SELECT g, k FROM lefts) l FULL JOIN (SELECT n, k FROM rights) r USING (k) FULL JOIN (SELECT o, k FROM middles) m USING (k) EXCEPT SELECT g, k, n, o FROM rights
SELECT a, median(b) FROM (SELECT * EXCLUDE (id, kb, ku, kd, kd4, kh, kx, kf, s, z, dt, ts, huge, n, far, o, k), k FROM lefts) t(a, b) GROUP BY a
SELECT k, median(n2) FROM (SELECT * EXCLUDE (n), n AS n2, g AS k FROM lefts) GROUP BY k
SELECT b, median(c) FROM (SELECT COLUMNS('^(g|n)$') + 0 AS x, k FROM lefts) t(a, b, c) GROUP BY b
SELECT b, count(DISTINCT c) FROM (SELECT unnest(st) AS x, k FROM kinds) t(a, b, c) GROUP BY b
SELECT a, median(c) FROM (SELECT st.*, k FROM kinds) t(a, b, c) GROUP BY a
SELECT b, count(DISTINCT c) FROM (SELECT st.*, k FROM kinds) t(a, b, c) GROUP BY b
WITH t(a, b, c) AS (SELECT st.*, k FROM kinds) SELECT b, count(DISTINCT c) FROM t GROUP BY b`},
	{"aliases-in-order-and-distinct-on", `
SELECT DISTINCT ON (k) g AS k, id FROM lefts ORDER BY k, id
SELECT DISTINCT ON (k) g AS k FROM lefts
SELECT DISTINCT ON (k) k AS k, 1 AS one FROM lefts
SELECT DISTINCT ON (k) r.k AS k, 1 AS one FROM lefts l LEFT JOIN (SELECT DISTINCT k, g FROM rights WHERE g = 2) r ON l.k = r.k
SELECT DISTINCT ON (k) g AS k, count(*) > 0 AS c FROM lefts GROUP BY g, k
SELECT g AS k, n AS g, id FROM lefts ORDER BY k, g, lefts.id
SELECT count(*), sum(a), sum(b) FROM (SELECT *, g AS k FROM (SELECT id, k FROM lefts) x JOIN (SELECT id, g FROM lefts) y USING (id) ORDER BY k, id LIMIT 7) t(a, b)
SELECT DISTINCT ON (k) r.k, 1 AS one FROM lefts l LEFT JOIN (SELECT DISTINCT k, g FROM rights WHERE g = 2) r USING (k)
SELECT DISTINCT ON (k) r.* FROM lefts l LEFT JOIN (SELECT DISTINCT k FROM rights WHERE g = 2) r USING (k)
SELECT count(*), sum(b), sum(c) FROM (SELECT r.k, l.k, l.id FROM lefts l LEFT JOIN (SELECT DISTINCT k FROM rights WHERE g = 2) r USING (k) ORDER BY k, l.id LIMIT 9) t(a, b, c)
SELECT *, g + 1 AS h FROM lefts ORDER BY h, id
SELECT count(*), sum(a), sum(b) FROM (SELECT k AS x, g AS x FROM lefts ORDER BY x, lefts.id LIMIT 9) t(a, b)
SELECT count(*), sum(a), sum(b) FROM (SELECT k, g AS k FROM lefts ORDER BY k, lefts.id LIMIT 9) t(a, b)
SELECT r.k, l.id, r.id AS r FROM lefts l LEFT JOIN rights r USING (k) ORDER BY k, l.id, r.id
SELECT r.* FROM (SELECT id AS i, k FROM lefts) l LEFT JOIN (SELECT k, id FROM rights) r USING (k) ORDER BY k, i, id
SELECT count(*), sum(id) FROM (SELECT id FROM lefts ORDER BY id LIMIT 3.7)
SELECT id FROM lefts ORDER BY id LIMIT 9223372036854775807 OFFSET 5`},
	{"keys-named-in-subqueries", `
SELECT n % 3 AS m, median(id) AS d, (SELECT count(*) FROM rights WHERE n % 3 = 1) AS c FROM lefts GROUP BY n % 3
SELECT n % 3 AS m, median(id) AS d, n % 3 IN (SELECT n % 3 FROM rights WHERE n % 3 < 2) AS c FROM lefts GROUP BY n % 3
SELECT n % 3 AS m, max(id) AS d, (SELECT count(*) FROM rights WHERE n % 3 = 1) AS c FROM lefts GROUP BY n % 3
SELECT id, rank() OVER (PARTITION BY n % 3 ORDER BY id) AS d, (SELECT count(*) FROM rights r WHERE n % 3 = 1 AND r.k = lefts.k) AS c FROM lefts`},
	{"relations-as-rows", `
SELECT l FROM lefts l JOIN rights r ON l.k = r.k
SELECT l.id, md5(rights::VARCHAR) AS j FROM lefts l LEFT JOIN rights ON l.k = rights.k
SELECT k, count(DISTINCT l) AS c FROM (SELECT k, g FROM lefts) l GROUP BY k
SELECT l.id, (SELECT max(r) FROM rights r WHERE r.k = l.k) AS m FROM lefts l`},
	{"names-of-kq", `
SELECT k AS __kq_key, id FROM lefts ORDER BY id
SELECT k AS __kq_bucket, id FROM lefts ORDER BY id
SELECT __kq_order_0, id FROM (SELECT id, k AS __kq_order_0 FROM lefts) ORDER BY id % 3, id
SELECT sum(n) AS __kq_a1, count(*) AS c FROM lefts GROUP BY g HAVING count(*) > 3
SELECT __kq_g0, max(n) AS m FROM lefts AS l(a, __kq_g0) GROUP BY __kq_g0`},
	{"order-of-a-query-within", `
SELECT list(id) AS l FROM (SELECT id FROM lefts ORDER BY n, id)
SELECT g, list(id) AS l FROM (SELECT id, g FROM lefts ORDER BY n, id) GROUP BY g
SELECT string_agg(id, ',') AS l FROM (SELECT id FROM lefts ORDER BY n, id LIMIT 9)
WITH c AS (SELECT id, n FROM lefts ORDER BY n DESC, id) SELECT first(id) AS f, last(id) AS l FROM c
SELECT count(*), sum(id) FROM (SELECT * FROM (SELECT id FROM lefts ORDER BY n, id) LIMIT 5)
SELECT id, row_number() OVER () AS n FROM (SELECT id FROM lefts ORDER BY n, id)`},
	{"names-that-with-hides", `
WITH a AS (SELECT * FROM lefts), lefts AS (SELECT count(*) AS id, 1 AS k FROM rights) SELECT id, k FROM a
WITH a AS (SELECT * FROM lefts), lefts AS (SELECT k, min(id) AS id FROM rights GROUP BY k) SELECT a.id, x.k FROM a JOIN lefts x ON a.k = x.k JOIN lefts y ON x.k = y.k
WITH a AS (SELECT id, k FROM lefts) SELECT * FROM (WITH lefts AS (SELECT k, count(*) AS id FROM rights GROUP BY k) SELECT a.id, x.k FROM a JOIN lefts x ON a.k = x.k JOIN lefts y ON x.k = y.k)
WITH RECURSIVE a AS (SELECT id, k FROM lefts), lefts(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM lefts WHERE i < 5) SELECT count(*), sum(i), sum(k) FROM a, lefts
WITH RECURSIVE lefts(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM lefts WHERE i < 5) SELECT r.id, x.i FROM rights r JOIN (SELECT i FROM lefts) x ON r.k = x.i
SELECT id, k FROM picked WHERE k IN (WITH picked AS (SELECT k FROM rights) SELECT k FROM picked)`},
	{"repeated-names", `
SELECT k_1, median(m) FROM (SELECT k, g AS k, n AS k_1, id AS m FROM lefts) GROUP BY k_1
SELECT k_1, median(m) FROM (SELECT k AS m, g AS k_1, n AS k, id AS k FROM lefts) GROUP BY k_1
SELECT k_1, median(m) FROM (SELECT l.k, r.g AS k, r.n AS m FROM lefts l LEFT JOIN rights r ON l.k = r.k) GROUP BY k_1`},
	{"types-of-constants", `
SELECT k, greatest(CASE WHEN max(n) > 5 THEN 0e0 ELSE max(huge) END, 2.50) AS g FROM lefts GROUP BY k
SELECT l.id, CASE WHEN r.n > 3 THEN 1e0 ELSE l.huge END + 0.25 AS c FROM lefts l JOIN rights r ON l.k = r.k
SELECT k, sum(n * 1e0) / 3 AS s, typeof(sum(n * 1e0)) AS t, max(1e-5 + n) AS m FROM lefts GROUP BY k
SELECT l.id, true AS t, typeof(2.5e0) AS d, 1e300 AS e, -1e0 AS f FROM lefts l JOIN rights r ON l.k = r.k WHERE true
SELECT k, quantile_cont(n, 0.5e0) AS q FROM lefts GROUP BY k`},
	{"columns-of-nothing-but-nulls", `
SELECT x.k, r.id FROM (SELECT k, NULL AS c, count(*) AS n FROM lefts GROUP BY k) x LEFT JOIN rights r ON x.c = r.s AND x.k = r.k
SELECT x.k, r.id FROM (SELECT DISTINCT ON (k) k, NULL || '-' || 'b' AS c FROM lefts ORDER BY k, id) x LEFT JOIN rights r ON x.c = r.s
SELECT x.k, x.c || r.s AS t, coalesce(x.c, r.s) AS s FROM (SELECT k, max(NULL) AS c FROM lefts GROUP BY k) x JOIN rights r ON x.k = r.k
SELECT x.k, coalesce(x.c, [r.s]) AS s, coalesce(x.d, {'a': r.s}) AS d FROM (SELECT k, [NULL] AS c, {'a': NULL} AS d, count(*) AS n FROM lefts GROUP BY k) x JOIN rights r ON x.k = r.k WHERE x.n > 1
SELECT k, c FROM (SELECT k, NULL AS c FROM lefts GROUP BY k) UNION SELECT k, s FROM rights
SELECT k, NULL AS c, [NULL] AS d, {'a': NULL} AS e, count(DISTINCT n) AS n FROM lefts GROUP BY k
SELECT c, count(*) AS n FROM (SELECT NULL AS c, k FROM lefts) GROUP BY c
WITH q AS (SELECT NULL::VARCHAR || 'b' AS c, count(*) AS n FROM middles GROUP BY ALL) SELECT l.id, y.w FROM lefts l LEFT JOIN LATERAL (SELECT max(q.n) AS w, count(*) AS n FROM q WHERE l.s = q.c) y ON true
WITH q AS (SELECT NULL::VARCHAR || 'b' AS c, n FROM (SELECT * FROM middles ORDER BY n, id LIMIT 5) GROUP BY ALL) SELECT DISTINCT ON (l.k) l.k, y.w FROM lefts l LEFT JOIN LATERAL (SELECT max(q.n) AS w, count(*) AS n FROM q WHERE l.s = q.c) y ON true ORDER BY l.k, l.id
SELECT * FROM (SELECT k, NULL AS c FROM lefts) x JOIN (SELECT n, NULL AS d FROM rights) y ON x.c IS NOT DISTINCT FROM y.d AND x.k = y.n`},
	{"queries-read-twice", `
WITH c AS (SELECT k, sum(n) AS s FROM lefts GROUP BY k) SELECT r.id, c.s FROM rights r JOIN c ON r.k = c.k WHERE c.s = (SELECT max(s) FROM c)
WITH c AS (SELECT k, avg(n) AS s FROM lefts GROUP BY k), d AS (SELECT max(s) AS m FROM c) SELECT c.k, c.s FROM c, d WHERE c.s > d.m / 2
WITH c AS (SELECT id, n FROM lefts ORDER BY n DESC, id) SELECT (SELECT first(id) FROM c) AS f, (SELECT last(id) FROM c) AS l, (SELECT count(*) FROM c) AS n
WITH c AS (SELECT id, n FROM lefts ORDER BY n DESC, id LIMIT 9) SELECT (SELECT list(id) FROM c) AS f, (SELECT count(*) FROM c) AS l
WITH c AS MATERIALIZED (SELECT id, k, n FROM lefts WHERE n > 3) SELECT a.id, b.id AS o FROM c a JOIN c b ON a.k = b.k AND a.n < b.n`},
	{"columns-by-number", `
SELECT id, ARRAY(SELECT n FROM rights WHERE n IS NOT NULL ORDER BY id) AS a FROM lefts
SELECT id, ARRAY(SELECT r.id FROM rights r WHERE r.k = l.k ORDER BY r.id) AS a FROM lefts l
SELECT max(#1) AS m, k FROM lefts GROUP BY k
SELECT median(#1) AS m, n % 3 AS k FROM lefts GROUP BY n % 3
SELECT l.k AS a, #4 AS b FROM lefts l JOIN rights r ON l.k = r.k
SELECT l.id, #4 AS b FROM lefts l, rights r, middles m WHERE l.k = r.k AND r.g = m.id
SELECT g AS a, id AS b FROM lefts ORDER BY #1, #2 DESC LIMIT 9
SELECT DISTINCT ON (#2) id, g FROM lefts ORDER BY #2, #1`},
}

func TestFound(t *testing.T) {
	w := trapWorld(t)
	three, all := w.sizeFor(t, 3), w.sizeFor(t, 18)
	for _, f := range found {
		t.Run(f.name, func(t *testing.T) {
			for _, text := range strings.Split(strings.TrimSpace(f.statements), "\n") {
				text, inOrder := strings.CutSuffix(text, " /*ordered*/")
				s := stage{name: "result", sql: text}
				want := w.reference(append(slices.Clone(trapStages), s))
				if want.err != nil {
					t.Fatalf("%s: %v", text, want.err)
				}
				for _, o := range []settings{{size: three}, {size: all, small: 1}, {size: three, small: 1}, {size: three, small: 1, exchange: "auto"}} {
					o.threads = 1
					got, plan := w.run(append(slices.Clone(trapStages), s), o)
					if why := same(want, got, inOrder || ordered(text)); why != "" {
						t.Errorf("shard size %d, small %d (%s): %s\n  %s", o.size, o.small, planOf(plan, "result"), why, text)
					}
				}
			}
		})
	}
}
