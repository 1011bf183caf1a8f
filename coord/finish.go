package coord

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/kinequet/kq/pipeline"
)

// held is the test that every write of an attempt makes: the fence.
const held = " WHERE shard_id = ? AND state = 1 AND worker_id = ? AND epoch = ?"

// tally is what a transaction adds to a task's row.
type tally struct {
	completed int64
	m         pipeline.Metrics
	followers []int64 // tasks whose shards become ready with this one's
}

// Complete implements Coordinator.
func (s *Store) Complete(ctx context.Context, w pipeline.Worker, done []pipeline.Completion) (errs []error, err error) {
	err = s.write(ctx, true, func(c *conn) error {
		errs = make([]error, len(done))
		sums := map[int64]*tally{}
		for i, d := range done {
			n, err := c.exec(ctx, "UPDATE shards SET state = 2, worker_id = NULL"+held, d.Claim.ShardID, w.ID, d.Claim.Epoch)
			if err != nil {
				return err
			}
			if n == 0 {
				errs[i] = pipeline.ErrFenced
				continue
			}
			parts, err := json.Marshal(d.Parts)
			if err != nil {
				return err
			}
			metrics, err := json.Marshal(d.Metrics)
			if err != nil {
				return err
			}
			if _, err := c.exec(ctx, "INSERT INTO outputs VALUES(?, ?, ?, ?)", d.Claim.ShardID, d.Claim.Epoch, string(parts), string(metrics)); err != nil {
				return err
			}
			task := d.Claim.ShardID >> 40
			if sums[task] == nil {
				sums[task] = &tally{}
				if err := c.each(ctx, "SELECT task_id FROM tasks WHERE follows = ? AND follows <> 0", []any{task}, func(r *sql.Rows) error {
					var id int64
					err := r.Scan(&id)
					sums[task].followers = append(sums[task].followers, id)
					return err
				}); err != nil {
					return err
				}
			}
			for _, f := range sums[task].followers {
				if _, err := c.exec(ctx, "UPDATE shards SET not_before = 0 WHERE shard_id = ? AND state = 0 AND not_before = ?",
					f<<40|d.Claim.ShardID&(1<<40-1), int64(notReady)); err != nil {
					return err
				}
			}
			sums[task].add(d.Metrics)
		}
		for task, t := range sums {
			if err := s.credit(ctx, c, task, t); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("complete: %w", err)
	}
	return errs, nil
}

func (t *tally) add(m pipeline.Metrics) {
	t.completed++
	t.m.RowsIn += m.RowsIn
	t.m.RowsOut += m.RowsOut
	t.m.BytesRead += m.BytesRead
	t.m.BytesOut += m.BytesOut
	t.m.Elapsed += m.Elapsed
	t.m.Spilled = max(t.m.Spilled, m.Spilled)
	t.m.Memory = max(t.m.Memory, m.Memory)
}

// credit adds finished shards to a task, and moves on what waits for it.
func (s *Store) credit(ctx context.Context, c *conn, task int64, t *tally) error {
	var run string
	var left int64
	now := time.Now().UnixMilli()
	err := c.one(ctx, `UPDATE tasks SET completed = completed + ?, rows_in = rows_in + ?, rows_out = rows_out + ?, bytes_read = bytes_read + ?,
		bytes_out = bytes_out + ?, elapsed = elapsed + ?, spilled = max(spilled, ?), memory = max(memory, ?) WHERE task_id = ?
		RETURNING run_id, total - completed`,
		[]any{t.completed, t.m.RowsIn, t.m.RowsOut, t.m.BytesRead, t.m.BytesOut, t.m.Elapsed, t.m.Spilled, t.m.Memory, task}, &run, &left)
	if err != nil || left > 0 {
		return err
	}
	if _, err := c.exec(ctx, "UPDATE tasks SET state = 2, ended = ? WHERE task_id = ?", now, task); err != nil {
		return err
	}
	if _, err := c.exec(ctx, `UPDATE tasks SET state = 1, started = ? WHERE run_id = ? AND state = 0 AND NOT EXISTS
		(SELECT 1 FROM task_needs d JOIN tasks n ON n.task_id = d.needs WHERE d.task_id = tasks.task_id AND n.state <> 2)`, now, run); err != nil {
		return err
	}
	_, err = c.exec(ctx, `UPDATE runs SET state = ?, ended = ?, error = '' WHERE run_id = ? AND NOT EXISTS
		(SELECT 1 FROM tasks WHERE run_id = runs.run_id AND state <> 2)`, pipeline.RunSucceeded, now, run)
	return err
}

// Fail implements Coordinator.
func (s *Store) Fail(ctx context.Context, w pipeline.Worker, failed []pipeline.Failure) error {
	err := s.write(ctx, true, func(c *conn) error {
		for _, f := range failed {
			var attempts, most int
			var backoff, claimed int64
			err := c.one(ctx, `SELECT attempts, (SELECT max_attempts FROM tasks t WHERE t.task_id = shards.task_id),
				(SELECT backoff FROM tasks t WHERE t.task_id = shards.task_id), claimed FROM shards`+held,
				[]any{f.Claim.ShardID, w.ID, f.Claim.Epoch}, &attempts, &most, &backoff, &claimed)
			if errors.Is(err, sql.ErrNoRows) {
				continue // fenced: somebody else has it
			}
			if err != nil {
				return err
			}
			end := ended{shard: f.Claim.ShardID, epoch: f.Claim.Epoch, worker: w.ID, claimed: claimed, outcome: "error", err: f.Error}
			if f.Permanent || attempts >= most {
				err = s.bury(ctx, c, f.Claim.Task, f.Claim.Shard.Ordinal, attempts, end)
			} else {
				delay := f.Delay.Milliseconds()
				if delay == 0 {
					delay = backoffDelay(backoff, attempts)
				}
				err = s.again(ctx, c, end, "", s.o.Now()+delay)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("fail: %w", err)
	}
	return nil
}

// backoffDelay doubles with every attempt up to five minutes, and spreads the
// retries of shards that failed together. Milliseconds.
func backoffDelay(base int64, attempts int) int64 {
	d := float64(base)
	for range min(attempts-1, 40) {
		d *= 2
	}
	return int64(min(d, 300_000) * (0.5 + rand.Float64()/2))
}

// ended is an attempt that did not succeed.
type ended struct {
	shard, epoch, worker, claimed int64
	outcome, err                  string
}

func (s *Store) note(ctx context.Context, c *conn, e ended) error {
	_, err := c.exec(ctx, "INSERT OR REPLACE INTO attempts VALUES(?, ?, ?, ?, ?, ?, ?)", e.shard, e.epoch, e.worker, e.claimed, time.Now().UnixMilli(), e.outcome, e.err)
	if err == nil {
		_, err = c.exec(ctx, "UPDATE tasks SET retries = retries + 1 WHERE task_id = ?", e.shard>>40)
	}
	return err
}

// again makes a shard PENDING from notBefore on; set is what else changes.
func (s *Store) again(ctx context.Context, c *conn, e ended, set string, notBefore int64) error {
	if err := s.note(ctx, c, e); err != nil {
		return err
	}
	_, err := c.exec(ctx, "UPDATE shards SET state = 0, worker_id = NULL, not_before = ?"+set+held, notBefore, e.shard, e.worker, e.epoch)
	return err
}

// bury makes a shard FAILED, and its run with it.
func (s *Store) bury(ctx context.Context, c *conn, task string, ordinal, attempts int, e ended) error {
	if err := s.note(ctx, c, e); err != nil {
		return err
	}
	if _, err := c.exec(ctx, "UPDATE shards SET state = 3, worker_id = NULL"+held, e.shard, e.worker, e.epoch); err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	var run string
	if err := c.one(ctx, "UPDATE tasks SET state = 3, failed = failed + 1, ended = ? WHERE task_id = ? RETURNING run_id", []any{now, e.shard >> 40}, &run); err != nil {
		return err
	}
	text := fmt.Sprintf("%s, shard %d: %s", task, ordinal, e.err)
	if attempts > 1 {
		text = fmt.Sprintf("%s, shard %d, after %d attempts: %s", task, ordinal, attempts, e.err)
	}
	_, err := c.exec(ctx, "UPDATE runs SET state = ?, ended = ?, error = ? WHERE run_id = ? AND state < 3", pipeline.RunFailed, now, text, run)
	return err
}

// Release implements Coordinator.
func (s *Store) Release(ctx context.Context, w pipeline.Worker, claims []pipeline.Claim) error {
	err := s.write(ctx, false, func(c *conn) error {
		for _, cl := range claims {
			if _, err := c.exec(ctx, "UPDATE shards SET state = 0, attempts = attempts - 1, worker_id = NULL"+held, cl.ShardID, w.ID, cl.Epoch); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("release: %w", err)
	}
	return nil
}
