// Package pipeline holds the words of kq and the compiler that turns a job
// into a graph. Nothing of kq lies below it.
//
// # From job to run
//
// A [Job] is one YAML file, decoded and checked for its shape by package spec.
// [Compile] asks an [Engine] what the SQL means and what the data looks like
// (footers only) and decides everything that a run needs: a [Graph].
//
// A graph is a list of tasks in topological order. A [Task] is what a worker
// executes as one statement: the SQL of one stage, and of the stages fused
// into it as views. Tasks come in three kinds:
//
//   - compute: DuckDB runs the statement over one shard's input and writes one
//     Parquet part;
//   - encode: one committed part is rewritten into a sink's format;
//   - commit: all parts of a sink become visible in one step.
//
// An [Edge] says how rows reach a stage: forward (where the input is, shard by
// shard), broadcast (whole, into every shard) or gather (all of them into one
// task). One place decides edges, the planner in plan.go; everything else reads
// them. A task with a forward edge has one shard per slice of that input, a
// task without has one.
//
// # The answer
//
// The union of a task's outputs over its shards is what DuckDB gives for the
// same statement over the whole input. A stage is forwarded only where the
// engine has proven that from the parsed statement; everything else is
// gathered, and the edge says why.
//
// # The protocol
//
// protocol.go has the values that pass between a worker and the coordinator.
// The coordinator hands out shards as a [Claim] with a fence (epoch) and a
// random nonce; whatever a worker writes carries both in its name, and only
// the completion, one transaction tested against the fence, makes it count.
package pipeline
