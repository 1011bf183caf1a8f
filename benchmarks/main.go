// Command benchmarks times kq against other systems on the same work: whole
// processes, one after the other in turn, in one run. See README.md.
package main

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

// peer is a system under test. Adding one is adding a file with its type, and
// its name to peers.
type peer interface {
	name() string
	// prepare builds or finds the program, in a folder for the whole run.
	prepare(tmp string) error
	// command is the process to time: it reads data/<table>/*.parquet and
	// writes to output(work). work is an empty folder.
	command(w workload, data, work string, o settings) ([]string, error)
	// output is a glob of the Parquet files that the command has written.
	output(work string) string
}

var peers = []peer{&duckdbPeer{}, &kqPeer{}}

// settings are the same for every peer.
type settings struct {
	threads int
	memory  string
}

// sample is one timed process, with all its children.
type sample struct {
	Wall float64 `json:"wall_s"`
	CPU  float64 `json:"cpu_s"`
	RSS  int64   `json:"peak_rss_bytes"` // of the largest single process
}

// series is every sample of one system on one workload.
type series struct {
	Workload string   `json:"workload"`
	System   string   `json:"system"`
	Samples  []sample `json:"samples"`
	Wall     float64  `json:"median_wall_s"`
	CPU      float64  `json:"median_cpu_s"`
	Ratio    float64  `json:"ratio_to_duckdb"` // of median wall times
	Answer   string   `json:"answer"`          // rows and hash, the same for all systems
}

// report is what is written as JSON.
type report struct {
	Date    string   `json:"date"`
	Machine string   `json:"machine"`
	Cores   int      `json:"cores"`
	Scale   float64  `json:"scale_factor"`
	Threads int      `json:"threads"`
	Memory  string   `json:"memory,omitempty"`
	Rounds  int      `json:"rounds"`
	Results []series `json:"results"`
}

func main() {
	scale := flag.Float64("sf", 1, "TPC-H scale factor")
	rounds := flag.Int("n", 5, "timed rounds, after one that isn't counted")
	which := flag.String("workloads", "q1,etl,tiny", "comma-separated")
	out := flag.String("out", "", "name of the result under benchmarks/results (default: not written)")
	o := settings{}
	flag.IntVar(&o.threads, "threads", runtime.NumCPU(), "threads, the same for every system")
	flag.StringVar(&o.memory, "memory", "", "memory limit, the same for every system, such as 1GB")
	flag.Parse()
	if err := run(*scale, *rounds, strings.Split(*which, ","), *out, o); err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks:", err)
		os.Exit(1)
	}
}

func run(scale float64, rounds int, which []string, out string, o settings) error {
	tmp, err := os.MkdirTemp("", "kq-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	for _, p := range peers {
		if err := p.prepare(tmp); err != nil {
			return fmt.Errorf("%s: %w", p.name(), err)
		}
	}
	r := report{Date: time.Now().UTC().Format(time.DateOnly), Machine: machine(), Cores: runtime.NumCPU(), Scale: scale, Threads: o.threads, Memory: o.memory, Rounds: rounds}
	for _, name := range which {
		i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == name })
		if i < 0 {
			return fmt.Errorf("no workload %q", name)
		}
		data, err := dataFor(workloads[i], scale)
		if err != nil {
			return err
		}
		all, err := inTurn(workloads[i], data, tmp, rounds, o)
		if err != nil {
			return err
		}
		r.Results = append(r.Results, all...)
	}
	print(os.Stdout, r)
	if out == "" {
		return nil
	}
	return write(filepath.Join("benchmarks", "results", out), r)
}

// inTurn times every peer once a round: A B A B …, so that what the machine does
// besides hits all of them.
func inTurn(w workload, data, tmp string, rounds int, o settings) ([]series, error) {
	all := make([]series, len(peers))
	for round := -1; round < rounds; round++ {
		for i, p := range peers {
			work := filepath.Join(tmp, "work")
			if err := os.RemoveAll(work); err != nil {
				return nil, err
			}
			if err := os.Mkdir(work, 0o755); err != nil {
				return nil, err
			}
			args, err := p.command(w, data, work, o)
			if err != nil {
				return nil, err
			}
			s, err := timed(args)
			if err != nil {
				return nil, fmt.Errorf("%s on %s: %w", p.name(), w.name, err)
			}
			if round < 0 {
				all[i] = series{Workload: w.name, System: p.name()}
				if all[i].Answer, err = answer(p.output(work)); err != nil {
					return nil, err
				}
				if all[i].Answer != all[0].Answer {
					return nil, fmt.Errorf("%s on %s: the answer is %s, %s's is %s", p.name(), w.name, all[i].Answer, all[0].System, all[0].Answer)
				}
				continue
			}
			all[i].Samples = append(all[i].Samples, s)
			fmt.Fprintf(os.Stderr, "%s %s %.3f s\n", w.name, p.name(), s.Wall)
		}
	}
	for i := range all {
		all[i].Wall = median(all[i].Samples, func(s sample) float64 { return s.Wall })
		all[i].CPU = median(all[i].Samples, func(s sample) float64 { return s.CPU })
		all[i].Ratio = all[i].Wall / all[0].Wall
	}
	return all, nil
}

// timed runs a command to its end and adds up what it and its children took.
func timed(args []string) (sample, error) {
	var before, after syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_CHILDREN, &before)
	syscall.Sync() // what the system before has not written yet is not this one's to wait for
	cmd := exec.Command(args[0], args[1:]...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	s := sample{Wall: time.Since(start).Seconds()}
	if err != nil {
		return s, fmt.Errorf("%w: %s", err, out)
	}
	_ = syscall.Getrusage(syscall.RUSAGE_CHILDREN, &after)
	cpu := func(r syscall.Rusage) float64 {
		return time.Duration(syscall.TimevalToNsec(r.Utime) + syscall.TimevalToNsec(r.Stime)).Seconds()
	}
	s.CPU = cpu(after) - cpu(before)
	s.RSS = cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss << 10
	return s, nil
}

func median[T any](items []T, value func(T) float64) float64 {
	if len(items) == 0 {
		return 0
	}
	values := make([]float64, len(items))
	for i, it := range items {
		values[i] = value(it)
	}
	slices.SortFunc(values, func(a, b float64) int { return cmp.Compare(a, b) })
	if n := len(values); n%2 == 0 {
		return (values[n/2-1] + values[n/2]) / 2
	}
	return values[len(values)/2]
}

func print(f *os.File, r report) {
	t := tabwriter.NewWriter(f, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "workload\tsystem\twall s: median (min-max)\tcpu s\tratio to duckdb\tanswer")
	for _, s := range r.Results {
		low, high := s.Wall, s.Wall
		for _, x := range s.Samples {
			low, high = min(low, x.Wall), max(high, x.Wall)
		}
		fmt.Fprintf(t, "%s\t%s\t%.3f (%.3f-%.3f)\t%.2f\t%.2f\t%s\n", s.Workload, s.System, s.Wall, low, high, s.CPU, s.Ratio, s.Answer)
	}
	_ = t.Flush()
}

func write(path string, r report) error {
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
	return draw(path+".png", r)
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

func goBuild(to, pkg string) error {
	out, err := exec.Command("go", "build", "-o", to, pkg).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}
