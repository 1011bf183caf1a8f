package sqlstage

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/apache/arrow-go/v18/parquet/metadata"
	"github.com/apache/arrow-go/v18/parquet/schema"

	"github.com/kinequet/kq/pipeline"
)

// Inspect implements pipeline.Engine. The schema is DuckDB's over all files, as
// the shards will bind it; row groups come from the footers.
func (e *Engine) Inspect(ctx context.Context, r pipeline.Relation, files []string) (*pipeline.Inspection, error) {
	look := &pipeline.Inspection{Grouped: r.Function == "read_parquet"}
	var footers []footer
	if look.Grouped {
		// Footers first: their errors name the file and what is wrong with it.
		var err error
		if footers, err = readFooters(ctx, files); err != nil {
			return nil, err
		}
	} else {
		for _, f := range files {
			pin, err := Pin(f, false)
			if err != nil {
				return nil, err
			}
			look.Files = append(look.Files, pin)
		}
	}
	cols, err := describe(ctx, e.scout, "SELECT * FROM "+readAll(r, files))
	if err != nil {
		return nil, e.blame(ctx, r, files, readError(err))
	}
	look.Columns = cols
	if look.Grouped {
		look.Rowable = columnType(cols, "file_row_number") == ""
		look.Uniform = r.Args == ""
		fill(look, footers)
	}
	return look, nil
}

// blame names the first file that can't be read by itself, unless the error
// names one already.
func (e *Engine) blame(ctx context.Context, r pipeline.Relation, files []string, err error) error {
	for _, f := range files {
		if strings.Contains(err.Error(), f) {
			return err
		}
	}
	for _, f := range files {
		if _, alone := describe(ctx, e.scout, "SELECT * FROM "+readAll(r, []string{f})); alone != nil && ctx.Err() == nil {
			return fmt.Errorf("%s: %w", f, readError(alone))
		}
	}
	return err
}

// readAll is the reader over files.
func readAll(r pipeline.Relation, files []string, more ...string) string {
	args := append([]string{list(files)}, more...)
	if r.Args != "" {
		args = append(args, r.Args)
	}
	return r.Function + "(" + strings.Join(args, ", ") + ")"
}

var errorClass = regexp.MustCompile(`^(?:[A-Z][A-Za-z-]* )+Error: `)

// readError makes an error of DuckDB's readable: without its class, on one line.
func readError(err error) error {
	text, _, _ := strings.Cut(err.Error(), "\nLINE ")
	return errors.New(strings.Join(strings.Fields(errorClass.ReplaceAllString(text, "")), " "))
}

// Pin records what a file looks like now, so that a later change is noticed.
// With footer, the file is a Parquet file and its footer is checked in.
func Pin(path string, footer bool) (pipeline.File, error) {
	pin := pipeline.File{Path: path, Rows: -1}
	info, err := os.Stat(path)
	if err != nil {
		return pin, err
	}
	pin.Size, pin.ModTime = info.Size(), info.ModTime().UnixNano()
	if footer {
		_, sum, err := readFooter(path)
		if err != nil {
			return pin, err
		}
		pin.Footer = sum
	}
	return pin, nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// readFooter returns the bytes of a Parquet file's footer and their checksum.
func readFooter(path string) ([]byte, uint32, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if info.IsDir() {
		return nil, 0, fmt.Errorf("%s is a folder, not a Parquet file", path)
	}
	if info.Size() < 12 {
		return nil, 0, fmt.Errorf("%s is no Parquet file: it has only %d bytes", path, info.Size())
	}
	tail := make([]byte, 8)
	if _, err := f.ReadAt(tail, info.Size()-8); err != nil {
		return nil, 0, err
	}
	switch string(tail[4:]) {
	case "PAR1":
	case "PARE":
		return nil, 0, fmt.Errorf("%s has an encrypted footer, which kq can't read", path)
	default:
		return nil, 0, fmt.Errorf("%s is no Parquet file, or it is cut off: it doesn't end in PAR1", path)
	}
	length := int64(binary.LittleEndian.Uint32(tail))
	if length == 0 || length > info.Size()-12 {
		return nil, 0, fmt.Errorf("%s is damaged: its footer claims %d bytes of a file of %d", path, length, info.Size())
	}
	data := make([]byte, length)
	if _, err := f.ReadAt(data, info.Size()-8-length); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	return data, crc32.Checksum(data, castagnoli), nil
}

// footer is one file's footer, decoded.
type footer struct {
	file   pipeline.File
	groups []group
	schema string // of the file, as text
	err    error
}

type group struct {
	rows          int64
	bytes, onDisk map[string]int64 // by top-level column
	min, max      map[string]string
	nulls         map[string]int64
}

// readFooters decodes the footers of files, several at a time.
func readFooters(ctx context.Context, files []string) ([]footer, error) {
	footers := make([]footer, len(files))
	var wg sync.WaitGroup
	next := make(chan int)
	for range min(len(files), 4*runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := range next {
				footers[i] = decodeFooter(files[i])
			}
		})
	}
	for i := range files {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	var errs []error
	for _, f := range footers {
		if f.err != nil {
			errs = append(errs, f.err)
		}
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more files", len(errs)-3))
	}
	return footers, errors.Join(errs...)
}

