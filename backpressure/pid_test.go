package backpressure

import (
	"math"
	"testing"

	"pgregory.net/rapid"
)

func TestPIDSettles(t *testing.T) {
	// A plant that follows the output by half of the difference in each step.
	p := PID{Kp: 0.3, Ki: 0.3, Kd: 0.1}
	var s PIDState
	x, out := 0.0, 0.0
	for range 100 {
		s, out = p.Step(s, 5, x, 1, -100, 100)
		x += (out - x) / 2
	}
	if math.Abs(x-5) > 1e-6 {
		t.Errorf("settles at %g, not at 5", x)
	}
}

// A controller that was at its bound for long leaves it as soon as the error
// changes its sign.
func TestPIDWindup(t *testing.T) {
	p := PID{Kp: 0.1, Ki: 0.5}
	var s PIDState
	var out float64
	for range 1000 {
		s, out = p.Step(s, 10, 0, 1, 0, 2)
	}
	if out != 2 {
		t.Fatalf("output %g is not at its bound", out)
	}
	if _, out = p.Step(s, 10, 10.5, 1, 0, 2); out >= 2 {
		t.Errorf("still at the bound: %g", out)
	}
}

func TestPIDNoKick(t *testing.T) {
	p := PID{Kd: 7}
	s, _ := p.Step(PIDState{}, 1, 3, 1, -100, 100)
	if _, out := p.Step(s, 50, 3, 1, -100, 100); out != 0 {
		t.Errorf("a new setpoint gives %g by the derivative", out)
	}
	if _, out := p.Step(s, 1, 4, 1, -100, 100); out != -7 {
		t.Errorf("a rising measurement gives %g, not -7", out)
	}
}

func TestPIDProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := PID{
			rapid.Float64Range(0, 2).Draw(t, "Kp"),
			rapid.Float64Range(0, 2).Draw(t, "Ki"),
			rapid.Float64Range(0, 2).Draw(t, "Kd"),
		}
		value := rapid.Float64Range(-1e6, 1e6)
		out, set, measured := value.Draw(t, "out"), value.Draw(t, "set"), value.Draw(t, "measured")
		s := p.At(out, set, measured)
		const far = 1e12
		if _, got := p.Step(s, set, measured, 1e-9, -far, far); math.Abs(got-out) > 1 {
			t.Fatalf("not bumpless: %g, then %g", out, got)
		}
		lo := value.Draw(t, "lo")
		hi := lo + rapid.Float64Range(0, 100).Draw(t, "width")
		for range 5 {
			before := s
			var got float64
			m := value.Draw(t, "measured")
			s, got = p.Step(s, set, m, 1, lo, hi)
			if got < lo || got > hi {
				t.Fatalf("%g is not in [%g, %g]", got, lo, hi)
			}
			if again, same := p.Step(before, set, m, 1, lo, hi); again != s || same != got {
				t.Fatal("not a function of its arguments")
			}
		}
	})
}
