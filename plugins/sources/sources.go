// Package sources is what a source type has to say for itself: which options a
// job may give it, and how DuckDB reads it. Each built-in type has a folder.
package sources

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/agnivade/levenshtein"
	"github.com/bmatcuk/doublestar/v4"

	"github.com/kinequet/kq/pipeline"
)

// Source is a source type over files. Implementations have no state.
type Source interface {
	// Spec describes the type to the job file's decoder.
	Spec() pipeline.PluginSpec
	// Relation returns how DuckDB reads files with these options, which Spec
	// allows. Values are quoted: no option can name another file.
	Relation(options []pipeline.Option) (pipeline.Relation, error)
}

// Args renders options as named arguments of a DuckDB function.
func Args(options []pipeline.Option) string {
	items := make([]string, len(options))
	for i, o := range options {
		items[i] = o.Key + " = " + Literal(o.Value)
	}
	return strings.Join(items, ", ")
}

// Literal renders an option's value as an SQL literal.
func Literal(v any) string {
	switch v := v.(type) {
	case string:
		return "'" + strings.ReplaceAll(v, "'", "''") + "'"
	case []any:
		items := make([]string, len(v))
		for i, e := range v {
			items[i] = Literal(e)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case [][2]string:
		items := make([]string, len(v))
		for i, e := range v {
			items[i] = Literal(e[0]) + ": " + Literal(e[1])
		}
		return "{" + strings.Join(items, ", ") + "}"
	}
	return fmt.Sprint(v)
}

// Resolve lists the files that uris name, in reading order: the uris in their
// order, the files of a folder or glob by name. A file named twice is read
// twice, as DuckDB does. Names in a folder that start with . or _ are skipped.
func Resolve(uris []string, extensions []string) ([]string, error) {
	var files []string
	for _, uri := range uris {
		found, err := resolve(uri, extensions)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	return files, nil
}

func resolve(uri string, extensions []string) ([]string, error) {
	info, err := os.Stat(uri)
	switch {
	case err == nil && info.IsDir():
		return folder(uri, extensions)
	case err == nil && !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is neither a file nor a folder", uri)
	case err == nil:
		return []string{uri}, nil
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s can't be read: %w", uri, err)
	case !strings.ContainsAny(uri, "*?[{"):
		return nil, fmt.Errorf("there is no file or folder %s%s", uri, nearby(uri))
	}
	found, err := doublestar.FilepathGlob(uri, doublestar.WithFailOnIOErrors(), doublestar.WithFilesOnly())
	if err != nil {
		return nil, fmt.Errorf("glob %s: %w", uri, err)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no file matches %s", uri)
	}
	sort.Strings(found)
	return found, nil
}

func folder(dir string, extensions []string) (files []string, err error) {
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := e.Name(); path != dir && (name[0] == '.' || name[0] == '_') {
			if e.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		for _, x := range extensions {
			if !e.IsDir() && strings.HasSuffix(strings.ToLower(path), x) {
				info, err := os.Stat(path)
				if err != nil {
					return err
				}
				if info.Mode().IsRegular() {
					files = append(files, path)
				}
				return nil
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("folder %s: %w", dir, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("folder %s has no file that ends in %s", dir, strings.Join(extensions, " or "))
	}
	sort.Strings(files)
	return files, nil
}

// nearby names a file of the same folder with nearly the same name.
func nearby(path string) string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return fmt.Sprintf("; there is no folder %s either", filepath.Dir(path))
	}
	base := strings.ToLower(filepath.Base(path))
	best, distance := "", 2+len(base)/4
	for _, e := range entries {
		if n := levenshtein.ComputeDistance(base, strings.ToLower(e.Name())); n < distance {
			best, distance = e.Name(), n
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}
