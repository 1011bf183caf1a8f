// Command tpch shows, for each query of TPC-H, how its rows travel in kq and what
// that costs: edges by kind, gathers, bytes exchanged, time, and the ratio to the
// same DuckDB in one process. See benchmarks/README.md.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kinequet/kq/internal/tpc"
)

func main() {
	b := bench{}
	scale := flag.Float64("sf", 1, "scale factor")
	which := flag.String("queries", "", "comma-separated, such as q01,q18 (default: all)")
	flag.IntVar(&b.rounds, "n", 3, "timed rounds, after one that isn't counted")
	flag.IntVar(&b.threads, "threads", runtime.NumCPU(), "workers of kq, threads of DuckDB")
	flag.StringVar(&b.shardSize, "shard-size", "", "kq's --shard-size (default: kq's)")
	flag.StringVar(&b.exchange, "exchange", "", "kq's --exchange (default: kq's)")
	flag.Parse()
	if err := run(&b, *scale, *which); err != nil {
		fmt.Fprintln(os.Stderr, "tpch:", err)
		os.Exit(1)
	}
}

// bench is one run of the command.
type bench struct {
	suite     *tpc.Suite
	kq, duck  string // binaries
	tmp       string
	rounds    int
	threads   int
	shardSize string
	exchange  string
}

// line is what is known of a query.
type line struct {
	edges     string
	gathers   int
	exchanged int64
	kq, duck  float64 // seconds
}

func run(b *bench, scale float64, which string) (err error) {
	if b.suite, err = tpc.TPCH("benchmarks/data", scale); err != nil {
		return err
	}
	if b.tmp, err = os.MkdirTemp("", "kq-tpch-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(b.tmp) }()
	b.kq, b.duck = filepath.Join(b.tmp, "kq"), filepath.Join(b.tmp, "duckdbrun")
	for binary, pkg := range map[string]string{b.kq: "./cmd/kq", b.duck: "./benchmarks/duckdbrun"} {
		if out, err := exec.Command("go", "build", "-o", binary, pkg).CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
		}
	}
	queries := b.suite.Queries
	if which != "" {
		names := strings.Split(which, ",")
		queries = slices.DeleteFunc(slices.Clone(queries), func(q tpc.Query) bool { return !slices.Contains(names, q.Name) })
		if len(queries) != len(names) {
			return fmt.Errorf("there is no query among %s; they are q01 to q22", which)
		}
	}
	t := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "query\tedges\tlarge gathers\texchanged MiB\tkq s\tduckdb s\tratio\n")
	var gathers int
	var exchanged int64
	var kq, duck, logs float64
	for _, q := range queries {
		l, err := b.query(q)
		if err != nil {
			return fmt.Errorf("%s: %w", q.Name, err)
		}
		fmt.Fprintf(os.Stderr, "%s: kq %.3f s, duckdb %.3f s\n", q.Name, l.kq, l.duck)
		fmt.Fprintf(t, "%s\t%s\t%d\t%.1f\t%.3f\t%.3f\t%.2f\n", q.Name, l.edges, l.gathers, mib(l.exchanged), l.kq, l.duck, l.kq/l.duck)
		gathers += l.gathers
		exchanged += l.exchanged
		kq, duck, logs = kq+l.kq, duck+l.duck, logs+math.Log(l.kq/l.duck)
	}
	fmt.Fprintf(t, "all\t\t%d\t%.1f\t%.3f\t%.3f\t%.2f (geometric mean %.2f)\n", gathers, mib(exchanged), kq, duck, kq/duck, math.Exp(logs/float64(len(queries))))
	return t.Flush()
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// query runs a query on both systems in turn, and asks kq how it went.
func (b *bench) query(q tpc.Query) (l line, err error) {
	dir := filepath.Join(b.tmp, q.Name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return l, err
	}
	job := filepath.Join(dir, "job.yaml")
	if err := os.WriteFile(job, []byte(b.suite.Job(q)), 0o644); err != nil {
		return l, err
	}
	shape := []string{job}
	if b.shardSize != "" {
		shape = append(shape, "--shard-size", b.shardSize)
	}
	if b.exchange != "" {
		shape = append(shape, "--exchange", b.exchange)
	}
	kq := append([]string{b.kq, "run", "--fresh", "--json", "--workers", strconv.Itoa(b.threads)}, shape...)
	var with []string
	for _, t := range b.suite.Reads(q) {
		with = append(with, fmt.Sprintf("CREATE VIEW %s AS FROM read_parquet('%s/*.parquet'); ", t, b.suite.Folder(t)))
	}
	duck := []string{
		b.duck, "-threads", strconv.Itoa(b.threads), "-spill", filepath.Join(dir, "spill"),
		strings.Join(with, "") + "COPY (" + q.SQL + ") TO '" + filepath.Join(dir, "duckdb.parquet") + "' (FORMAT parquet)",
	}
	var kqTimes, duckTimes []float64
	for round := -1; round < b.rounds; round++ {
		d, err := timed(duck)
		if err != nil {
			return l, err
		}
		k, err := timed(kq)
		if err != nil {
			return l, err
		}
		if round >= 0 || b.rounds == 0 {
			duckTimes, kqTimes = append(duckTimes, d), append(kqTimes, k)
		}
	}
	l.kq, l.duck = median(kqTimes), median(duckTimes)
	return l, b.travel(&l, shape)
}

