package jch

import (
	"fmt"
	"testing"
)

// Vectors that implementations of the paper's code publish (for 0xDEAD10CC and
// its like: github.com/dgryski/go-jump and Guava's Hashing.consistentHash).
func TestVectors(t *testing.T) {
	for _, v := range []struct {
		key     uint64
		buckets int
		want    int
	}{
		{0, 1, 0}, {0, 60, 0}, {1, 1, 0}, {42, 57, 43}, {0xDEAD10CC, 1, 0}, {0xDEAD10CC, 666, 361}, {256, 1024, 520},
	} {
		if got := Hash(v.key, v.buckets); got != v.want {
			t.Errorf("Hash(%#x, %d) = %d, want %d", v.key, v.buckets, got, v.want)
		}
	}
}

// Growing from n to n+1 buckets moves keys to the new bucket only.
func TestGrowing(t *testing.T) {
	for k := range uint64(2000) {
		key := Key(fmt.Sprint(k))
		for n := 1; n < 200; n++ {
			if before, after := Hash(key, n), Hash(key, n+1); after != before && after != n {
				t.Fatalf("key %d moves from %d to %d when bucket %d is added", key, before, after, n)
			}
		}
	}
}

func TestBalance(t *testing.T) {
	const buckets, keys = 64, 64_000
	var count [buckets]int
	for k := range keys {
		count[Hash(Key(fmt.Sprint(k)), buckets)]++
	}
	for b, n := range count {
		if n < keys/buckets*3/4 || n > keys/buckets*5/4 {
			t.Errorf("bucket %d has %d keys of %d", b, n, keys)
		}
	}
}

func FuzzHash(f *testing.F) {
	f.Add(uint64(0), 1)
	f.Fuzz(func(t *testing.T, key uint64, n int) {
		if n < 1 || n > 1<<20 {
			t.Skip()
		}
		b := Hash(key, n)
		if b < 0 || b >= n {
			t.Fatalf("Hash(%d, %d) = %d", key, n, b)
		}
		if c := Hash(key, n+1); c != b && c != n {
			t.Fatalf("moved from %d to %d of %d", b, c, n+1)
		}
	})
}
