package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// order of the columns and rows.
var order = []string{fixedName, kq, "ARC", "gradient", "AIMD", "on/off", "none"}

// table writes everything as markdown.
func table(all []played) string {
	var b strings.Builder
	fmt.Fprint(&b, "# Backpressure, simulated\n\n"+
		"By `go run ./benchmarks/backpressure -out benchmarks/results/backpressure`. Figures are the same in every run.\n\n")
	summary(&b, all)
	for _, p := range all {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n", p.name, strings.ToUpper(p.what[:1])+p.what[1:])
		fmt.Fprintln(&b, "| policy | MiB/s | of best fixed | peak MiB | p99 wait s | p99 at sink s | Jain | refused | recovery s |")
		fmt.Fprintln(&b, "|---|--:|--:|--:|--:|--:|--:|--:|--:|")
		for _, name := range order {
			r := p.results[name]
			shown := name
			if name == fixedName {
				shown = fmt.Sprintf("best fixed (%d)", r.Setting)
			}
			fmt.Fprintf(&b, "| %s | %.2f | %.1f %% | %.1f | %.3f | %.3f | %.3f | %.1f %% | %s |\n", shown, r.Goodput/mib, 100*p.share(name),
				float64(r.Peak)/mib, r.Wait, r.AtSink, r.Jain, 100*r.Refused, p.recovered(r))
		}
	}
	return b.String()
}

// share is a policy's goodput as a share of the best fixed window's.
func (p played) share(name string) float64 {
	return p.results[name].Goodput / p.results[fixedName].Goodput
}

func (p played) recovered(r result) string {
	switch {
	case p.outage[1] == 0:
		return ""
	case r.Recovery < 0:
		return "never"
	}
	return fmt.Sprintf("%.1f", r.Recovery)
}

// summary says whom kq is better than, and where it is worst.
func summary(b *strings.Builder, all []played) {
	fmt.Fprintln(b, "| kq against | better | same | worse | by memory first | worse in |")
	fmt.Fprintln(b, "|---|--:|--:|--:|--:|---|")
	for _, name := range order {
		if name == kq {
			continue
		}
		count, memory := map[int]int{}, map[int]int{}
		var where []string
		for _, p := range all {
			by := p.better(kq, name, false)
			count[by]++
			memory[p.better(kq, name, true)]++
			if by < 0 {
				where = append(where, p.name)
			}
		}
		fmt.Fprintf(b, "| %s | %d | %d | %d | %d, %d, %d | %s |\n", name, count[1], count[0], count[-1], memory[1], memory[0], memory[-1], strings.Join(where, ", "))
	}
	fmt.Fprint(b, "\nBetter: the first of these that differs decides. Keeps the limit; delivers over 2 % more; p99 wait, p99 latency at the sink, peak of\n"+
		"bytes in flight over 5 % lower. By memory first: the peak goes before the latency. The best fixed window is no policy: it was found\n"+
		"by playing the scenario with all of them.\n\nLeast throughput of each policy, as a share of the best fixed window's:\n\n")
	for _, name := range order[1:] {
		least, where := math.Inf(1), ""
		for _, p := range all {
			if s := p.share(name); s < least {
				least, where = s, p.name
			}
		}
		fmt.Fprintf(b, "- %s: %.1f %% (%s)\n", name, 100*least, where)
	}
}

// figures are what the golden file has: scenario, policy, result.
type figures map[string]map[string]result

// golden rounds to five digits, which are the same wherever they are printed.
func golden(all []played) figures {
	f := figures{}
	for _, p := range all {
		f[p.name] = map[string]result{}
		for name, r := range p.results {
			f[p.name][name] = r.rounded()
		}
	}
	return f
}

func (r result) rounded() result {
	for _, v := range []*float64{&r.Goodput, &r.Wait, &r.AtSink, &r.Jain, &r.Recovery, &r.Refused} {
		*v, _ = strconv.ParseFloat(strconv.FormatFloat(*v, 'g', 5, 64), 64)
	}
	r.delivered = nil
	return r
}

// save writes table, figures and plots into a folder.
func save(folder string, all []played) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	text, err := json.MarshalIndent(golden(all), "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "figures.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "README.md"), []byte(table(all)+plots(all)), 0o644); err != nil {
		return err
	}
	return draw(folder, all)
}
