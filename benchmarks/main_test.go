package main

import (
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	value := func(f float64) float64 { return f }
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.in, value); got != c.want {
			t.Errorf("median of %v is %v", c.in, got)
		}
	}
}

func TestTimed(t *testing.T) {
	s, err := timed([]string{"sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"})
	if err != nil || s.Wall <= 0 || s.CPU <= 0 || s.RSS <= 0 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := timed([]string{"sh", "-c", "echo why >&2; exit 3"}); err == nil || !strings.Contains(err.Error(), "why") {
		t.Errorf("a failing command gives %v", err)
	}
}

func TestWorkloads(t *testing.T) {
	for _, w := range workloads {
		if q := w.with(func(s string) string { return "T_" + s }); strings.Contains(q, "{") || !strings.Contains(q, "T_") {
			t.Errorf("%s: %s", w.name, q)
		}
	}
}
