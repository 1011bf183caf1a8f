// A query whose result is fetched chunk by chunk as Arrow arrays. What it needs of
// DuckDB's C API is declared here: cgo doesn't find the header in another module.

#include <stdlib.h>
#include <string.h>

#include "stream.h"

typedef struct {
	uint64_t deprecated[3];
	void *columns;
	char *message;
	void *internal;
} duckdb_result;

int duckdb_prepare(void *connection, const char *query, void **statement);
const char *duckdb_prepare_error(void *statement);
void duckdb_destroy_prepare(void **statement);
int duckdb_execute_prepared_streaming(void *statement, duckdb_result *result);
const char *duckdb_result_error(duckdb_result *result);
void duckdb_destroy_result(duckdb_result *result);
void *duckdb_fetch_chunk(duckdb_result result);
void duckdb_destroy_data_chunk(void **chunk);
uint64_t duckdb_column_count(duckdb_result *result);
const char *duckdb_column_name(duckdb_result *result, uint64_t column);
void *duckdb_column_logical_type(duckdb_result *result, uint64_t column);
void duckdb_destroy_logical_type(void **type);
void *duckdb_result_get_arrow_options(duckdb_result *result);
void duckdb_destroy_arrow_options(void **options);
void *duckdb_to_arrow_schema(void *options, void **types, const char **names, uint64_t columns, void *schema);
void *duckdb_data_chunk_to_arrow(void *options, void *chunk, void *array);
int duckdb_error_data_has_error(void *error);
const char *duckdb_error_data_message(void *error);
void duckdb_destroy_error_data(void **error);

struct kq_stream {
	void *statement, *options;
	duckdb_result result;
	int executed;
};

// keep copies a message that is about to be freed.
static char *keep(const char *message) {
	return strdup(message && *message ? message : "DuckDB gives no reason");
}

// failed frees an error and returns its message, or NULL when it is none.
static char *failed(void *error) {
	char *message = NULL;
	if (error && duckdb_error_data_has_error(error)) {
		message = keep(duckdb_error_data_message(error));
	}
	duckdb_destroy_error_data(&error);
	return message;
}

static char *schema_of(kq_stream *s, void *schema) {
	uint64_t n = duckdb_column_count(&s->result);
	void **types = calloc(n ? n : 1, sizeof *types);
	const char **names = calloc(n ? n : 1, sizeof *names);
	for (uint64_t i = 0; i < n; i++) {
		types[i] = duckdb_column_logical_type(&s->result, i);
		names[i] = duckdb_column_name(&s->result, i);
	}
	char *message = failed(duckdb_to_arrow_schema(s->options, types, names, n, schema));
	for (uint64_t i = 0; i < n; i++) {
		duckdb_destroy_logical_type(&types[i]);
	}
	free(types);
	free(names);
	return message;
}

char *kq_stream_open(void *connection, const char *query, kq_stream **out, void *schema) {
	kq_stream *s = calloc(1, sizeof *s);
	*out = s;
	if (duckdb_prepare(connection, query, &s->statement)) {
		return keep(duckdb_prepare_error(s->statement));
	}
	s->executed = 1;
	if (duckdb_execute_prepared_streaming(s->statement, &s->result)) {
		return keep(duckdb_result_error(&s->result));
	}
	s->options = duckdb_result_get_arrow_options(&s->result);
	return schema_of(s, schema);
}

char *kq_stream_next(kq_stream *s, void *array, int *end) {
	void *chunk = duckdb_fetch_chunk(s->result);
	*end = chunk == NULL;
	if (!chunk) {
		const char *message = duckdb_result_error(&s->result);
		return message && *message ? keep(message) : NULL;
	}
	char *message = failed(duckdb_data_chunk_to_arrow(s->options, chunk, array));
	duckdb_destroy_data_chunk(&chunk);
	return message;
}

void kq_stream_close(kq_stream *s) {
	if (s->options) {
		duckdb_destroy_arrow_options(&s->options);
	}
	if (s->executed) {
		duckdb_destroy_result(&s->result);
	}
	duckdb_destroy_prepare(&s->statement);
	free(s);
}
