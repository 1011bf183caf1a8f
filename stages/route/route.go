// Package route teaches DuckDB to deal rows to buckets as package jch does:
//
//	kq_bucket(hash UBIGINT, buckets INTEGER) -> INTEGER
//
// NULL gives NULL; buckets below 1 are an error. The function is written in C
// and works on whole vectors: no row passes through Go.
package route

/*
void kq_route_bucket(void *info, void *chunk, void *out);
typedef void (*kq_route_function)(void *, void *, void *);
*/
import "C"

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"unsafe"

	"github.com/duckdb/duckdb-go/v2"
	"github.com/duckdb/duckdb-go/v2/mapping"
)

// Function is the name under which SQL finds it, whatever macros a job makes.
const Function = "system.main.kq_bucket"

// registering makes one registration follow another: of two at once in a
// database, DuckDB refuses one.
var registering sync.Mutex

// Register adds kq_bucket to the database of conn, for all of its connections
// and for as long as it is open. A database that has the function is left as it
// is. It is safe for concurrent use.
func Register(ctx context.Context, conn *sql.Conn) error {
	registering.Lock()
	defer registering.Unlock()
	var bucket int
	if conn.QueryRowContext(ctx, "SELECT "+Function+"(0::UBIGINT, 1)").Scan(&bucket) == nil {
		return nil
	}
	err := ctx.Err()
	if err == nil {
		err = conn.Raw(register)
	}
	if err != nil {
		return fmt.Errorf("register kq_bucket: %w", err)
	}
	return nil
}

func register(driverConn any) error {
	conn, err := Connection(driverConn)
	if err != nil {
		return err
	}
	f := mapping.CreateScalarFunction()
	defer mapping.DestroyScalarFunction(&f)
	mapping.ScalarFunctionSetName(f, "kq_bucket")
	hash, integer := mapping.CreateLogicalType(mapping.TypeUBigInt), mapping.CreateLogicalType(mapping.TypeInteger)
	defer mapping.DestroyLogicalType(&hash)
	defer mapping.DestroyLogicalType(&integer)
	mapping.ScalarFunctionAddParameter(f, hash)
	mapping.ScalarFunctionAddParameter(f, integer)
	mapping.ScalarFunctionSetReturnType(f, integer)
	mapping.ScalarFunctionSetFunction(f, unsafe.Pointer(C.kq_route_function(C.kq_route_bucket)))
	if mapping.RegisterScalarFunction(conn, f) == mapping.StateError {
		return errors.New("DuckDB refuses")
	}
	return nil
}

// Connection returns DuckDB's connection inside the driver's. The driver keeps
// it to itself, so it is read by its name and type: a driver that keeps it
// elsewhere gives an error here.
func Connection(driverConn any) (mapping.Connection, error) {
	c, ok := driverConn.(*duckdb.Conn)
	if !ok || c == nil {
		return mapping.Connection{}, fmt.Errorf("connection is a %T, not one of DuckDB", driverConn)
	}
	return field(reflect.ValueOf(c).Elem())
}

func field(conn reflect.Value) (mapping.Connection, error) {
	inner := conn.FieldByName("conn")
	if !inner.IsValid() || inner.Type() != reflect.TypeFor[mapping.Connection]() {
		return mapping.Connection{}, fmt.Errorf("this version of the driver has no connection in %s.conn", conn.Type())
	}
	p := mapping.Connection{Ptr: inner.FieldByName("Ptr").UnsafePointer()}
	if p.Ptr == nil {
		return p, errors.New("connection is closed")
	}
	return p, nil
}