// large is the decoded bytes above which bringing an input together counts.
const large = 64 << 20

// travel takes edges from kq plan and bytes from kq status.
func (b *bench) travel(l *line, shape []string) error {
	var plan struct {
		Tasks []struct {
			Name   string
			Inputs []struct{ Kind string }
			Sink   *struct{ From string }
		}
		Notes map[string]struct{ Inputs []struct{ Bytes int64 } }
	}
	if err := decode(&plan, append([]string{b.kq, "plan", "--json"}, shape...)); err != nil {
		return err
	}
	var published []string // tasks that write for a sink, not for each other
	kinds := map[string]int{}
	for _, t := range plan.Tasks {
		if t.Sink != nil {
			published = append(published, t.Sink.From)
		}
		for i, in := range t.Inputs {
			kinds[in.Kind]++
			// A size that isn't known counts as large.
			if note := plan.Notes[t.Name]; in.Kind == "gather" && (i >= len(note.Inputs) || uint64(note.Inputs[i].Bytes) > large) {
				l.gathers++
			}
		}
	}
	l.edges = edges(kinds)

	var status struct {
		Tasks []struct {
			Task, Kind string
			Metrics    struct {
				BytesOut int64 `json:"bytes_out"`
			}
		}
	}
	if err := decode(&status, []string{b.kq, "status", "--json", "--job", shape[0]}); err != nil {
		return err
	}
	for _, t := range status.Tasks {
		if t.Kind == "compute" && !slices.Contains(published, t.Task) {
			l.exchanged += t.Metrics.BytesOut
		}
	}
	return nil
}

// edges counts the kinds, the ways that need no exchange first.
func edges(kinds map[string]int) string {
	order := []string{"forward", "broadcast", "range", "hash", "sort", "gather"}
	for k := range kinds {
		if !slices.Contains(order, k) {
			order = append(order, k)
		}
	}
	slices.Sort(order[6:])
	var items []string
	for _, k := range order {
		if n := kinds[k]; n > 0 {
			items = append(items, fmt.Sprintf("%d %s", n, k))
		}
	}
	return strings.Join(items, ", ")
}

func decode(to any, args []string) error {
	out, err := exec.Command(args[0], args[1:]...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("%s: %w\n%s", strings.Join(args[1:], " "), err, exit.Stderr)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(out, to)
}

func timed(args []string) (seconds float64, err error) {
	start := time.Now()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", filepath.Base(args[0]), err, out)
	}
	return time.Since(start).Seconds(), nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
