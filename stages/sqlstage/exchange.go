package sqlstage

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/kinequet/kq/internal/durable"
	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/route"
)

// bucketColumn is the column of a routed part that says each row's bucket.
const bucketColumn = "__kq_bucket"

// piece is one of several pieces that a shard is computed in. Rows that agree in
// the key are in the same one, so that what is parallel in the key by buckets is
// so by pieces.
type piece struct{ number, of int }

var whole = piece{of: 1}

const (
	pieceRows = 2048 // neighbours that stay in one piece of rows that have no key
	pieceSeed = 7919 // sets the pieces' hash apart from that of the buckets
	maxPieces = 64
)

// routes reports whether the task needs kq_bucket.
func (s *Session) routes() bool {
	if s.t.Output.Route != nil {
		return true
	}
	for _, in := range s.t.Inputs {
		if in.Bucketed() || in.Kind == pipeline.Range {
			return true
		}
	}
	return false
}

// bucketGroup is what a shard of hash inputs has: whole buckets, or one of
// several pieces of the input that may be split, of one bucket.
type bucketGroup struct {
	first, last int
	piece       piece
}

const (
	leastGroups = 8       // shards to aim at, so that every worker has some
	leastBytes  = 8 << 20 // stored bytes that are worth a shard
	mostPieces  = 16      // of a bucket
)

// group deals the buckets to the shards by what their producers have written:
// small neighbours are merged, and a bucket much larger than the others is split
// where the statement allows it. Every worker comes to the same result, as it
// depends on nothing but the plan and the recorded parts; what is left of the
// shards has nothing to do.
func (s *Session) group() error {
	var bytes, split []int64 // by bucket: in all, and of the input that may be split
	var total int64
	for i := range s.t.Inputs {
		in := &s.t.Inputs[i]
		if !in.Bucketed() {
			continue
		}
		r := s.g.Task(in.Task).Output.Route
		if r == nil {
			return fmt.Errorf("task %s reads buckets of %s, which has none", s.t.Name, in.Task)
		}
		if bytes == nil {
			bytes, split = make([]int64, r.Buckets), make([]int64, r.Buckets)
		}
		if len(bytes) != r.Buckets {
			return fmt.Errorf("task %s reads inputs of %d and %d buckets", s.t.Name, len(bytes), r.Buckets)
		}
		for _, parts := range s.parts[in.Task] {
			for _, p := range parts {
				for b, rows := range p.Buckets {
					n := p.Bytes * rows / max(1, p.Rows)
					bytes[b] += n
					total += n
					if in.Split {
						split[b] += n
					}
				}
			}
		}
	}
	s.groups = dealBuckets(bytes, split, min(s.t.BucketBytes/2, max(total/leastGroups, leastBytes)))
	return nil
}

// dealBuckets makes at most as many groups as there are buckets, of about target
// bytes each.
func dealBuckets(bytes, split []int64, target int64) (groups []bucketGroup) {
	var open int64
	for b, n := range bytes {
		if last := len(groups) - 1; last >= 0 && open+n <= target {
			groups[last].last = b
			open += n
			continue
		}
		groups = append(groups, bucketGroup{b, b, whole})
		open = n
	}
	spare := len(bytes) - len(groups)
	for i := 0; i < len(groups) && spare > 0; i++ {
		g := groups[i]
		// Only what stands out: the other inputs are read again for every piece.
		if g.first != g.last || bytes[g.first] < 3*max(target, 1) || split[g.first] < bytes[g.first]*3/4 {
			continue
		}
		n := min(mostPieces, spare+1, int(bytes[g.first]/max(target, 1)))
		pieces := make([]bucketGroup, n)
		for k := range pieces {
			pieces[k] = bucketGroup{g.first, g.last, piece{k, n}}
		}
		groups = slices.Replace(groups, i, i+1, pieces...)
		spare -= n - 1
		i += n - 1
	}
	return groups
}

// idle reports whether a shard has nothing to read: its buckets went to others,
// or the shard whose rows it would read had none.
func (s *Session) idle(shard *pipeline.Shard) bool {
	if s.groups != nil {
		return shard.Ordinal >= len(s.groups)
	}
	if s.input != nil && s.input.Task != "" {
		all := s.parts[s.input.Task]
		return shard.Ordinal < len(all) && len(all[shard.Ordinal]) == 0
	}
	return false
}

