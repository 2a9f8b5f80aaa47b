// Package flash writes images that rigimage built onto disks: of this machine, of
// one that is reached by ssh, or files that stand for disks.
//
// [Prepare] looks at image, disk and answers and makes a [Plan], which prints;
// nothing is written before. [Plan.Write] takes the old partition tables away,
// writes the contents, reads all of them back, and only then writes boot code and
// partition table, so that an interrupted or failed flash leaves a disk that does
// not look finished and does not boot. The table is made for the disk: its backup
// at the disk's real end, in sectors of the disk's size. On disks with sectors of
// 4096 bytes the ESP is formatted anew, the partition with BIOS boot code shrinks
// by the sectors the larger table takes and stays empty: they boot by UEFI only.
// The rig partition goes as it is; image/ufs makes fragments of 4096 bytes.
//
// Zeros of an image are not transferred: the disk is told to have zeros there
// (Linux BLKZEROOUT, holes of files), which disks that can do at once, and are
// written where it cannot. So every byte of the image's partitions is what the
// image has, and is compared.
//
// Left out: images of other makers, disks with sectors of other sizes than 512 and
// 4096, discarding what the image does not cover. Sizes are bytes.
package flash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/flash/disks"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/reader"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// Options of Prepare.
type Options struct {
	Image       *Image
	Disk        *disks.Disk
	Force       string // ID of the disk, which may then be in use
	Answers     []byte // for the ESP, nil to leave what is there
	AnswersName string
	Progress    func(what string, done, total int64)

	open func(*disks.Disk) (device, error) // another disk, in tests
}

// Plan is what will be written to a disk.
type Plan struct {
	Disk     *disks.Disk
	ImageID  string    // "" while it is not known: the image is read once
	Table    gpt.Table // as the disk will have it
	Notes    []string  // what the user should know
	Embedded bool      // answers are in the image and stay

	o      Options
	sector int64
	head   []byte // of the image, before its ESP
	parts  []gpt.Partition
	esp    *memory // as it will be written
	man    *manifest.Manifest
	stream *decoded // behind the ESP of an image that is read once, else nil
}

// Places of the parts of an image in its partition table.
const (
	bootPart = iota
	espPart
	rigPart
)

const (
	headSize = manifest.ESPStart // boot code and table
	tailSize = 1 << 20           // at the end of the disk: the backup table, labels of old pools and arrays
)

// Prepare finds out whether and how the image can be written to the disk. An image
// in a file is read as a whole; of another one the beginning is read. Close the
// Plan when it is not written.
func Prepare(ctx context.Context, o Options) (*Plan, error) {
	if o.Progress == nil {
		o.Progress = func(string, int64, int64) {}
	}
	if o.open == nil {
		o.open = openDevice
	}
	p := &Plan{Disk: o.Disk, o: o, sector: int64(o.Disk.SectorSize)}
	if o.Image.is(o.Disk) {
		return nil, diag.Inputf("flash %s: the image cannot be written onto itself", o.Image.Name)
	}
	if err := refusal(o.Disk, o.Force); err != nil {
		return nil, err
	}
	if p.sector != 512 && p.sector != 4096 {
		return nil, diag.Inputf("%s: sectors of %d bytes; only 512 and 4096 are supported", o.Disk.Path, p.sector)
	}
	if err := checkAnswers(o, nil); err != nil {
		return nil, err
	}
	r, err := o.Image.open()
	if err != nil {
		return nil, err
	}
	if err := p.begin(ctx, r); err != nil {
		r.Close()
		return nil, err
	}
	if o.Image.once() {
		p.stream = r
		return p, nil
	}
	defer r.Close()
	return p, p.check(ctx, r)
}