// fill lays the footers out by the relation's columns.
func fill(look *pipeline.Inspection, footers []footer) {
	for i, f := range footers {
		look.Files = append(look.Files, f.file)
		// Names of folders may be columns: day=2026-01-01.
		look.Uniform = look.Uniform && f.schema == footers[0].schema && !strings.Contains(f.file.Path, "=")
		var first int64
		for j, g := range f.groups {
			rg := pipeline.RowGroup{
				File: i, Index: j, First: first, Rows: g.rows, Min: g.min, Max: g.max, Nulls: g.nulls,
				Bytes: make([]int64, len(look.Columns)), OnDisk: make([]int64, len(look.Columns)),
			}
			for k, c := range look.Columns {
				// What is dictionary-encoded in the file is not in memory.
				rg.Bytes[k], rg.OnDisk[k] = max(g.bytes[c.Name], g.rows*width(c.Type)), g.onDisk[c.Name]
			}
			look.Groups = append(look.Groups, rg)
			first += g.rows
		}
	}
}

// width is the least number of bytes that a value of a type takes in DuckDB's
// vectors.
func width(typ string) int64 {
	switch typ {
	case "BOOLEAN", "TINYINT", "UTINYINT":
		return 1
	case "SMALLINT", "USMALLINT":
		return 2
	case "INTEGER", "UINTEGER", "FLOAT", "DATE":
		return 4
	case "VARCHAR", "BLOB", "HUGEINT", "UHUGEINT", "UUID", "INTERVAL":
		return 16
	}
	return 8
}

// decodeFooter reads one file's footer. A footer that makes the decoder panic
// is an error like any other.
func decodeFooter(path string) (f footer) {
	defer func() {
		if r := recover(); r != nil {
			f.err = fmt.Errorf("%s has a damaged footer: %v", path, r)
		}
	}()
	f.file, f.err = Pin(path, false)
	if f.err != nil {
		return f
	}
	data, sum, err := readFooter(path)
	if err != nil {
		f.err = err
		return f
	}
	f.file.Footer, f.file.Rows = sum, 0
	md, err := metadata.NewFileMetaData(data, nil)
	if err != nil {
		f.err = fmt.Errorf("%s has a damaged footer: %w", path, err)
		return f
	}
	f.schema = md.Schema.String()
	for i := range md.NumRowGroups() {
		g, err := decodeGroup(md, i, f.file.Size)
		if err != nil {
			f.err = fmt.Errorf("%s: row group %d: %w", path, i, err)
			return f
		}
		f.file.Rows += g.rows
		f.groups = append(f.groups, g)
	}
	if f.file.Rows != md.NumRows {
		f.err = fmt.Errorf("%s is damaged: its footer counts %d rows, its row groups %d", path, md.NumRows, f.file.Rows)
	}
	return f
}

