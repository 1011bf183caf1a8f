// Package equality tests the first law: a job's answer equals what DuckDB gives
// for the same SQL over the whole input, whatever the number of shards. Its
// tests run the real compiler and the real executor in one process:
//
//   - TestStatements: a table of statements, and of jobs of several stages.
//   - TestRandomStatements: random ones over tables with mixed key types, NULL
//     and hot keys, cut into tiny row groups. -sql.n says how many, -sql.seed
//     which ones. What fails is made smaller before it is reported.
//   - TestTraps: the ways in which engines that cut statements up answer wrongly.
//   - TestLayouts, TestTernaryLogic: kq's answers against each other.
//
// Only what is determined is compared. A twin of the reference has the same rows
// in another order, and a statement to which the two give different answers is
// left out; floats may differ in their last bits.
package equality
