// Package jch is Jump Consistent Hash: John Lamping and Eric Veach, "A Fast,
// Minimal Memory, Consistent Hash Algorithm", arXiv:1406.2294 (2014).
package jch

import "hash/fnv"

// Hash returns the bucket of key, in [0, buckets). Growing from n to n+1
// buckets moves 1/(n+1) of the keys, all of them to the new bucket. It panics
// when buckets is not positive.
func Hash(key uint64, buckets int) int {
	if buckets <= 0 {
		panic("jch: no buckets")
	}
	var b, j int64 = -1, 0
	for j < int64(buckets) {
		b = j
		key = key*2862933555777941757 + 1
		j = int64(float64(b+1) * (float64(int64(1)<<31) / float64((key>>33)+1)))
	}
	return int(b)
}

// Key hashes a string (FNV-1a, 64 bits) for Hash. It is the same on every
// machine and in every version.
func Key(s string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s))
	return h.Sum64()
}
