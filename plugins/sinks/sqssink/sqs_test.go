package sqssink

import (
	"testing"

	"github.com/kinequet/kq/internal/services"
)

func TestStandard(t *testing.T) {
	w := newWorld(t, services.SQS(t), false)
	p := w.open()
	if err := p.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.publish(p, part("kq/r/out/0", numbered(1000, 1), "v"))
	w.wantAll(w.drain(), "kq/r/out/0", 1000, false)
}

func TestFIFO(t *testing.T) {
	for _, ordering := range orderings {
		for _, groups := range []int{1, 3, 97} {
			w := newWorld(t, services.SQS(t), true)
			p := w.open("ordering", ordering)
			if err := p.Check(t.Context()); err != nil {
				t.Fatal(err)
			}
			for range 2 { // a repetition changes nothing
				w.publish(p, part("kq/r/out/0", numbered(300, groups), "v", "g"))
			}
			got := w.drain()
			w.wantAll(got, "kq/r/out/0", 300, false)
			w.wantOrder(got)
		}
	}
}
