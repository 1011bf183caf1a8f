// Command backpressure plays sinks and those who send to them, and compares the
// project's backpressure with other policies: a discrete-event simulation that
// gives the same figures in every run.
package main

import (
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/kinequet/kq/backpressure"
)

// seed of every run that is reported.
const seed = 1

func main() {
	only := flag.String("only", "", "names of scenarios, separated by commas; all if empty")
	runSeed := flag.Uint64("seed", seed, "seed of the random numbers")
	out := flag.String("out", "", "folder for table, figures and plots, such as benchmarks/results/backpressure")
	flag.Parse()
	list := scenarios()
	if *only != "" {
		names := strings.Split(*only, ",")
		list = slices.DeleteFunc(list, func(sc scenario) bool { return !slices.Contains(names, sc.name) })
	}
	if err := compare(list, *runSeed, *out); err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks/backpressure:", err)
		os.Exit(1)
	}
}

// compare plays all and writes the report.
func compare(list []scenario, seed uint64, out string) error {
	if len(list) == 0 {
		return fmt.Errorf("no such scenario")
	}
	played := make([]played, len(list))
	var wg sync.WaitGroup
	places := make(chan bool, runtime.GOMAXPROCS(0))
	for i, sc := range list {
		wg.Go(func() {
			places <- true
			defer func() { <-places }()
			played[i] = play(sc, seed)
		})
	}
	wg.Wait()
	fmt.Print(table(played))
	if out == "" {
		return nil
	}
	return save(out, played)
}

// policy is a way of control with a name.
type policy struct {
	name string
	of   func(limit int64, process int) limiter
}

// names of policies: the project's own, and the best constant window.
const (
	kq        = "kq"
	fixedName = "fixed"
)

// policies are all that need no search.
func policies() []policy {
	windowed := func(of func() rule) func(int64, int) limiter {
		return func(limit int64, _ int) limiter { return &windowed{limit: limit, rule: of()} }
	}
	return []policy{
		{"none", func(int64, int) limiter { return unlimited{} }},
		{"on/off", windowed(func() rule { return fixed(math.MaxInt) })},
		{"AIMD", windowed(func() rule { return &aimd{window: 10} })},
		{"gradient", windowed(func() rule { return &gradient{window: 20} })},
		{"ARC", windowed(func() rule { return &arc{window: 1} })},
		{kq, func(limit int64, process int) limiter {
			return ours{backpressure.NewGate(limit, uint64(process))}
		}},
	}
}

// played is a scenario with what each policy made of it.
type played struct {
	scenario
	results map[string]result
}

// play runs all policies and the search.
func play(sc scenario, seed uint64) played {
	p := played{sc, map[string]result{fixedName: best(sc, seed)}}
	for _, pol := range policies() {
		p.results[pol.name] = run(sc, seed, pol.of)
	}
	p.recover()
	return p
}

// recover fills in the times of recovery, which need the best fixed window's run.
func (p played) recover() {
	if p.outage[1] == 0 {
		return
	}
	reference := p.results[fixedName]
	for name, r := range p.results {
		r.Recovery = recovery(p.scenario, r, reference)
		p.results[name] = r
	}
}

// settings are the windows that the search for the best fixed one tries.
var settings = []int{1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256}

// at plays one fixed window for each process.
func at(sc scenario, seed uint64, window int) result {
	r := run(sc, seed, func(limit int64, _ int) limiter { return &windowed{limit: limit, rule: fixed(window)} })
	r.Setting = window
	return r
}

// best plays every fixed window and returns the result of the one with the most
// goodput; of those within 0.1 % the smallest.
func best(sc scenario, seed uint64) result {
	var all []result
	for _, n := range settings {
		if n > 1 && n >= 2*sc.workers/sc.processes {
			break // as good as none
		}
		all = append(all, at(sc, seed, n))
	}
	most := 0.0
	for _, r := range all {
		most = max(most, r.Goodput)
	}
	return all[slices.IndexFunc(all, func(r result) bool { return r.Goodput >= 0.999*most })]
}

// better compares two results of a scenario: who keeps the limit, then who delivers
// more (by more than 2 %), then whose 99th percentile of waiting is lower, then whose
// requests the sink answers sooner, also in the 99th percentile, then who has less in
// flight at most (each by more than 5 %). With memory, the last two change places. It
// returns 1, -1 or 0.
func (p played) better(a, b string, memory bool) int {
	x, y := p.results[a], p.results[b]
	over := func(r result) float64 {
		if r.Peak > p.limit {
			return 1
		}
		return 0
	}
	type measure struct{ x, y, margin float64 }
	last := []measure{{x.AtSink, y.AtSink, 0.05}, {float64(x.Peak), float64(y.Peak), 0.05}}
	if memory {
		slices.Reverse(last)
	}
	for _, by := range append([]measure{
		{over(x), over(y), 0},
		{-x.Goodput, -y.Goodput, 0.02},
		{x.Wait, y.Wait, 0.05},
	}, last...) {
		if math.Abs(by.x-by.y) > by.margin*max(math.Abs(by.x), math.Abs(by.y)) {
			if by.x < by.y {
				return 1
			}
			return -1
		}
	}
	return 0
}
