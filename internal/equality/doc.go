// Package equality tests the first law: a job's answer equals what DuckDB gives
// for the same SQL over the whole input, whatever the number of shards. Its
// tests run the real compiler and the real executor in one process over a table
// of statements and over random ones.
package equality
