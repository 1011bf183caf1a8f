package coord

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kinequet/kq/jch"
	"github.com/kinequet/kq/pipeline"
)

// Join implements Coordinator. The worker's lock file is locked before its row
// can be seen, and stays so until the process ends or the store is closed.
func (s *Store) Join(ctx context.Context, run string, pid int) (pipeline.Worker, error) {
	w := pipeline.Worker{Run: run, Host: s.host, PID: pid, State: workerStates[workerLive]}
	var lock *os.File
	err := s.write(ctx, false, func(c *conn) error {
		var state pipeline.RunState
		if err := c.one(ctx, "SELECT state FROM runs WHERE run_id = ?", []any{run}, &state); err != nil {
			return noRun(run, err)
		}
		taken := map[int]bool{}
		if err := c.each(ctx, "SELECT slot FROM workers WHERE run_id = ? AND state < 2", []any{run}, func(r *sql.Rows) error {
			var slot int
			err := r.Scan(&slot)
			taken[slot] = true
			return err
		}); err != nil {
			return err
		}
		for taken[w.Slot] {
			w.Slot++
		}
		if err := c.one(ctx, "INSERT INTO workers(run_id, slot, host, boot_id, pid, lease_until) VALUES(?, ?, ?, ?, ?, ?) RETURNING worker_id",
			[]any{run, w.Slot, s.host, s.boot, pid, s.o.Now() + s.o.Lease.Milliseconds()}, &w.ID); err != nil {
			return err
		}
		var err error
		if lock, err = os.OpenFile(s.lockFile(w.ID), os.O_CREATE|os.O_RDWR, 0o666); err != nil {
			return err
		}
		return syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	})
	if err != nil {
		if lock != nil {
			lock.Close()
		}
		return w, fmt.Errorf("join run %s: %w", run, err)
	}
	s.mu.Lock()
	s.locks[w.ID] = lock
	s.mu.Unlock()
	return w, nil
}

func noRun(run string, err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("run %s: %w", run, pipeline.ErrNoRun)
	}
	return err
}

func (s *Store) lockFile(worker int64) string {
	return filepath.Join(s.dir, "workers", fmt.Sprintf("%d.lock", worker))
}

// Leave implements Coordinator.
func (s *Store) Leave(ctx context.Context, w pipeline.Worker) error {
	err := s.write(ctx, false, func(c *conn) error {
		if _, err := c.exec(ctx, "UPDATE workers SET state = 3 WHERE worker_id = ? AND state < 2", w.ID); err != nil {
			return err
		}
		_, err := c.exec(ctx, `UPDATE shards SET state = 0, attempts = attempts - 1, worker_id = NULL
			WHERE state = 1 AND worker_id = ? AND task_id IN (SELECT task_id FROM tasks WHERE run_id = ?)`, w.ID, w.Run)
		return err
	})
	if err != nil {
		return fmt.Errorf("leave run %s: %w", w.Run, err)
	}
	s.mu.Lock()
	if f := s.locks[w.ID]; f != nil {
		f.Close()
		delete(s.locks, w.ID)
		_ = os.Remove(s.lockFile(w.ID))
	}
	s.mu.Unlock()
	return nil
}

// Heartbeat implements Coordinator.
func (s *Store) Heartbeat(ctx context.Context, w pipeline.Worker) error {
	var n int64
	err := s.write(ctx, false, func(c *conn) (err error) {
		n, err = c.exec(ctx, "UPDATE workers SET lease_until = ? WHERE worker_id = ? AND state < 2", s.o.Now()+s.o.Lease.Milliseconds(), w.ID)
		return err
	})
	if err == nil && n == 0 {
		return pipeline.ErrWorkerLost
	}
	return err
}

// Pulse implements Coordinator.
func (s *Store) Pulse(ctx context.Context, w pipeline.Worker) (p pipeline.Pulse, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.one(ctx, `SELECT r.state, coalesce(sum(total - completed - failed), 0),
			(SELECT count(*) FROM shards s JOIN tasks t USING(task_id) WHERE t.run_id = r.run_id AND t.state = 1 AND t.lane = 'computing' AND s.state = 1),
			(SELECT count(*) FROM workers w WHERE w.run_id = r.run_id AND w.state < 2)
			FROM runs r LEFT JOIN tasks t ON t.run_id = r.run_id AND t.state = 1 AND t.lane = 'computing' WHERE r.run_id = ? GROUP BY r.run_id`,
			[]any{w.Run}, &p.RunState, &p.Runnable, &p.Running, &p.Workers)
	})
	p.Runnable = max(0, min(1024, p.Runnable-p.Running))
	return p, noRun(w.Run, err)
}

// ownership is which buckets of a task a worker still expects shards in.
type ownership struct {
	slots, slot int
	buckets     []int
}

// claimable is a task with shards to hand out.
type claimable struct {
	id      int64
	name    string
	buckets int
	left    int   // neither completed nor failed
	follows int64 // another task, or 0
}

