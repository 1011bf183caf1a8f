package main

import (
	"fmt"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// cut is where bars end, so that a slow system leaves the others readable.
const cut = 6.0

// draw writes a bar chart of the ratios to DuckDB: one group a workload, one bar
// a system. A system that failed has none.
func draw(path string, r report, systems []string) error {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("wall time, DuckDB = 1 (SF %g, %d threads, median of %d%s)", r.Scale, r.Threads, r.Rounds, limited(r.Memory))
	p.Y.Min = 0
	var groups []string
	for _, s := range r.Results {
		if !slices.Contains(groups, s.Workload) {
			groups = append(groups, s.Workload)
		}
	}
	width := vg.Points(48 / float64(max(2, len(systems))))
	for i, system := range systems {
		values := make(plotter.Values, len(groups))
		for _, s := range r.Results {
			if s.System == system {
				values[slices.Index(groups, s.Workload)] = min(s.Ratio, cut)
			}
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bars.Color = plotutil.Color(i)
		bars.LineStyle.Width = 0
		bars.Offset = width * vg.Length(float64(i)-float64(len(systems)-1)/2)
		p.Add(bars)
		p.Legend.Add(system, bars)
		if slices.Max(values) == cut {
			p.Y.Label.Text = fmt.Sprintf("cut at %g", cut)
		}
	}
	p.Legend.Top = true
	p.NominalX(groups...)
	return p.Save(max(14, vg.Length(len(groups))*2.4)*vg.Centimeter, 9*vg.Centimeter, path)
}

func limited(memory string) string {
	if memory == "" {
		return ""
	}
	return ", " + memory
}
