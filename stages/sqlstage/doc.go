// Package sqlstage runs SQL on DuckDB: it is the engine that [pipeline.Compile]
// asks, and the executor that workers run shards with.
//
// # Planning
//
// [Engine] has two in-memory databases. One only parses and binds statements of
// the job (package analysis) and can reach nothing. The other, the scout, runs
// statements that this package writes itself: DESCRIBE over the sources' files,
// EXPLAIN over empty tables of their schema, and comparisons of row-group
// statistics with constants.
//
// # Executing
//
// A [Session] is one in-memory database for the shards of one task. It is
// opened with the task's threads and memory, is told which files it may read
// and into which folder it may write, and is then locked: from there on, no SQL
// can reach anything else or change a setting. Sources and parts are views of
// the names that the job's SQL uses; the fused stages are views over these, and
// the shard's result is one COPY of the last view.
//
// A shard of a source is the same read_parquet, read_csv or read_json of all
// its files that DuckDB would run over the whole input, with a filter on file
// and row number on top. The reader binds the same schema whatever the shard,
// and skips files and row groups that the filter excludes, so the union of the
// shards is the whole input by construction.
//
// # Types
//
// Some of DuckDB's types do not survive Parquet (HUGEINT becomes DOUBLE,
// INTERVAL loses microseconds). Parts between stages hold those as VARCHAR and
// readers cast them back; see [Engine.Stored].
package sqlstage
