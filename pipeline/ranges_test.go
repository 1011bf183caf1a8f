package pipeline

import (
	"fmt"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// Whatever the row groups, every one of them is touched by each range that may
// hold a value of it, and the ranges meet without a gap.
func TestRangesTouchTheirRowGroups(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		compare := comparer("BIGINT")
		var zones []zone
		for range rapid.IntRange(1, 20).Draw(rt, "groups") {
			low := rapid.IntRange(-50, 50).Draw(rt, "low")
			high := low + rapid.IntRange(0, 30).Draw(rt, "width")
			zones = append(zones, zone{low: strconv.Itoa(low), high: strconv.Itoa(high), bytes: rapid.Int64Range(1, 100).Draw(rt, "bytes")})
		}
		r := &rangeCuts{compiler: &compiler{job: &Job{ShardSize: rapid.Int64Range(1, 400).Draw(rt, "size")}}}
		all := map[string][]zone{"t": zones}
		bounds, often := r.bounds(all, "BIGINT", false)
		for i := 1; i < len(bounds); i++ {
			if compare(bounds[i-1], bounds[i]) >= 0 {
				rt.Fatalf("bounds %v don't rise", bounds)
			}
		}
		for _, z := range zones {
			low, _ := strconv.Atoi(z.low)
			high, _ := strconv.Atoi(z.high)
			for v := low; v <= high; v++ {
				in := 0
				for i := range len(bounds) + 1 {
					inside := (i == 0 || compare(fmt.Sprint(v), bounds[i-1]) >= 0) && (i == len(bounds) || compare(fmt.Sprint(v), bounds[i]) < 0)
					if inside {
						in++
						if first, last := z.meets(bounds, compare); i < first || i > last {
							rt.Fatalf("range %d of %v has %d, but leaves out the row group %s to %s", i, bounds, v, z.low, z.high)
						}
					}
				}
				if in != 1 {
					rt.Fatalf("%d is in %d ranges of %v", v, in, bounds)
				}
			}
		}
		if o := overlap(all, bounds, compare); o < 1 || o != often {
			rt.Fatalf("overlap %v, said to be %v", o, often)
		}
	})
}

// Numbers compare as numbers, dates and texts as texts.
func TestComparer(t *testing.T) {
	for _, c := range []struct {
		typ, a, b string
		want      int
	}{
		{"BIGINT", "9", "10", -1},
		{"BIGINT", "-9", "-10", 1},
		{"BIGINT", "18446744073709551615", "9", 1},
		{"BIGINT", "18446744073709551614", "18446744073709551615", -1},
		{"DATE", "2026-01-09", "2026-01-10", -1},
		{"VARCHAR", "9", "10", 1},
	} {
		if got := comparer(c.typ)(c.a, c.b); got != c.want {
			t.Errorf("%s: %s against %s gives %d", c.typ, c.a, c.b, got)
		}
	}
}
