package coord

import (
	"context"
	"time"

	"github.com/kinequet/kq/pipeline"
)

// Coordinator is every verb of a coordinator, whatever keeps the ledger. The
// conformance suite in coordtest is a transcription of these contracts.
type Coordinator interface {
	// Submit hands in a run with all its tasks and shards, in one durable
	// transaction. Tasks without needs can be claimed at once.
	Submit(ctx context.Context, s pipeline.Submission) error
	// Plan returns the plan that the run was submitted with, or ErrNoRun.
	Plan(ctx context.Context, run string) ([]byte, error)

	// Join registers a worker process and gives it the lowest free slot.
	Join(ctx context.Context, run string, pid int) (pipeline.Worker, error)
	// Leave ends a worker; what it still holds is released.
	Leave(ctx context.Context, w pipeline.Worker) error
	// Heartbeat renews the worker's lease, or returns ErrWorkerLost.
	Heartbeat(ctx context.Context, w pipeline.Worker) error
	// Pulse looks at the worker's run. It writes nothing and is cheap.
	Pulse(ctx context.Context, w pipeline.Worker) (pipeline.Pulse, error)

	// Claim hands out up to limit shards of a lane, from the worker's own buckets
	// first. A shard that follows another is not handed out before that one is
	// complete. One whose task is followed is not handed out while parts of more
	// bytes than Task.Backlog have been written and not read by the follower.
	// Nothing to claim is no error. A worker that is not live gets ErrWorkerLost.
	Claim(ctx context.Context, w pipeline.Worker, lane pipeline.Lane, limit int) ([]pipeline.Claim, error)
	// Complete commits finished attempts, durably and all in one transaction.
	// The i-th error is ErrFenced when the i-th attempt no longer holds its
	// shard; its output does not count then.
	Complete(ctx context.Context, w pipeline.Worker, done []pipeline.Completion) ([]error, error)
	// Fail ends attempts in error: PENDING again after a delay that doubles, or
	// FAILED when the error is permanent or the attempts are used up; that
	// fails the run. Attempts that no longer hold their shard are ignored.
	Fail(ctx context.Context, w pipeline.Worker, failed []pipeline.Failure) error
	// Release gives shards back untried; no attempt is spent.
	Release(ctx context.Context, w pipeline.Worker, claims []pipeline.Claim) error
	// Reap returns the shards of dead workers and says how many.
	Reap(ctx context.Context, run string) (int, error)

	// Cancel ends a run that has not ended. What its workers hold is theirs to
	// release.
	Cancel(ctx context.Context, run string) error
	// Retry makes the FAILED shards of a run PENDING with fresh attempts, and a
	// failed or cancelled run RUNNING. It says how many shards there were.
	Retry(ctx context.Context, run string) (int, error)
	// Retire archives runs that ended before a time: their shards are removed,
	// their summary is kept. Runs that ended before purge are removed altogether.
	// It returns the runs that were archived or removed.
	Retire(ctx context.Context, archive, purge time.Time) ([]string, error)
	// Lease takes a named lease for ttl, unless another worker holds it.
	Lease(ctx context.Context, name string, w pipeline.Worker, ttl time.Duration) (epoch int64, ok bool, err error)

	// Status, Runs, Latest, Shards and Parts read. Runs come newest first and
	// without tasks. Latest returns ErrNoRun when the job file has no run. Parts
	// are listed by shard; shards that are not complete have none.
	Status(ctx context.Context, run string) (pipeline.RunStatus, error)
	Runs(ctx context.Context) ([]pipeline.RunStatus, error)
	Latest(ctx context.Context, file string) (pipeline.RunStatus, error)
	Shards(ctx context.Context, run, task string) ([]pipeline.ShardStatus, error)
	Parts(ctx context.Context, run, task string) ([][]pipeline.Part, error)

	Close() error
}

var _ Coordinator = (*Store)(nil)
