package crash

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kinequet/kq/pipeline"
)

// TestMemory sorts ten times as much data as the job's memory, by one worker and
// by an exchange, and looks at what the workers' processes took.
func TestMemory(t *testing.T) {
	const budget, rows, width = 320 << 20, 15_000_000, 220
	w := newWorld(t, nil)
	db, err := openDuckDB()
	if err != nil {
		t.Fatal(err)
	}
	w.exec(db, fmt.Sprintf(`COPY (SELECT i AS id, hash(i) AS k, repeat('x', %d) || i AS s FROM range(%d) t(i)) TO '%s/big.parquet' (COMPRESSION zstd, ROW_GROUP_SIZE 20480)`, width-20, rows, w.dir))
	db.Close()
	if rows*(8+8+width) < 10*budget {
		t.Fatal("the data is not ten times the memory")
	}
	text := fmt.Sprintf(`version: 1
memory: %d
sources: {big: {type: parquet, uri: big.parquet}}
stages: {sorted: {sql: SELECT * FROM big ORDER BY k}}
sinks: {o: {type: parquet, from: sorted, uri: sorted, compression: zstd, overwrite: replace}}
`, budget)
	job := filepath.Join(w.dir, "big.yaml")
	if err := os.WriteFile(job, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, exchange := range []string{"auto", "always"} {
		t.Run(exchange, func(t *testing.T) {
			if code, out := w.run(nil, "run", job, "--fresh", "--exchange", exchange); code != 0 {
				t.Fatalf("exit %d\n%s", code, out)
			}
			code, out := w.run(nil, "status", "--json", "--state", filepath.Join(w.dir, ".kq"))
			var st pipeline.RunStatus
			if err := json.Unmarshal([]byte(out), &st); code != 0 || err != nil {
				t.Fatalf("status: exit %d, %v\n%s", code, err, out)
			}
			var memory, spilled, published int64
			for _, task := range st.Tasks {
				memory, spilled = max(memory, task.Metrics.Memory), max(spilled, task.Metrics.Spilled)
				if task.Task == "sorted" {
					published = task.Metrics.RowsOut
				}
			}
			t.Logf("%d MiB of memory: %d tasks, %d MiB resident, %d MiB spilled", budget>>20, len(st.Tasks), memory>>20, spilled>>20)
			if published != rows || memory == 0 || memory > budget*12/10 {
				t.Errorf("%d rows, %d bytes resident with %d allowed", published, memory, budget*12/10)
			}
			if moved := len(st.Tasks) > 2; moved != (exchange == "always") {
				t.Errorf("the run has %d tasks", len(st.Tasks))
			}
			db, err := openDuckDB()
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			var sorted bool
			if err := db.QueryRow(fmt.Sprintf(`SELECT count(*) = %d AND bool_and(k >= p) AND count(DISTINCT id) = %[1]d FROM
		(SELECT id, k, lag(k, 1, 0) OVER (ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) AS p FROM '%s/sorted/*.parquet')`, rows, w.dir)).Scan(&sorted); err != nil || !sorted {
				t.Errorf("the result is not the input, sorted: %v", err)
			}
		})
	}
}
