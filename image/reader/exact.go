package reader

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"time"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/iso"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// rewriter is a medium that can be written once more, to compare it.
type rewriter interface {
	// extent is the medium up to where it is looked at, or why it is not.
	extent(v *verifier) (src vdisk.Source, why string, err error)
	again(c *comparer) error
	place(off int64) string
}

// exact compares an image that nothing was installed from or onto with what this
// program writes for its content: bytes within structures that no rule is about, and
// the space that nothing uses, which is zeros. A difference is a note and no fault:
// another version may lay file systems out in another way.
func (v *verifier) exact(m rewriter) error {
	if len(v.Problems) > 0 {
		v.note(checkRest, None, "not looked at, since something else is wrong")
		return nil
	}
	src, why, err := m.extent(v)
	if err != nil {
		return err
	}
	if why != "" {
		v.note(checkRest, None, "%s", why)
		return nil
	}
	c := &comparer{v: v, src: src, total: v.i.Rig.Size()}
	if err := m.again(c); err != nil {
		return err
	}
	if err := c.rest(); err != nil {
		return err
	}
	if len(c.diffs) == 0 {
		v.add(checkRest, nil, "every byte is what this program writes; what nothing uses is zeros")
		return nil
	}
	check := Check{What: checkRest, Result: Note}
	const most = 20
	for n, g := range c.diffs {
		if n == most {
			check.Text = append(check.Text, fmt.Sprintf("and %d more", len(c.diffs)-most))
			break
		}
		where := fmt.Sprintf("byte %d (%s) is", g.Off, m.place(g.Off))
		if g.Len > 1 {
			where = fmt.Sprintf("bytes %d to %d (%s) are", g.Off, g.End()-1, m.place(g.Off))
		}
		check.Text = append(check.Text, where+" not what this version of rigimage writes; the content of files is not affected")
	}
	v.Checks = append(v.Checks, check)
	return nil
}

// extent implements rewriter.
func (d *disk) extent(v *verifier) (vdisk.Source, string, error) {
	if v.installed() || d.table.SectorSize != 512 {
		return vdisk.Source{}, "it is not compared on a disk in use", nil
	}
	src, _, err := v.i.Source() // knows of holes
	if d.table.DiskSize != v.Manifest.Boot.ImageSize() {
		src.Size = d.rig.Start + d.rig.Size
	}
	return src, "", err
}

// place implements rewriter.
func (d *disk) place(off int64) string {
	for _, p := range d.table.Partitions {
		if off >= p.Start && off < p.Start+p.Size {
			return "partition " + p.Label
		}
	}
	return "outside of partitions"
}

// again implements rewriter.
func (d *disk) again(c *comparer) error {
	v := c.v
	pmbr, ok := v.copyOf("boot/pmbr")
	if !ok {
		pmbr = nil
	}
	if err := d.table.Write(c, pmbr); err != nil {
		return err
	}
	if gptboot, ok := v.copyOf("boot/gptboot"); ok {
		if _, err := c.WriteAt(gptboot, d.boot.Start); err != nil {
			return err
		}
	}
	if err := espAgain(io.NewOffsetWriter(c, d.esp.Start), v, fat.Options{Size: d.esp.Size, Label: d.espFS.Label(), HiddenSectors: uint32(d.esp.Start / 512)}); err != nil {
		return err
	}
	at, _ := v.i.Rig.Lookup(manifest.File)
	rig, err := v.asBuilt(at.ModTime)
	if err != nil {
		return err
	}
	p, err := ufs.Layout(rig, ufs.Options{Label: d.rigFS.Label(), Size: d.rig.Size, ID: manifest.FSID(v.Image), Time: at.ModTime})
	if err != nil {
		return err
	}
	return p.Write(io.NewOffsetWriter(c, d.rig.Start))
}

// baseDirs are the directories that the rig partition has from the base system.
var baseDirs = []string{".", "boot", "boot/defaults", "boot/lua"}

// asBuilt is the rig partition with the modes and times that build gives: those of
// the base layer, or one time. Without such a layer they are taken as they are.
func (v *verifier) asBuilt(at time.Time) (*tree.Tree, error) {
	l := v.i.layer(manifest.LayerBase, "")
	if l == nil {
		return v.i.Rig, nil
	}
	base, err := v.i.Layer(*l)
	if err != nil {
		return nil, err
	}
	var all []tree.Entry
	for e := range v.i.Rig.All() {
		x := *e
		x.UID, x.GID, x.Flags = 0, 0, 0
		b, ok := base.Lookup(e.Path)
		if ok && b.Kind == tree.HardLink {
			b, ok = base.Lookup(b.Link)
		}
		switch {
		case e.Path == "boot/kernel/linker.hints": // of the kernel layer
		case e.Kind == tree.Dir && e.Path != manifest.ConfDir && !slices.Contains(baseDirs, e.Path): // nobody asked for it
			x.ModTime = time.Unix(0, 0)
		case ok && !b.Implied && b.Kind == e.Kind && b.Size == e.Size:
			x.Perm, x.ModTime = b.Perm, b.ModTime
		default:
			x.ModTime = at
		}
		all = append(all, x)
	}
	return tree.New(all)
}

