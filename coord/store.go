package coord

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the driver
)

// Options of a Store. The zero value works.
type Options struct {
	// Lease is how long a worker lives without a heartbeat; 0 means 30 s.
	Lease time.Duration
	// MaxLost is how many workers a shard may take with it; 0 means 3.
	MaxLost int
	// Now is the clock of leases and delays, in milliseconds; nil means
	// CLOCK_BOOTTIME, which every process of the machine shares and nobody sets.
	Now func() int64
	// Statfs tells the type of the file system that a path is on; nil asks the
	// system. For tests.
	Statfs func(path string) (int64, error)
}

// Store is the coordinator on SQLite. It is safe for concurrent use, by any
// number of processes of one machine.
type Store struct {
	dir  string
	o    Options
	boot string
	host string

	mu   sync.Mutex // one writer of this process at the gate
	gate *os.File
	fast *conn // commits with synchronous=NORMAL
	full *conn // commits with synchronous=FULL; opened when needed
	look *conn // reads

	lookMu sync.Mutex // guards look, so that reading never waits for a writer

	owned map[int64]*ownership // by task
	locks map[int64]*os.File   // of the workers that joined through this store
}

// conn is one connection with its prepared statements.
type conn struct {
	db    *sql.DB
	c     *sql.Conn
	stmts map[string]*sql.Stmt
}

// Open opens the coordinator in a state directory and creates it if there is
// none.
func Open(ctx context.Context, dir string, o *Options) (*Store, error) {
	s := &Store{dir: dir, owned: map[int64]*ownership{}, locks: map[int64]*os.File{}}
	if o != nil {
		s.o = *o
	}
	if s.o.Lease == 0 {
		s.o.Lease = 30 * time.Second
	}
	if s.o.MaxLost == 0 {
		s.o.MaxLost = 3
	}
	if s.o.Now == nil {
		s.o.Now = bootTime
	}
	if err := os.MkdirAll(filepath.Join(dir, "workers"), 0o777); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := checkFileSystem(dir, s.o.Statfs); err != nil {
		return nil, err
	}
	s.host, _ = os.Hostname()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	s.boot = strings.TrimSpace(string(boot))
	if s.gate, err = os.OpenFile(filepath.Join(dir, "coord.db.gate"), os.O_CREATE|os.O_RDWR, 0o666); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if s.fast, err = s.connect(ctx, "NORMAL"); err == nil {
		err = s.prepare(ctx)
	}
	if err != nil {
		s.Close()
		if strings.Contains(err.Error(), "not a database") || strings.Contains(err.Error(), "malformed") {
			err = fmt.Errorf("%w; the file is damaged: move the state directory away, or point --state elsewhere", err)
		}
		return nil, fmt.Errorf("coordinator %s: %w", s.path(), err)
	}
	return s, nil
}

func (s *Store) path() string { return filepath.Join(s.dir, "coord.db") }

// Close closes the database and drops the locks of the workers that joined
// through this store.
func (s *Store) Close() error {
	var errs []error
	for _, c := range []*conn{s.fast, s.full, s.look} {
		if c != nil {
			errs = append(errs, c.close())
		}
	}
	for _, f := range s.locks {
		errs = append(errs, f.Close())
	}
	if s.gate != nil {
		errs = append(errs, s.gate.Close())
	}
	return errors.Join(errs...)
}

func bootTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return ts.Sec*1000 + ts.Nsec/1e6
}

func nonce() string {
	b := make([]byte, 6)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

func (s *Store) connect(ctx context.Context, synchronous string) (*conn, error) {
	q := url.Values{"_pragma": {"busy_timeout(60000)", "synchronous(" + synchronous + ")", "wal_autocheckpoint(4000)", "journal_size_limit(67108864)", "mmap_size(0)"}}
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: s.path()}).EscapedPath()+"?"+q.Encode())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1)
	c := &conn{db: db, stmts: map[string]*sql.Stmt{}}
	if c.c, err = db.Conn(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return c, nil
}

func (c *conn) close() error {
	for _, s := range c.stmts {
		_ = s.Close()
	}
	return errors.Join(c.c.Close(), c.db.Close())
}

// prepared returns the statement for query, prepared once.
func (c *conn) prepared(ctx context.Context, query string) (*sql.Stmt, error) {
	if s := c.stmts[query]; s != nil {
		return s, nil
	}
	s, err := c.c.PrepareContext(ctx, query)
	if err == nil {
		c.stmts[query] = s
	}
	return s, err
}

