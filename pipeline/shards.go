package pipeline

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
)

// shards cuts a task by its root: a source into slices, a task's output shard
// by shard. A task without a root, and one whose root has no rows to read, has
// one shard, so that every task has output.
func (c *compiler) shards(ctx context.Context, g *Graph, t *Task, root *relation, members []*stageNode) ([]Shard, error) {
	var shards []Shard
	switch {
	case root == nil:
		shards = []Shard{c.whole(g, t)}
	case root.stage != nil:
		for i := range g.task(root.stage.Name).Shards {
			shards = append(shards, Shard{Ordinal: i, Key: fmt.Sprintf("%s/%d", root.name, i), Rows: -1})
		}
	default:
		var predicates []Predicate
		for _, m := range members {
			for _, ref := range m.st.Tables {
				if fold(ref.Name) == fold(root.name) && !m.PerShard {
					predicates = ref.Predicates
				}
			}
		}
		var err error
		if shards, err = c.slice(ctx, g, t, root, predicates); err != nil {
			return nil, err
		}
	}
	if len(shards) == 0 {
		shards = []Shard{{Key: t.Name}}
	}
	for i := range shards {
		shards[i].Ordinal = i
	}
	return shards, nil
}

// whole is the only shard of a task that runs as one.
func (c *compiler) whole(g *Graph, t *Task) Shard {
	s := Shard{Key: t.Name}
	for _, in := range t.Inputs {
		src := g.Input(in.Source)
		if src == nil {
			continue
		}
		if src.Rows < 0 {
			s.Rows = -1
		} else if s.Rows >= 0 {
			s.Rows += src.Rows
		}
		s.Bytes += src.Bytes
		s.OnDisk += src.OnDisk
	}
	return s
}

// piece is what a slice is built from: one row group, or a file without any.
type piece struct {
	file, group   int
	first, rows   int64
	bytes, onDisk int64
}

// slice cuts a source into shards of about the job's shard size, counting only
// the columns that the task reads and only row groups that can hold a match.
func (c *compiler) slice(ctx context.Context, g *Graph, t *Task, root *relation, predicates []Predicate) ([]Shard, error) {
	look := root.look
	keep := make([]bool, len(look.Groups))
	for i := range keep {
		keep[i] = true
	}
	if len(predicates) > 0 && len(look.Groups) > 0 {
		var err error
		if keep, err = c.e.Prune(ctx, look, predicates); err != nil {
			return nil, fmt.Errorf("row-group statistics of %s: %w", root.name, err)
		}
	}
	read, err := c.e.Reads(ctx, g, t, root.name)
	if err != nil {
		return nil, fmt.Errorf("columns of %s that %s reads: %w", root.name, t.Name, err)
	}
	pieces := make([][]piece, len(look.Files)) // by file
	counts := make([]int, len(look.Files))     // row groups of each file, pruned or not
	var total int64
	for i, rg := range look.Groups {
		counts[rg.File]++
		if !keep[i] {
			t.Pruned++
			continue
		}
		p := piece{file: rg.File, group: rg.Index, first: rg.First, rows: rg.Rows}
		for j, col := range look.Columns {
			if slices.Contains(read, col.Name) {
				p.bytes += rg.Bytes[j]
				p.onDisk += rg.OnDisk[j]
			}
		}
		pieces[rg.File] = append(pieces[rg.File], p)
		total += p.bytes
	}
	if len(look.Groups) == 0 && !look.Grouped {
		for i, f := range look.Files {
			pieces[i] = []piece{{file: i, rows: f.Rows, bytes: f.Size, onDisk: f.Size}}
			counts[i] = 1
			total += f.Size
		}
	}
	t.Reads = read
	size := c.job.ShardSize
	if t.Output.Route != nil {
		size = c.producerBytes(total)
	}
	return pack(look, pieces, counts, target(total, size)), nil
}

// target evens out the shards: as many as shardSize asks for, of equal size.
func target(total, shardSize int64) int64 {
	if shardSize <= 0 {
		shardSize = 1
	}
	n := (total + shardSize - 1) / shardSize
	if n <= 1 {
		return shardSize
	}
	return min(shardSize, total/n+total/n/50+1)
}

// pack fills shards up to target bytes: several whole files, or consecutive
// row groups of one file.
func pack(look *Inspection, pieces [][]piece, counts []int, target int64) (shards []Shard) {
	var open *Shard // of whole files
	for f, ps := range pieces {
		var bytes, onDisk, rows int64
		for _, p := range ps {
			bytes += p.bytes
			onDisk += p.onDisk
			rows += p.rows
		}
		switch {
		case len(ps) == 0:
			continue
		case len(ps) == counts[f] && (bytes <= target || !look.Rowable || len(ps) == 1):
			if open == nil || open.Bytes+bytes > target {
				shards = append(shards, Shard{Key: shardKey(look, f, 0)})
				open = &shards[len(shards)-1]
			}
			open.Slices = append(open.Slices, Slice{File: f, Whole: true, Groups: [2]int{0, counts[f] - 1}})
			open.add(rows, bytes, onDisk)
			continue
		case !look.Rowable:
			shards = append(shards, Shard{Key: shardKey(look, f, 0), Slices: []Slice{{File: f, Whole: true, Groups: [2]int{0, counts[f] - 1}}}})
			shards[len(shards)-1].add(rows, bytes, onDisk)
			open = nil
			continue
		}
		open = nil
		var part *Shard
		for _, p := range ps {
			if part == nil || part.Bytes+p.bytes > target {
				shards = append(shards, Shard{
					Key:    shardKey(look, f, p.group),
					Slices: []Slice{{File: f, First: p.first, Groups: [2]int{p.group, p.group}}},
				})
				part = &shards[len(shards)-1]
			}
			part.Slices[0].Last = p.first + p.rows - 1
			part.Slices[0].Groups[1] = p.group
			part.add(p.rows, p.bytes, p.onDisk)
		}
	}
	return shards
}

func (s *Shard) add(rows, bytes, onDisk int64) {
	if rows < 0 || s.Rows < 0 {
		s.Rows = -1
	} else {
		s.Rows += rows
	}
	s.Bytes += bytes
	s.OnDisk += onDisk
}

// shardKey names a shard by where it starts, so that the same data keeps its
// bucket when other files come and go.
func shardKey(look *Inspection, file, group int) string {
	return fmt.Sprintf("%s#%d", filepath.Base(look.Files[file].Path), group)
}
