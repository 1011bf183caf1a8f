package coord

// schemaVersion is raised whenever the schema below changes.
const schemaVersion = "2"

// A shard's id is task<<40 | bucket<<24 | sequence: neighbours in a bucket are
// neighbours on disk, so that a batch changes one or two pages, not one each.
const schema = `
CREATE TABLE meta(k TEXT PRIMARY KEY, v TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE runs(run_id TEXT PRIMARY KEY, job TEXT NOT NULL, file TEXT NOT NULL, digest TEXT NOT NULL, plan BLOB NOT NULL,
  state INTEGER NOT NULL CHECK(state BETWEEN 1 AND 5), error TEXT NOT NULL DEFAULT '',
  created INTEGER NOT NULL, ended INTEGER NOT NULL DEFAULT 0, archived INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE INDEX runs_file ON runs(file, run_id);
CREATE TABLE tasks(task_id INTEGER PRIMARY KEY, run_id TEXT NOT NULL REFERENCES runs, name TEXT NOT NULL, kind TEXT NOT NULL,
  state INTEGER NOT NULL CHECK(state BETWEEN 0 AND 3), buckets INTEGER NOT NULL, max_attempts INTEGER NOT NULL, backoff INTEGER NOT NULL,
  total INTEGER NOT NULL, completed INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, retries INTEGER NOT NULL DEFAULT 0,
  rows_in INTEGER NOT NULL DEFAULT 0, rows_out INTEGER NOT NULL DEFAULT 0, bytes_read INTEGER NOT NULL DEFAULT 0,
  bytes_out INTEGER NOT NULL DEFAULT 0, spilled INTEGER NOT NULL DEFAULT 0, memory INTEGER NOT NULL DEFAULT 0,
  elapsed INTEGER NOT NULL DEFAULT 0, started INTEGER NOT NULL DEFAULT 0, ended INTEGER NOT NULL DEFAULT 0,
  lane TEXT NOT NULL, follows INTEGER NOT NULL, backlog INTEGER NOT NULL, UNIQUE(run_id, name)) STRICT;
CREATE INDEX tasks_follow ON tasks(follows) WHERE follows <> 0;
CREATE TABLE task_needs(task_id INTEGER NOT NULL, needs INTEGER NOT NULL, PRIMARY KEY(task_id, needs)) STRICT, WITHOUT ROWID;
CREATE TABLE shard_spec(shard_id INTEGER PRIMARY KEY, spec TEXT NOT NULL) STRICT;
CREATE TABLE shards(shard_id INTEGER PRIMARY KEY, task_id INTEGER NOT NULL, bucket INTEGER NOT NULL,
  state INTEGER NOT NULL DEFAULT 0 CHECK(state BETWEEN 0 AND 3), epoch INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0,
  lost INTEGER NOT NULL DEFAULT 0, suspect INTEGER NOT NULL DEFAULT 0, batch INTEGER NOT NULL DEFAULT 0, not_before INTEGER NOT NULL DEFAULT 0,
  worker_id INTEGER, nonce TEXT, claimed INTEGER NOT NULL DEFAULT 0, CHECK((state = 1) = (worker_id IS NOT NULL))) STRICT;
CREATE INDEX shards_ready ON shards(task_id, bucket, not_before) WHERE state = 0;
CREATE INDEX shards_running ON shards(task_id, worker_id) WHERE state = 1;
CREATE INDEX shards_failed ON shards(task_id) WHERE state = 3;
CREATE TABLE outputs(shard_id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, parts TEXT NOT NULL, metrics TEXT NOT NULL) STRICT;
CREATE TABLE attempts(shard_id INTEGER NOT NULL, epoch INTEGER NOT NULL, worker_id INTEGER NOT NULL, started INTEGER NOT NULL,
  ended INTEGER NOT NULL, outcome TEXT NOT NULL, error TEXT NOT NULL, PRIMARY KEY(shard_id, epoch)) STRICT, WITHOUT ROWID;
CREATE TABLE workers(worker_id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, slot INTEGER NOT NULL, host TEXT NOT NULL,
  boot_id TEXT NOT NULL, pid INTEGER NOT NULL, state INTEGER NOT NULL DEFAULT 0, lease_until INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX workers_slot ON workers(run_id, slot) WHERE state < 2;
CREATE TABLE leases(name TEXT PRIMARY KEY, epoch INTEGER NOT NULL, worker_id INTEGER NOT NULL, until INTEGER NOT NULL) STRICT, WITHOUT ROWID;
`

// notReady is the not_before of a shard whose turn comes with the completion of
// the one that it follows.
const notReady = 1 << 62

// States of a worker row.
const (
	workerLive = iota
	workerDraining
	workerDead
	workerGone
)

var workerStates = [...]string{"LIVE", "DRAINING", "DEAD", "GONE"}
