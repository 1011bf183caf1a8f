package backpressure

// PID is a discrete controller with proportional, integral and derivative
// terms, in the form of Åström and Hägglund, "PID Controllers: Theory, Design,
// and Tuning" (1995), chapter 3:
//
//   - The derivative acts on the measurement, not on the error, so that a new
//     setpoint gives no kick.
//   - Anti-windup by back-calculation: where the output is clamped, the integral
//     is set to what gives the clamped output. It leaves the bound in the step in
//     which the error changes its sign.
//
// A PID holds gains only and is safe to share.
type PID struct {
	Kp float64 // output per unit of error
	Ki float64 // output per unit of error and unit of time
	Kd float64 // output per unit of measurement and per unit of time
}

// PIDState is what a PID remembers between two steps. The zero value is a
// controller that has seen nothing.
type PIDState struct {
	Integral float64 // in units of output
	Measured float64 // the last measurement
	Primed   bool    // whether Measured is set
}

// Step returns the next state and the output, which lies in [lo, hi]. The time
// since the last step is dt, in the unit of Ki and Kd, and must be positive. It
// is a pure function.
func (p PID) Step(s PIDState, setpoint, measured, dt, lo, hi float64) (PIDState, float64) {
	e := setpoint - measured
	var slope float64
	if s.Primed {
		slope = (measured - s.Measured) / dt
	}
	s.Integral += p.Ki * e * dt
	fixed := p.Kp*e - p.Kd*slope
	out := s.Integral + fixed
	if clamped := min(max(out, lo), hi); clamped != out {
		out = clamped
		s.Integral = out - fixed
	}
	s.Measured, s.Primed = measured, true
	return s, out
}

// At returns the state from which a step with this setpoint and measurement
// starts at output: bumpless transfer from another way of control.
func (p PID) At(output, setpoint, measured float64) PIDState {
	return PIDState{Integral: output - p.Kp*(setpoint-measured), Measured: measured, Primed: true}
}
