package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Binder returns the columns that a SELECT list over a sink's rows gives. It
// refuses what isn't made of one row's columns alone. The column RecordID is
// there too.
type Binder func(selected string) ([]Column, error)

// RecordID is the column whose text names a row wherever it is sent.
const RecordID = "__kq_id"

// SettingError is what is wrong with one key of a sink.
type SettingError struct {
	Key           string // such as "topic"; "" is the sink itself
	Message, Hint string
}

func (e *SettingError) Error() string {
	if e.Key == "" {
		return e.Message
	}
	return e.Key + ": " + e.Message
}

// publication asks how a sink that is a service sends a stage's rows.
func (c *compiler) publication(ctx context.Context, n *stageNode, s *Sink) {
	path := "sinks." + s.Name
	if n.rel.broken {
		return
	}
	if n.st.Opaque != "" {
		c.problem(path+".from", c.at(path+".from"), fmt.Sprintf("the columns of %s are only known once it has run, so that they can't be sent", n.Name),
			"list the values: PIVOT … ON column IN (…)")
		return
	}
	bind := func(selected string) ([]Column, error) {
		query := "SELECT " + selected + " FROM (SELECT *, '' AS " + RecordID + ` FROM "` + strings.ReplaceAll(n.Name, `"`, `""`) + `")`
		st, wrong := c.e.Parse(ctx, query)
		if len(wrong) > 0 {
			return nil, errors.New(wrong[0].Message)
		}
		for _, t := range st.Tables {
			if fold(t.Name) != fold(n.Name) {
				return nil, fmt.Errorf("it reads %s; make it a column of %s", t.Name, n.Name)
			}
			if t.Gather != "" {
				return nil, fmt.Errorf("it is not made of one row alone: %s; make it a column of %s", t.Gather, n.Name)
			}
		}
		columns, e := c.e.Bind(ctx, query)
		if e != nil {
			return nil, errors.New(e.Message)
		}
		return columns, nil
	}
	p, err := c.o.Publication(*s, n.columns, bind)
	if err == nil {
		c.sent[s.Name] = p
		return
	}
	for _, e := range flatten(err) {
		var setting *SettingError
		if !errors.As(e, &setting) {
			c.problem(path, c.at(path), e.Error(), "")
			continue
		}
		at := path
		if _, given := c.job.Positions[path+"."+setting.Key]; given {
			at += "." + setting.Key
		}
		c.problem(at, c.at(at), setting.Message, setting.Hint)
	}
}

// flatten lists the errors that errors.Join has joined.
func flatten(err error) (all []error) {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// publishTasks adds the tasks that send n's parts to a service: written again as
// files where the sink wants those, each shard as soon as it is there, and what
// is to be done once all are sent.
func (c *compiler) publishTasks(g *Graph, n *stageNode, s *Sink) {
	pub := c.sent[s.Name]
	from := g.task(n.Name)
	p := &SinkPlan{
		Name: s.Name, Type: s.Type, From: n.Name, Target: pub.Target, Replace: s.Replace, Copy: pub.Copy, Extension: pub.Extension,
		Columns: n.columns, Compression: c.compression(s), Publication: pub, Settings: s.Settings, MaxMemory: s.MaxMemory, MaxBacklog: s.MaxBacklog,
	}
	reason := "each shard's rows are sent as soon as it is complete"
	if pub.Files {
		if c.asParquet(s) {
			p.Columns = c.e.Published(n.columns)
			p.Linked = slices.Equal(p.Columns, from.Output.Stored) && p.Compression == from.Output.Compression && len(s.Options) == 0
		}
		if !p.Linked {
			encode := c.encodeTask(n, from, p)
			p.Encode = encode.Name
			g.Tasks = append(g.Tasks, encode)
			from = g.task(encode.Name)
		}
		reason = "each shard's files are sent as soon as it is complete"
	}
	in := TaskInput{Name: n.Name, Kind: Forward, Task: from.Name, Columns: n.columns}
	publish := Task{Name: s.Name + ":publish", Kind: Publish, Follows: from.Name, Inputs: []TaskInput{in}, Sink: p, Retry: s.Retry, Buckets: from.Buckets}
	for _, shard := range from.Shards { // the keys are those of the shards that are followed
		publish.Shards = append(publish.Shards, Shard{Ordinal: shard.Ordinal, Key: shard.Key, Rows: -1})
	}
	g.Tasks = append(g.Tasks, publish)
	if pub.Last {
		g.Tasks = append(g.Tasks, Task{
			Name: s.Name + ":last", Kind: Last, Needs: []string{publish.Name}, Sink: p, Retry: s.Retry, Buckets: 1, Shards: []Shard{{Key: s.Name, Rows: -1}},
		})
	}
	g.Edges = append(g.Edges, Edge{From: n.Name, To: s.Name, Kind: Forward, Fused: p.Linked || !pub.Files, Reason: reason})
}

// asParquet reports whether a sink takes Parquet files of all columns.
func (c *compiler) asParquet(s *Sink) bool {
	pub := c.sent[s.Name]
	return s.Type == "parquet" || pub != nil && pub.Files && pub.Select == "" && pub.Extension == ".parquet"
}
