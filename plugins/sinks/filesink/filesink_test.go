package filesink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/kinequet/kq/internal/durable"
	"github.com/kinequet/kq/pipeline"
)

// TestMain lets the test binary be the process that is killed: with KQ_COMMIT it
// commits once and ends.
func TestMain(m *testing.M) {
	if dir := os.Getenv("KQ_COMMIT"); dir != "" {
		p, meta, files := setup(dir, os.Getenv("KQ_SINGLE") != "")
		meta.Nonce = os.Getenv("KQ_NONCE")
		if _, err := Commit(p, meta, files); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// setup describes a sink in dir whose parts stand in dir/parts.
func setup(dir string, single bool) (*pipeline.SinkPlan, Meta, []File) {
	p := &pipeline.SinkPlan{Name: "o", Type: "csv", From: "s", Target: filepath.Join(dir, "deep", "out"), Extension: ".csv", Replace: true}
	n := 12
	if single {
		p.Target, p.SingleFile, n = p.Target+".csv", true, 1
	}
	var files []File
	for i := range n {
		path := filepath.Join(dir, "parts", fmt.Sprint(i))
		if _, err := os.Stat(path); err != nil {
			_ = os.MkdirAll(filepath.Dir(path), 0o755)
			_ = os.WriteFile(path, []byte(fmt.Sprintf("new %d\n", i)), 0o644)
		}
		sum, size, _ := durable.Checksum(path)
		files = append(files, File{Path: path, Part: pipeline.Part{Name: fmt.Sprint(i), Rows: 1, Bytes: size, Checksum: sum}})
	}
	return p, Meta{Run: "20260101-000000-aaaa", Job: "j", JobHash: "h", Nonce: "n0"}, files
}

// state is what a reader finds: "", "old", "new", or what is wrong. It holds on
// to the folder that it has opened; when that one is removed because another has
// taken its place, it looks again.
func state(p *pipeline.SinkPlan, files int) string {
	root, err := os.OpenRoot(p.Target)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	if err != nil {
		return err.Error()
	}
	defer root.Close()
	opened, err := root.Stat(".")
	if err != nil {
		return err.Error()
	}
	kinds := map[string]int{}
	entries, err := fs.ReadDir(root.FS(), ".")
	for _, e := range entries {
		var data []byte
		if data, err = root.ReadFile(e.Name()); err != nil {
			break
		}
		kinds[strings.Fields(string(data))[0]]++
	}
	if now, err2 := os.Stat(p.Target); err2 == nil && !os.SameFile(opened, now) {
		return state(p, files)
	}
	switch {
	case err != nil:
		return err.Error()
	case kinds["old"] == 2 && len(kinds) == 1:
		return "old"
	case kinds["new"] == files && kinds["{"] == 1 && len(kinds) == 2:
		return "new"
	}
	return fmt.Sprint(kinds)
}

func old(t *testing.T, p *pipeline.SinkPlan) {
	t.Helper()
	if err := os.MkdirAll(p.Target, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if err := os.WriteFile(filepath.Join(p.Target, fmt.Sprintf("part-%05d.csv", i)), []byte("old"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// A process is killed at every point, over no target and over an old one; a
// reader sees the old result or the new one, and repeating finishes it.
func TestKilledAnywhere(t *testing.T) {
	for _, replace := range []bool{false, true} {
		for _, point := range durable.Points() {
			for hit := 1; hit <= 12; hit += 5 {
				dir := t.TempDir()
				p, meta, files := setup(dir, false)
				if replace {
					old(t, p)
				}
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), "KQ_COMMIT="+dir, "KQ_NONCE=first", fmt.Sprintf("KQ_FAULT=crash:%s:%d", point, hit))
				_ = cmd.Run()
				want := ""
				if replace {
					want = "old"
				}
				if s := state(p, len(files)); s != want && s != "new" {
					t.Fatalf("killed at %s (%d): a reader sees %q", point, hit, s)
				}
				if _, err := Commit(p, meta, files); err != nil {
					t.Fatalf("after %s: %v", point, err)
				}
				if s := state(p, len(files)); s != "new" {
					t.Fatalf("after %s and repeating: %q", point, s)
				}
				if left, _ := filepath.Glob(filepath.Join(dir, "deep", ".*")); len(left) > 0 {
					t.Fatalf("after %s: %v is left", point, left)
				}
			}
		}
	}
}

// The k-th file operation fails, for every k: an error each, and never half a
// result.
func TestEveryFault(t *testing.T) {
	t.Cleanup(func() { _ = durable.SetFault("") })
	for _, errno := range []string{"ENOSPC", "EIO", "EACCES"} {
		for k := 1; ; k++ {
			dir := t.TempDir()
			p, meta, files := setup(dir, false)
			old(t, p)
			if err := durable.SetFault(fmt.Sprintf("op:%s:%d", errno, k)); err != nil {
				t.Fatal(err)
			}
			_, err := Commit(p, meta, files)
			_ = durable.SetFault("")
			s := state(p, len(files))
			if s != "old" && s != "new" {
				t.Fatalf("%s at %d: %q", errno, k, s)
			}
			if err == nil {
				if s != "new" || k < 15 {
					t.Fatalf("%s at %d: no error, and %q", errno, k, s)
				}
				break
			}
			if _, err := Commit(p, meta, files); err != nil || state(p, len(files)) != "new" {
				t.Fatalf("%s at %d, repeated: %v, %q", errno, k, err, state(p, len(files)))
			}
		}
	}
}

func TestSingleFile(t *testing.T) {
	for _, point := range durable.Points() {
		dir := t.TempDir()
		p, meta, files := setup(dir, true)
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "KQ_COMMIT="+dir, "KQ_SINGLE=1", "KQ_NONCE=first", fmt.Sprintf("KQ_FAULT=crash:%s:1", point))
		_ = cmd.Run()
		for range 2 {
			if _, err := Commit(p, meta, files); err != nil {
				t.Fatalf("after %s: %v", point, err)
			}
		}
		if data, err := os.ReadFile(p.Target); err != nil || string(data) != "new 0\n" {
			t.Fatalf("after %s: %q, %v", point, data, err)
		}
		if done, err := Published(p, meta.Run); !done || err != nil {
			t.Fatalf("after %s: published %v, %v", point, done, err)
		}
	}
}

// Twins of one run commit at the same time: one result, and no error from the
// one whose work stands.
func TestTwins(t *testing.T) {
	for i := range 20 {
		dir := t.TempDir()
		p, _, files := setup(dir, false)
		if i%2 == 0 {
			old(t, p)
		}
		var cmds []*exec.Cmd
		for j := range 3 {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), "KQ_COMMIT="+dir, fmt.Sprintf("KQ_NONCE=n%d", j))
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			cmds = append(cmds, cmd)
		}
		for _, c := range cmds {
			_ = c.Wait()
			if s := state(p, len(files)); s != "new" && s != "old" && s != "" {
				t.Fatalf("a reader sees %q", s)
			}
		}
		_, meta, _ := setup(dir, false)
		if _, err := Commit(p, meta, files); err != nil || state(p, len(files)) != "new" {
			t.Fatalf("%v, %q", err, state(p, len(files)))
		}
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	p, meta, files := setup(dir, false)
	p.Replace = false
	if err := Check(p); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(p.Target, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Check(p); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
	if _, err := Commit(p, meta, files); err != nil {
		t.Fatal(err)
	}
	refused := func(what, want string) {
		t.Helper()
		if err := Check(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("an earlier result", "overwrite: replace")
	meta.Run = "another"
	if _, err := Commit(p, meta, files); err == nil || !pipeline.IsPermanent(err) {
		t.Errorf("commit over another run's result: %v", err)
	}
	p.Replace = true
	if err := Check(p); err != nil {
		t.Error(err)
	}
	if err := os.Mkdir(filepath.Join(p.Target, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	refused("a folder within", `holds "sub"`)
	p.Target = files[0].Path
	refused("a file", "is a file")
	p.Target = filepath.Join(files[0].Path, "below")
	refused("below a file", "is a file")
	p, _, _ = setup(dir, true)
	if err := os.MkdirAll(p.Target, 0o755); err != nil {
		t.Fatal(err)
	}
	refused("a folder for a file", "is a folder")
}

// Parts are linked, not copied, where the file system allows it.
func TestNothingIsWrittenTwice(t *testing.T) {
	p, meta, files := setup(t.TempDir(), false)
	if _, err := Commit(p, meta, files); err != nil {
		t.Fatal(err)
	}
	a, err := os.Stat(files[3].Path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(filepath.Join(p.Target, "part-00003.csv"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Sys().(*syscall.Stat_t).Ino != b.Sys().(*syscall.Stat_t).Ino {
		t.Error("the part was copied")
	}
}
