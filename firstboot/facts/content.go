package facts

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/internal/blockdev"
	"github.com/rig-freebsd/rig/internal/probe"
	"github.com/rig-freebsd/rig/zfs"
)

// inspect finds out what is on d: fills GUID, PoolLabels, Blank, Basis, Hash and
// Holds, and Holds of each partition.
func (d *Disk) inspect(ctx context.Context, r io.ReaderAt, progress func(done, total int64)) error {
	dev := blockdev.NewReader(r, "/dev/"+d.Name, int64(d.SectorSize), d.Size)
	if d.Scheme == "GPT" {
		guid, err := gptGUID(dev, int64(d.SectorSize), d.Size)
		if err != nil {
			return err
		}
		d.GUID = guid
	}
	o := probe.Options{Size: d.Size, Sector: d.SectorSize, Progress: progress}
	for _, p := range d.Partitions {
		o.Places = append(o.Places, probe.Part{Where: p.Name, Start: p.Start, Size: p.Size})
	}
	v, err := probe.Disk(ctx, dev, o)
	if err != nil {
		return err
	}
	for i := range d.Partitions {
		p := &d.Partitions[i]
		if p.Start < 0 || p.Size <= 0 || p.Start > d.Size-p.Size {
			p.Holds = "beyond the end of the disk"
		} else if p.Holds, err = d.holds(p.Name, dev, v, p.Start, p.Size); err != nil {
			return err
		}
	}
	whole, err := d.holds(d.Name, dev, v, 0, d.Size)
	if err != nil {
		return err
	}
	d.Basis, d.Hash = v.Basis, v.Hash
	d.Blank = v.Kind == probe.Blank && d.Scheme == "" && !d.Corrupt && len(d.Partitions)+len(d.PoolLabels) == 0
	if !d.Blank {
		d.Holds = d.describe(whole, v)
	}
	return nil
}

// holds names what is in a place of the disk, tables left out, and notes its pool
// label: what that says takes the place of what is recognised.
func (d *Disk) holds(provider string, dev io.ReaderAt, v *probe.Verdict, start, size int64) (string, error) {
	var names []string
	for _, f := range v.Found {
		if f.Table || f.Start != start || f.Size != size || f.Name == probe.BootSector && size == d.Size {
			continue
		}
		if f.ZFS {
			label, err := zfs.ReadLabel(io.NewSectionReader(dev, start, size), size)
			if err != nil {
				return "", err
			}
			if label != nil {
				d.PoolLabels = append(d.PoolLabels, PoolLabel{Provider: provider, Label: *label})
				f.Name = label.String()
			}
		}
		names = append(names, f.Name)
	}
	return strings.Join(names, ", "), nil
}

func readFull(r io.ReaderAt, buf []byte, at int64) error {
	if n, err := r.ReadAt(buf, at); n < len(buf) {
		return err
	}
	return nil
}

// describe is what is on a disk that is not blank, in words: the kernel's partition
// table, or else what was recognised. whole is what is on the disk itself.
func (d *Disk) describe(whole string, v *probe.Verdict) string {
	if d.Scheme == "" {
		return d.unlisted(v)
	}
	var b strings.Builder
	b.WriteString(d.Scheme)
	if d.Corrupt {
		b.WriteString(" (damaged)")
	}
	const shown = 8
	for i, p := range d.Partitions {
		sep := ", "
		if i == 0 {
			sep = ": "
		}
		if i == shown {
			fmt.Fprintf(&b, " and %d more", len(d.Partitions)-shown)
			break
		}
		fmt.Fprintf(&b, "%s%s %s", sep, zfs.FormatSize(p.Size), p.Type)
		if p.Holds != "" && !slices.ContainsFunc(d.PoolLabels, func(l PoolLabel) bool { return l.Provider == p.Name }) {
			fmt.Fprintf(&b, " (%s)", p.Holds)
		}
	}
	if len(d.Partitions) == 0 {
		b.WriteString(" without partitions")
	}
	pools := d.pools()
	for _, s := range pools {
		b.WriteString("; " + s)
	}
	if whole != "" && !slices.Contains(pools, whole) {
		b.WriteString("; " + whole + " on the whole disk")
	}
	for _, f := range v.Found { // in a partition that the kernel does not see
		if f.Where != "" && !slices.ContainsFunc(d.Partitions, func(p Partition) bool { return p.Start == f.Start && p.Size == f.Size }) {
			b.WriteString("; " + f.String())
		}
	}
	return b.String()
}

// unlisted is what is on a disk without a partition table that the kernel knows.
func (d *Disk) unlisted(v *probe.Verdict) string {
	if pools := d.pools(); len(v.Found) == 1 && len(pools) == 1 {
		return pools[0]
	}
	return v.String()
}

// pools are the pool labels of the disk, each once.
func (d *Disk) pools() []string {
	var out []string
	for _, l := range d.PoolLabels {
		if s := l.Label.String(); !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// gptGUID reads the disk's GUID from the GPT header in the second sector, or from
// its copy in the last one. "" when neither is a header.
func gptGUID(r io.ReaderAt, sector, size int64) (string, error) {
	for _, at := range []int64{sector, size - sector} {
		b := make([]byte, 72) // up to hdr_uuid's end (FreeBSD sys/disk/gpt.h)
		if err := readFull(r, b, at); err != nil {
			return "", err
		}
		if string(b[:8]) == "EFI PART" {
			u := b[56:72]
			return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(u), binary.LittleEndian.Uint16(u[4:]),
				binary.LittleEndian.Uint16(u[6:]), u[8:10], u[10:16]), nil
		}
	}
	return "", nil
}
