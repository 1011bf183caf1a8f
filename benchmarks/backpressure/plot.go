package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// overTime are the scenarios that are plotted over time.
var overTime = []string{"steps", "slower", "outage", "silence", "quotas", "collapse"}

// plots are the pictures' lines in the report.
func plots(all []played) string {
	var b strings.Builder
	fmt.Fprint(&b, "\n![throughput](throughput.svg)\n![latency at the sink](latency.svg)\n")
	for _, p := range all {
		if slices.Contains(overTime, p.name) {
			fmt.Fprintf(&b, "![%s](%s.svg)\n", p.name, p.name)
		}
	}
	return b.String()
}

// draw writes all plots.
func draw(folder string, all []played) error {
	err := bars(filepath.Join(folder, "throughput.svg"), "throughput, best fixed window = 1", 1.2, all, played.share)
	if err != nil {
		return err
	}
	err = bars(filepath.Join(folder, "latency.svg"), "99th percentile of latency at the sink, best fixed window = 1 (cut at 4)", 4, all, func(p played, name string) float64 {
		return p.results[name].AtSink / p.results[fixedName].AtSink
	})
	if err != nil {
		return err
	}
	for _, p := range all {
		if slices.Contains(overTime, p.name) {
			if err := lines(filepath.Join(folder, p.name+".svg"), p); err != nil {
				return err
			}
		}
	}
	return nil
}

// bars draws a value of each policy in each scenario, lying, so that names fit.
func bars(path, title string, cut float64, all []played, value func(played, string) float64) error {
	p := plot.New()
	p.Title.Text = title
	p.X.Min, p.X.Max = 0, cut
	names := order[1:]
	width := vg.Points(18 / float64(len(names)))
	var labels []string
	for i := range all {
		labels = append(labels, all[len(all)-1-i].name)
	}
	for i, name := range names {
		values := make(plotter.Values, len(all))
		for j := range all {
			values[j] = min(cut, value(all[len(all)-1-j], name))
		}
		chart, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		chart.Horizontal = true
		chart.Color = plotutil.Color(i)
		chart.LineStyle.Width = 0
		chart.Offset = width * vg.Length(float64(len(names)-1)/2-float64(i))
		p.Add(chart)
		p.Legend.Add(name, chart)
	}
	p.Legend.Top = true
	p.NominalY(labels...)
	return p.Save(18*vg.Centimeter, max(8, vg.Length(len(all)))*vg.Centimeter, path)
}

// lines draws what each policy delivers, second by second.
func lines(path string, pl played) error {
	p := plot.New()
	p.Title.Text = pl.name + ": " + pl.what
	p.X.Label.Text, p.Y.Label.Text = "s", "MiB/s"
	p.Y.Min = 0
	for i, name := range order[1:] {
		var points plotter.XYs
		const bins = int(time.Second / bin)
		delivered := pl.results[name].delivered
		for at := 0; at+bins <= len(delivered); at += bins {
			sum := 0.0
			for _, b := range delivered[at : at+bins] {
				sum += b
			}
			points = append(points, plotter.XY{X: float64(at/bins) + 0.5, Y: sum / mib})
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return err
		}
		line.Color = plotutil.Color(i)
		line.Width = vg.Points(1)
		p.Add(line)
		p.Legend.Add(name, line)
	}
	p.Legend.Top = true
	return p.Save(18*vg.Centimeter, 8*vg.Centimeter, path)
}