func (c *conn) exec(ctx context.Context, query string, args ...any) (int64, error) {
	s, err := c.prepared(ctx, query)
	if err != nil {
		return 0, err
	}
	r, err := s.ExecContext(ctx, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// each runs a query and calls scan for every row.
func (c *conn) each(ctx context.Context, query string, args []any, scan func(*sql.Rows) error) error {
	s, err := c.prepared(ctx, query)
	if err != nil {
		return err
	}
	rows, err := s.QueryContext(ctx, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// one runs a query of one row; no row is sql.ErrNoRows.
func (c *conn) one(ctx context.Context, query string, args []any, dest ...any) error {
	found := false
	err := c.each(ctx, query, args, func(r *sql.Rows) error {
		found = true
		return r.Scan(dest...)
	})
	if err == nil && !found {
		return sql.ErrNoRows
	}
	return err
}

// prepare creates the schema in a new database, and checks the version of an
// old one.
func (s *Store) prepare(ctx context.Context) error {
	var version string
	err := s.fast.one(ctx, "SELECT v FROM meta WHERE k = 'schema_version'", nil, &version)
	if err != nil && strings.Contains(err.Error(), "no such table") {
		if err = s.create(ctx); err == nil {
			err = s.fast.one(ctx, "SELECT v FROM meta WHERE k = 'schema_version'", nil, &version)
		}
	}
	if err != nil {
		return err
	}
	if version != schemaVersion {
		return fmt.Errorf("it has schema version %s, this kq knows %s; use the kq that made it, or point --state at another folder", version, schemaVersion)
	}
	return nil
}

// create makes the schema, unless another process was faster. Nothing is at
// stake yet, so nothing is synced.
func (s *Store) create(ctx context.Context) error {
	if err := s.lock(); err != nil {
		return err
	}
	defer s.unlock()
	for _, q := range []string{"PRAGMA synchronous = OFF", "PRAGMA journal_mode = WAL"} {
		if _, err := s.fast.c.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	var n int
	err := s.fast.c.QueryRowContext(ctx, "SELECT count(*) FROM sqlite_master WHERE name = 'meta'").Scan(&n)
	if err == nil && n == 0 {
		_, err = s.fast.c.ExecContext(ctx, "BEGIN IMMEDIATE;"+schema+
			fmt.Sprintf("INSERT INTO meta VALUES('schema_version', '%s'), ('host', '%s'); COMMIT;", schemaVersion, strings.ReplaceAll(s.host, "'", "''")))
		if err != nil {
			_, _ = s.fast.c.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
		}
	}
	_, err2 := s.fast.c.ExecContext(ctx, "PRAGMA synchronous = NORMAL")
	return errors.Join(err, err2)
}

// lock takes the gate. The kernel lets waiting processes pass one after the
// other, and drops the lock of one that dies.
func (s *Store) lock() error {
	s.mu.Lock()
	for {
		err := syscall.Flock(int(s.gate.Fd()), syscall.LOCK_EX)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EINTR) {
			s.mu.Unlock()
			return fmt.Errorf("lock %s: %w", s.gate.Name(), err)
		}
	}
}

func (s *Store) unlock() {
	_ = syscall.Flock(int(s.gate.Fd()), syscall.LOCK_UN)
	s.mu.Unlock()
}

// write runs f in one transaction. durable ones survive a power failure once
// they have returned.
func (s *Store) write(ctx context.Context, durable bool, f func(*conn) error) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.lock(); err != nil {
		return err
	}
	defer s.unlock()
	c := s.fast
	if durable {
		if s.full == nil {
			if s.full, err = s.connect(ctx, "FULL"); err != nil {
				return err
			}
		}
		c = s.full
	}
	if _, err := c.exec(ctx, "BEGIN IMMEDIATE"); err != nil {
		return err
	}
	if err = f(c); err == nil {
		_, err = c.exec(ctx, "COMMIT")
	}
	if err != nil {
		_, _ = c.exec(context.WithoutCancel(ctx), "ROLLBACK")
	}
	return err
}

// read runs f on the connection for reading.
func (s *Store) read(ctx context.Context, f func(*conn) error) (err error) {
	s.lookMu.Lock()
	defer s.lookMu.Unlock()
	if s.look == nil {
		if s.look, err = s.connect(ctx, "NORMAL"); err != nil {
			return err
		}
	}
	return f(s.look)
}

// localFileSystems are those on which WAL works: magic numbers of statfs(2).
var localFileSystems = map[int64]string{
	0xEF53: "ext4", 0x58465342: "xfs", 0x9123683E: "btrfs", 0x2FC12FC1: "zfs", 0xF2F52010: "f2fs",
	0x01021994: "tmpfs", 0x794C7630: "overlay", 0x858458F6: "ramfs", 0x24051905: "ubifs", 0xCA451A4E: "bcachefs",
}

var networkFileSystems = map[int64]string{
	0x6969: "NFS", 0x517B: "SMB", 0xFF534D42: "CIFS", 0xFE534D42: "SMB2", 0x65735546: "FUSE", 0x01021997: "9p",
	0x0BD00BD0: "Lustre", 0x47504653: "GPFS", 0x00C36400: "Ceph",
}

// checkFileSystem refuses file systems on which SQLite's WAL loses commits.
func checkFileSystem(dir string, statfs func(string) (int64, error)) error {
	if statfs == nil {
		statfs = func(path string) (int64, error) {
			var st unix.Statfs_t
			err := unix.Statfs(path, &st)
			return int64(st.Type) & 0xFFFFFFFF, err
		}
	}
	magic, err := statfs(dir)
	if err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	if localFileSystems[magic] != "" {
		return nil
	}
	name := networkFileSystems[magic]
	if name == "" {
		name = fmt.Sprintf("unknown (type %#x)", magic)
	}
	return fmt.Errorf("state directory %s is on a file system that is not local: %s; SQLite's journal loses commits there: point --state at a local disk", dir, name)
}
