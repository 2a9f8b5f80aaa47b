package flash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/diag"
)

// againHint says what to do about a disk that was written to in part.
const againHint = "run the same command again; the disk is not blank now, so --yes needs --force-serial too"

// unfinishedError is a flash that ended after the disk was touched.
type unfinishedError struct {
	disk  string
	wiped bool // no partition table is left on it
	err   error
}

func (e *unfinishedError) Error() string {
	if !e.wiped {
		return fmt.Sprintf("%v\n%s: its partition table could not be taken away for sure: start no machine from it", e.err, e.disk)
	}
	return fmt.Sprintf("%v\n%s has no partition table now: nothing boots from it", e.err, e.disk)
}

func (e *unfinishedError) Unwrap() error { return e.err }

// Write does what p says. An error after the first write leaves the disk without a
// partition table, unless it takes no writes any more, and says so. Result is nil then.
func (p *Plan) Write(ctx context.Context) (*Result, error) {
	defer p.Close()
	dev, err := p.o.open(p.Disk)
	if err != nil {
		return nil, err
	}
	c := &copier{dev: dev, disk: p.Disk, place: p.place, seed: maphash.MakeSeed(), report: p.o.Progress}
	err = p.run(ctx, c)
	if err != nil {
		// Whatever was reached: nothing that looks finished may stay.
		wiped := p.wipe(dev) == nil
		if errors.Is(err, context.Canceled) {
			err = errors.New("interrupted")
		}
		err = &unfinishedError{p.Disk.Path, wiped, err}
		if diag.HintOf(err) == "" {
			err = diag.Hint(err, "%s", againHint)
		}
	}
	if cerr := dev.Close(); err == nil && cerr != nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	r := &Result{Disk: p.Disk.Path, Serial: p.Disk.Serial, Image: p.ImageID, SectorSize: p.Disk.SectorSize, Answers: p.Embedded || p.o.Answers != nil, Notes: p.Notes}
	for _, q := range c.pieces {
		r.Bytes += q.n
		if !q.zero {
			r.Written += q.n
		}
	}
	return r, nil
}

// Result is what Write did.
type Result struct {
	Disk       string   `json:"disk"`
	Serial     string   `json:"serial,omitempty"`
	Image      string   `json:"image"`
	SectorSize int      `json:"sectorSize"`
	Bytes      int64    `json:"bytes"`   // of the disk that were written and read back
	Written    int64    `json:"written"` // of them not zeros
	Answers    bool     `json:"answers"` // the ESP holds answers, which may be secret
	Notes      []string `json:"notes,omitempty"`
}

func (p *Plan) run(ctx context.Context, c *copier) error {
	if err := p.wipe(c.dev); err != nil {
		return diagHead(p, "take the old partition tables away from", err)
	}
	esp, rig := p.parts[espPart], p.parts[rigPart]
	c.begin("write", esp.Size+rig.Size)
	if err := p.contents(ctx, c); err != nil {
		return err
	}
	if err := c.dev.Sync(); err != nil {
		return diagHead(p, "flush", err)
	}
	c.begin("read back", esp.Size+rig.Size)
	if err := c.readBack(ctx); err != nil {
		return err
	}
	disk := newCachedReader(c.dev, p.Disk.Size)
	if err := p.checkDisk(ctx, disk); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.mark(c.dev, disk); err != nil {
		return err
	}
	if err := p.bootable(c.dev); err != nil {
		return err
	}
	return p.checkTable(c.dev)
}

// wipe takes every trace of a partition table away, and labels of pools and arrays
// at the end of the disk.
func (p *Plan) wipe(dev device) error {
	tail := p.Disk.Size - tailSize
	tail -= tail % p.sector
	tail = max(tail, headSize)
	return errors.Join(dev.Zero(0, headSize), dev.Zero(tail, p.Disk.Size-tail), dev.Sync())
}

func diagHead(p *Plan, op string, err error) error {
	return diskError(op, p.Disk, 0, "partition table", err)
}

// contents writes ESP and rig partition.
func (p *Plan) contents(ctx context.Context, c *copier) error {
	esp, rig := p.parts[espPart], p.parts[rigPart]
	in := p.stream
	if in == nil {
		var err error
		if in, err = p.o.Image.open(); err != nil {
			return err
		}
		defer in.Close()
		if err := in.skip(rig.Start); err != nil {
			return err
		}
	}
	if err := c.write(ctx, rig.Start, rig.Size, in.next); err != nil {
		return err
	}
	if p.stream != nil { // checksums are at the end of what is compressed
		if err := in.drain(ctx, func(int64) {}); err != nil {
			return err
		}
	}
	off := int64(0)
	return c.write(ctx, esp.Start, esp.Size, func(b []byte) (bool, error) {
		zero := p.esp.zero(off, int64(len(b)))
		var err error
		if !zero {
			_, err = p.esp.ReadAt(b, off)
		}
		off += int64(len(b))
		return zero, err
	})
}

