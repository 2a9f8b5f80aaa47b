// Package media writes what an image is handed over in: a raw disk, the disk formats of
// hypervisors, an appliance, an ISO, a directory for network boot. All wrap one [Bundle],
// and all that were asked for are made at the same time: raw image and ISO of the
// bundle's trees, the others of the raw image, whose holes are left out. Each is
// written under a temporary name and read back; then all get their names together.
//
// The raw disk has a GPT and three partitions, see manifest.Boot. Whatever identifies
// something, GUIDs, serials, addresses, is derived from the image id and a role, so
// equal bundles give equal bytes. Sizes are bytes.
package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"github.com/rig-freebsd/rig/internal/work"
)

// format is a kind of media, by the ending of its name. One of the two writes it.
type format struct {
	ending string
	free   func(*press, context.Context, *target) error               // of the bundle
	ofRaw  func(*press, context.Context, *target, vdisk.Source) error // of the raw image
}

// formatOf finds the format of a name; one without a known ending is a raw image.
func formatOf(name string) format {
	for _, f := range []format{
		{ending: ".img.zst", ofRaw: (*press).zstd},
		{ending: ".iso", free: (*press).iso},
		{ending: ".vmdk", ofRaw: (*press).vmdk},
		{ending: ".vdi", ofRaw: (*press).vdi},
		{ending: ".qcow2", ofRaw: (*press).qcow2},
		{ending: ".ova", ofRaw: (*press).ova},
	} {
		if strings.HasSuffix(name, f.ending) {
			return f
		}
	}
	return format{ending: ".img"}
}

// Medium is one file, or directory, that Write made.
type Medium struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // of the file, which may be sparse, or of the directory's files
}

// Bundle is what every medium wraps.
type Bundle struct {
	Manifest *manifest.Manifest
	Rig      *tree.Tree     // of the rig partition
	Loader   tree.Entry     // of the ESP
	Base     *tree.Tree     // has what media boot by
	Accounts *tree.Accounts // of base
	Time     time.Time      // of every file rigimage makes
}

// file is a root-owned file of the image's own time.
func (b *Bundle) file(path string, content []byte) tree.Entry {
	e := tree.FileEntry(path, content)
	e.ModTime = b.Time
	return e
}

// Options of Write.
type Options struct {
	Outputs  []string // paths, whose endings say what they are; a slash is a directory for network boot
	Servers  []Server // one for each output, or a single one for all
	Network  Network
	Progress func(what string, done, total int64) // called by several goroutines
}

// Check finds out before the work whether the media can be put where they are
// wanted, whether every server has one, and whether the loader can pass on the URLs.
func (o *Options) Check() error {
	for i, name := range o.Outputs {
		if err := checkOutput(name); err != nil {
			return err
		}
		if slices.Contains(o.Outputs[:i], name) {
			return diag.Inputf("write %s: it is named twice", name)
		}
	}
	if n := len(o.Servers); n != 1 && n != len(o.Outputs) {
		return diag.Inputf("write media: %d names for %d servers", len(o.Outputs), n)
	}
	return o.Network.check()
}

// checkOutput finds out before the work whether a medium can be put where it is
// wanted.
func checkOutput(name string) error {
	if IsDirectory(name) {
		return checkDirectory(name)
	}
	if st, err := os.Stat(name); err == nil && st.IsDir() {
		return diag.Hint(diag.Inputf("write %s: it is a directory", name), "-o names the image itself; with a slash at its end, a directory for network boot")
	}
	if st, err := os.Stat(filepath.Dir(name)); err != nil || !st.IsDir() {
		return diag.Inputf("write %s: there is no directory %s", name, filepath.Dir(name))
	}
	return nil
}

// press is what all media are made with.
type press struct {
	*Bundle
	network  Network
	progress func(what string, done, total int64)
	scratch  *scratch
	grains   *grains
}

// target is one medium. It is written under a temporary name.
type target struct {
	name   string
	format format
	Server            // whom it is for
	server int        // its number
	esp    *tree.Tree // of that server
	out    *os.File   // nil for a directory
	dir    string
}

// Write writes every output under a temporary name, reads it back, and gives all
// of them their names together.
func Write(ctx context.Context, b *Bundle, o Options) ([]Medium, error) {
	p := &press{Bundle: b, network: o.Network, progress: o.Progress, scratch: &scratch{beside: filepath.Clean(o.Outputs[0])}, grains: &grains{}}
	defer p.scratch.remove()
	targets, err := o.targets(b)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, t := range targets {
			if t.dir != "" {
				os.RemoveAll(t.dir)
			}
		}
	}()
	if err := p.run(ctx, targets); err != nil {
		return nil, err
	}
	var made []Medium
	for _, t := range targets {
		m := Medium{t.name, b.Rig.Size()}
		if t.out != nil {
			st, err := t.out.Stat()
			if err != nil {
				return nil, err
			}
			m.Size = st.Size()
		}
		made = append(made, m)
	}
	return made, publish(ctx, targets)
}

