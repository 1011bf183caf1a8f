package s3sink

import (
	"testing"
)

const mib = 1 << 20

// TestResult: parts of every size arrive as they are, in the order of the shards.
func TestResult(t *testing.T) {
	stores(t, func(t *testing.T, p *place) {
		plan := p.plan(false, setting{Key: "part_bytes", Value: int64(5 * mib)})
		one, two := p.part(run1, 0, 10, 0), p.part(run1, 1, 5*mib)
		three, four := p.part(run1, 2, 5*mib+1), p.part(run1, 11, 13*mib)
		s := p.open(plan, run1)
		if err := s.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.all(plan, run1, one, two, three, four)
		p.holds(run1, one, two, three, four)
		if len(p.warnings) > 0 {
			t.Error(p.warnings)
		}
	})
}
