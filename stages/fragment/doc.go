// Package fragment cuts one SQL statement into fragments that run on any number
// of buckets and together give the statement's answer.
//
// # The proof
//
// A statement is parallel in a key when every large relation in it is divided by
// the key, the others are whole in every bucket, and every operator respects the
// key: then the union of its answers over the buckets is the answer, and DuckDB
// runs the statement as it stands inside each bucket. [prover] checks that
// bottom up over DuckDB's syntax tree. Of each column it knows whether it equals
// a component of the key: in every row (exact), or wherever it is not NULL. An
// equality of an inner join hands that on to the other side; an outer join
// leaves only the second to the side that may be missing; GROUP BY, PARTITION BY
// and DISTINCT need the first for every component, joins the second; a
// correlated subquery needs equalities with the outer row that pin every
// component. What the proof does not know fails it.
//
// The proof and the search are apart: [splitter] proposes keys (from the
// statement's own equalities, groups and partitions) and roles of the tables,
// the prover accepts or refuses them, and the cheapest accepted way is taken. A
// wrong proposal costs time, never the answer.
//
// # Cutting
//
// What is not parallel in one key is cut until the pieces are: a subquery that
// names nothing around it is computed first and read whole; ORDER BY and LIMIT
// come off last, with the first rows of each bucket taken early, or all rows
// sorted by one worker, or, where everything is to be divided or is too much to spill, routed to ranges of
// the order; a grouping is done in two phases where its
// aggregates can be combined exactly, and on raw rows exchanged by group where
// they can't; of a chain of joins on different keys, the smaller relations are
// joined first. A statement that still is not parallel is one fragment that
// gathers, with the reason.
//
// # Keys
//
// Rows meet when DuckDB's hash of their key, cast to one type for all inputs,
// gives the same bucket. Only types whose values compare as they hash carry a
// key (see [family]). Ranges of a key need no exchange: where row-group
// statistics show that an input is clustered by it, every bucket reads its range
// from the source.
package fragment