// targets are the media that were asked for.
func (o *Options) targets(b *Bundle) ([]*target, error) {
	var out []*target
	for i, name := range o.Outputs {
		t := &target{name: name}
		if IsDirectory(name) {
			t.format = format{ending: "/", free: (*press).directory}
		} else {
			t.format = formatOf(name)
			if len(o.Servers) > 1 {
				t.server = i
			}
			t.Server = o.Servers[t.server]
		}
		var err error
		if t.esp, err = manifest.ESP(b.Loader, t.Answers, b.Loader.ModTime); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

type step = func(context.Context) error

// named says of an error what was being done.
func named(what string, w step) step {
	return func(ctx context.Context) error {
		if err := w(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
}

// run writes media, several at the same time: those that are made of the raw image
// when it is written, beside its reading back. VMDKs share what is compressed, and raw
// images the disk: they are made one after the other.
func (p *press) run(ctx context.Context, targets []*target) error {
	var free []step
	var raws, ofRaw, vmdks []*target
	for _, t := range targets {
		switch t.format.ending {
		case ".img":
			raws = append(raws, t)
		case ".vmdk", ".ova":
			vmdks = append(vmdks, t)
		default:
			if t.format.free != nil {
				free = append(free, named("write "+t.name, func(ctx context.Context) error { return p.free(ctx, t) }))
			} else {
				ofRaw = append(ofRaw, t)
			}
		}
	}
	if len(raws) == 0 {
		if i := firstOf(targets, func(t *target) bool { return t.format.ofRaw != nil }); i >= 0 { // nobody asked for it
			first := *targets[i]
			first.name = ""
			raws = []*target{&first}
		}
	}
	if len(raws) > 0 {
		free = append(free, func(ctx context.Context) error { return p.disks(ctx, raws, ofRaw, vmdks) })
	}
	return work.Together(ctx, free...)
}

func firstOf(targets []*target, is func(*target) bool) int {
	for i, t := range targets {
		if is(t) {
			return i
		}
	}
	return -1
}

// free writes a medium that waits for nothing.
func (p *press) free(ctx context.Context, t *target) (err error) {
	if !IsDirectory(t.name) {
		if t.out, err = p.scratch.create(t.name); err != nil {
			return err
		}
	}
	return t.format.free(p, ctx, t)
}

// disks writes raw images, of which there is at least one, and what is made of the
// first.
func (p *press) disks(ctx context.Context, raws, ofRaw, vmdks []*target) error {
	if err := p.writeImage(ctx, raws[0]); err != nil {
		return err
	}
	image := &rawImage{target: raws[0], patches: map[int]*os.File{}}
	of := func(t *target) step {
		return named("write "+t.name, func(ctx context.Context) (err error) {
			if t.out, err = p.scratch.create(t.name); err != nil {
				return err
			}
			src, err := p.source(ctx, image, t)
			if err != nil {
				return err
			}
			return t.format.ofRaw(p, ctx, t, src)
		})
	}
	steps := []step{func(ctx context.Context) error { return p.checkImage(ctx, raws[0]) }}
	for _, t := range ofRaw {
		steps = append(steps, of(t))
	}
	var others, compressed []step
	for _, t := range raws[1:] {
		others = append(others, func(ctx context.Context) error { return p.writeImage(ctx, t) }, func(ctx context.Context) error { return p.checkImage(ctx, t) })
	}
	for _, t := range vmdks {
		compressed = append(compressed, of(t))
	}
	return work.Together(ctx, append(steps, oneByOne(others), oneByOne(compressed))...)
}

func oneByOne(ws []step) step {
	return func(ctx context.Context) error {
		for _, w := range ws {
			if err := w(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// scratch is the files that are removed unless they get their names.
type scratch struct {
	beside string // where those go that are no output

	mu    sync.Mutex
	files []*os.File
}

// create makes a file that is removed unless it gets its name.
func (s *scratch) create(beside string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(beside), "."+filepath.Base(beside)+".partial-*")
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.files = append(s.files, f)
	}
	return f, err
}

func (s *scratch) remove() {
	for _, f := range s.files {
		f.Close()
		os.Remove(f.Name())
	}
}

// publish gives finished media their names.
func publish(ctx context.Context, targets []*target) error {
	for _, t := range targets {
		if t.out == nil {
			continue
		}
		mode := fs.FileMode(0o644)
		if t.Answers != nil { // which may hold secrets
			mode = 0o600
		}
		if err := errors.Join(t.out.Chmod(mode), t.out.Close()); err != nil {
			return fmt.Errorf("write %s: %w", t.name, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, t := range targets {
		var err error
		if t.out == nil {
			err = replaceDirectory(t.dir, t.name)
		} else {
			err = os.Rename(t.out.Name(), t.name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