// bucketQuery reads the shard's buckets from the parts of the task that routed
// them: only files that have such rows, and of these only the row groups.
func (s *Session) bucketQuery(in *pipeline.TaskInput, shard *pipeline.Shard) (string, error) {
	g := s.groups[shard.Ordinal]
	all := s.parts[in.Task]
	var some, read []pipeline.StoredPart
	for _, parts := range all {
		for _, p := range parts {
			some = []pipeline.StoredPart{p}
			if g.rows(p) > 0 {
				read = append(read, p)
			}
		}
	}
	if some == nil {
		return "", fmt.Errorf("task %s has no parts", in.Task)
	}
	if len(read) == 0 {
		return s.partRows(in, some, "false"), nil
	}
	where := fmt.Sprintf("%s BETWEEN %d AND %d", bucketColumn, g.first, g.last)
	if in.Split && g.piece.of > 1 {
		where += fmt.Sprintf(" AND file_row_number %% %d = %d", g.piece.of, g.piece.number)
	}
	return s.partRows(in, read, where), nil
}

// rows is how many rows of a part are in the group's buckets, by the ledger.
func (g bucketGroup) rows(p pipeline.StoredPart) (rows int64) {
	for b := g.first; b <= g.last && b < len(p.Buckets); b++ {
		rows += p.Buckets[b]
	}
	return rows
}

// rangeQuery reads the rows of a source whose key is in the shard's range.
func rangeQuery(src *pipeline.Input, in *pipeline.TaskInput, shard *pipeline.Shard) string {
	r, column := shard.Range, ident(in.Key[0])
	some := &pipeline.Shard{}
	for _, f := range r.Files[in.Name] {
		some.Slices = append(some.Slices, pipeline.Slice{File: f, Whole: true})
	}
	var conds []string
	if r.Null {
		conds = append(conds, column+" IS NULL")
	}
	if r.Low != "" {
		conds = append(conds, column+" >= "+r.Low)
	}
	if r.High != "" {
		conds = append(conds, column+" < "+r.High)
	}
	if !r.Null && len(conds) == 0 {
		conds = append(conds, column+" IS NOT NULL")
	}
	query := sourceQuery(src, some, whole)
	if len(some.Slices) == len(src.Files) {
		query = sourceQuery(src, nil, whole)
	}
	return "SELECT * FROM (" + query + ") WHERE " + strings.Join(conds, " AND ")
}

// pieces computes a shard, in as many pieces as memory asks for.
func (s *Session) pieces(ctx context.Context, shard *pipeline.Shard, out string, m *pipeline.Metrics) ([]pipeline.Written, error) {
	for n := 1; ; {
		*m = pipeline.Metrics{}
		written, err := s.attempt(ctx, shard, n, out, m)
		if err == nil || ctx.Err() != nil || !outOfMemory(err) {
			return written, err
		}
		switch {
		case s.t.Raw != nil && !s.raw:
			s.raw = true
		case s.divisible() && n < maxPieces:
			n *= 2
		default:
			return written, err
		}
		for _, w := range written {
			_ = durable.Remove(w.Path)
		}
	}
}

