package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// series is every sample of one system on one workload.
type series struct {
	Workload string   `json:"workload"`
	System   string   `json:"system"`
	Samples  []sample `json:"samples,omitempty"`
	Wall     float64  `json:"median_wall_s,omitempty"`
	CPU      float64  `json:"median_cpu_s,omitempty"`
	Ratio    float64  `json:"ratio_to_duckdb,omitempty"` // of median wall times
	Answer   string   `json:"answer,omitempty"`          // rows and hash, the same for all systems
	Note     string   `json:"note,omitempty"`            // what was done otherwise
	Problem  string   `json:"problem,omitempty"`         // why there is no time
	failure  error    // the same with what it is about
}

// fail takes a system out of the rest of a workload.
func (s *series) fail(err error) {
	s.Problem = err.Error()
	if !errors.Is(err, errWrong) {
		s.Problem = "failed: " + s.Problem
	}
	s.failure = fmt.Errorf("%s on %s: %w", s.System, s.Workload, err)
}

// skew is how much longer a system takes for the same work over data where one
// key has 60 % of the rows.
type skew struct {
	Workload string  `json:"workload"`
	System   string  `json:"system"`
	Ratio    float64 `json:"ratio_to_no_skew"`
}

// report is what is written as JSON.
type report struct {
	Date     string            `json:"date"`
	Machine  string            `json:"machine"`
	Cores    int               `json:"cores"`
	Scale    float64           `json:"scale_factor"`
	Threads  int               `json:"threads"`
	Memory   string            `json:"memory,omitempty"`
	Exchange string            `json:"exchange,omitempty"`
	Rounds   int               `json:"rounds"`
	Missing  map[string]string `json:"not_available,omitempty"` // systems, and why
	Results  []series          `json:"results"`
	Skew     []skew            `json:"skew,omitempty"`
}

// summarize works out medians and ratios; the first system is DuckDB.
func summarize(all []series) {
	for i := range all {
		if all[i].Problem != "" {
			continue
		}
		all[i].Wall = median(all[i].Samples, func(s sample) float64 { return s.Wall })
		all[i].CPU = median(all[i].Samples, func(s sample) float64 { return s.CPU })
		if all[0].Wall > 0 {
			all[i].Ratio = all[i].Wall / all[0].Wall
		}
	}
}

// add takes the results of a workload and compares those with and without skew.
func (r *report) add(all []series) {
	r.Results = append(r.Results, all...)
	r.Skew = nil
	for _, w := range workloads {
		for _, s := range r.Results {
			i := slices.IndexFunc(r.Results, func(e series) bool { return e.Workload == w.even && e.System == s.System })
			if s.Workload == w.name && i >= 0 && s.Wall > 0 && r.Results[i].Wall > 0 {
				r.Skew = append(r.Skew, skew{w.name, s.System, s.Wall / r.Results[i].Wall})
			}
		}
	}
}

func (r *report) print(to io.Writer) {
	t := tabwriter.NewWriter(to, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "workload\tsystem\twall s: median (min-max)\tcpu s\tratio to duckdb\tMiB: process\tkq worker\tall\tanswer")
	for _, s := range r.Results {
		if s.Problem != "" || len(s.Samples) == 0 {
			fmt.Fprintf(t, "%s\t%s\t-\t-\t-\t-\t-\t-\t%s\n", s.Workload, s.System, cmp.Or(s.Problem, s.says()))
			continue
		}
		low, high := s.Wall, s.Wall
		for _, x := range s.Samples {
			low, high = min(low, x.Wall), max(high, x.Wall)
		}
		fmt.Fprintf(t, "%s\t%s\t%.3f (%.3f-%.3f)\t%.2f\t%s\t%s\t%s\t%s\t%s\n", s.Workload, s.System, s.Wall, low, high, s.CPU, ratio(s.Ratio),
			s.most(func(x sample) int64 { return x.RSS }), s.most(func(x sample) int64 { return x.Worker }), s.most(func(x sample) int64 { return x.Tree }), s.says())
	}
	_ = t.Flush()
	for _, s := range r.Skew {
		fmt.Fprintf(to, "%s: %s takes %.2f times as long as without skew\n", s.Workload, s.System, s.Ratio)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Missing)) {
		fmt.Fprintf(to, "%s: not available: %s\n", name, r.Missing[name])
	}
}

// says is the answer with what there is to say about it.
func (s series) says() string {
	if s.Note == "" {
		return s.Answer
	}
	return s.Answer + " (" + s.Note + ")"
}

// most is the largest of the samples in MiB.
func (s series) most(value func(sample) int64) string {
	var top int64
	for _, x := range s.Samples {
		top = max(top, value(x))
	}
	if top == 0 {
		return "-"
	}
	return fmt.Sprint(top >> 20)
}

func ratio(r float64) string {
	if r == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", r)
}
