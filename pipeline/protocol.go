package pipeline

import (
	"errors"
	"time"
)

// Errors that callers branch on.
var (
	// ErrFenced means that the attempt no longer holds the shard: its lease ran
	// out and another attempt took over. The caller discards its output.
	ErrFenced = errors.New("the shard is held by another attempt")
	// ErrWorkerLost means that the coordinator has declared the worker dead.
	// It must stop all work and exit.
	ErrWorkerLost = errors.New("this worker was declared dead")
	// ErrNoRun means that no run has the given id.
	ErrNoRun = errors.New("no such run")
)

// RunState is the state of a run.
type RunState int

// The states of a run. Succeeded, Failed and Cancelled are final; retry leads
// back from Failed to Running.
const (
	RunRunning RunState = iota + 1
	RunCancelling
	RunSucceeded
	RunFailed
	RunCancelled
)

func (s RunState) String() string {
	return [...]string{"UNKNOWN", "RUNNING", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED"}[s]
}

// Final reports whether the run has ended.
func (s RunState) Final() bool { return s >= RunSucceeded }

// TaskState is the state of a task within a run.
type TaskState int

// The states of a task.
const (
	TaskBlocked  TaskState = iota // a task that it needs is not complete
	TaskRunning                   // its shards can be claimed
	TaskComplete                  // every shard is COMPLETED
	TaskFailed                    // a shard is FAILED
)

func (s TaskState) String() string {
	return [...]string{"BLOCKED", "RUNNING", "COMPLETE", "FAILED"}[s]
}

// ShardState is the state of a shard.
type ShardState int

// The states of a shard.
const (
	ShardPending ShardState = iota
	ShardProcessing
	ShardCompleted
	ShardFailed
)

func (s ShardState) String() string {
	return [...]string{"PENDING", "PROCESSING", "COMPLETED", "FAILED"}[s]
}

// Submission is a run as it is handed in, in one transaction.
type Submission struct {
	Run    string // id; sorts by time
	Job    string // the job's name
	File   string // absolute path of the job file
	Digest string
	Plan   []byte // the graph, as the workers read it back
	Tasks  []Task // with their shards
}

// Worker is one worker process as the coordinator knows it.
type Worker struct {
	ID    int64
	Run   string
	Slot  int // 0..; the place among the live workers that buckets are dealt to
	Host  string
	PID   int
	State string // LIVE, DRAINING, DEAD, GONE
}

// Claim is a shard in a worker's hands.
type Claim struct {
	ShardID int64
	Task    string
	Shard   Shard
	Epoch   int64  // fence: raised by every claim
	Attempt int    // counts from 1; released attempts don't count
	Nonce   string // random, unique to this attempt; part of every name that it writes
	// Followed is the parts of the shard that this one follows.
	Followed []Part
}

// Completion is the result of an attempt.
type Completion struct {
	Claim   Claim
	Parts   []Part
	Metrics Metrics
}

// Metrics is what executing a shard took.
type Metrics struct {
	RowsIn    int64         `json:"rows_in"`
	RowsOut   int64         `json:"rows_out"`
	BytesRead int64         `json:"bytes_read"` // from storage
	BytesOut  int64         `json:"bytes_out"`
	Spilled   int64         `json:"spilled"`     // peak bytes of temporary files
	Memory    int64         `json:"peak_memory"` // peak resident bytes of the worker process
	Elapsed   time.Duration `json:"elapsed"`
}

// Failure is an attempt that ended in an error.
type Failure struct {
	Claim     Claim
	Error     string // for people: what, where, what to do
	Permanent bool   // trying again cannot help
	Delay     time.Duration
}

// Pulse is the coordinator's answer to a heartbeat.
type Pulse struct {
	RunState RunState
	Runnable int // shards for computing that could be claimed now, counted up to 1024
	Running  int // shards that are being computed
	Workers  int // live workers of the run
}

// TaskStatus is one task of a run, as progress shows it.
type TaskStatus struct {
	Task                                   string
	Kind                                   TaskKind
	State                                  TaskState
	Shards                                 int64
	Pending, Processing, Completed, Failed int64
	Retries                                int64     // attempts that failed or were lost
	Metrics                                Metrics   // sums over completed shards; Memory and Spilled are maxima
	Started, Ended                         time.Time // zero: not yet
}

// Waiting is the bytes of parts of the task that it follows that a publish task has
// not sent yet.
func (t TaskStatus) Waiting(followed TaskStatus) int64 {
	return max(0, followed.Metrics.BytesOut-t.Metrics.BytesRead)
}

// RunStatus is one run, as progress shows it.
type RunStatus struct {
	Run     string
	Job     string
	File    string
	Digest  string
	State   RunState
	Error   string // of a failed run
	Created time.Time
	Ended   time.Time // zero: not yet
	Tasks   []TaskStatus
	Workers []Worker // live ones
}

// ShardStatus is one shard, as logs and status show it.
type ShardStatus struct {
	Claim
	State   ShardState
	Lost    int   // attempts that ended with the death of their worker
	Worker  int64 // 0: none
	Errors  []AttemptError
	Parts   []Part
	Metrics Metrics
}

// AttemptError is the end of an attempt that did not succeed.
type AttemptError struct {
	Epoch   int64
	Worker  int64
	Outcome string // error, lost, timeout, released
	Error   string
	Started time.Time
	Ended   time.Time
}
