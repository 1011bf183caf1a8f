// Package filesink publishes files: it makes the parts of a finished stage
// visible under their target, all at once.
//
// The files are linked (or copied, onto another file system) into a staging
// folder beside the target, named after the run, with the manifest last. One
// rename then makes the folder the target; a target that is to be replaced is
// exchanged for it in one step and removed afterwards. A reader sees the old
// result, nothing, or the new result, never a part of it.
//
// A target that is one file is staged beside it and renamed over it, and its
// manifest is written under the file's name with ".manifest.json" added. Between
// the two renames a reader sees the whole new result with the old manifest.
//
// Commit may be killed at any instant and repeated: what it finds published by
// the same run is done, what it finds staged by an earlier attempt it removes.
package filesink

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/kinequet/kq/internal/durable"
	"github.com/kinequet/kq/pipeline"
)

// ManifestName is the file in a published folder that lists the others.
const ManifestName = "_manifest.json"

// Manifest describes a published result.
type Manifest struct {
	Version int               `json:"version"`
	Run     string            `json:"run"`
	Job     string            `json:"job"`
	JobHash string            `json:"job_hash"`
	Sink    string            `json:"sink"`
	Stage   string            `json:"stage"`
	Format  string            `json:"format"`
	Rows    int64             `json:"rows"`
	Bytes   int64             `json:"bytes"`
	Columns []pipeline.Column `json:"schema"`
	Files   []ManifestFile    `json:"files"`
}

// ManifestFile is one file of a result.
type ManifestFile struct {
	Name     string `json:"name"`
	Rows     int64  `json:"rows"`
	Bytes    int64  `json:"bytes"`
	Checksum string `json:"checksum"` // "crc32c:" and eight hex digits
}

// File is one file to publish.
type File struct {
	Path string // of the part
	Part pipeline.Part
}

// Meta is what a manifest says about where a result comes from.
type Meta struct {
	Run, Job, JobHash string
	Nonce             string // of the attempt: no two attempts stage in the same place
}

// Check tells before any work whether the sink will be able to publish.
func Check(p *pipeline.SinkPlan) error {
	parent := filepath.Dir(p.Target)
	for {
		info, err := os.Stat(parent)
		if err == nil && !info.IsDir() {
			return fmt.Errorf("sink %s: %s is a file where a folder is needed", p.Name, parent)
		}
		if err == nil || parent == filepath.Dir(parent) {
			break
		}
		parent = filepath.Dir(parent)
	}
	return checkTarget(p)
}

// checkTarget refuses a target that is taken and may not be replaced.
func checkTarget(p *pipeline.SinkPlan) error {
	info, err := os.Stat(p.Target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sink %s: %w", p.Name, err)
	}
	if p.SingleFile {
		switch {
		case info.IsDir():
			return fmt.Errorf("sink %s: %s is a folder, but the name ends in %s; remove it, or choose another name", p.Name, p.Target, p.Extension)
		case !p.Replace:
			return taken(p)
		}
		return nil
	}
	if !info.IsDir() {
		return fmt.Errorf("sink %s: %s is a file, and the sink publishes a folder; remove it, or choose another name", p.Name, p.Target)
	}
	entries, err := os.ReadDir(p.Target)
	if err != nil {
		return fmt.Errorf("sink %s: %w", p.Name, err)
	}
	if len(entries) == 0 {
		return nil
	}
	if !p.Replace {
		return taken(p)
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !ours(e.Name(), p.Extension) {
			return fmt.Errorf("sink %s: %s holds %q, which is no earlier result; replacing would remove it: move it away, or publish to another folder", p.Name, p.Target, e.Name())
		}
	}
	return nil
}

// ours reports whether an earlier result may have left a file of that name.
func ours(name, extension string) bool {
	return name == ManifestName || name == "_SUCCESS" || strings.HasSuffix(strings.ToLower(name), extension)
}

func taken(p *pipeline.SinkPlan) error {
	return fmt.Errorf("sink %s: %s exists already; remove it, or set overwrite: replace", p.Name, p.Target)
}

// Published reports whether the target holds the complete result of a run.
func Published(p *pipeline.SinkPlan, run string) (bool, error) {
	m, err := readManifest(p)
	if errors.Is(err, fs.ErrNotExist) || err == nil && m.Run != run {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("sink %s: %w", p.Name, err)
	}
	for _, f := range m.Files {
		path := p.Target
		if !p.SingleFile {
			path = filepath.Join(p.Target, f.Name)
		}
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() != f.Bytes {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("sink %s: %w", p.Name, err)
		}
	}
	return true, nil
}

func manifestPath(p *pipeline.SinkPlan) string {
	if p.SingleFile {
		return p.Target + ".manifest.json"
	}
	return filepath.Join(p.Target, ManifestName)
}

func readManifest(p *pipeline.SinkPlan) (*Manifest, error) {
	data, err := os.ReadFile(manifestPath(p))
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fs.ErrNotExist // not one of ours
	}
	return m, nil
}

// staging is the folder, or for one file the file, where an attempt prepares a
// result. It is beside the target, so that a rename suffices in the end.
func staging(p *pipeline.SinkPlan, meta Meta) string {
	return stagingPrefix(p) + meta.Run + "-" + meta.Nonce
}

// goneSuffix marks staging that is being removed.
const goneSuffix = ".gone"

func stagingPrefix(p *pipeline.SinkPlan) string {
	return filepath.Join(filepath.Dir(p.Target), "."+filepath.Base(p.Target)+".kq-")
}

