#include <stdint.h>

typedef struct kq_stream kq_stream;

// Messages that are returned are the caller's to free; NULL: all went well.
char *kq_stream_open(void *connection, const char *query, kq_stream **out, void *schema);
char *kq_stream_next(kq_stream *s, void *array, int *end);
void kq_stream_close(kq_stream *s);

// The Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html).
struct ArrowSchema {
	const char *format, *name, *metadata;
	int64_t flags, n_children;
	struct ArrowSchema **children, *dictionary;
	void (*release)(struct ArrowSchema *);
	void *private_data;
};

struct ArrowArray {
	int64_t length, null_count, offset, n_buffers, n_children;
	const void **buffers;
	struct ArrowArray **children, *dictionary;
	void (*release)(struct ArrowArray *);
	void *private_data;
};
