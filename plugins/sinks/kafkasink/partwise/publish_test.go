package partwise

import (
	"context"
	"testing"
)

func TestPublish(t *testing.T) {
	_, addrs := fake(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		for _, d := range []Delivery{AtLeastOnce, EffectivelyOnce} {
			p := publisher(t, Options{Brokers: addrs, Delivery: d, Compression: codec, BatchBytes: 2000})
			id := codec + []string{"-alo", "-eo"}[d]
			res, err := p.Publish(context.Background(), partOf(id, 1000, 2))
			if err != nil {
				t.Fatal(err)
			}
			if res.Rows != 1000 || res.Rejected != 0 || res.Committed || res.Batches < 10 || res.Resent != 0 {
				t.Errorf("%+v", res)
			}
			if d == EffectivelyOnce {
				again, err := p.Publish(context.Background(), partOf(id, 1000, 2))
				if err != nil || !again.Committed || again.Rows != 1000 {
					t.Errorf("again: %+v, %v", again, err)
				}
			}
		}
	}
	all := readAll(t, addrs, "t", true)
	c := count(t, all)
	inOrder(t, all)
	if len(c) != 10 {
		t.Errorf("%d parts", len(c))
	}
	for id := range c {
		if err := c.verify(id, 1000, true); err != nil {
			t.Error(err)
		}
	}
}
