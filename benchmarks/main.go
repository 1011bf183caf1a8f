// Command benchmarks times kq against other systems on the same work: whole
// processes, one after the other in turn, in one run. See README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// peer is a system under test. Adding one is adding a file with its type, and
// its name to peers.
type peer interface {
	name() string
	// prepare builds or finds the program, in a folder for the whole run. It
	// returns an error of type unavailable where this machine can't have it.
	prepare(tmp string, o settings) error
	// command is the process to time: it reads data/<table>/*.parquet and
	// writes to output(work). work is an empty folder.
	command(w workload, data, work string, o settings) ([]string, error)
	// output is a glob of the Parquet files that the command has written.
	output(work string) string
}

// overlapping is a peer that, asked for an order, may write several files at
// once, each in order, whose rows overlap. That is less than was asked for, so
// its result is marked.
type overlapping interface{ overlapping() bool }

// peers are all systems; DuckDB, which gives the answers, is the first.
var peers = []peer{
	&duckdbPeer{},
	&kqPeer{},
	&pythonPeer{label: "polars", needs: []string{"python3"}},
	&pythonPeer{label: "sail", needs: []string{"python3"}, overlaps: true},
	&pythonPeer{label: "pyspark", needs: []string{"python3", "java"}},
}

// unavailable is why a system can't run on this machine.
type unavailable struct{ error }

// settings are the same for every peer.
type settings struct {
	threads  int
	memory   string
	exchange string // of kq
}

// bench is one run of this program.
type bench struct {
	settings settings
	scale    float64
	rounds   int
	limit    time.Duration // of one process
	dataOnly bool
	peers    []peer
	tmp      string
	duckdb   string // the program that runs one statement
}

