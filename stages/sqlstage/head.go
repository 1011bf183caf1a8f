package sqlstage

import (
	"context"
	"fmt"

	"github.com/kinequet/kq/pipeline"
)

// Head returns the names of the columns and the first n rows of a task's parts
// as text; NULL is "NULL".
func (e *Engine) Head(ctx context.Context, t *pipeline.Task, parts []string, n int) ([][]string, error) {
	selected := casts(t.Output.Stored, t.Output.Columns)
	if t.Output.Dynamic {
		selected = "*"
	}
	query := fmt.Sprintf("SELECT coalesce(CAST(COLUMNS(*) AS VARCHAR), 'NULL') FROM (SELECT %s FROM read_parquet(%s, hive_partitioning = false) LIMIT %d)",
		selected, list(parts), n)
	rows, err := e.scout.QueryContext(ctx, query)
	if err != nil {
		return nil, readError(err)
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	out := [][]string{names}
	for rows.Next() {
		row := make([]string, len(names))
		dest := make([]any, len(row))
		for i := range row {
			dest[i] = &row[i]
		}
		if err := rows.Scan(dest...); err != nil {
			return nil, err
		}
		out = append(out, row)
	}
	return out, rows.Err()
}
