// Package durable has the file operations that a commit is made of: each one
// either reports an error or has reached the disk, the folder's entry included.
// Every operation can be made to fail, and every instant between two of them
// can be made the last one (see SetFault).
package durable

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// hinted adds what to do to the errors that people can do something about.
func hinted(err error) error {
	if err == nil {
		return nil
	}
	for errno, hint := range map[syscall.Errno]string{
		syscall.ENOSPC: "free space on that disk, or put the state directory on another one",
		syscall.EDQUOT: "the quota is used up: free space, or put the state directory elsewhere",
		syscall.EACCES: "check the permissions of the folder",
		syscall.EPERM:  "check the permissions of the folder",
		syscall.EROFS:  "the file system is read-only: choose another place",
		syscall.EIO:    "the disk reports a fault: check the system's log",
	} {
		if errors.Is(err, errno) {
			return fmt.Errorf("%w (%s)", err, hint)
		}
	}
	return err
}

// do runs one operation on path, unless a test wants it to fail.
func do(op, path string, f func() error) error {
	if err := failing(); err != nil {
		return hinted(&fs.PathError{Op: op, Path: path, Err: err})
	}
	return hinted(f())
}

// MkdirAll makes a folder and its parents, and syncs the folders that got a
// new entry.
func MkdirAll(dir string) error {
	var missing []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if info, err := os.Stat(d); err == nil {
			if !info.IsDir() {
				return fmt.Errorf("%s is a file where a folder is needed", d)
			}
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return hinted(err)
		}
		missing = append(missing, d)
	}
	if len(missing) == 0 {
		return nil
	}
	if err := do("mkdir", dir, func() error { return os.MkdirAll(dir, 0o777) }); err != nil {
		return err
	}
	for _, d := range missing {
		if err := SyncDir(filepath.Dir(d)); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir makes the entries of a folder durable.
func SyncDir(dir string) error { return do("sync", dir, func() error { return syncPath(dir) }) }

// SyncFile makes the content of a file durable.
func SyncFile(path string) error { return do("sync", path, func() error { return syncPath(path) }) }

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Finish gives a completely written file its final name, durably: the content
// is synced before the rename, the folder after it.
func Finish(tmp, final string) error {
	Point("finish.sync.before")
	if err := SyncFile(tmp); err != nil {
		return err
	}
	Point("finish.rename.before")
	if err := Rename(tmp, final); err != nil {
		return err
	}
	Point("finish.rename.after")
	return SyncDir(filepath.Dir(final))
}

// WriteFile writes a file so that it has all of data under its name or is not
// there, and is durable.
func WriteFile(path string, data []byte) error {
	tmp := filepath.Join(filepath.Dir(path), ".tmp-"+filepath.Base(path))
	if err := do("write", tmp, func() error { return os.WriteFile(tmp, data, 0o666) }); err != nil {
		return err
	}
	return Finish(tmp, path)
}

// Rename renames, without syncing.
func Rename(from, to string) error {
	return do("rename", to, func() error { return os.Rename(from, to) })
}

// ErrNoExchange means that the file system can't swap two names.
var ErrNoExchange = errors.New("the file system cannot exchange two names")

// Exchange swaps two names in one step.
func Exchange(a, b string) error {
	return do("exchange", b, func() error {
		err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
			return ErrNoExchange
		}
		if err != nil {
			return &fs.PathError{Op: "exchange", Path: b, Err: err}
		}
		return nil
	})
}

// Link gives a file a second name, or copies it where the file system has no
// links or the other name is on another one. The content is durable in the end
// if it was before.
func Link(from, to string) error {
	err := do("link", to, func() error { return os.Link(from, to) })
	if errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EMLINK) {
		return Copy(from, to)
	}
	return err
}

// Copy copies a file and syncs the copy.
func Copy(from, to string) error {
	return do("copy", to, func() (err error) {
		in, err := os.Open(from)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Sync(), out.Close())
	})
}

// Remove removes a file. One that isn't there is no error.
func Remove(path string) error {
	err := do("remove", path, func() error { return os.Remove(path) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// RemoveAll removes a folder and what is in it.
func RemoveAll(path string) error {
	return do("remove", path, func() error { return os.RemoveAll(path) })
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum reads a file and returns its CRC-32C, as "crc32c:" and eight hex
// digits, and its size in bytes.
func Checksum(path string) (sum string, size int64, err error) {
	err = do("read", path, func() error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := crc32.New(castagnoli)
		size, err = io.CopyBuffer(h, struct{ io.Reader }{f}, make([]byte, 1<<20))
		sum = fmt.Sprintf("crc32c:%08x", h.Sum32())
		return err
	})
	return sum, size, err
}