// begin reads what lies before the rig partition and lays the disk out.
func (p *Plan) begin(ctx context.Context, r *decoded) error {
	p.head = make([]byte, headSize)
	if _, err := r.next(p.head); err != nil {
		return err
	}
	if err := p.readTable(); err != nil {
		return err
	}
	if err := p.layout(); err != nil {
		return err
	}
	esp := p.parts[espPart]
	p.esp = newMemory(esp.Size)
	buf := make([]byte, 1<<20)
	for off := int64(0); off < esp.Size; off += int64(len(buf)) {
		p.o.Progress("read image", esp.Start+off, p.end())
		zero, err := r.next(buf)
		if err != nil {
			return err
		}
		if !zero {
			if _, err := p.esp.WriteAt(buf, off); err != nil {
				return diag.Inputf("image %s: ESP: %w", p.o.Image.Name, err)
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return p.makeESP()
}

// readTable takes the partitions from the head of the image. The other copy of
// its table is at the image's end and not needed.
func (p *Plan) readTable() error {
	const anySize = 1 << 50
	notOurs := func(err error) error {
		if form := reader.FormOf(p.head); form != "" && form != reader.Raw {
			return diag.Hint(diag.Inputf("image %s: it is %s, which cannot be read forward", p.o.Image.Name, form.A()), "give the file by its name")
		}
		return diag.Hint(diag.Input(fmt.Errorf("image %s: %w", p.o.Image.Name, err)), "it is not a disk image rigimage made")
	}
	t, err := gpt.Read(headOnly(p.head), anySize, 512)
	var damage *gpt.DamageError
	if err != nil && (!errors.As(err, &damage) || damage.Part != "backup") {
		return notOurs(err)
	}
	want := []gpt.Type{gpt.FreeBSDBoot, gpt.EFI, gpt.FreeBSDUFS}
	if !slices.EqualFunc(t.Partitions, want, func(a gpt.Partition, b gpt.Type) bool { return a.Type == b }) {
		return notOurs(errors.New("its partitions are not boot, ESP and rig"))
	}
	end := int64(manifest.ESPStart)
	for _, q := range t.Partitions[espPart:] {
		if q.Start != end || q.Size <= 0 || q.Size > 1<<41 || q.Size%(1<<20) != 0 {
			return notOurs(fmt.Errorf("partition %s of %d bytes at %d", q.Label, q.Size, q.Start))
		}
		end += q.Size
	}
	if b := t.Partitions[bootPart]; b.Start != manifest.BootStart || b.Start+b.Size > manifest.ESPStart {
		return notOurs(fmt.Errorf("partition %s of %d bytes at %d", b.Label, b.Size, b.Start))
	}
	p.parts, p.Table = t.Partitions, *t
	return nil
}

// headOnly is a disk of which only the beginning is there.
type headOnly []byte

// ReadAt implements io.ReaderAt.
func (h headOnly) ReadAt(b []byte, off int64) (int, error) {
	if off < 0 || off >= int64(len(h)) {
		return 0, io.EOF
	}
	n := copy(b, h[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// layout makes the table for the disk.
func (p *Plan) layout() error {
	d := p.Disk
	p.Table.SectorSize, p.Table.DiskSize = d.SectorSize, d.Size
	p.Table.Partitions = slices.Clone(p.parts)
	first, last := p.Table.Usable()
	if last < p.end() {
		return diag.Hint(diag.Inputf("%s: it has %d bytes, the image needs %d", d.Path, d.Size, p.end()+d.Size-last),
			"take a larger disk, or build an image with smaller esp_size and rig_size in [boot] of rig.toml")
	}
	if p.sector == 512 {
		return p.Table.Validate()
	}
	p.Notes = append(p.Notes, fmt.Sprintf("sectors of %d bytes: the disk will boot by UEFI only, not by BIOS", p.sector))
	b := &p.Table.Partitions[bootPart]
	end := b.Start + b.Size
	b.Start = gpt.Align(first, p.sector)
	b.Size = end - b.Start
	return p.Table.Validate()
}

// end is the first byte behind the last partition.
func (p *Plan) end() int64 { return p.parts[rigPart].Start + p.parts[rigPart].Size }

// makeESP checks the image's ESP, and formats it anew where answers or sectors ask
// for it.
func (p *Plan) makeESP() error {
	bad := func(err error) error {
		return diag.Hint(diag.Input(fmt.Errorf("image %s: ESP: %w", p.o.Image.Name, err)), "it is damaged: copy or download it again")
	}
	fsys, err := fat.Open(p.esp, p.esp.size)
	if err != nil {
		return bad(err)
	}
	if err := fsys.Check(); err != nil {
		return bad(err)
	}
	t, err := fsys.Tree()
	if err != nil {
		return bad(err)
	}
	e, has := t.Lookup(manifest.AnswersFile)
	has = has && e.Size > 0
	p.Embedded = has && p.o.Answers == nil
	switch {
	case p.Embedded:
		p.Notes = append(p.Notes, "the image contains answers, which may hold secrets and go onto the disk")
	case has:
		p.Notes = append(p.Notes, "the image contains answers; "+p.o.AnswersName+" takes their place")
	case p.o.Answers != nil:
		p.Notes = append(p.Notes, "the answers of "+p.o.AnswersName+" go onto the disk")
	}
	if p.sector == 512 && p.o.Answers == nil {
		return nil
	}
	if p.o.Answers != nil {
		if t, err = withAnswers(t, p.o.Answers); err != nil {
			return bad(err)
		}
	}
	start := p.parts[espPart].Start
	plan, err := fat.Layout(t, fat.Options{Size: p.esp.size, SectorSize: int(p.sector), Label: fsys.Label(), Serial: fsys.Serial(),
		Time: rootTime(t), HiddenSectors: uint32(start / p.sector)})
	if err != nil {
		return bad(err)
	}
	made := newMemory(p.esp.size)
	if err := plan.Write(made); err != nil {
		return bad(err)
	}
	p.esp = made
	return nil
}

// rootTime is the time rigimage gave all files of the ESP.
func rootTime(t *tree.Tree) (at time.Time) {
	for e := range t.All() {
		if e.Kind == tree.File {
			return e.ModTime
		}
	}
	return at
}

func withAnswers(t *tree.Tree, text []byte) (*tree.Tree, error) {
	e := tree.FileEntry(manifest.AnswersFile, text)
	e.ModTime = rootTime(t)
	upper, err := tree.New([]tree.Entry{e})
	if err != nil {
		return nil, err
	}
	return tree.Merge(t, upper)
}

// check looks at an image in a file as far as it can be known that what will be on
// the disk is whole.
func (p *Plan) check(ctx context.Context, r *decoded) error {
	a := &again{im: p.o.Image}
	defer a.Close()
	rig := p.parts[rigPart]
	in := newCachedReader(a, rig.Start+rig.Size)
	section := io.NewSectionReader(in, rig.Start, rig.Size)
	man, err := readManifest(section, rig.Size)
	if err != nil {
		return diag.Hint(diag.Input(fmt.Errorf("image %s: %w", p.o.Image.Name, err)), "it is damaged: copy or download it again")
	}
	if err := p.setManifest(man); err != nil {
		return err
	}
	if r.plain == nil {
		if p.o.Image.Checked {
			return nil
		}
		return r.drain(ctx, func(done int64) { p.o.Progress("check image", min(done, p.end()), p.end()) })
	}
	if r.plain.Size < p.end() {
		return r.failed(r.plain.Size, io.ErrUnexpectedEOF)
	}
	err = checkFiles(ctx, man, section, rig.Size, p.esp, func(done, total int64) { p.o.Progress("check image", done, total) })
	if err != nil && ctx.Err() == nil {
		return diag.Hint(diag.Input(fmt.Errorf("image %s: %w", p.o.Image.Name, err)), "it is damaged: build, copy or download it again")
	}
	return err
}

// setManifest checks everything that depends on what the image says of itself.
func (p *Plan) setManifest(man *manifest.Manifest) error {
	p.man, p.ImageID = man, man.Image
	if man.Boot.ESPSize != p.parts[espPart].Size || man.Boot.RigSize != p.parts[rigPart].Size {
		return diag.Inputf("image %s: its partition table is not that of its manifest", p.o.Image.Name)
	}
	if need := man.Boot.MinDisk(man.Boot.Swap); p.Disk.Size < need {
		p.Notes = append(p.Notes, fmt.Sprintf("an installation needs disks of %s: this one can be the medium, not a member of the pool", zfs.FormatSize(need)))
	}
	return checkAnswers(p.o, man)
}

// readManifest finds and decodes the manifest on a rig partition.
func readManifest(r io.ReaderAt, size int64) (*manifest.Manifest, error) {
	fsys, err := ufs.Open(r, size)
	if err != nil {
		return nil, err
	}
	return manifest.Read(func(name string, limit int64) ([]byte, error) {
		ranges, err := fsys.Ranges(name)
		if err != nil {
			return nil, err
		}
		var text []byte
		for _, g := range ranges {
			if g.Len > limit-int64(len(text)) {
				return nil, fmt.Errorf("%s has more than %d bytes", name, limit)
			}
			b := make([]byte, g.Len)
			if _, err := r.ReadAt(b, g.Off); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			text = append(text, b...)
		}
		return text, nil
	})
}

// checkAnswers judges the answers. Without a manifest the profile's questions are
// not known: then only what is wrong whatever they are is reported.
func checkAnswers(o Options, man *manifest.Manifest) error {
	if o.Answers == nil {
		return nil
	}
	src := answers.Source{Name: o.AnswersName, Data: o.Answers}
	if man != nil {
		set, err := answers.Resolve(man.Questions, src)
		if err == nil {
			err = set.CheckUnattended()
		}
		return err
	}
	_, err := answers.Resolve(nil, src)
	var ps *diag.Problems
	if !errors.As(err, &ps) {
		return err
	}
	known := &diag.Problems{Source: ps.Source}
	for _, pr := range ps.List {
		if !strings.HasPrefix(pr.Msg, "unknown key") {
			known.Add(pr)
		}
	}
	return known.Err()
}

// String is what will be done and lost, in lines.
func (p *Plan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "disk   %s\n", p.Disk)
	for _, group := range [][]string{p.Disk.InUse, p.Disk.Member, p.Disk.Holds} {
		for _, h := range group {
			fmt.Fprintf(&b, "       will be lost: %s\n", h)
		}
	}
	if p.Disk.Blank() {
		fmt.Fprintf(&b, "       nothing is on it: %s\n", p.Disk.Basis)
	}
	name := p.o.Image.Name
	if p.ImageID != "" {
		name += ": " + p.ImageID
	}
	fmt.Fprintf(&b, "image  %s, %s\n", name, zfs.FormatSize(p.end()))
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note   %s\n", n)
	}
	return b.String()
}

// Close gives up what Prepare opened.
func (p *Plan) Close() error {
	if p.stream == nil {
		return nil
	}
	return p.stream.Close()
}

// refusal is why the disk may not be written to unless its ID is forced, nil when
// there is no reason.
func refusal(d *disks.Disk, force string) error {
	if d.ReadOnly {
		return diag.Hint(diag.Inputf("%s: it is read-only", d.Path), "look for a switch on it, or at hdparm -r")
	}
	if force != "" && force != d.ID() {
		what := "its serial number is"
		if d.Serial == "" {
			what = "it has no serial number, and is named"
		}
		return diag.Hint(diag.Inputf("%s: %s %q, not %q", d.Path, what, d.ID(), force),
			"\"rigimage flash --list\" shows the disks; nothing was written")
	}
	reasons := slices.Concat(d.InUse, d.Member)
	if len(reasons) == 0 || force == d.ID() {
		return nil
	}
	return diag.Hint(diag.Inputf("%s: it is in use: %s", d.Path, strings.Join(reasons, "; ")),
		"if it is the right one and all of that may be lost: --force-serial %s", d.ID())
}
