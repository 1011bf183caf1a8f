package pipeline

import (
	"testing"

	"pgregory.net/rapid"
)

// Whatever the sizes, the shards cover exactly the row groups that were kept,
// each once, and a shard is either whole files or a run of one file.
func TestPackCoversEverything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		look := &Inspection{Rowable: rapid.Bool().Draw(rt, "rowable")}
		var pieces [][]piece
		var counts []int
		kept := map[[2]int]bool{}
		var total int64
		for f := range rapid.IntRange(0, 6).Draw(rt, "files") {
			look.Files = append(look.Files, File{Path: "f"})
			var ps []piece
			groups := rapid.IntRange(0, 6).Draw(rt, "groups")
			for g := range groups {
				if rapid.IntRange(0, 4).Draw(rt, "keep") > 0 {
					p := piece{file: f, group: g, first: int64(g * 10), rows: 10, bytes: rapid.Int64Range(0, 50).Draw(rt, "bytes")}
					ps = append(ps, p)
					kept[[2]int{f, g}] = true
					total += p.bytes
				}
			}
			pieces, counts = append(pieces, ps), append(counts, groups)
		}
		size := rapid.Int64Range(1, 200).Draw(rt, "size")
		seen := map[[2]int]bool{}
		var bytes, rows int64
		for _, s := range pack(look, pieces, counts, target(total, size)) {
			if len(s.Slices) == 0 || len(s.Slices) > 1 && !allWhole(s.Slices) {
				rt.Fatalf("shard %+v mixes slices", s)
			}
			bytes += s.Bytes
			rows += s.Rows
			for _, sl := range s.Slices {
				if !sl.Whole && (sl.First != int64(sl.Groups[0]*10) || sl.Last != int64(sl.Groups[1]*10+9)) {
					rt.Fatalf("slice %+v does not cover its groups", sl)
				}
				for g := sl.Groups[0]; g <= sl.Groups[1]; g++ {
					at := [2]int{sl.File, g}
					if seen[at] {
						rt.Fatalf("row group %v is in two shards", at)
					}
					seen[at] = true
				}
			}
		}
		for at := range kept {
			if !seen[at] {
				rt.Fatalf("row group %v is in no shard", at)
			}
		}
		if bytes != total || rows != int64(10*len(kept)) {
			rt.Fatalf("shards have %d bytes and %d rows, want %d and %d", bytes, rows, total, 10*len(kept))
		}
	})
}

func allWhole(slices []Slice) bool {
	for _, s := range slices {
		if !s.Whole {
			return false
		}
	}
	return true
}

func TestTarget(t *testing.T) {
	for _, c := range []struct{ total, size, want int64 }{{100, 1000, 1000}, {1050, 1000, 536}, {0, 10, 10}, {10, 1, 1}} {
		if got := target(c.total, c.size); got != c.want {
			t.Errorf("target(%d, %d) = %d, want %d", c.total, c.size, got, c.want)
		}
	}
}

func TestProblemIsOneLine(t *testing.T) {
	p := Problem{File: "a.yaml", Pos: Pos{3, 4}, Path: "stages.x", Message: "bad\nthing\x1b[31m", Hint: "do\tthis"}
	if got, want := p.String(), "a.yaml:3:4: stages.x: bad thing [31m; do this"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
