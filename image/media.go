package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"rig/internal/vdisk"
	"rig/internal/work"
	"rig/manifest"
	"rig/tree"
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

// Medium is one file that Build made.
type Medium struct {
	Path string `json:"path"`
	Size int64  `json:"size"` // of the file, which may be sparse
}

// press is what all media are made with.
type press struct {
	*bundle
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

// media writes every output under a temporary name, reads it back, and gives all
// of them their names together.
func (j *job) media(ctx context.Context, b *bundle) ([]Medium, error) {
	p := &press{bundle: b, network: j.Network, progress: j.Progress, scratch: &scratch{beside: filepath.Clean(j.Output)}, grains: &grains{}}
	defer p.scratch.remove()
	targets, err := j.targets(b)
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
		m := Medium{t.name, b.rig.Size()}
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
func (j *job) targets(b *bundle) ([]*target, error) {
	var out []*target
	for i, name := range j.outputs() {
		t := &target{name: name}
		if IsDirectory(name) {
			t.format = format{ending: "/", free: (*press).directory}
		} else {
			t.format = formatOf(name)
			t.server, t.Server = j.serverOf(i)
		}
		var err error
		if t.esp, err = manifest.ESP(b.loader, t.Answers, b.loader.ModTime); err != nil {
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
