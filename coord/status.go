package coord

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/kinequet/kq/pipeline"
)

func wallMillis() int64 { return time.Now().UnixMilli() }

func wall(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

const runColumns = "SELECT run_id, job, file, digest, state, error, created, ended FROM runs "

func scanRun(r *sql.Rows) (s pipeline.RunStatus, err error) {
	var created, end int64
	err = r.Scan(&s.Run, &s.Job, &s.File, &s.Digest, &s.State, &s.Error, &created, &end)
	s.Created, s.Ended = wall(created), wall(end)
	return s, err
}

func (s *Store) runs(ctx context.Context, where string, args ...any) (all []pipeline.RunStatus, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.each(ctx, runColumns+where, args, func(r *sql.Rows) error {
			st, err := scanRun(r)
			all = append(all, st)
			return err
		})
	})
	return all, err
}

// Runs implements Coordinator.
func (s *Store) Runs(ctx context.Context) ([]pipeline.RunStatus, error) {
	return s.runs(ctx, "ORDER BY run_id DESC")
}

// Latest implements Coordinator.
func (s *Store) Latest(ctx context.Context, file string) (pipeline.RunStatus, error) {
	runs, err := s.runs(ctx, "WHERE file = ? ORDER BY run_id DESC LIMIT 1", file)
	if err == nil && len(runs) == 0 {
		err = pipeline.ErrNoRun
	}
	if err != nil {
		return pipeline.RunStatus{}, err
	}
	return s.Status(ctx, runs[0].Run)
}

// Status implements Coordinator.
func (s *Store) Status(ctx context.Context, run string) (pipeline.RunStatus, error) {
	runs, err := s.runs(ctx, "WHERE run_id = ?", run)
	if err == nil && len(runs) == 0 {
		err = fmt.Errorf("run %s: %w", run, pipeline.ErrNoRun)
	}
	if err != nil {
		return pipeline.RunStatus{}, err
	}
	st := runs[0]
	err = s.read(ctx, func(c *conn) error {
		if err := c.each(ctx, `SELECT name, kind, state, total, completed, failed, retries, rows_in, rows_out, bytes_read, bytes_out, spilled, memory,
			elapsed, started, ended, (SELECT count(*) FROM shards s WHERE s.task_id = t.task_id AND s.state = 1)
			FROM tasks t WHERE run_id = ? ORDER BY task_id`, []any{run}, func(r *sql.Rows) error {
			var t pipeline.TaskStatus
			var started, end int64
			m := &t.Metrics
			err := r.Scan(&t.Task, &t.Kind, &t.State, &t.Shards, &t.Completed, &t.Failed, &t.Retries, &m.RowsIn, &m.RowsOut, &m.BytesRead,
				&m.BytesOut, &m.Spilled, &m.Memory, &m.Elapsed, &started, &end, &t.Processing)
			t.Started, t.Ended = wall(started), wall(end)
			t.Pending = t.Shards - t.Completed - t.Failed - t.Processing
			st.Tasks = append(st.Tasks, t)
			return err
		}); err != nil {
			return err
		}
		return c.each(ctx, "SELECT worker_id, slot, host, pid, state FROM workers WHERE run_id = ? AND state < 2 ORDER BY slot", []any{run}, func(r *sql.Rows) error {
			w := pipeline.Worker{Run: run}
			var state int
			err := r.Scan(&w.ID, &w.Slot, &w.Host, &w.PID, &state)
			w.State = workerStates[state]
			st.Workers = append(st.Workers, w)
			return err
		})
	})
	return st, err
}

// Shards implements Coordinator.
func (s *Store) Shards(ctx context.Context, run, task string) (all []pipeline.ShardStatus, err error) {
	err = s.read(ctx, func(c *conn) error {
		index := map[int64]int{}
		err := c.each(ctx, `SELECT s.shard_id, s.state, s.epoch, s.attempts, s.lost, coalesce(s.worker_id, 0), coalesce(s.nonce, ''), p.spec, coalesce(o.parts, ''), coalesce(o.metrics, '')
			FROM shards s JOIN tasks t USING(task_id) JOIN shard_spec p USING(shard_id) LEFT JOIN outputs o USING(shard_id)
			WHERE t.run_id = ? AND t.name = ? ORDER BY json_extract(p.spec, '$.ordinal')`, []any{run, task}, func(r *sql.Rows) error {
			st := pipeline.ShardStatus{Claim: pipeline.Claim{Task: task}}
			var spec, parts, metrics string
			err := r.Scan(&st.ShardID, &st.State, &st.Epoch, &st.Attempt, &st.Lost, &st.Worker, &st.Nonce, &spec, &parts, &metrics)
			err = errors.Join(err, json.Unmarshal([]byte(spec), &st.Shard))
			if parts != "" {
				err = errors.Join(err, json.Unmarshal([]byte(parts), &st.Parts), json.Unmarshal([]byte(metrics), &st.Metrics))
			}
			index[st.ShardID] = len(all)
			all = append(all, st)
			return err
		})
		if err != nil {
			return err
		}
		return c.each(ctx, `SELECT a.shard_id, a.epoch, a.worker_id, a.outcome, a.error, a.started, a.ended FROM attempts a
			JOIN shards s USING(shard_id) JOIN tasks t USING(task_id) WHERE t.run_id = ? AND t.name = ? ORDER BY a.shard_id, a.epoch`, []any{run, task}, func(r *sql.Rows) error {
			var id, started, end int64
			var a pipeline.AttemptError
			err := r.Scan(&id, &a.Epoch, &a.Worker, &a.Outcome, &a.Error, &started, &end)
			a.Started, a.Ended = wall(started), wall(end)
			if i, ok := index[id]; ok {
				all[i].Errors = append(all[i].Errors, a)
			}
			return err
		})
	})
	return all, err
}

