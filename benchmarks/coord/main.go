// Command coord measures the coordinator without any work: how many shards a
// second worker processes claim and complete, and how evenly.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/kinequet/kq/coord"
	"github.com/kinequet/kq/pipeline"
)

func main() {
	dir := flag.String("worker", "", "internal: state directory of a worker")
	processes := flag.Int("n", 64, "worker processes")
	shards := flag.Int("shards", 200_000, "shards of the run")
	seconds := flag.Int("seconds", 5, "how long to measure")
	batch := flag.Int("batch", 16, "shards a claim")
	flag.Parse()
	var err error
	if *dir != "" {
		err = work(*dir, *batch, *seconds)
	} else {
		err = measure(*processes, *shards, *batch, *seconds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchmarks/coord:", err)
		os.Exit(1)
	}
}

// result is what one worker did.
type result struct {
	Shards int     `json:"shards"`
	Worst  float64 `json:"worst_claim_ms"`
}

// work claims and completes until time is up.
func work(dir string, batch, seconds int) error {
	ctx := context.Background()
	s, err := coord.Open(ctx, dir, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	w, err := s.Join(ctx, "run", os.Getpid())
	if err != nil {
		return err
	}
	fmt.Println("ready")
	var go_ string
	if _, err := fmt.Fscan(bufio.NewReader(os.Stdin), &go_); err != nil {
		return err
	}
	var r result
	for end := time.Now().Add(time.Duration(seconds) * time.Second); time.Now().Before(end); {
		start := time.Now()
		claims, err := s.Claim(ctx, w, pipeline.Computing, batch)
		if err != nil {
			return err
		}
		r.Worst = max(r.Worst, float64(time.Since(start).Microseconds())/1000)
		if len(claims) == 0 {
			break
		}
		done := make([]pipeline.Completion, len(claims))
		for i, c := range claims {
			done[i] = pipeline.Completion{Claim: c, Parts: []pipeline.Part{{Name: c.Nonce, Rows: 1, Checksum: "crc32c:00000000"}}}
		}
		errs, err := s.Complete(ctx, w, done)
		if err != nil {
			return err
		}
		for _, e := range errs {
			if e != nil {
				return e
			}
			r.Shards++
		}
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// measure runs the workers and prints a table and the same as JSON.
func measure(processes, shards, batch, seconds int) error {
	dir, err := os.MkdirTemp(".", "kq-coord-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	ctx := context.Background()
	s, err := coord.Open(ctx, dir, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	t := pipeline.Task{Name: "a", Kind: pipeline.Compute, Retry: pipeline.Retry{Attempts: 3}, Buckets: 1024}
	for i := range shards {
		t.Shards = append(t.Shards, pipeline.Shard{Ordinal: i, Key: fmt.Sprint("shard ", i), Slices: []pipeline.Slice{{File: i, Whole: true}}})
	}
	start := time.Now()
	if err := s.Submit(ctx, pipeline.Submission{Run: "run", Job: "bench", File: "bench", Digest: "x", Plan: []byte("{}"), Tasks: []pipeline.Task{t}}); err != nil {
		return err
	}
	submitted := time.Since(start)
	results, took, err := race(dir, processes, batch, seconds)
	if err != nil {
		return err
	}
	var sum, squares, worst float64
	for _, r := range results {
		sum += float64(r.Shards)
		squares += float64(r.Shards) * float64(r.Shards)
		worst = max(worst, r.Worst)
	}
	jain := sum * sum / (float64(len(results)) * squares)
	fmt.Printf("%-10s %-6s %12s %6s %14s %16s\n", "processes", "batch", "shards/s", "Jain", "worst claim ms", "submitted rows/s")
	fmt.Printf("%-10d %-6d %12.0f %6.3f %14.0f %16.0f\n", processes, batch, sum/took.Seconds(), jain, worst, float64(shards)/submitted.Seconds())
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"processes": processes, "batch": batch, "shards_per_second": sum / took.Seconds(),
		"jain": jain, "worst_claim_ms": worst, "submit_rows_per_second": float64(shards) / submitted.Seconds(),
	})
}

// race starts the workers, lets them go at once and collects what they did.
func race(dir string, processes, batch, seconds int) ([]result, time.Duration, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, 0, err
	}
	type runner struct {
		cmd *exec.Cmd
		in  *os.File
		out *bufio.Reader
	}
	var all []runner
	for range processes {
		cmd := exec.Command(self, "-worker", dir, "-batch", fmt.Sprint(batch), "-seconds", fmt.Sprint(seconds))
		cmd.Stderr = os.Stderr
		read, in, err := os.Pipe()
		if err != nil {
			return nil, 0, err
		}
		cmd.Stdin = read
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, 0, err
		}
		if err := cmd.Start(); err != nil {
			return nil, 0, err
		}
		read.Close()
		all = append(all, runner{cmd, in, bufio.NewReader(out)})
	}
	for _, r := range all {
		if _, err := r.out.ReadString('\n'); err != nil {
			return nil, 0, err
		}
	}
	start := time.Now()
	for _, r := range all {
		fmt.Fprintln(r.in, "go")
		r.in.Close()
	}
	var results []result
	for _, r := range all {
		var one result
		if err := json.NewDecoder(r.out).Decode(&one); err != nil {
			return nil, 0, err
		}
		results = append(results, one)
	}
	took := time.Since(start)
	for _, r := range all {
		if err := r.cmd.Wait(); err != nil {
			return nil, 0, err
		}
	}
	return results, took, nil
}
