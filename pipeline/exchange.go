package pipeline

import (
	"context"
	"fmt"
	"regexp"
	"slices"
)

// Bounds of an exchange. A reader of a bucket opens every file, and a file has a
// row group or two for each bucket: with as many files as buckets their number
// grows by the square, so that both stay few until the data is very large.
// Shards asked to be tiny don't make more of them.
const (
	manyBuckets    = 64
	maxBuckets     = 256
	maxTinyBuckets = 16
	tiny           = 1 << 20   // bytes
	largeExchange  = 16 << 30  // decoded bytes from which there may be maxBuckets
	largestShard   = 256 << 20 // decoded bytes of a producer's shard
)

// exchange tries to run a group of stages that isn't row-wise, n the last of
// them, as fragments on all workers. It reports whether it did; otherwise one
// worker computes the whole.
func (c *compiler) exchange(ctx context.Context, g *Graph, n *stageNode, members []*stageNode, inputs []*relation) (bool, error) {
	mode := c.job.Exchange
	if n.Exchange != "" {
		mode = n.Exchange
	}
	if mode == ExchangeNever || len(inputs) == 0 {
		if len(inputs) > 0 {
			n.decision = decision(mode, nil, nil, false)
		}
		return false, nil
	}
	r := &SplitRequest{Name: n.Name, SQL: n.SQL, Small: c.o.Small, Always: mode == ExchangeAlways, Budget: c.o.Budget}
	for _, in := range inputs {
		s := SplitInput{Name: in.name, Columns: in.columns(), Total: -1}
		if in.input != nil {
			s.Total = in.input.Bytes
			if len(in.look.Groups) > 0 {
				s.Bytes = make([]int64, len(s.Columns))
				for _, rg := range in.look.Groups {
					for i, b := range rg.Bytes {
						s.Bytes[i] += b
					}
				}
			}
		} else if in.stage.bytes >= 0 {
			s.Total = in.stage.bytes
		}
		r.Inputs = append(r.Inputs, s)
	}
	for _, m := range members[:len(members)-1] {
		r.Views = append(r.Views, View{Name: m.Name, SQL: m.SQL})
	}
	cuts := &rangeCuts{compiler: c, min: 2, known: map[string]bool{}}
	r.Clustered = func(key map[string]string) bool { return cuts.clustered(key, r.Fits()) }
	fragments, err := c.e.Split(ctx, r)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	split := err == nil && worthwhile(fragments, r.Fits())
	n.decision = decision(mode, r, fragments, split)
	if !split {
		if len(fragments) == 1 && !r.Fits() && !r.tiny() { // it had to be cut, and this is why it can't be
			n.reason, n.words = fragments[0].Reason, fragments[0].Words
		}
		if why := lastReason(fragments, err); why != "" && n.reason == "" {
			n.reason = why
		}
		return false, nil
	}
	return true, c.fragmentTasks(ctx, g, n, members, fragments, cuts)
}

// worthwhile reports whether fragments are better than one worker computing the
// whole: always when asked for, and otherwise when the ranges of a key divide
// the reading.
func worthwhile(fragments []Fragment, ranges bool) bool {
	if len(fragments) == 0 || len(fragments) == 1 && fragments[0].Kind == Gather {
		return false
	}
	return !ranges || slices.ContainsFunc(fragments, func(f Fragment) bool { return f.Kind == Range })
}

func lastReason(fragments []Fragment, err error) string {
	if err != nil {
		return err.Error()
	}
	if len(fragments) == 0 {
		return ""
	}
	return fragments[len(fragments)-1].Reason
}

// fragmentTasks adds a task for each fragment; the last one has the stage's name.
func (c *compiler) fragmentTasks(ctx context.Context, g *Graph, n *stageNode, members []*stageNode, fragments []Fragment, cuts *rangeCuts) error {
	n.split = true
	sizes := map[string]int64{}
	for i := range fragments {
		f := &fragments[i]
		t := Task{
			Name: f.Name, Kind: Compute, Stage: n.Name, Reason: f.Reason,
			Views: []View{{Name: f.Name, SQL: f.SQL}},
		}
		for _, m := range members {
			t.Memory = max(t.Memory, m.Memory)
			t.Retry.Attempts = max(t.Retry.Attempts, m.Retry.Attempts)
			t.Retry.Backoff = max(t.Retry.Backoff, m.Retry.Backoff)
		}
		var divided *TaskInput
		var source *relation
		keys := map[string]string{}
		var bytes int64
		for _, fi := range f.Inputs {
			in := TaskInput{Name: fi.Name, Kind: fi.Kind, Key: fi.Key, Hash: fi.Hash, Split: fi.Split, Where: fi.Where}
			from := fi.Name
			if fi.From != "" {
				from = fi.From
			}
			switch rel := c.rels[fold(from)]; {
			case g.task(from) != nil:
				in.Task, in.Columns = from, g.task(from).Output.Columns
			case rel.input != nil:
				in.Source, in.Columns = rel.name, rel.columns()
			default:
				in.Task, in.Columns = rel.stage.Name, rel.columns()
			}
			if in.Task != "" && !slices.Contains(t.Needs, in.Task) {
				t.Needs = append(t.Needs, in.Task)
			}
			if fi.Columns != nil {
				in.Columns = slices.DeleteFunc(slices.Clone(in.Columns), func(col Column) bool { return !slices.Contains(fi.Columns, col.Name) })
			}
			t.Inputs = append(t.Inputs, in)
			if in.Divided() {
				divided = &t.Inputs[len(t.Inputs)-1]
				source = c.rels[fold(in.Source)]
				bytes += sizes[in.Task]
			}
			if in.Kind == Range {
				keys[in.Name] = in.Key[0]
			}
		}
		if err := c.fragmentOutput(g, n, &t, f, i == len(fragments)-1); err != nil {
			return err
		}
		var err error
		switch f.Kind {
		case Forward:
			if divided.Source != "" {
				t.Shards, err = c.slice(ctx, g, &t, source, nil)
			} else {
				t.Shards = numbered(len(g.task(divided.Task).Shards))
			}
		case Hash, Sort:
			count := c.buckets(bytes, f.Kind == Sort)
			t.BucketBytes = c.shardBytes()
			for _, in := range t.Inputs {
				if in.Bucketed() {
					g.task(in.Task).Output.Route.Buckets = count
				}
			}
			t.Shards = numbered(count)
		case Range:
			t.Shards, err = cuts.shards(ctx, g, &t, keys)
		default:
			t.Shards = []Shard{c.whole(g, &t)}
		}
		if err != nil {
			return err
		}
		if len(t.Shards) == 0 {
			t.Shards = []Shard{{}}
		}
		for j := range t.Shards {
			t.Shards[j].Ordinal = j
			if t.Shards[j].Key == "" {
				t.Shards[j].Key = fmt.Sprintf("%s/%d", t.Name, j)
			}
		}
		t.Buckets = min(1024, len(t.Shards))
		sizes[t.Name] = f.Bytes
		c.written[t.Name] = Estimate{Rows: -1, Bytes: f.Bytes}
		c.noteFragment(g, &t, f)
		n.bytes, n.reason = f.Bytes, f.Reason
		g.Tasks = append(g.Tasks, t)
	}
	return nil
}