func main() {
	b := &bench{}
	flag.Float64Var(&b.scale, "sf", 1, "scale factor")
	flag.IntVar(&b.rounds, "n", 5, "timed rounds, after one that isn't counted")
	flag.DurationVar(&b.limit, "limit", time.Hour, "what a process may take")
	only := flag.String("only", "all", "workloads, comma-separated")
	flag.StringVar(only, "workloads", "all", "the same as -only")
	which := flag.String("peers", "duckdb,kq", "systems, comma-separated, or all")
	flag.BoolVar(&b.dataOnly, "data", false, "only make the data of the workloads")
	out := flag.String("out", "", "name of the result under benchmarks/results (default: not written)")
	flag.IntVar(&b.settings.threads, "threads", runtime.NumCPU(), "threads, the same for every system")
	flag.StringVar(&b.settings.memory, "memory", "", "memory limit, the same for every system, such as 1GiB")
	flag.StringVar(&b.settings.exchange, "exchange", "auto", "auto, always or never: kq run --exchange, where this kq has it")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, strings.Split(*only, ","), strings.Split(*which, ","), *out); err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only, which []string, out string) (err error) {
	if _, err := parseSize(b.settings.memory); err != nil {
		return err
	}
	todo, err := choose(workloads, only, func(w workload) string { return w.name })
	if err != nil {
		return fmt.Errorf("workload %w", err)
	}
	if b.tmp, err = os.MkdirTemp("", "kq-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.tmp)) }()
	if b.duckdb, err = duckdbrun(b.tmp); err != nil {
		return err
	}
	for _, w := range todo {
		if _, err := b.dataFor(w); err != nil {
			return err
		}
	}
	if b.dataOnly {
		return nil
	}
	r := report{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: machine(), Cores: runtime.NumCPU(), Scale: b.scale,
		Threads: b.settings.threads, Memory: b.settings.memory, Rounds: b.rounds, Missing: map[string]string{},
	}
	if err := b.prepare(which, &r); err != nil {
		return err
	}
	if err := adopt(); err != nil {
		return err
	}
	var failures []error
	for _, w := range todo {
		data, err := b.dataFor(w)
		if err != nil {
			return err
		}
		all, err := b.inTurn(ctx, w, data)
		if err != nil {
			return err
		}
		for _, s := range all {
			if s.failure != nil {
				failures = append(failures, s.failure)
			}
		}
		r.add(all)
		if out == "" {
			continue
		}
		// After each workload, because all of them may take hours.
		if err := write(filepath.Join("benchmarks", "results", out), r, b.peers); err != nil {
			return err
		}
	}
	r.print(os.Stdout)
	return errors.Join(failures...)
}

// prepare chooses the systems and makes them ready.
func (b *bench) prepare(which []string, r *report) error {
	chosen, err := choose(peers, which, peer.name)
	if err != nil {
		return fmt.Errorf("system %w", err)
	}
	if chosen[0] != peers[0] {
		chosen = append(peers[:1:1], chosen...)
	}
	for _, p := range chosen {
		err := p.prepare(b.tmp, b.settings)
		var no unavailable
		switch {
		case errors.As(err, &no):
			fmt.Fprintf(os.Stderr, "%s is not available: %v\n", p.name(), err)
			r.Missing[p.name()] = err.Error()
		case err != nil:
			return fmt.Errorf("%s: %w", p.name(), err)
		default:
			b.peers = append(b.peers, p)
			if kq, ok := p.(*kqPeer); ok && kq.exchange {
				r.Exchange = b.settings.exchange
			}
		}
	}
	return nil
}

// choose picks by name, in the order of all.
func choose[T any](all []T, which []string, name func(T) string) (chosen []T, err error) {
	for _, n := range which {
		if n != "all" && !slices.Contains(names(all, name), n) {
			return nil, fmt.Errorf("%q is unknown; known: %s", n, strings.Join(names(all, name), ", "))
		}
	}
	for _, it := range all {
		if slices.Contains(which, "all") || slices.Contains(which, name(it)) {
			chosen = append(chosen, it)
		}
	}
	return chosen, nil
}

// inTurn times every peer once a round: A B A B …, so that what the machine does
// besides hits all of them. The round that isn't counted checks the answers.
func (b *bench) inTurn(ctx context.Context, w workload, data string) ([]series, error) {
	all := make([]series, len(b.peers))
	var ref answer
	for round := -1; round < b.rounds; round++ {
		for i, p := range b.peers {
			if round < 0 {
				all[i] = series{Workload: w.name, System: p.name()}
			} else if all[i].failure != nil {
				continue
			}
			s, err := b.once(ctx, p, w, data, b.settings)
			if ctx.Err() != nil {
				return nil, err
			}
			switch {
			case round >= 0:
				if err == nil {
					err = b.same(p, ref.Rows)
				}
			case i == 0:
				ref, err = b.reference(ctx, w, data, err)
				all[i].Answer = ref.String()
			case err == nil:
				var got answer
				if got, err = b.answer(p.output(b.work()), ref.Columns); err == nil {
					err = got.differs(ref)
				}
				all[i].Answer = got.String()
				if err == nil && w.sorted != "" {
					all[i].Note, err = b.ordered(p, w.sorted)
				}
			}
			if ref.Columns == nil {
				return nil, fmt.Errorf("no answer to compare with: %w", err)
			}
			if err != nil {
				all[i].fail(err)
				fmt.Fprintln(os.Stderr, all[i].failure)
				continue
			}
			note := "warm-up, answer compared"
			if round >= 0 {
				all[i].Samples = append(all[i].Samples, s)
				note = fmt.Sprintf("round %d", round+1)
			}
			fmt.Fprintf(os.Stderr, "%s %s %.3f s (%s)\n", w.name, p.name(), s.Wall, note)
		}
	}
	summarize(all)
	return all, os.RemoveAll(b.work())
}

func (b *bench) work() string { return filepath.Join(b.tmp, "work") }

// once runs a system on an empty folder.
func (b *bench) once(ctx context.Context, p peer, w workload, data string, o settings) (sample, error) {
	if err := os.RemoveAll(b.work()); err != nil {
		return sample{}, err
	}
	if err := os.Mkdir(b.work(), 0o755); err != nil {
		return sample{}, err
	}
	args, err := p.command(w, data, b.work(), o)
	if err != nil {
		return sample{}, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, b.limit, fmt.Errorf("it took more than %v", b.limit))
	defer cancel()
	return timed(ctx, args, p.output(b.work()))
}

// reference is DuckDB's answer. Where DuckDB failed, such as under a limit of
// memory, it is asked again without one, and the failure is returned too.
func (b *bench) reference(ctx context.Context, w workload, data string, failed error) (answer, error) {
	p := b.peers[0]
	if failed != nil {
		o := b.settings
		o.memory = ""
		if _, err := b.once(ctx, p, w, data, o); err != nil {
			return answer{}, err
		}
	}
	a, err := b.answer(p.output(b.work()), nil)
	if err == nil && w.sorted != "" {
		_, err = b.ordered(p, w.sorted)
	}
	return a, errors.Join(failed, err)
}

// same compares the number of rows, which costs next to nothing.
func (b *bench) same(p peer, want int64) error {
	got, err := b.rows(p.output(b.work()))
	if err == nil && got != want {
		err = fmt.Errorf("%w: %d rows this time; duckdb's has %d", errWrong, got, want)
	}
	return err
}

func machine() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for _, l := range strings.Split(string(data), "\n") {
		if name, ok := strings.CutPrefix(l, "model name\t: "); ok {
			return name
		}
	}
	return runtime.GOARCH
}

// duckdbrun builds the program that runs one statement.
func duckdbrun(tmp string) (string, error) {
	to := filepath.Join(tmp, "duckdbrun")
	return to, goBuild(to, "./benchmarks/duckdbrun")
}

func goBuild(to, pkg string) error {
	out, err := exec.Command("go", "build", "-o", to, pkg).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

func write(path string, r report, systems []peer) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".json", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return draw(path+".png", r, names(systems, peer.name))
}
