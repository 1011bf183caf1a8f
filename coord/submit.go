package coord

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kinequet/kq/jch"
	"github.com/kinequet/kq/pipeline"
)

// Submit implements Coordinator.
func (s *Store) Submit(ctx context.Context, sub pipeline.Submission) error {
	err := s.write(ctx, true, func(c *conn) error {
		if _, err := c.exec(ctx, "INSERT INTO runs(run_id, job, file, digest, plan, state, created) VALUES(?, ?, ?, ?, ?, ?, ?)",
			sub.Run, sub.Job, sub.File, sub.Digest, sub.Plan, pipeline.RunRunning, time.Now().UnixMilli()); err != nil {
			return err
		}
		ids := map[string]int64{}
		for i := range sub.Tasks {
			follows := ids[sub.Tasks[i].Follows]
			if sub.Tasks[i].Follows != "" && follows == 0 {
				return fmt.Errorf("task %s follows %s, which does not come before it", sub.Tasks[i].Name, sub.Tasks[i].Follows)
			}
			id, err := s.insertTask(ctx, c, sub.Run, &sub.Tasks[i], follows)
			if err != nil {
				return err
			}
			ids[sub.Tasks[i].Name] = id
			for _, need := range sub.Tasks[i].Needs {
				if ids[need] == 0 {
					return fmt.Errorf("task %s needs %s, which does not come before it", sub.Tasks[i].Name, need)
				}
				if _, err := c.exec(ctx, "INSERT OR IGNORE INTO task_needs VALUES(?, ?)", id, ids[need]); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("submit run %s: %w", sub.Run, err)
	}
	return nil
}

// insertTask adds a task and its shards. follows is the task that it follows, or
// 0: their shards have the same keys in the same order, so that their ids differ
// in nothing but the task.
func (s *Store) insertTask(ctx context.Context, c *conn, run string, t *pipeline.Task, follows int64) (int64, error) {
	state, started := pipeline.TaskRunning, time.Now().UnixMilli()
	if len(t.Needs) > 0 {
		state, started = pipeline.TaskBlocked, 0
	}
	buckets := max(1, min(t.Buckets, 1<<16))
	var id int64
	err := c.one(ctx, `INSERT INTO tasks(run_id, name, kind, state, buckets, max_attempts, backoff, total, started, lane, follows, backlog)
		VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING task_id`,
		[]any{run, t.Name, t.Kind, state, buckets, max(1, t.Retry.Attempts), t.Retry.Backoff.Milliseconds(), len(t.Shards), started, t.Lane(), follows, t.Backlog()}, &id)
	if err != nil {
		return 0, err
	}
	ready := int64(0)
	if follows != 0 {
		ready = notReady
	}
	next := make([]int64, buckets)
	for _, sh := range t.Shards {
		spec, err := json.Marshal(sh)
		if err != nil {
			return 0, err
		}
		bucket := jch.Hash(jch.Key(sh.Key), buckets)
		if next[bucket] == 1<<24 {
			return 0, fmt.Errorf("task %s has too many shards in one bucket", t.Name)
		}
		shard := id<<40 | int64(bucket)<<24 | next[bucket]
		next[bucket]++
		if _, err := c.exec(ctx, "INSERT INTO shards(shard_id, task_id, bucket, not_before) VALUES(?, ?, ?, ?)", shard, id, bucket, ready); err != nil {
			return 0, err
		}
		if _, err := c.exec(ctx, "INSERT INTO shard_spec VALUES(?, ?)", shard, string(spec)); err != nil {
			return 0, err
		}
	}
	return id, nil
}

// Plan implements Coordinator.
func (s *Store) Plan(ctx context.Context, run string) (plan []byte, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.one(ctx, "SELECT plan FROM runs WHERE run_id = ?", []any{run}, &plan)
	})
	if errors.Is(err, sql.ErrNoRows) {
		return nil, fmt.Errorf("run %s: %w", run, pipeline.ErrNoRun)
	}
	return plan, err
}
