package main

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// draw writes a bar chart of the ratios to DuckDB: one group a workload, one bar
// a system.
func draw(path string, r report) error {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("wall time, DuckDB = 1 (TPC-H SF %g, %d threads, median of %d)", r.Scale, r.Threads, r.Rounds)
	p.Y.Min = 0
	width := vg.Points(24)
	var names []string
	for i, peer := range peers {
		var values plotter.Values
		names = nil
		for _, s := range r.Results {
			if s.System == peer.name() {
				values = append(values, s.Ratio)
				names = append(names, s.Workload)
			}
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bars.Color = plotutil.Color(i)
		bars.Offset = width * vg.Length(float64(i)-float64(len(peers)-1)/2)
		p.Add(bars)
		p.Legend.Add(peer.name(), bars)
	}
	p.Legend.Top = true
	p.NominalX(names...)
	return p.Save(14*vg.Centimeter, 9*vg.Centimeter, path)
}
