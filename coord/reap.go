package coord

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/kinequet/kq/pipeline"
)

// Reap implements Coordinator. It only writes when a look has found something.
func (s *Store) Reap(ctx context.Context, run string) (reaped int, err error) {
	var dead []int64
	stranded := 0
	now := s.o.Now()
	err = s.read(ctx, func(c *conn) error {
		if err := c.each(ctx, "SELECT worker_id, boot_id, lease_until FROM workers WHERE run_id = ? AND state < 2", []any{run}, func(r *sql.Rows) error {
			var id, until int64
			var boot string
			if err := r.Scan(&id, &boot, &until); err != nil {
				return err
			}
			if until < now || boot != s.boot || s.unlocked(id) {
				dead = append(dead, id)
			}
			return nil
		}); err != nil {
			return err
		}
		return c.one(ctx, `SELECT count(*) FROM shards s JOIN tasks t USING(task_id) WHERE t.run_id = ? AND s.state = 1
			AND worker_id NOT IN (SELECT worker_id FROM workers WHERE state < 2)`, []any{run}, &stranded)
	})
	if err != nil || len(dead)+stranded == 0 {
		return 0, err
	}
	err = s.write(ctx, true, func(c *conn) error {
		now := s.o.Now()
		for _, id := range dead {
			// A lease may have been renewed since the look; a lock that was free stays free.
			if _, err := c.exec(ctx, "UPDATE workers SET state = 2 WHERE worker_id = ? AND state < 2 AND (lease_until < ? OR boot_id <> ? OR ?)",
				id, now, s.boot, s.unlocked(id)); err != nil {
				return err
			}
		}
		lost, err := orphans(ctx, c, run)
		reaped = len(lost)
		computing := map[int64]bool{} // workers that were
		for _, o := range lost {
			computing[o.worker] = computing[o.worker] || o.lane == pipeline.Computing
		}
		for _, o := range lost {
			o.beside = o.lane != pipeline.Computing && computing[o.worker]
			if err := s.collect(ctx, c, o); err != nil {
				return err
			}
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("reap run %s: %w", run, err)
	}
	for _, id := range dead {
		_ = os.Remove(s.lockFile(id))
	}
	return reaped, nil
}

// unlocked reports whether the process of a worker has ended: then its lock can
// be had.
func (s *Store) unlocked(worker int64) bool {
	f, err := os.OpenFile(s.lockFile(worker), os.O_RDWR, 0)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// orphan is a PROCESSING shard whose owner is not live.
type orphan struct {
	ended
	task     string
	lane     pipeline.Lane
	beside   bool // it was being published beside one that was computed
	ordinal  int
	attempts int
	lost     int
	batch    int
	pid      int
}

func orphans(ctx context.Context, c *conn, run string) (all []orphan, err error) {
	err = c.each(ctx, `SELECT s.shard_id, s.epoch, s.worker_id, s.claimed, s.attempts, s.lost, s.batch, t.name, t.lane,
		(SELECT json_extract(spec, '$.ordinal') FROM shard_spec p WHERE p.shard_id = s.shard_id), coalesce((SELECT pid FROM workers w WHERE w.worker_id = s.worker_id), 0)
		FROM shards s JOIN tasks t USING(task_id) WHERE t.run_id = ? AND s.state = 1
		AND s.worker_id NOT IN (SELECT worker_id FROM workers WHERE state < 2)`, []any{run}, func(r *sql.Rows) error {
		o := orphan{ended: ended{outcome: "lost"}}
		err := r.Scan(&o.shard, &o.epoch, &o.worker, &o.claimed, &o.attempts, &o.lost, &o.batch, &o.task, &o.lane, &o.ordinal, &o.pid)
		all = append(all, o)
		return err
	})
	return all, err
}

// collect returns one orphan. The attempt is not counted against the limit of
// errors; a shard that was alone with its worker is blamed for its death, and of
// one that was computed and others that were published, the former.
func (s *Store) collect(ctx context.Context, c *conn, o orphan) error {
	o.err = fmt.Sprintf("worker %d (process %d) died or stopped answering", o.worker, o.pid)
	switch {
	case o.beside:
		return s.again(ctx, c, o.ended, ", attempts = attempts - 1", 0)
	case o.batch > 1:
		return s.again(ctx, c, o.ended, ", attempts = attempts - 1, suspect = 1", 0)
	case o.lost+1 < s.o.MaxLost:
		return s.again(ctx, c, o.ended, ", attempts = attempts - 1, suspect = 1, lost = lost + 1", 0)
	}
	o.err = fmt.Sprintf("this shard killed %d workers, the last one being worker %d (process %d): out of memory, or a crash of the engine; its log tells", o.lost+1, o.worker, o.pid)
	return s.bury(ctx, c, o.task, o.ordinal, 1, o.ended)
}

// Cancel implements Coordinator.
func (s *Store) Cancel(ctx context.Context, run string) error {
	return s.write(ctx, true, func(c *conn) error {
		if err := exists(ctx, c, run); err != nil {
			return err
		}
		_, err := c.exec(ctx, "UPDATE runs SET state = ?, ended = ?, error = 'cancelled' WHERE run_id = ? AND state < 3", pipeline.RunCancelled, wallMillis(), run)
		return err
	})
}

func exists(ctx context.Context, c *conn, run string) error {
	var one int
	return noRun(run, c.one(ctx, "SELECT 1 FROM runs WHERE run_id = ?", []any{run}, &one))
}

// Retry implements Coordinator.
func (s *Store) Retry(ctx context.Context, run string) (retried int, err error) {
	err = s.write(ctx, true, func(c *conn) error {
		if err := exists(ctx, c, run); err != nil {
			return err
		}
		n, err := c.exec(ctx, `UPDATE shards SET state = 0, attempts = 0, lost = 0, suspect = 0, not_before = 0
			WHERE state = 3 AND task_id IN (SELECT task_id FROM tasks WHERE run_id = ?)`, run)
		if err != nil {
			return err
		}
		retried = int(n)
		if _, err := c.exec(ctx, "UPDATE tasks SET state = 1, failed = 0, ended = 0 WHERE run_id = ? AND state = 3", run); err != nil {
			return err
		}
		_, err = c.exec(ctx, "UPDATE runs SET state = ?, ended = 0, error = '' WHERE run_id = ? AND state IN (?, ?)", pipeline.RunRunning, run, pipeline.RunFailed, pipeline.RunCancelled)
		return err
	})
	return retried, err
}
