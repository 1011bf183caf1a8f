package sqlstage

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/duckdb/duckdb-go/v2"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/route"
)

// Session executes shards of one task, one at a time. It is not safe for
// concurrent use.
type Session struct {
	g        *pipeline.Graph
	t        *pipeline.Task
	o        pipeline.Resources
	db       *sql.DB
	conn     *sql.Conn
	parts    map[string][][]pipeline.StoredPart // of the tasks that the inputs are, by shard
	input    *pipeline.TaskInput                // the forward input; nil when there is none
	dirty    bool                               // the stages' views stand
	verified bool                               // whole inputs were compared with the plan
	bounds   []string                           // SQL literals that cut the order of the rows into buckets
	groups   []bucketGroup                      // what the shards of hash inputs have
	raw      bool                               // combining rows early did not pay: they are passed on as they are
	looked   bool                               // it was looked whether combining them pays
}

// Open starts a database for t, makes its inputs and stages known, and locks it.
func Open(ctx context.Context, g *pipeline.Graph, t *pipeline.Task, o pipeline.Resources) (*Session, error) {
	db, err := open("")
	if err != nil {
		return nil, err
	}
	s := &Session{g: g, t: t, o: o, db: db, parts: map[string][][]pipeline.StoredPart{}}
	if s.conn, err = db.Conn(ctx); err == nil {
		err = s.setup(ctx)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close frees the database and its temporary files.
func (s *Session) Close() error {
	var err error
	if s.conn != nil {
		err = s.conn.Close()
	}
	return errors.Join(err, s.db.Close(), os.RemoveAll(s.o.Spill))
}

// profile is what DuckDB is asked to measure of each statement.
const profile = `PRAGMA enable_profiling = 'no_output';
SET custom_profiling_settings = '{"SYSTEM_PEAK_TEMP_DIR_SIZE": "true"}';`

// limits finds statements with which DuckDB 1.5 may push a join's filter below
// ORDER BY … LIMIT and then answer wrongly (duckdb/duckdb#22924).
var limits = regexp.MustCompile(`(?i)\blimit\b`)

func (s *Session) setup(ctx context.Context) error {
	// DuckDB makes the last folder of the path by itself, not the ones above.
	if err := os.MkdirAll(filepath.Dir(s.o.Spill), 0o777); err != nil {
		return fmt.Errorf("folder for temporary files: %w", err)
	}
	files := map[string]bool{}
	for i := range s.t.Inputs {
		in := &s.t.Inputs[i]
		if in.Kind == pipeline.Forward {
			s.input = in
		}
		if in.Source != "" {
			for _, f := range s.g.Input(in.Source).Files {
				files[f.Path] = true
			}
			continue
		}
		if s.t.Kind == pipeline.Publish {
			continue // the parts come one by one, and lie where the session may read
		}
		parts, err := s.o.Parts(in.Task)
		if err != nil {
			return err
		}
		s.parts[in.Task] = parts
		for _, shard := range parts {
			for _, p := range shard {
				files[p.Path] = true
			}
		}
	}
	if r := s.t.Output.Route; r != nil && r.Bounds != "" {
		parts, err := s.o.Parts(r.Bounds)
		if err != nil {
			return err
		}
		s.parts[r.Bounds] = parts
		for _, shard := range parts {
			for _, p := range shard {
				files[p.Path] = true
			}
		}
	}
	if err := s.group(); err != nil {
		return err
	}
	allowed := make([]string, 0, len(files))
	for f := range files {
		allowed = append(allowed, f)
	}
	settings := fmt.Sprintf(`SET autoinstall_known_extensions = false; SET autoload_known_extensions = false;
SET threads = %d; SET enable_external_file_cache = false; SET memory_limit = '%dB'; SET temp_directory = %s; SET allowed_paths = %s; SET allowed_directories = %s;`,
		s.o.Threads, s.o.Memory, literal(s.o.Spill), list(allowed), list([]string{s.o.OutDir, s.o.Spill}))
	if !slices.ContainsFunc(s.t.Inputs, func(in pipeline.TaskInput) bool { return in.Bucketed() }) {
		// Sources are opened again for every shard. Of routed parts there may be
		// thousands of row groups: their metadata would fill the memory.
		settings += " SET parquet_metadata_cache = true;"
	}
	if s.o.SpillLimit > 0 {
		settings += fmt.Sprintf(" SET max_temp_directory_size = '%dB';", s.o.SpillLimit)
	}
	if slices.ContainsFunc(s.t.Views, func(v pipeline.View) bool { return limits.MatchString(v.SQL) }) {
		settings += " SET disabled_optimizers = 'join_filter_pushdown';"
	}
	if s.routes() {
		if err := route.Register(ctx, s.conn); err != nil {
			return err
		}
	}
	settings += profile + "SET enable_external_access = false; SET lock_configuration = true;"
	if _, err := s.conn.ExecContext(ctx, settings); err != nil {
		return fmt.Errorf("set DuckDB up: %w", readError(err))
	}
	if err := s.sampleBounds(ctx); err != nil {
		return err
	}
	for i := range s.t.Inputs {
		in := &s.t.Inputs[i]
		if in.Divided() {
			continue
		}
		if err := s.view(ctx, in, nil, whole); err != nil {
			return err
		}
	}
	return nil
}

// Run executes one shard and writes its result to out, a new file in OutDir. If
// memory doesn't suffice for the whole shard, it is computed in pieces, which
// are further files beside out. A shard that other shards left nothing to has no
// file. The error names the shard's input.
func (s *Session) Run(ctx context.Context, shard *pipeline.Shard, out string) ([]pipeline.Written, pipeline.Metrics, error) {
	start := time.Now()
	var m pipeline.Metrics
	if s.idle(shard) {
		return nil, m, nil
	}
	if err := s.verify(shard, true); err != nil {
		return nil, m, err
	}
	before := readBytes()
	written, err := s.pieces(ctx, shard, out, &m)
	if err != nil {
		if ctx.Err() != nil {
			return written, m, ctx.Err()
		}
		return written, m, err
	}
	if err := s.verify(shard, false); err != nil {
		return written, m, err
	}
	m.Elapsed = time.Since(start)
	m.BytesRead = readBytes() - before
	return written, m, nil
}

// rowGroups makes the row groups of parts smaller where memory is tight, as each
// thread of the writer holds a whole one, decoded and encoded; and where rows
// are routed. expected is the number of rows, -1 when unknown.
func (s *Session) rowGroups(expected int64) string {
	// DuckDB's default, the memory of a thread from which it does no harm, and what
	// takes the place of it where there is less.
	const rows, enough, plenty, vector = 122_880, 256 << 20, 512 << 20, 2048
	share := s.o.Memory / int64(s.o.Threads)
	if s.t.Kind != pipeline.Compute {
		return ""
	}
	size := int64(rows)
	if share < enough {
		size = max(vector, rows*share/plenty/vector*vector)
	}
	if r := s.t.Output.Route; r != nil && r.Buckets > 1 && expected >= 0 {
		// A reader takes whole row groups: about one for each bucket.
		size = min(size, 30*vector, max(2*vector, expected/int64(r.Buckets)/vector*vector))
	}
	if size == rows {
		return ""
	}
	return fmt.Sprintf(", ROW_GROUP_SIZE %d", size)
}

// copy runs a COPY and returns how many rows it wrote. One without a syntax tree
// is several statements to DuckDB, whose results can't be told apart: there the
// rows are counted in the file.
func (s *Session) copy(ctx context.Context, query, out string) (rows int64, err error) {
	if s.t.Opaque {
		if _, err = s.conn.ExecContext(ctx, query); err != nil {
			return 0, err
		}
		query = "SELECT count(*) FROM read_parquet(" + literal(out) + ")"
	}
	err = s.conn.QueryRowContext(ctx, query).Scan(&rows)
	return rows, err
}

// statement creates the stages' views, once, and returns the query of the
// task's result.
func (s *Session) statement(ctx context.Context) (string, error) {
	if s.t.Kind == pipeline.Encode && s.t.Output.Dynamic {
		return "FROM " + ident(s.t.Inputs[0].Name), nil
	}
	if pub := s.publication(); s.t.Kind == pipeline.Encode && pub != nil && pub.Select != "" {
		return "SELECT " + pub.Select + " FROM " + ident(s.t.Inputs[0].Name), nil
	}
	if s.t.Kind == pipeline.Encode {
		return "SELECT " + casts(s.t.Output.Columns, s.t.Output.Stored) + " FROM " + ident(s.t.Inputs[0].Name), nil
	}
	last := len(s.t.Views) - 1
	for i, v := range s.t.Views {
		if i == last && s.t.Opaque {
			query := strings.TrimRight(v.SQL, "; \t\r\n")
			columns, err := describe(ctx, s.conn, "SELECT * FROM ("+query+"\n)")
			if err != nil {
				return "", fmt.Errorf("stage %s: %w", v.Name, readError(err))
			}
			return "SELECT " + casts(columns, published(columns)) + " FROM (" + query + "\n)", nil
		}
		// Views are bound when they are used; those of another shard still hold.
		if s.dirty {
			continue
		}
		if _, err := s.conn.ExecContext(ctx, "CREATE OR REPLACE VIEW "+ident(v.Name)+" AS "+v.SQL); err != nil {
			return "", fmt.Errorf("stage %s: %w", v.Name, readError(err))
		}
	}
	s.dirty = true
	from := ident(s.t.Views[last].Name)
	columns := casts(s.t.Output.Columns, s.t.Output.Stored)
	if s.raw {
		from = "(" + s.t.Raw.SQL + ")"
		columns = casts(s.t.Raw.Columns, s.t.Raw.Stored)
	}
	if r := s.t.Output.Route; r != nil {
		return s.routed(columns, from, r), nil
	}
	return "SELECT " + columns + " FROM " + from, nil
}

// publication is how the task's sink sends rows, if it is a service.
func (s *Session) publication() *pipeline.Publication {
	if s.t.Sink == nil {
		return nil
	}
	return s.t.Sink.Publication
}

// spilled is the most bytes of temporary files during the last statement.
func (s *Session) spilled() int64 {
	info, err := duckdb.GetProfilingInfo(s.conn)
	if err != nil {
		return 0
	}
	f, _ := strconv.ParseFloat(info.Metrics["SYSTEM_PEAK_TEMP_DIR_SIZE"], 64)
	return int64(f)
}

// readBytes is how many bytes this process has read through read calls so far,
// from a disk or from the page cache.
func readBytes() int64 {
	data, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	var n int64
	if _, err := fmt.Sscanf(string(data), "rchar: %d", &n); err != nil {
		return 0
	}
	return n
}

// verify compares the source files that the shard reads with what the plan
// pinned, so that a run never mixes two versions of its input.
func (s *Session) verify(shard *pipeline.Shard, footers bool) error {
	for i := range s.t.Inputs {
		in := &s.t.Inputs[i]
		src := s.g.Input(in.Source)
		if src == nil {
			continue
		}
		if in.Kind == pipeline.Range {
			for _, f := range shard.Range.Files[in.Name] {
				if err := verifyFile(src.Files[f], footers); err != nil {
					return err
				}
			}
			continue
		}
		if in != s.input {
			if footers && s.verified {
				continue // whole inputs: once before the first shard, and after each
			}
			for _, f := range src.Files {
				if err := verifyFile(f, footers); err != nil {
					return err
				}
			}
			continue
		}
		for _, sl := range shard.Slices {
			if err := verifyFile(src.Files[sl.File], footers); err != nil {
				return err
			}
		}
	}
	s.verified = true
	return nil
}

func verifyFile(pinned pipeline.File, footer bool) error {
	now, err := Pin(pinned.Path, footer && pinned.Footer != 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return pipeline.Permanent(fmt.Errorf("source file %s is gone since the run was planned; put it back and retry, or run again to plan with the files there are", pinned.Path))
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("source file %s may no longer be read; restore its permissions and retry", pinned.Path)
	case err != nil:
		return fmt.Errorf("source file %s: %w", pinned.Path, err)
	case now.Size != pinned.Size || now.ModTime != pinned.ModTime || footer && now.Footer != pinned.Footer:
		return pipeline.Permanent(fmt.Errorf("source file %s has changed since the run was planned; run again to plan anew", pinned.Path))
	}
	return nil
}

// classify marks errors that come from the data or the statement, and not from
// the machine, as permanent.
func classify(cause, err error) error {
	var d *duckdb.Error
	if !errors.As(cause, &d) {
		return err
	}
	switch d.Type {
	case duckdb.ErrorTypeIO, duckdb.ErrorTypeOutOfMemory, duckdb.ErrorTypeInterrupt, duckdb.ErrorTypeInternal, duckdb.ErrorTypeFatal,
		duckdb.ErrorTypeUnknownType, duckdb.ErrorTypeInvalid, duckdb.ErrorTypePermission:
		return err
	}
	return pipeline.Permanent(err)
}

// explain adds to an error what the shard was reading.
func (s *Session) explain(shard *pipeline.Shard, err error) error {
	where := ""
	if s.input != nil && s.input.Source != "" && len(shard.Slices) > 0 {
		where = Describe(s.g.Input(s.input.Source), shard) + ": "
	}
	if text := DescribeKeys(shard); text != "" {
		where = text + ": "
	}
	if shard.Ordinal < len(s.groups) {
		where = s.groups[shard.Ordinal].String() + ": "
	}
	hint := ""
	switch text := err.Error(); {
	case strings.Contains(text, "max_temp_directory_size"), strings.Contains(text, "No space left"):
		hint = "; free disk space, or point --state at a larger disk"
	case strings.HasPrefix(text, "Out of Memory"), strings.Contains(text, "could not allocate block"), strings.Contains(text, "failed to allocate data"):
		hint = "; give the job more memory: (memory: 4GiB), or make its shards smaller"
	}
	return fmt.Errorf("%s%w%s", where, err, hint)
}

// Describe names the files and row groups of a shard, for people.
func Describe(in *pipeline.Input, shard *pipeline.Shard) string {
	if in == nil || len(shard.Slices) == 0 {
		return ""
	}
	first := shard.Slices[0]
	name := filepath.Base(in.Files[first.File].Path)
	switch {
	case len(shard.Slices) > 1:
		return fmt.Sprintf("%s and %d more files", name, len(shard.Slices)-1)
	case first.Whole:
		return name
	case first.Groups[0] == first.Groups[1]:
		return fmt.Sprintf("%s, row group %d", name, first.Groups[0])
	}
	return fmt.Sprintf("%s, row groups %d to %d", name, first.Groups[0], first.Groups[1])
}
