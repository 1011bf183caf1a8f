// Package stream runs a query of DuckDB and hands its result over as Arrow record
// batches while it is being computed, so that a result of any size takes a few
// vectors of memory. The driver has this only under a build tag, and materializes.
package stream

/*
#include <stdlib.h>
#include "stream.h"
*/
import "C"

import (
	"context"
	"database/sql"
	"errors"
	"iter"
	"unsafe"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/cdata"
	"github.com/duckdb/duckdb-go/v2/mapping"

	"github.com/kinequet/kq/stages/route"
)

// Query yields the record batches of a SELECT in the order of its rows. A batch
// is valid until the next one is asked for. An error ends the sequence; so does
// the end of ctx, which interrupts the query. conn must not be used meanwhile.
func Query(ctx context.Context, conn *sql.Conn, query string) iter.Seq2[arrow.RecordBatch, error] {
	return func(yield func(arrow.RecordBatch, error) bool) {
		err := conn.Raw(func(driverConn any) error {
			c, err := route.Connection(driverConn)
			if err != nil {
				return err
			}
			stop := context.AfterFunc(ctx, func() { mapping.Interrupt(c) })
			defer stop()
			return run(c, query, yield)
		})
		if err != nil {
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			yield(nil, err)
		}
	}
}

// run yields what the query gives. It returns nil when yield has had enough.
func run(c mapping.Connection, query string, yield func(arrow.RecordBatch, error) bool) error {
	text := C.CString(query)
	defer C.free(unsafe.Pointer(text))
	var s *C.kq_stream
	schema := (*C.struct_ArrowSchema)(C.calloc(1, C.sizeof_struct_ArrowSchema))
	array := (*C.struct_ArrowArray)(C.calloc(1, C.sizeof_struct_ArrowArray))
	defer C.free(unsafe.Pointer(schema))
	defer C.free(unsafe.Pointer(array))
	err := failure(C.kq_stream_open(c.Ptr, text, &s, unsafe.Pointer(schema)))
	defer C.kq_stream_close(s)
	if err != nil {
		return err
	}
	columns, err := cdata.ImportCArrowSchema((*cdata.CArrowSchema)(unsafe.Pointer(schema)))
	if err != nil {
		return err
	}
	for {
		var end C.int
		err := failure(C.kq_stream_next(s, unsafe.Pointer(array), &end))
		if err != nil || end != 0 {
			return err
		}
		batch, err := cdata.ImportCRecordBatchWithSchema((*cdata.CArrowArray)(unsafe.Pointer(array)), columns)
		if err != nil {
			return err
		}
		more := yield(batch, nil)
		batch.Release()
		if !more {
			return nil
		}
	}
}

// failure makes an error of a message and frees it.
func failure(message *C.char) error {
	if message == nil {
		return nil
	}
	defer C.free(unsafe.Pointer(message))
	return errors.New(C.GoString(message))
}