// espAgain writes the ESP of the loader on the rig partition and the answers.
func espAgain(w io.WriterAt, v *verifier, o fat.Options) error {
	loader, ok := v.i.Rig.Lookup("boot/loader.efi")
	if !ok {
		return nil
	}
	var answers []byte
	if e, ok := v.i.ESP.Lookup(manifest.AnswersFile); ok {
		var err error
		if answers, err = v.i.ESP.ReadFile(e.Path, 16<<20); err != nil {
			return err
		}
	}
	t, err := manifest.ESP(*loader, answers, loader.ModTime)
	if err != nil {
		return err
	}
	at, _ := v.i.Rig.Lookup(manifest.File)
	o.Serial, o.Time = crc32.ChecksumIEEE([]byte(v.Image)), at.ModTime
	p, err := fat.Layout(t, o)
	if err != nil {
		return err
	}
	return p.Write(w)
}

// extent implements rewriter.
func (o *volume) extent(v *verifier) (vdisk.Source, string, error) {
	const most = 64 << 20 // of an ESP in memory; rigimage's has 4 MiB
	switch {
	case v.i.layer(manifest.LayerBase, "") == nil:
		return vdisk.Source{}, "it is not compared without a base layer, which has the times of files", nil
	case o.efi.Len > most:
		return vdisk.Source{}, fmt.Sprintf("it is not compared with an EFI system partition of %d bytes", o.efi.Len), nil
	}
	return vdisk.Source{R: o.r, Size: o.fs.Size()}, "", nil
}

// place implements rewriter.
func (o *volume) place(off int64) string {
	if off >= o.efi.Off && off < o.efi.End() {
		return "EFI system partition"
	}
	return "the volume"
}

// again implements rewriter.
func (o *volume) again(c *comparer) error {
	v := c.v
	at, _ := v.i.Rig.Lookup(manifest.File)
	t, err := v.asBuilt(at.ModTime)
	if err != nil {
		return err
	}
	esp := make(memory, o.efi.Len)
	if err := espAgain(esp, v, fat.Options{Size: o.efi.Len, Label: o.esp.Label()}); err != nil {
		return err
	}
	isoboot, _ := v.copyOf(isoBoot[1])
	p, err := iso.Layout(t, iso.Options{Volume: o.fs.Volume(), Publisher: o.fs.Publisher(), Time: at.ModTime, BIOSBoot: isoBoot[0],
		ESP: tree.Bytes(esp), ESPSize: o.efi.Len, ISOBoot: isoboot, Tail: 33 * 512})
	if err != nil {
		return err
	}
	if err := p.Write(c); err != nil {
		return err
	}
	pmbr, ok := v.copyOf("boot/pmbr")
	if !ok {
		pmbr = nil
	}
	return o.table.Write(c, pmbr)
}

// memory is a small disk.
type memory []byte

// WriteAt implements io.WriterAt.
func (m memory) WriteAt(p []byte, off int64) (int, error) {
	if n := copy(m[min(off, int64(len(m))):], p); n < len(p) {
		return n, io.ErrShortWrite
	}
	return len(p), nil
}

// comparer takes writes and compares them with what is there. What was written last
// at a place counts.
type comparer struct {
	v       *verifier
	src     vdisk.Source
	total   int64
	done    int64
	buf     []byte
	written []tree.Range
	diffs   []tree.Range
}

// WriteAt implements io.WriterAt.
func (c *comparer) WriteAt(p []byte, off int64) (int, error) {
	if err := c.v.ctx.Err(); err != nil {
		return 0, err
	}
	c.buf = slices.Grow(c.buf[:0], len(p))[:len(p)]
	if err := vdisk.ReadFull(c.src.R, c.buf, off); err != nil {
		return 0, err
	}
	w := tree.Range{Off: off, Len: int64(len(p))}
	c.written = append(c.written, w)
	c.forget(w)
	c.compare(c.buf, p, off)
	if c.done += w.Len; c.done <= c.total {
		c.v.i.o.Progress("compare every byte", c.done, c.total)
	}
	return len(p), nil
}

// forget takes a range out of the differences.
func (c *comparer) forget(w tree.Range) {
	var out []tree.Range
	for _, g := range c.diffs {
		if left := min(g.End(), w.Off) - g.Off; left > 0 {
			out = append(out, tree.Range{Off: g.Off, Len: left})
		}
		if start := max(g.Off, w.End()); start < g.End() {
			out = append(out, tree.Range{Off: start, Len: g.End() - start})
		}
	}
	c.diffs = out
}

// compare adds the runs that differ.
func (c *comparer) compare(have, want []byte, off int64) {
	if bytes.Equal(have, want) {
		return
	}
	for n := 0; n < len(have); n++ {
		if have[n] == want[n] {
			continue
		}
		at := off + int64(n)
		if k := len(c.diffs); k > 0 && c.diffs[k-1].End() == at {
			c.diffs[k-1].Len++
		} else {
			c.diffs = append(c.diffs, tree.Range{Off: at, Len: 1})
		}
	}
}

// rest looks for what is not zeros where nothing was written.
func (c *comparer) rest() error {
	slices.SortFunc(c.written, func(a, b tree.Range) int { return cmp.Compare(a.Off, b.Off) })
	have, zeros := make([]byte, 256<<10), make([]byte, 256<<10)
	at := int64(0)
	for _, w := range append(c.written, tree.Range{Off: c.src.Size}) {
		for at < w.Off {
			if err := c.v.ctx.Err(); err != nil {
				return err
			}
			n := min(int64(len(have)), w.Off-at)
			if c.src.HasData(at, n) {
				if err := vdisk.ReadFull(c.src.R, have[:n], at); err != nil {
					return err
				}
				c.compare(have[:n], zeros[:n], at)
			}
			at += n
		}
		at = max(at, w.End())
	}
	slices.SortFunc(c.diffs, func(a, b tree.Range) int { return cmp.Compare(a.Off, b.Off) })
	return nil
}
