// The row loop of kq_bucket. What it needs of DuckDB's C API is declared here:
// cgo doesn't find the header in another module.

#include <stdint.h>
#include <stdio.h>

uint64_t duckdb_data_chunk_get_size(void *chunk);
void *duckdb_data_chunk_get_vector(void *chunk, uint64_t column);
void *duckdb_vector_get_data(void *vector);
uint64_t *duckdb_vector_get_validity(void *vector);
void duckdb_vector_ensure_validity_writable(void *vector);
void duckdb_scalar_function_set_error(void *info, const char *error);

// jump is jch.Hash.
static int32_t jump(uint64_t key, int32_t buckets) {
	int64_t b = -1, j = 0;
	while (j < buckets) {
		b = j;
		key = key * 2862933555777941757u + 1;
		j = (int64_t)((double)(b + 1) * ((double)(1LL << 31) / (double)((key >> 33) + 1)));
	}
	return (int32_t)b;
}

#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define WIDE __attribute__((target_clones("arch=x86-64-v4", "avx2", "default"), optimize("O3")))
#else
#define WIDE
#endif

enum { LANES = 256 };

// leap computes where each row's key jumps to from its bucket. Keys and buckets
// are as exact in it as in jump: both fit 53 bits.
WIDE static void leap(uint64_t *restrict key, const double *restrict bucket, double *restrict next, int rows) {
	for (int i = 0; i < rows; i++) {
		key[i] = key[i] * 2862933555777941757u + 1;
		next[i] = (bucket[i] + 1) * ((double)(1LL << 31) / ((double)(int32_t)(key[i] >> 33) + 1));
	}
}

// jump_all is jump for up to LANES rows at once: all jump, and those that have
// arrived drop out.
static void jump_all(const uint64_t *hash, int32_t *result, int rows, int32_t buckets) {
	uint64_t key[LANES];
	double bucket[LANES], next[LANES];
	uint16_t row[LANES];
	for (int i = 0; i < rows; i++) {
		key[i] = hash[i];
		bucket[i] = 0;
		row[i] = i;
	}
	while (rows > 0) {
		leap(key, bucket, next, rows);
		int left = 0;
		for (int i = 0; i < rows; i++) {
			int on = next[i] < buckets;
			int32_t b = on ? (int32_t)next[i] : (int32_t)bucket[i];
			result[row[i]] = b;
			row[left] = row[i];
			key[left] = key[i];
			bucket[left] = b;
			left += on;
		}
		rows = left;
	}
}

// null tells whether a row is NULL by a vector's mask; one without NULLs has none.
static int null(const uint64_t *valid, uint64_t row) {
	return valid && !(valid[row / 64] >> row % 64 & 1);
}

// same tells whether all rows ask for the same number of buckets, and for some.
static int same(const int32_t *buckets, const uint64_t *valid, uint64_t rows) {
	for (uint64_t i = 0; i < rows; i++) {
		if (buckets[i] != buckets[0] || null(valid, i)) {
			return 0;
		}
	}
	return rows > 0 && buckets[0] > 0;
}

// kq_route_bucket fills a vector. DuckDB hands the arguments over flattened.
void kq_route_bucket(void *info, void *chunk, void *out) {
	void *first = duckdb_data_chunk_get_vector(chunk, 0), *second = duckdb_data_chunk_get_vector(chunk, 1);
	const uint64_t *hash = duckdb_vector_get_data(first), *hash_valid = duckdb_vector_get_validity(first);
	const int32_t *buckets = duckdb_vector_get_data(second);
	const uint64_t *buckets_valid = duckdb_vector_get_validity(second);
	int32_t *result = duckdb_vector_get_data(out);
	uint64_t *valid = NULL, rows = duckdb_data_chunk_get_size(chunk);
	if (hash_valid || buckets_valid) {
		duckdb_vector_ensure_validity_writable(out);
		valid = duckdb_vector_get_validity(out);
	}
	int all = same(buckets, buckets_valid, rows);
	for (uint64_t i = 0; all && i < rows; i += LANES) {
		jump_all(hash + i, result + i, rows - i < LANES ? (int)(rows - i) : LANES, buckets[0]);
	}
	for (uint64_t i = 0; i < rows && (!all || valid); i++) {
		if (null(hash_valid, i) || null(buckets_valid, i)) {
			valid[i / 64] &= ~(1ULL << i % 64);
		} else if (all) {
			continue;
		} else if (buckets[i] < 1) {
			char why[64];
			snprintf(why, sizeof why, "kq_bucket: buckets must be at least 1, not %d", (int)buckets[i]);
			duckdb_scalar_function_set_error(info, why);
			return;
		} else {
			result[i] = jump(hash[i], buckets[i]);
		}
	}
}
