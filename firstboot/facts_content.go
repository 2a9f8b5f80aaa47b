package firstboot

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"

	"rig/internal/blockdev"
	"rig/zfs"
)

const (
	blankEnds    = 1 << 20 // bytes at both ends that are zero on a blank disk
	blankSamples = 64      // blocks between them that are looked at
	blankSample  = 4 << 10 // bytes of each
)

// inspect finds out what is on d: fills GUID, PoolLabels, Blank and Holds, and
// Holds of each partition.
func (d *Disk) inspect(r io.ReaderAt) error {
	dev := blockdev.NewReader(r, "/dev/"+d.Name, int64(d.SectorSize), d.Size)
	if d.Scheme == "GPT" {
		guid, err := gptGUID(dev, int64(d.SectorSize), d.Size)
		if err != nil {
			return err
		}
		d.GUID = guid
	}
	holds, err := d.identify(d.Name, dev, d.Size)
	if err != nil {
		return err
	}
	for i := range d.Partitions {
		p := &d.Partitions[i]
		if p.Start < 0 || p.Size <= 0 || p.Start > d.Size-p.Size {
			p.Holds = "beyond the end of the disk"
			continue
		}
		if p.Holds, err = d.identify(p.Name, io.NewSectionReader(dev, p.Start, p.Size), p.Size); err != nil {
			return err
		}
	}
	if d.Blank, err = d.blank(dev); err != nil {
		return err
	}
	if !d.Blank {
		d.Holds = d.describe(holds)
	}
	return nil
}

// identify names what is on a provider, "" when nothing is recognised, and notes
// its pool label.
func (d *Disk) identify(provider string, r io.ReaderAt, size int64) (string, error) {
	label, err := zfs.ReadLabel(r, size)
	if err != nil {
		return "", err
	}
	if label != nil {
		d.PoolLabels = append(d.PoolLabels, PoolLabel{Provider: provider, Label: *label})
		return label.String(), nil
	}
	found, err := signatures(r, size)
	return strings.Join(found, ", "), err
}

// blank reports whether nothing is stored on the disk: no partitions, no labels,
// zeros at both ends and wherever it looks between them. The tables of a GPT
// without partitions do not count.
func (d *Disk) blank(r io.ReaderAt) (bool, error) {
	lo, hi := int64(0), d.Size
	switch {
	case d.Scheme != "" && d.Scheme != "GPT" || d.Corrupt || len(d.Partitions) > 0 || len(d.PoolLabels) > 0:
		return false, nil
	case d.Scheme == "GPT":
		if d.first <= 0 || d.last <= d.first || d.last > d.Size {
			return false, nil
		}
		lo, hi = d.first, d.last
	}
	head := min(blankEnds, hi-lo)
	if zero, err := isZero(r, lo, head); !zero {
		return false, err
	}
	if zero, err := isZero(r, hi-head, head); !zero {
		return false, err
	}
	for i := range int64(blankSamples) {
		at := lo + (hi-lo)/blankSamples*i
		at -= at % blankSample
		if at < lo {
			continue
		}
		if zero, err := isZero(r, at, min(blankSample, hi-at)); !zero {
			return false, err
		}
	}
	return true, nil
}

func isZero(r io.ReaderAt, at, n int64) (bool, error) {
	buf := make([]byte, n)
	if err := readFull(r, buf, at); err != nil {
		return false, err
	}
	return len(bytes.Trim(buf, "\x00")) == 0, nil
}

func readFull(r io.ReaderAt, buf []byte, at int64) error {
	if n, err := r.ReadAt(buf, at); n < len(buf) {
		return err
	}
	return nil
}

// describe is what is on a disk that is not blank, in words. whole is what was
// recognised on the disk itself.
func (d *Disk) describe(whole string) string {
	if d.Scheme == "" {
		if whole == "" {
			return "data without a partition table"
		}
		return whole
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
		if d.Scheme == "GPT" && !d.Corrupt {
			b.WriteString(", but with data")
		}
	}
	var pools []string
	for _, l := range d.PoolLabels {
		if s := l.Label.String(); !slices.Contains(pools, s) {
			pools = append(pools, s)
		}
	}
	for _, s := range pools {
		b.WriteString("; " + s)
	}
	if whole != "" && whole != bootSector && !slices.Contains(pools, whole) {
		b.WriteString("; " + whole + " on the whole disk")
	}
	return b.String()
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
