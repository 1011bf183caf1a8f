package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Every call of Point must be in the list, and the other way round.
func TestPointsAreComplete(t *testing.T) {
	var called []string
	call := regexp.MustCompile(`\bPoint\("([^"]+)"\)`)
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		data, err := os.ReadFile(path)
		for _, m := range call.FindAllStringSubmatch(string(data), -1) {
			called = append(called, m[1])
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(called)
	called = slices.Compact(called)
	if !slices.Equal(called, points) {
		t.Errorf("points are called %q, listed %q", called, points)
	}
}

// Each operation in turn fails with each error, and says so.
func TestEveryOperationSurfaces(t *testing.T) {
	t.Cleanup(func() { _ = SetFault("") })
	work := func(dir string) error {
		deep := filepath.Join(dir, "a", "b")
		if err := MkdirAll(deep); err != nil {
			return err
		}
		if err := WriteFile(filepath.Join(deep, "f"), []byte("content")); err != nil {
			return err
		}
		if err := Link(filepath.Join(deep, "f"), filepath.Join(deep, "g")); err != nil {
			return err
		}
		if err := Copy(filepath.Join(deep, "f"), filepath.Join(deep, "h")); err != nil {
			return err
		}
		if err := Exchange(filepath.Join(deep, "g"), filepath.Join(deep, "h")); err != nil {
			return err
		}
		if _, _, err := Checksum(filepath.Join(deep, "f")); err != nil {
			return err
		}
		if err := Remove(filepath.Join(deep, "f")); err != nil {
			return err
		}
		return RemoveAll(deep)
	}
	for name, errno := range map[string]syscall.Errno{"ENOSPC": syscall.ENOSPC, "EIO": syscall.EIO, "EACCES": syscall.EACCES} {
		for k := 1; ; k++ {
			if err := SetFault("op:" + name + ":" + string(rune('0'+k/10)) + string(rune('0'+k%10))); err != nil {
				t.Fatal(err)
			}
			err := work(t.TempDir())
			if err == nil {
				if k < 10 {
					t.Errorf("only %d operations can fail", k-1)
				}
				break
			}
			if !errors.Is(err, errno) || !strings.Contains(err.Error(), "(") {
				t.Errorf("%s at operation %d: %v", name, k, err)
			}
		}
	}
}

func TestWriteFileAndChecksum(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, []byte("123456789")); err != nil {
		t.Fatal(err)
	}
	sum, size, err := Checksum(path)
	if err != nil || size != 9 || sum != "crc32c:e3069283" { // the check value of CRC-32C
		t.Errorf("checksum %s of %d bytes, %v", sum, size, err)
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	if len(entries) != 1 {
		t.Errorf("left %v behind", entries)
	}
}
