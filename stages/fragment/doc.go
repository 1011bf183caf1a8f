// Package fragment cuts one SQL statement into fragments that run on any number
// of buckets and together give the statement's answer.
package fragment
