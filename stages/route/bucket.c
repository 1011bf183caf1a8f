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

// null tells whether a row is NULL by a vector's mask; one without NULLs has none.
static int null(const uint64_t *valid, uint64_t row) {
	return valid && !(valid[row / 64] >> row % 64 & 1);
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
	for (uint64_t i = 0; i < rows; i++) {
		if (null(hash_valid, i) || null(buckets_valid, i)) {
			valid[i / 64] &= ~(1ULL << i % 64);
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