// fragmentOutput decides what a fragment's parts hold.
func (c *compiler) fragmentOutput(g *Graph, n *stageNode, t *Task, f *Fragment, last bool) error {
	if last {
		t.Output = Output{}
		if err := c.output(g, n, t); err != nil {
			return err
		}
		t.Output.Ordered = f.Order != ""
		return nil
	}
	stored, err := c.e.Stored(f.Columns)
	if err != nil {
		return fmt.Errorf("fragment %s: %w", f.Name, err)
	}
	t.Output = Output{Columns: f.Columns, Stored: stored, Compression: partCompression(stored, f.Bytes)}
	if f.Raw != nil {
		t.Raw = &Uncombined{SQL: f.Raw.SQL, Columns: f.Raw.Columns}
		if t.Raw.Stored, err = c.e.Stored(t.Raw.Columns); err != nil {
			return fmt.Errorf("fragment %s: %w", f.Name, err)
		}
	}
	if f.Sort != "" {
		t.Output.Route = &Route{Sort: f.Sort, Bounds: f.Bounds, Buckets: 1}
		t.Needs = append(t.Needs, f.Bounds)
	}
	if len(f.Route) > 0 {
		t.Output.Route = &Route{Key: f.Route, Buckets: 1}
	}
	return nil
}

// cached is the bytes of parts that may well stay in the page cache until they
// have been read again.
const cached = 8 << 30

var plain = regexp.MustCompile(`^(BOOLEAN|U?(TINY|SMALL|BIG)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\([0-9, ]+\)|DATE|TIME|TIMESTAMP.*)$`)

// partCompression is that of parts that other shards read, by what was measured: numbers and
// dates compress little beside their dictionaries, and not compressing them saves
// a quarter of the writer's time as long as the disk isn't waited for.
func partCompression(stored []Column, bytes int64) string {
	for _, c := range stored {
		if bytes > cached || !plain.MatchString(c.Type) {
			return "lz4_raw"
		}
	}
	return "uncompressed"
}

// shardBytes is the decoded bytes that a shard of a key aims at: the job's shard
// size, or what several of its kind can be held of in a worker's memory, as joins
// and groups keep more than they read.
func (c *compiler) shardBytes() int64 {
	size := max(1, c.job.ShardSize)
	if c.o.Budget > 0 {
		size = min(size, max(tiny, c.o.Budget/int64(max(1, c.o.Workers))/8))
	}
	return size
}

// buckets is how many buckets an exchange of about this many bytes gets. Small
// ones are merged once their sizes are known, so there are some to spare where
// it is not a sample that makes them even.
func (c *compiler) buckets(bytes int64, even bool) int {
	size := c.shardBytes()
	most, spare := int64(manyBuckets), int64(2)
	switch {
	case size < tiny:
		most, spare = maxTinyBuckets, 1
	case bytes > largeExchange:
		most = maxBuckets
	}
	if even {
		spare = 1
	}
	return int(max(1, min(most, (bytes+size-1)/size*spare)))
}

// producerBytes is the decoded bytes that a shard which routes its rows aims at.
func (c *compiler) producerBytes(total int64) int64 {
	size := max(1, c.job.ShardSize)
	if size < tiny {
		return size
	}
	size = max(size, min(total/manyBuckets, largestShard))
	if c.o.Budget > 0 { // it sorts its rows by bucket
		size = min(size, max(tiny, c.o.Budget/int64(max(1, c.o.Workers))/2))
	}
	return size
}

func numbered(n int) []Shard {
	out := make([]Shard, n)
	for i := range out {
		out[i].Rows = -1
	}
	return out
}