// Commit publishes files, in row order, under the sink's target.
func Commit(p *pipeline.SinkPlan, meta Meta, files []File) (*Manifest, error) {
	done, err := Published(p, meta.Run)
	if err != nil {
		return nil, err
	}
	// Earlier attempts of this run can't publish any more once their staging is gone.
	if _, err := Sweep(p, func(run string) bool { return run != meta.Run }); err != nil {
		return nil, err
	}
	if done {
		return readManifest(p)
	}
	m := manifest(p, meta, files)
	if err := checkTarget(p); err != nil {
		return nil, pipeline.Permanent(err)
	}
	if err := durable.MkdirAll(filepath.Dir(p.Target)); err != nil {
		return nil, err
	}
	if p.SingleFile {
		return m, commitFile(p, meta, m, files)
	}
	return m, commitFolder(p, meta, m, files)
}

func manifest(p *pipeline.SinkPlan, meta Meta, files []File) *Manifest {
	m := &Manifest{Version: 1, Run: meta.Run, Job: meta.Job, JobHash: meta.JobHash, Sink: p.Name, Stage: p.From, Format: p.Type, Columns: p.Columns}
	width := max(5, len(fmt.Sprint(len(files)-1)))
	for i, f := range files {
		name := fmt.Sprintf("part-%0*d%s", width, i, p.Extension)
		if p.SingleFile {
			name = filepath.Base(p.Target)
		}
		m.Files = append(m.Files, ManifestFile{Name: name, Rows: f.Part.Rows, Bytes: f.Part.Bytes, Checksum: f.Part.Checksum})
		m.Rows += f.Part.Rows
		m.Bytes += f.Part.Bytes
	}
	return m
}

func encode(m *Manifest) ([]byte, error) {
	data, err := json.MarshalIndent(m, "", "  ")
	return append(data, '\n'), err
}

func commitFolder(p *pipeline.SinkPlan, meta Meta, m *Manifest, files []File) error {
	dir := staging(p, meta)
	if err := durable.MkdirAll(dir); err != nil {
		return err
	}
	durable.Point("commit.staging.after")
	for i, f := range files {
		if err := durable.Link(f.Path, filepath.Join(dir, m.Files[i].Name)); err != nil {
			return missing(f, err)
		}
		durable.Point("commit.link.after")
	}
	data, err := encode(m)
	if err != nil {
		return err
	}
	durable.Point("commit.manifest.before")
	if err := durable.WriteFile(filepath.Join(dir, ManifestName), data); err != nil { // syncs the folder
		return err
	}
	durable.Point("commit.rename.before")
	err = durable.Rename(dir, p.Target) // works over an empty folder
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		err = replace(p, meta, dir)
	}
	if err != nil {
		return err
	}
	durable.Point("commit.rename.after")
	return durable.SyncDir(filepath.Dir(p.Target))
}

// replace exchanges the staged folder for the old result, which then is swept.
func replace(p *pipeline.SinkPlan, meta Meta, dir string) error {
	if done, err := Published(p, meta.Run); done || err != nil { // a twin was faster
		return errors.Join(err, durable.RemoveAll(dir))
	}
	if err := checkTarget(p); err != nil {
		return pipeline.Permanent(err)
	}
	err := durable.Exchange(dir, p.Target)
	if errors.Is(err, durable.ErrNoExchange) {
		// Two steps then: for an instant there is no target at all.
		old := dir + ".old"
		if err := durable.Rename(p.Target, old); err != nil {
			return err
		}
		if err := durable.Rename(dir, p.Target); err != nil {
			return err
		}
		return durable.RemoveAll(old)
	}
	if err != nil {
		return err
	}
	durable.Point("commit.exchange.after")
	if err := durable.SyncDir(filepath.Dir(p.Target)); err != nil {
		return err
	}
	return durable.RemoveAll(dir)
}

func commitFile(p *pipeline.SinkPlan, meta Meta, m *Manifest, files []File) error {
	if len(files) != 1 {
		return pipeline.Permanent(fmt.Errorf("sink %s publishes one file, not %d", p.Name, len(files)))
	}
	tmp := staging(p, meta)
	if err := durable.Link(files[0].Path, tmp); err != nil {
		return missing(files[0], err)
	}
	data, err := encode(m)
	if err != nil {
		return err
	}
	if err := durable.Finish(tmp, p.Target); err != nil {
		return err
	}
	durable.Point("commit.manifest.before")
	return durable.WriteFile(manifestPath(p), data)
}

func missing(f File, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return pipeline.Permanent(fmt.Errorf("part %s is gone from the state directory; run again with --fresh", filepath.Base(f.Path)))
	}
	return err
}

// Sweep removes what runs that are not live have staged beside a target, and
// returns what it removed.
func Sweep(p *pipeline.SinkPlan, live func(run string) bool) (removed []string, err error) {
	prefix := filepath.Base(stagingPrefix(p))
	entries, err := os.ReadDir(filepath.Dir(p.Target))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), prefix)
		if i := strings.LastIndexByte(name, '-'); !ok || i < 0 || live(name[:i]) {
			continue
		}
		path := filepath.Join(filepath.Dir(p.Target), e.Name())
		// Taken away in one step: an attempt that still works on it must not
		// publish what is left of it.
		if gone := path + goneSuffix; !strings.HasSuffix(path, goneSuffix) {
			if err := durable.Rename(path, gone); errors.Is(err, fs.ErrNotExist) {
				continue
			} else if err != nil {
				return removed, err
			}
			path = gone
		}
		if err := durable.RemoveAll(path); err != nil {
			return removed, err
		}
		removed = append(removed, path)
	}
	return removed, nil
}
