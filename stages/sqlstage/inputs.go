package sqlstage

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/route"
)

// view makes an input known under its name: the shard's piece of it, or all.
func (s *Session) view(ctx context.Context, in *pipeline.TaskInput, shard *pipeline.Shard, p piece) error {
	query, err := s.query(in, shard, p)
	if err != nil {
		return err
	}
	as := "CREATE OR REPLACE VIEW " + ident(in.Name) + " AS "
	if in.Kind == pipeline.Broadcast { // small, and every shard needs it: read once
		table := ident("__kq_whole_" + in.Name)
		// A table makes INTEGER of columns that hold nothing but NULLs and have no type.
		typed := slices.Clone(in.Columns)
		for i := range typed {
			typed[i].Type = strings.ReplaceAll(typed[i].Type, `"NULL"`, "INTEGER")
		}
		as = "CREATE TABLE " + table + " AS " + query + "; " + as
		query = "SELECT " + casts(typed, in.Columns) + " FROM " + table
	}
	if _, err := s.conn.ExecContext(ctx, as+query); err != nil {
		return fmt.Errorf("open %s: %w", in.Name, readError(err))
	}
	return nil
}

// query reads an input as a shard sees it.
func (s *Session) query(in *pipeline.TaskInput, shard *pipeline.Shard, p piece) (query string, err error) {
	src := s.g.Input(in.Source)
	switch {
	case in.Bucketed():
		query, err = s.bucketQuery(in, shard)
	case in.Kind == pipeline.Range:
		query = rangeQuery(src, in, shard)
	case src != nil:
		query = sourceQuery(src, shard, p)
	default:
		query, err = s.partQuery(in, shard, p)
	}
	if p.of > 1 && len(in.Hash) > 0 && in.Divided() {
		query = fmt.Sprintf("SELECT * FROM (%s) WHERE %s(hash(%s, %d), %d) = %d", query, route.Function, strings.Join(in.Hash, ", "), pieceSeed, p.of, p.number)
	}
	if in.Kind == pipeline.Broadcast && (in.Where != "" || src != nil && len(in.Columns) < len(src.Columns)) {
		query = "SELECT " + casts(in.Columns, in.Columns) + " FROM (" + query + ")"
		if in.Where != "" {
			query += " WHERE " + in.Where
		}
	}
	return query, err
}

// partQuery reads the parts of a task: those of the shard of the same ordinal,
// or all of them in shard order.
func (s *Session) partQuery(in *pipeline.TaskInput, shard *pipeline.Shard, p piece) (string, error) {
	all := s.parts[in.Task]
	if shard != nil {
		if shard.Ordinal >= len(all) {
			return "", fmt.Errorf("task %s has no shard %d", in.Task, shard.Ordinal)
		}
		all = all[shard.Ordinal : shard.Ordinal+1]
	}
	parts := slices.Concat(all...)
	if len(parts) == 0 {
		return "", fmt.Errorf("task %s has no parts", in.Task)
	}
	where := ""
	if p.of > 1 {
		where = fmt.Sprintf("file_row_number // %d %% %d = %d", pieceRows, p.of, p.number)
	}
	return s.partRows(in, parts, where), nil
}

// partRows reads rows of parts that satisfy a condition; "" stands for all. Parts
// of rows that were not combined first may hold narrower types than the rest; where
// there are no others, they are read as they are, which is faster: sums of both
// have one type.
func (s *Session) partRows(in *pipeline.TaskInput, parts []pipeline.StoredPart, where string) string {
	kinds := map[bool][]string{}
	for _, p := range parts {
		kinds[p.Raw] = append(kinds[p.Raw], p.Path)
	}
	t := s.g.Task(in.Task)
	var queries []string
	if files := kinds[false]; len(files) > 0 {
		queries = append(queries, "SELECT "+stored(in, t.Output.Dynamic, t.Output.Stored, in.Columns)+" FROM "+readParts(files))
	}
	if files := kinds[true]; len(files) > 0 {
		as := slices.Clone(in.Columns)
		for i, c := range as {
			if typ := columnType(t.Raw.Columns, c.Name); len(queries) == 0 && !strings.Contains(typ, `"NULL"`) {
				as[i].Type = typ
			}
		}
		queries = append(queries, "SELECT "+stored(in, false, t.Raw.Stored, as)+" FROM "+readParts(files))
	}
	for i := range queries {
		if where != "" {
			queries[i] += " WHERE " + where
		}
	}
	return strings.Join(queries, " UNION ALL ")
}

func readParts(files []string) string {
	return "read_parquet(" + list(files) + ", hive_partitioning = false)"
}

// stored selects an input's columns from the parts that hold them as hold says,
// cast to what they are read as.
func stored(in *pipeline.TaskInput, dynamic bool, hold, as []pipeline.Column) string {
	if dynamic {
		return "*"
	}
	from := make([]pipeline.Column, 0, len(in.Columns))
	for _, c := range in.Columns {
		from = append(from, pipeline.Column{Name: c.Name, Type: columnType(hold, c.Name)})
	}
	return casts(from, as)
}

// fileColumn is the column by which a shard's filter picks files.
const fileColumn = "__kq_file"

var filenameArg = regexp.MustCompile(`(?i)\bfilename\s*=\s*(true|'(?:[^']|'')*')`)

// sourceQuery reads a source: the rows of a shard's slices, or all.
func sourceQuery(in *pipeline.Input, shard *pipeline.Shard, p piece) string {
	files := make([]string, len(in.Files))
	for i, f := range in.Files {
		files[i] = f.Path
	}
	if shard == nil {
		return "SELECT * FROM " + readAll(in.Relation, files)
	}
	if len(shard.Slices) == 0 {
		return "SELECT * FROM " + readAll(in.Relation, files) + " WHERE false"
	}
	rows := ""
	if one := shard.Slices[0]; !one.Whole {
		rows = fmt.Sprintf("file_row_number BETWEEN %d AND %d", one.First, one.Last)
	}
	if p.of > 1 {
		if rows != "" {
			rows += " AND "
		}
		rows += fmt.Sprintf("file_row_number // %d %% %d = %d", pieceRows, p.of, p.number)
	}
	if len(files) == 1 {
		query := "SELECT * FROM " + readAll(in.Relation, files)
		if rows != "" {
			query += " WHERE " + rows
		}
		return query
	}
	if in.Uniform {
		files = files[:0]
		for _, sl := range shard.Slices {
			files = append(files, in.Files[sl.File].Path)
		}
		query := "SELECT * FROM " + readAll(in.Relation, files)
		if rows != "" {
			query += " WHERE " + rows
		}
		return query
	}
	var picked []string
	for _, sl := range shard.Slices {
		picked = append(picked, literal(files[sl.File]))
	}
	column, selected, more := fileColumn, "* EXCLUDE ("+fileColumn+")", []string{"filename = '" + fileColumn + "'"}
	if m := filenameArg.FindStringSubmatch(in.Relation.Args); m != nil {
		// The job asks for the column itself: filter by that one.
		column, selected, more = "filename", "*", nil
		if m[1][0] == '\'' {
			column = strings.Trim(m[1], "'")
		}
	}
	query := "SELECT " + selected + " FROM " + readAll(in.Relation, files, more...) +
		" WHERE " + ident(column) + " IN (" + strings.Join(picked, ", ") + ")"
	if rows != "" {
		query += " AND " + rows
	}
	return query
}