// Parts implements Coordinator.
func (s *Store) Parts(ctx context.Context, run, task string) ([][]pipeline.Part, error) {
	var all [][]pipeline.Part
	err := s.read(ctx, func(c *conn) error {
		return c.each(ctx, `SELECT coalesce(o.parts, '[]') FROM shards s JOIN tasks t USING(task_id) JOIN shard_spec p USING(shard_id)
			LEFT JOIN outputs o USING(shard_id) WHERE t.run_id = ? AND t.name = ? ORDER BY json_extract(p.spec, '$.ordinal')`,
			[]any{run, task}, func(r *sql.Rows) error {
				var text string
				var parts []pipeline.Part
				err := r.Scan(&text)
				err = errors.Join(err, json.Unmarshal([]byte(text), &parts))
				all = append(all, parts)
				return err
			})
	})
	return all, err
}

// Retire implements Coordinator.
func (s *Store) Retire(ctx context.Context, archive, purge time.Time) (retired []string, err error) {
	type victim struct {
		run      string
		ended    int64
		archived bool
	}
	var victims []victim
	err = s.read(ctx, func(c *conn) error {
		return c.each(ctx, "SELECT run_id, ended, archived FROM runs WHERE state >= 3 AND ended > 0 AND ended < ?", []any{archive.UnixMilli()}, func(r *sql.Rows) error {
			var v victim
			err := r.Scan(&v.run, &v.ended, &v.archived)
			victims = append(victims, v)
			return err
		})
	})
	for _, v := range victims {
		if err != nil {
			return retired, err
		}
		gone := v.ended < purge.UnixMilli()
		if v.archived && !gone {
			continue
		}
		if err = s.archive(ctx, v.run, gone); err == nil {
			retired = append(retired, v.run)
		}
	}
	return retired, err
}

// archive removes a run's shards, a few thousand at a time so that nobody
// waits long, and the run itself when it is purged.
func (s *Store) archive(ctx context.Context, run string, purge bool) error {
	for more := true; more; {
		err := s.write(ctx, false, func(c *conn) error {
			var ids []int64
			if err := c.each(ctx, "SELECT shard_id FROM shards WHERE task_id IN (SELECT task_id FROM tasks WHERE run_id = ?) LIMIT 2000", []any{run}, func(r *sql.Rows) error {
				var id int64
				err := r.Scan(&id)
				ids = append(ids, id)
				return err
			}); err != nil {
				return err
			}
			more = len(ids) == 2000
			for _, id := range ids {
				for _, table := range []string{"shards", "shard_spec", "outputs", "attempts"} {
					if _, err := c.exec(ctx, "DELETE FROM "+table+" WHERE shard_id = ?", id); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return s.write(ctx, true, func(c *conn) error {
		queries := []string{"UPDATE runs SET archived = 1, plan = x'' WHERE run_id = ?", "DELETE FROM workers WHERE run_id = ?"}
		if purge {
			queries = []string{
				"DELETE FROM task_needs WHERE task_id IN (SELECT task_id FROM tasks WHERE run_id = ?)",
				"DELETE FROM tasks WHERE run_id = ?", "DELETE FROM workers WHERE run_id = ?", "DELETE FROM runs WHERE run_id = ?",
			}
		}
		for _, q := range queries {
			if _, err := c.exec(ctx, q, run); err != nil {
				return err
			}
		}
		return nil
	})
}

// Lease implements Coordinator.
func (s *Store) Lease(ctx context.Context, name string, w pipeline.Worker, ttl time.Duration) (epoch int64, ok bool, err error) {
	err = s.write(ctx, false, func(c *conn) error {
		now := s.o.Now()
		err := c.one(ctx, `INSERT INTO leases VALUES(?, 1, ?, ?) ON CONFLICT(name) DO UPDATE SET epoch = epoch + (worker_id <> excluded.worker_id),
			worker_id = excluded.worker_id, until = excluded.until WHERE until < ? OR worker_id = excluded.worker_id RETURNING epoch`,
			[]any{name, w.ID, now + ttl.Milliseconds(), now}, &epoch)
		ok = err == nil
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return epoch, ok, err
}