// Claim implements Coordinator.
func (s *Store) Claim(ctx context.Context, w pipeline.Worker, lane pipeline.Lane, limit int) (claims []pipeline.Claim, err error) {
	mark := nonce()
	err = s.write(ctx, false, func(c *conn) error {
		claims = nil
		now := s.o.Now()
		var slots int
		var state pipeline.RunState
		err := c.one(ctx, `SELECT r.state, (SELECT max(slot) + 1 FROM workers WHERE run_id = r.run_id AND state < 2)
			FROM workers w JOIN runs r USING(run_id) WHERE w.worker_id = ? AND w.state = 0 AND w.lease_until >= ?`, []any{w.ID, now}, &state, &slots)
		if errors.Is(err, sql.ErrNoRows) {
			return pipeline.ErrWorkerLost
		}
		if err != nil || state != pipeline.RunRunning {
			return err
		}
		tasks, err := runnable(ctx, c, w.Run, lane)
		if err != nil {
			return err
		}
		for _, t := range tasks {
			// Near the end everybody gets a share, and nobody a heap.
			fair := (t.left + 2*slots - 1) / (2 * slots)
			got, err := s.claimFrom(ctx, c, w, t, min(limit-len(claims), fair), slots, now, mark)
			if err != nil {
				return err
			}
			claims = append(claims, got...)
			if len(claims) > 0 { // a batch is of one task: the session is kept
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("claim: %w", err)
	}
	return claims, nil
}

// runnable lists the tasks of a lane with shards left, the last ones first: what is
// nearer to the result frees disk and shows progress. A task whose parts wait for
// a sink is left out while more of them wait than may.
func runnable(ctx context.Context, c *conn, run string, lane pipeline.Lane) (tasks []claimable, err error) {
	err = c.each(ctx, `SELECT task_id, name, buckets, total - completed - failed, follows FROM tasks
		WHERE run_id = ? AND lane = ? AND state = 1 AND NOT EXISTS (SELECT 1 FROM tasks p
			WHERE p.follows = tasks.task_id AND p.follows <> 0 AND tasks.bytes_out - p.bytes_read > p.backlog)
		ORDER BY task_id DESC`, []any{run, lane}, func(r *sql.Rows) error {
		var t claimable
		err := r.Scan(&t.id, &t.name, &t.buckets, &t.left, &t.follows)
		if t.left > 0 {
			tasks = append(tasks, t)
		}
		return err
	})
	return tasks, err
}

// claimFrom takes up to k shards of t: from the worker's own buckets, and when
// those are empty from anybody's, so that buckets of workers that are gone or
// slow are adopted.
func (s *Store) claimFrom(ctx context.Context, c *conn, w pipeline.Worker, t claimable, k, slots int, now int64, mark string) ([]pipeline.Claim, error) {
	own := s.owned[t.id]
	if own == nil || own.slots != slots || own.slot != w.Slot {
		own = &ownership{slots: slots, slot: w.Slot}
		for b := range t.buckets {
			if jch.Hash(uint64(b)*0x9E3779B97F4A7C15, slots) == w.Slot {
				own.buckets = append(own.buckets, b)
			}
		}
		rand.Shuffle(len(own.buckets), func(i, j int) { own.buckets[i], own.buckets[j] = own.buckets[j], own.buckets[i] })
		s.owned[t.id] = own
	}
	for len(own.buckets) > 0 {
		b := own.buckets[len(own.buckets)-1]
		claims, err := s.take(ctx, c, w, t, b, k, now, mark)
		if err != nil || len(claims) > 0 {
			return claims, err
		}
		own.buckets = own.buckets[:len(own.buckets)-1]
	}
	from := rand.IntN(t.buckets)
	for _, lap := range [2][2]int{{from, t.buckets}, {0, from}} {
		var b int
		err := c.one(ctx, `SELECT bucket FROM shards WHERE state = 0 AND task_id = ? AND bucket >= ? AND bucket < ? AND not_before <= ?
			ORDER BY bucket LIMIT 1`, []any{t.id, lap[0], lap[1], now}, &b)
		if errors.Is(err, sql.ErrNoRows) {
			continue
		}
		if err != nil {
			return nil, err
		}
		return s.take(ctx, c, w, t, b, k, now, mark)
	}
	return nil, nil
}

// take claims up to k shards of one bucket. A suspect is handed out alone.
func (s *Store) take(ctx context.Context, c *conn, w pipeline.Worker, t claimable, bucket, k int, now int64, mark string) ([]pipeline.Claim, error) {
	var ids []int64
	alone := false
	err := c.each(ctx, `SELECT shard_id, suspect FROM shards WHERE state = 0 AND task_id = ? AND bucket = ? AND not_before <= ?
		ORDER BY not_before LIMIT ?`, []any{t.id, bucket, now, k}, func(r *sql.Rows) error {
		var id int64
		var suspect bool
		if err := r.Scan(&id, &suspect); err != nil {
			return err
		}
		if !alone && (!suspect || len(ids) == 0) {
			ids = append(ids, id)
		}
		alone = alone || suspect
		return nil
	})
	if err != nil || len(ids) == 0 {
		return nil, err
	}
	claims := make([]pipeline.Claim, len(ids))
	wall := time.Now().UnixMilli()
	for i, id := range ids {
		cl := pipeline.Claim{ShardID: id, Task: t.name, Nonce: mark}
		var spec string
		if err := c.one(ctx, `UPDATE shards SET state = 1, epoch = epoch + 1, attempts = attempts + 1, worker_id = ?, nonce = ?, claimed = ?, batch = ?
			WHERE shard_id = ? AND state = 0 RETURNING epoch, attempts, (SELECT spec FROM shard_spec p WHERE p.shard_id = shards.shard_id)`,
			[]any{w.ID, mark, wall, len(ids), id}, &cl.Epoch, &cl.Attempt, &spec); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(spec), &cl.Shard); err != nil {
			return nil, err
		}
		if t.follows != 0 {
			var parts string
			if err := c.one(ctx, "SELECT parts FROM outputs WHERE shard_id = ?", []any{t.follows<<40 | id&(1<<40-1)}, &parts); err != nil {
				return nil, fmt.Errorf("parts of the shard that %s, shard %d follows: %w", t.name, cl.Shard.Ordinal, err)
			}
			if err := json.Unmarshal([]byte(parts), &cl.Followed); err != nil {
				return nil, err
			}
		}
		claims[i] = cl
	}
	return claims, nil
}
