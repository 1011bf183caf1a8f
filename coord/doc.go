// Package coord is the coordinator: the ledger of runs, tasks and shards that
// workers share. There is no process behind it; every worker opens the same
// SQLite database and changes it in short transactions.
//
// # Model
//
// A run has tasks, a task has shards. A shard is PENDING, PROCESSING (held by
// one worker), COMPLETED or FAILED. A task is BLOCKED until all tasks that it
// needs are COMPLETE; its shards can be claimed while it is RUNNING. A run is
// SUCCEEDED when its last task is complete and FAILED as soon as one shard is.
//
// # The fence
//
// Every claim raises the shard's epoch and gives the attempt a random nonce.
// Every later write of the attempt (complete, fail, release) names worker and
// epoch and changes nothing unless the shard is PROCESSING under exactly
// these. So it does not matter whether a worker that seems dead really is:
// leases decide when a shard is tried again, never who may commit it. The
// nonce stands in every file name of the attempt, because a power failure may
// take back claims (see Durability) and then an epoch is handed out twice.
//
// The completion, one transaction, is the only instant at which a shard's
// output comes to count.
//
// # Who is dead
//
// A worker is dead when its lease has run out, when its machine has been booted
// since, or when the lock on its file workers/<id>.lock can be had: the kernel
// drops that lock with the process. Reaping returns every PROCESSING shard
// whose owner is not among the live workers, not only those of workers that
// died just now, because a worker may claim between its end being noticed and
// its shards being collected; a claim also tests its own worker row.
//
// A shard that was claimed alone and whose worker died is blamed for it; at the
// third time it is FAILED (poison). In a batch nobody can say which shard it
// was, so none is blamed, but each is a suspect from then on: it is handed out
// alone, so that the culprit is found.
//
// # Durability
//
// The journal is a WAL. Claims and heartbeats commit with synchronous=NORMAL:
// a power failure may take the last of them back, which costs work and nothing
// else. Completions, failures and submissions commit with synchronous=FULL.
//
// # Waiting
//
// Writers queue at a blocking flock on coord.db.gate before BEGIN IMMEDIATE:
// the kernel wakes them in order and drops the lock of a process that dies.
// SQLite's own busy handler sleeps and retries, which starves: measured on 64
// workers, it left the worst one 1 % of its share, the gate 68 %.
//
// # Where it may lie
//
// WAL needs shared memory, so all workers must be on one machine, and the file
// on a local file system. Others are refused.
package coord