func decodeGroup(md *metadata.FileMetaData, i int, size int64) (group, error) {
	rg := md.RowGroup(i)
	g := group{
		rows: rg.NumRows(), bytes: map[string]int64{}, onDisk: map[string]int64{},
		min: map[string]string{}, max: map[string]string{}, nulls: map[string]int64{},
	}
	if g.rows < 0 {
		return g, fmt.Errorf("the footer claims %d rows", g.rows)
	}
	for j := range rg.NumColumns() {
		c, err := rg.ColumnChunk(j)
		if err != nil {
			return g, err
		}
		path := c.PathInSchema()
		if len(path) == 0 {
			return g, fmt.Errorf("column %d has no name", j)
		}
		first := c.DataPageOffset()
		if c.HasDictionaryPage() && c.DictionaryPageOffset() > 0 {
			first = min(first, c.DictionaryPageOffset())
		}
		if first < 0 || c.TotalCompressedSize() < 0 || first+c.TotalCompressedSize() > size {
			return g, fmt.Errorf("column %q lies outside the file (bytes %d to %d of %d): the file is cut off or its footer damaged",
				path[0], first, first+c.TotalCompressedSize(), size)
		}
		g.bytes[path[0]] += c.TotalUncompressedSize()
		g.onDisk[path[0]] += c.TotalCompressedSize()
		if len(path) == 1 {
			if c.NumValues() != g.rows {
				return g, fmt.Errorf("column %q has %d values for %d rows", path[0], c.NumValues(), g.rows)
			}
			g.statistics(c, md.Schema.Column(j))
		}
	}
	return g, nil
}

// statistics notes a column's least and greatest value, where they are of a
// type that Prune can use.
func (g *group) statistics(c *metadata.ColumnChunkMetaData, col *schema.Column) {
	if set, err := c.StatsSet(); err != nil || !set {
		return
	}
	st, err := c.Statistics()
	if err != nil || st == nil {
		return
	}
	name := c.PathInSchema()[0]
	if st.HasNullCount() {
		g.nulls[name] = st.NullCount()
	}
	if !st.HasMinMax() {
		return
	}
	switch s := st.(type) {
	case *metadata.Int32Statistics:
		g.bounds(name, col, int64(s.Min()), int64(s.Max()))
	case *metadata.Int64Statistics:
		g.bounds(name, col, s.Min(), s.Max())
	case *metadata.ByteArrayStatistics:
		if _, ok := col.LogicalType().(schema.StringLogicalType); ok {
			g.min[name], g.max[name] = string(s.Min()), string(s.Max())
		}
	}
}

// bounds notes integer statistics as text of the column's logical type.
func (g *group) bounds(name string, col *schema.Column, low, high int64) {
	text := func(n int64) string { return strconv.FormatInt(n, 10) }
	switch t := col.LogicalType().(type) {
	case schema.DateLogicalType:
		text = func(n int64) string { return time.Unix(n*86400, 0).UTC().Format(time.DateOnly) }
		if low < -700_000 || high > 2_900_000 { // years beyond four digits
			return
		}
	case schema.TimestampLogicalType:
		unit, format := int64(1e9), "2006-01-02 15:04:05.999999999"
		switch t.TimeUnit() {
		case schema.TimeUnitMillis:
			unit = 1e3
		case schema.TimeUnitMicros:
			unit = 1e6
		}
		if low/unit < -60_000_000_000 || high/unit > 250_000_000_000 {
			return
		}
		text = func(n int64) string {
			s := n / unit
			if n%unit < 0 {
				s--
			}
			return time.Unix(s, (n-s*unit)*(1e9/unit)).UTC().Format(format)
		}
	case schema.IntLogicalType:
		if !t.IsSigned() {
			text = func(n int64) string {
				if t.BitWidth() <= 32 {
					return strconv.FormatUint(uint64(uint32(n)), 10)
				}
				return strconv.FormatUint(uint64(n), 10)
			}
		}
	case schema.NoLogicalType:
	default: // decimals, times: stored otherwise than they compare
		return
	}
	g.min[name], g.max[name] = text(low), text(high)
}
