// Package worker is one worker process: it claims shards of a run, executes
// them, writes their parts durably and completes them.
//
// A worker knows the state directory and the run's id, and reads everything
// else from the coordinator, so it outlives whoever started it. It may die at
// any instruction:
//
//   - before a shard's part has its final name, nothing of the attempt is
//     visible; the temporary file is an orphan that `kq gc` removes;
//   - with the part named but not completed, the part is an orphan: readers
//     open only parts that a completion names;
//   - after the completion the shard is done, whoever asks.
//
// An attempt that was taken for dead and wakes up fails its completion on the
// fence and removes its own part, which no other attempt can share, as the
// name has the attempt's nonce.
//
// Two goroutines run beside the work: one renews the lease and stops all work
// when the worker was declared dead or could not renew in time; one polls the
// run's state, so that cancelling ends work that is under way.
package worker
