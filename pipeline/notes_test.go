package pipeline

import "testing"

func TestDecision(t *testing.T) {
	const gib = 1 << 30
	cut := []Fragment{{Kind: Hash}}
	ranges := []Fragment{{Kind: Range}}
	large := []SplitInput{{Total: 2 * gib}}
	for _, c := range []struct {
		mode      Exchange
		r         SplitRequest
		fragments []Fragment
		split     bool
		want      string
	}{
		{ExchangeAuto, SplitRequest{Work: gib, Budget: 2 * gib}, cut, false, "auto: one worker would have to hold about 1.0 GiB, within its budget of 2.0 GiB, so one worker computes it and no rows move"},
		{ExchangeAuto, SplitRequest{Work: 2 * gib, Budget: gib}, cut, true, "auto: one worker would have to hold about 2.0 GiB, more than its budget of 1.0 GiB, so rows move between workers"},
		{ExchangeAuto, SplitRequest{Work: 1 << 50, Budget: gib}, cut, true, "auto: one worker would have to hold an unknown number of bytes, more than its budget of 1.0 GiB, so rows move between workers"},
		{ExchangeAuto, SplitRequest{Work: gib, Budget: 2 * gib}, ranges, true, "auto: one worker would have to hold about 1.0 GiB, within its budget of 2.0 GiB, but ranges of a key divide even the reading"},
		{ExchangeAuto, SplitRequest{Work: 2 * gib, Budget: gib}, ranges, true, "auto: one worker would have to hold about 2.0 GiB, more than its budget of 1.0 GiB; ranges of a key divide the reading"},
		{ExchangeAuto, SplitRequest{Work: 2 * gib, Budget: gib, Inputs: large}, cut, false, "auto: one worker would have to hold about 2.0 GiB, more than its budget of 1.0 GiB, but it can't be cut"},
		{ExchangeAlways, SplitRequest{Work: gib, Budget: 2 * gib, Always: true}, cut, true, "exchange: always; one worker would have to hold about 1.0 GiB, and its budget is 2.0 GiB"},
		{ExchangeNever, SplitRequest{}, nil, false, "exchange: never, so that one worker computes it"},
	} {
		if got := decision(c.mode, &c.r, c.fragments, c.split); got != c.want {
			t.Errorf("%s\nwant %s", got, c.want)
		}
	}
}

// A secret that only partly stands in the words could not be recognised and
// hidden, so there are no words then.
func TestPointHidesPartsOfSecrets(t *testing.T) {
	const sql = "SELECT sum(x) + hunter2 FROM t"
	for value, want := range map[string]string{"hunter2": "sum(x)", "x) + hunter2": "", "SELECT sum": "", "x": "sum(x)"} {
		c := &compiler{job: &Job{Env: []EnvRef{{Name: "E", Value: value}}}, stages: []*stageNode{{Stage: &Stage{Name: "s", SQL: sql}}}}
		note := &Note{}
		if c.point(note, Words{Stage: "s", Start: 7, End: 13}); note.Words != want {
			t.Errorf("%q: %q, want %q", value, note.Words, want)
		}
	}
}
