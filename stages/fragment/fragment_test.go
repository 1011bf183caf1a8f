package fragment

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/kinequet/kq/pipeline"
	"github.com/kinequet/kq/stages/analysis"
)

func TestTry(t *testing.T) {
	ctx := context.Background()
	a, err := analysis.New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	data, err := os.ReadFile("/tmp/try.sql")
	if err != nil {
		t.Skip()
	}
	schema := map[string]string{
		"lineitem": "l_orderkey BIGINT, l_partkey BIGINT, l_suppkey BIGINT, l_linenumber INTEGER, l_quantity DECIMAL(15,2), l_extendedprice DECIMAL(15,2), l_discount DECIMAL(15,2), l_tax DECIMAL(15,2), l_returnflag VARCHAR, l_linestatus VARCHAR, l_shipdate DATE, l_commitdate DATE, l_receiptdate DATE, l_shipinstruct VARCHAR, l_shipmode VARCHAR, l_comment VARCHAR",
		"orders":   "o_orderkey BIGINT, o_custkey BIGINT, o_orderstatus VARCHAR, o_totalprice DECIMAL(15,2), o_orderdate DATE, o_orderpriority VARCHAR, o_clerk VARCHAR, o_shippriority INTEGER, o_comment VARCHAR",
		"customer": "c_custkey BIGINT, c_name VARCHAR, c_address VARCHAR, c_nationkey INTEGER, c_phone VARCHAR, c_acctbal DECIMAL(15,2), c_mktsegment VARCHAR, c_comment VARCHAR",
		"part":     "p_partkey BIGINT, p_name VARCHAR, p_mfgr VARCHAR, p_brand VARCHAR, p_type VARCHAR, p_size INTEGER, p_container VARCHAR, p_retailprice DECIMAL(15,2), p_comment VARCHAR",
		"partsupp": "ps_partkey BIGINT, ps_suppkey BIGINT, ps_availqty BIGINT, ps_supplycost DECIMAL(15,2), ps_comment VARCHAR",
		"supplier": "s_suppkey BIGINT, s_name VARCHAR, s_address VARCHAR, s_nationkey INTEGER, s_phone VARCHAR, s_acctbal DECIMAL(15,2), s_comment VARCHAR",
		"nation":   "n_nationkey INTEGER, n_name VARCHAR, n_regionkey INTEGER, n_comment VARCHAR",
		"region":   "r_regionkey INTEGER, r_name VARCHAR, r_comment VARCHAR",
	}
	rows := map[string]int64{"lineitem": 6e6, "orders": 1.5e6, "customer": 150e3, "part": 200e3, "partsupp": 800e3, "supplier": 1e4, "nation": 25, "region": 5}
	var inputs []pipeline.SplitInput
	for name, s := range schema {
		in := pipeline.SplitInput{Name: name}
		for _, c := range strings.Split(s, ", ") {
			n, typ, _ := strings.Cut(c, " ")
			in.Columns = append(in.Columns, pipeline.Column{Name: n, Type: typ})
			in.Bytes = append(in.Bytes, rows[name]*12)
			in.Total += rows[name] * 12
		}
		if err := a.Declare(ctx, name, in.Columns); err != nil {
			t.Fatal(err)
		}
		inputs = append(inputs, in)
	}
	for _, q := range strings.Split(string(data), ";") {
		if strings.TrimSpace(q) == "" {
			continue
		}
		st, errs := a.Parse(ctx, q)
		if len(errs) > 0 {
			t.Errorf("%v: %s", errs, q)
			continue
		}
		r := &pipeline.SplitRequest{Name: "q", SQL: q, Small: 1 << 20, Always: os.Getenv("ALWAYS") != ""}
		for _, in := range inputs {
			for _, ref := range st.Tables {
				if strings.EqualFold(ref.Name, in.Name) {
					r.Inputs = append(r.Inputs, in)
				}
			}
		}
		fmt.Println("=====", strings.TrimSpace(q))
		fs, err := Split(ctx, a, r)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, f := range fs {
			fmt.Printf("-- %s %s route=%v reason=%s\n", f.Name, f.Kind, f.Route, f.Reason)
			for _, in := range f.Inputs {
				fmt.Printf("     %s %s %v from=%s\n", in.Name, in.Kind, in.Key, in.From)
			}
			fmt.Println("   ", f.SQL)
		}
	}
}
