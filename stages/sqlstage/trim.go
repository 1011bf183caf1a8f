package sqlstage

// #include <malloc.h>
import "C"

// trim returns what the C allocator keeps for later to the system: a shard's
// strings and hash tables are freed in pieces that the next shard may not fit.
func trim() { C.malloc_trim(0) }
