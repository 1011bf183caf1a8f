package sqlstage

import (
	"context"
	"fmt"
	"iter"

	"github.com/apache/arrow-go/v18/arrow"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/stream"
)

// Rows yields the rows of parts as the sink of a publish task sends them, in the
// order of the parts. id is the beginning of the rows' ids. The session must not
// be used for anything else until the sequence has ended.
func (s *Session) Rows(ctx context.Context, parts []pipeline.StoredPart, id string) iter.Seq2[arrow.RecordBatch, error] {
	pub := s.t.Sink.Publication
	query := s.partRows(&s.t.Inputs[0], parts, "")
	if pub.RecordID {
		query = fmt.Sprintf("SELECT *, %s || (row_number() OVER () - 1) AS %s FROM (%s)", literal(id+"/"), pipeline.RecordID, query)
	}
	selected := pub.Select
	if selected == "" {
		selected = "*"
	}
	return func(yield func(arrow.RecordBatch, error) bool) {
		for batch, err := range stream.Query(ctx, s.conn, "SELECT "+selected+" FROM ("+query+")") {
			if err != nil {
				err = fmt.Errorf("rows of %s for sink %s: %w", s.t.Sink.From, s.t.Sink.Name, readError(err))
			}
			if !yield(batch, err) {
				return
			}
		}
	}
}