// attempt computes a shard in n pieces.
func (s *Session) attempt(ctx context.Context, shard *pipeline.Shard, n int, out string, m *pipeline.Metrics) (written []pipeline.Written, err error) {
	for i := range n {
		path := out
		if i > 0 {
			ext := filepath.Ext(out)
			path = fmt.Sprintf("%s.%d%s", strings.TrimSuffix(out, ext), i, ext)
		}
		w, err := s.piece(ctx, shard, piece{i, n}, path, m)
		written = append(written, w)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// divisible reports whether the shard can be computed piece by piece: by its key,
// or row by row where a fragment is row-wise and the rows have numbers.
func (s *Session) divisible() bool {
	if s.t.Stage != "" && s.input != nil {
		src := s.g.Input(s.input.Source)
		return src == nil || src.Relation.Function == "read_parquet" && src.Relation.Args == "" && columnType(src.Columns, "file_row_number") == ""
	}
	for _, in := range s.t.Inputs {
		if len(in.Hash) > 0 && in.Divided() {
			return true
		}
	}
	return false
}

func outOfMemory(err error) bool {
	var d *duckdb.Error
	return errors.As(err, &d) && d.Type == duckdb.ErrorTypeOutOfMemory
}

// piece computes one piece of a shard and adds to its metrics.
func (s *Session) piece(ctx context.Context, shard *pipeline.Shard, p piece, out string, m *pipeline.Metrics) (pipeline.Written, error) {
	w := pipeline.Written{Path: out}
	rowsIn := max(0, shard.Rows)
	for i := range s.t.Inputs {
		in := &s.t.Inputs[i]
		if !in.Divided() {
			continue
		}
		if err := s.view(ctx, in, shard, p); err != nil {
			return w, s.explain(shard, err)
		}
		if !in.Bucketed() {
			continue
		}
		n, err := s.arrived(ctx, in, shard, p)
		if err != nil {
			return w, err
		}
		rowsIn += n
	}
	if err := s.reduces(ctx); err != nil {
		return w, s.explain(shard, err)
	}
	query, err := s.statement(ctx)
	if err != nil {
		return w, s.explain(shard, err)
	}
	w.Raw = s.raw
	options := s.t.CopyOptions() + s.rowGroups(shard.Rows)
	w.Rows, err = s.copy(ctx, "COPY ("+query+"\n) TO "+literal(out)+" ("+options+", USE_TMP_FILE false)", out)
	if err != nil {
		if ctx.Err() != nil {
			return w, ctx.Err()
		}
		return w, classify(err, s.explain(shard, &cause{readError(err), err}))
	}
	m.Spilled = max(m.Spilled, s.spilled())
	trim()
	m.RowsIn += rowsIn
	m.RowsOut += w.Rows
	if s.t.Raw != nil && rowsIn > fewRows && w.Rows > rowsIn/2 {
		s.raw = true
	}
	if r := s.t.Output.Route; r != nil {
		w.Buckets, err = s.count(ctx, out, r.Buckets, w.Rows)
	}
	return w, err
}

const fewRows = 10_000 // of which nothing can be told for other shards

// reduces looks, before the first shard is computed, whether combining its rows
// makes them much fewer. Where that is cheap to tell, it saves a shard's work.
func (s *Session) reduces(ctx context.Context) error {
	if s.t.Raw == nil || s.raw || s.looked || s.t.Output.Route == nil || len(s.t.Inputs) > 1 {
		return nil
	}
	s.looked = true
	var rows, groups int64
	query := fmt.Sprintf("SELECT count(*), approx_count_distinct(hash(%s)) FROM (%s)", strings.Join(s.t.Output.Route.Key, ", "), s.t.Raw.SQL)
	if err := s.conn.QueryRowContext(ctx, query).Scan(&rows, &groups); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return nil // the statement itself will say what is wrong
	}
	s.raw = rows > fewRows && groups > rows/2
	return nil
}

// cause shows a readable error and keeps the one behind it.
type cause struct {
	error
	behind error
}

func (c *cause) Unwrap() error { return c.behind }

// routed adds each row's bucket to the columns of a select list, and brings the
// rows of a bucket together. The key is computed from the columns as they are,
// not as they are stored.
func (s *Session) routed(columns, from string, r *pipeline.Route) string {
	var bucket string
	switch {
	case r.Sort != "" && len(s.bounds) > 0:
		from = fmt.Sprintf("(SELECT *, %s AS %s FROM %s)", r.Sort, orderColumn, from)
		bucket = bisect(s.bounds, 0, len(s.bounds))
	case r.Sort == "" && r.Buckets > 1:
		bucket = fmt.Sprintf("%s(hash(%s), %d)", route.Function, strings.Join(r.Key, ", "), r.Buckets)
	default:
		return fmt.Sprintf("SELECT %s, 0 AS %s FROM %s", columns, bucketColumn, from)
	}
	return fmt.Sprintf("SELECT %s, %s AS %s FROM %s ORDER BY %[3]s", columns, bucket, bucketColumn, from)
}

// orderColumn is what the order of a row is called while its bucket is found.
const orderColumn = "__kq_key"

// bisect finds how many of the bounds a row's order is not below, from first to
// last.
func bisect(bounds []string, first, last int) string {
	if first == last {
		return fmt.Sprint(first)
	}
	middle := (first + last) / 2
	return fmt.Sprintf("CASE WHEN %s < %s THEN %s ELSE %s END", orderColumn, bounds[middle], bisect(bounds, first, middle), bisect(bounds, middle+1, last))
}

// sampleBounds cuts the sample of an order into as many ranges as there are
// buckets. Its parts are on record, so that every worker finds the same bounds.
func (s *Session) sampleBounds(ctx context.Context) error {
	r := s.t.Output.Route
	if r == nil || r.Bounds == "" || r.Buckets <= 1 {
		return nil
	}
	var files []string
	for _, parts := range s.parts[r.Bounds] {
		for _, p := range parts {
			files = append(files, p.Path)
		}
	}
	if len(files) == 0 {
		return fmt.Errorf("task %s has no parts", r.Bounds)
	}
	column := ident(s.g.Task(r.Bounds).Output.Columns[0].Name)
	rows, err := s.conn.QueryContext(ctx, fmt.Sprintf(`SELECT DISTINCT k
FROM (SELECT %[1]s AS k, row_number() OVER (ORDER BY %[1]s) AS i, count(*) OVER () AS n FROM %[2]s)
WHERE i * %[3]d // n > (i - 1) * %[3]d // n AND i < n ORDER BY k`, column, readParts(files), r.Buckets))
	if err != nil {
		return fmt.Errorf("bounds of the order: %w", readError(err))
	}
	defer rows.Close()
	for rows.Next() {
		var key any
		if err := rows.Scan(&key); err != nil {
			return err
		}
		switch key := key.(type) {
		case []byte:
			var b strings.Builder
			for _, c := range key {
				fmt.Fprintf(&b, "\\x%02X", c)
			}
			s.bounds = append(s.bounds, literal(b.String())+"::BLOB")
		default:
			s.bounds = append(s.bounds, fmt.Sprint(key))
		}
	}
	return rows.Err()
}

// count counts the rows of a routed part by bucket. Together they must be all
// that were written.
func (s *Session) count(ctx context.Context, path string, buckets int, rows int64) ([]int64, error) {
	counts := make([]int64, buckets)
	result, err := s.conn.QueryContext(ctx, "SELECT "+bucketColumn+", count(*) FROM "+readParts([]string{path})+" GROUP BY 1")
	if err != nil {
		return nil, fmt.Errorf("count the rows of each bucket: %w", readError(err))
	}
	defer result.Close()
	var total int64
	for result.Next() {
		var bucket int
		var n int64
		if err := result.Scan(&bucket, &n); err != nil {
			return nil, err
		}
		if bucket < 0 || bucket >= buckets {
			return nil, fmt.Errorf("%s: a row has bucket %d of %d", s.t.Name, bucket, buckets)
		}
		counts[bucket] += n
		total += n
	}
	if total != rows {
		return nil, fmt.Errorf("%s: %d rows were written, but the buckets have %d", s.t.Name, rows, total)
	}
	return counts, result.Err()
}

// arrived counts the rows that a shard reads of a hash edge. They must be as many
// as its producers have recorded.
func (s *Session) arrived(ctx context.Context, in *pipeline.TaskInput, shard *pipeline.Shard, p piece) (rows int64, err error) {
	if err := s.conn.QueryRowContext(ctx, "SELECT count(*) FROM "+ident(in.Name)).Scan(&rows); err != nil {
		return 0, s.explain(shard, fmt.Errorf("count %s: %w", in.Name, readError(err)))
	}
	g := s.groups[shard.Ordinal]
	if p.of > 1 || in.Split && g.piece.of > 1 {
		return rows, nil
	}
	var sent int64
	for _, parts := range s.parts[in.Task] {
		for _, part := range parts {
			sent += g.rows(part)
		}
	}
	if sent != rows {
		return rows, fmt.Errorf("%s: %d rows were sent to %s, %d arrived: the parts are not what was recorded", in.Task, sent, g, rows)
	}
	return rows, nil
}

func (g bucketGroup) String() string {
	switch {
	case g.piece.of > 1:
		return fmt.Sprintf("bucket %d, piece %d of %d", g.first, g.piece.number+1, g.piece.of)
	case g.first == g.last:
		return fmt.Sprintf("bucket %d", g.first)
	}
	return fmt.Sprintf("buckets %d to %d", g.first, g.last)
}

// DescribeKeys names what a shard has of its range inputs, for people.
func DescribeKeys(shard *pipeline.Shard) string {
	switch r := shard.Range; {
	case r == nil:
		return ""
	case r.Null:
		return "keys that are NULL"
	case r.Low == "" && r.High == "":
		return "all keys"
	case r.Low == "":
		return "keys below " + r.High
	case r.High == "":
		return "keys from " + r.Low
	default:
		return fmt.Sprintf("keys from %s to below %s", r.Low, r.High)
	}
}