// zero reports whether a range has no chunks.
func (m *memory) zero(off, n int64) bool {
	for at := off - off%chunkSize; at < off+n; at += chunkSize {
		if m.chunks[at] != nil {
			return false
		}
	}
	return true
}

// checkDisk reads the file systems on the disk and compares every file with the
// manifest there.
func (p *Plan) checkDisk(ctx context.Context, disk io.ReaderAt) error {
	esp, rig := p.parts[espPart], p.parts[rigPart]
	r := io.NewSectionReader(disk, rig.Start, rig.Size)
	if p.man == nil {
		man, err := readManifest(r, rig.Size)
		if err != nil {
			return diag.Hint(diag.Input(fmt.Errorf("image %s: %w", p.o.Image.Name, err)), "it is damaged: copy or download it again")
		}
		if err := p.setManifest(man); err != nil {
			return err
		}
	}
	err := checkFiles(ctx, p.man, r, rig.Size, io.NewSectionReader(disk, esp.Start, esp.Size),
		func(done, total int64) { p.o.Progress("compare with the manifest", done, total) })
	if err == nil || ctx.Err() != nil {
		return err
	}
	return diag.Hint(fmt.Errorf("compare %s with the manifest: %w", p.Disk.Path, err), "the image itself is damaged: build, copy or download it again")
}

// checkFiles checks both file systems of an image, and every file's hash.
func checkFiles(ctx context.Context, man *manifest.Manifest, rig io.ReaderAt, size int64, esp io.ReaderAt, progress func(done, total int64)) error {
	uf, err := ufs.Open(rig, size)
	if err != nil {
		return err
	}
	ff, err := fat.Open(esp, man.Boot.ESPSize)
	if err != nil {
		return err
	}
	if err := errors.Join(uf.Check(), ff.Check()); err != nil {
		return err
	}
	rt, err := uf.Tree()
	if err != nil {
		return err
	}
	et, err := ff.Tree()
	if err != nil {
		return err
	}
	all := man.Pinned()
	var errs []error
	done, total := int64(0), int64(0)
	for _, f := range all {
		total += f.Size
	}
	for _, f := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		progress(done, total)
		t := rt
		if f.Part == manifest.RoleESP {
			t = et
		}
		errs = append(errs, reader.Matches(t, f))
		done += f.Size
	}
	return errors.Join(errs...)
}

// bootable writes the boot code, then both tables, and last the first sector.
func (p *Plan) bootable(dev device) error {
	var pmbr []byte
	if p.sector == 512 {
		boot := p.parts[bootPart]
		if _, err := dev.WriteAt(p.head[boot.Start:boot.Start+boot.Size], boot.Start); err != nil {
			return diskError("write", p.Disk, boot.Start, "boot code", err)
		}
		pmbr = p.head[:512]
	}
	if err := dev.Sync(); err != nil {
		return diagHead(p, "flush", err)
	}
	if err := p.Table.Write(dev, pmbr); err != nil {
		return diagHead(p, "write", err)
	}
	if err := dev.Sync(); err != nil {
		return diagHead(p, "flush", err)
	}
	return nil
}

// checkTable reads back what bootable wrote.
func (p *Plan) checkTable(dev device) error {
	r := newCachedReader(dev, p.Disk.Size)
	t, err := gpt.Read(r, p.Disk.Size, int(p.sector))
	if err != nil {
		return diagHead(p, "read back", err)
	}
	bad := func() error {
		return diag.Hint(fmt.Errorf("read back %s: its partition table or boot code is not what was written", p.Disk.Path),
			"the disk does not keep what it is given: use another one")
	}
	if fmt.Sprint(*t) != fmt.Sprint(p.Table) {
		return bad()
	}
	if p.sector != 512 {
		return nil
	}
	boot := p.parts[bootPart]
	b := make([]byte, boot.Start+boot.Size)
	if _, err := r.ReadAt(b, 0); err != nil {
		return diagHead(p, "read back", err)
	}
	const code = 440 // bytes of boot code in the first sector, before the disk's signature
	if !bytes.Equal(b[:code], p.head[:code]) || !bytes.Equal(b[boot.Start:], p.head[boot.Start:len(b)]) {
		return bad()
	}
	return nil
}

// place names what is at an offset of the disk.
func (p *Plan) place(off int64) string {
	for _, q := range p.parts[espPart:] {
		if off >= q.Start && off < q.Start+q.Size {
			return "partition " + q.Label
		}
	}
	return "partition table"
}
