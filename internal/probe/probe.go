// Package probe recognises what a disk holds, for whoever is about to overwrite it.
//
// [Disk] gives a verdict. Known is what something was recognised on: a partition
// table, or a magic of the table in magic.go, on the disk or in a place that a table
// names. Blank is a claim with a basis: nothing is known on it, and the first and the
// last 64 MiB and one block in each 1/4096 of the disk read as one repeated byte.
// Everything else is Unknown, as is a disk that could not be looked at in time.
//
// Tables are read leniently, to refuse and not to use: bad checksums, odd sizes and
// entries that lead outside do not make a table go away, and every place that either
// copy names is looked at.
//
// Left out: what is inside of what is recognised (volumes of LVM, subvolumes), and
// partition tables of other machines than PCs, Macs and BSD, which are known by their
// magic alone. Sizes and offsets are bytes.
package probe

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
)

// Kind is what a disk is to whoever wants to write to it.
type Kind int

// Unknown is the zero value: a disk that nobody looked at may hold anything.
const (
	Unknown Kind = iota // data that is not recognised, or not enough was seen
	Known
	Blank
)

// String is the kind in words.
func (k Kind) String() string {
	return [...]string{"unknown data", "known", "blank"}[k]
}

// Found is something that was recognised.
type Found struct {
	Name   string // "LUKS2", "ZFS member of pool tank (label 0 1 2 3)", "GPT with 3 partitions"
	Where  string // "" for the disk itself, "partition 2", "slice 1, partition a"
	Start  int64  // of the place it is in
	Size   int64  // of that place
	Label  string // of a partition of a GPT
	Member bool   // a part of something larger: an array, a volume group, a pool
	Table  bool   // a partition table
	ZFS    bool   // a label of ZFS
}

// Verdict is what was found out about a disk.
type Verdict struct {
	Kind  Kind
	Found []Found // of a Known disk: tables, what is on the disk itself, and in its places, in order
	Parts []Part  // the places that its tables name, as far as they are on the disk
	Basis string  // of Blank and Unknown: "first and last 64 MiB and 4096 samples read as zeros"
	Hash  string  // 8 hex digits of a hash of what was read: a name for a disk without a serial number
}

// Part is a place on a disk that a partition table names.
type Part struct {
	Where       string // "partition 2", "slice 1, partition a"
	Table       string // "GPT", "MBR", "BSD label", "APM"
	Label       string
	Start, Size int64
}

// String is the verdict in words: "blank (…)", "unknown data (…)", "GPT with 1
// partition; partition 1: ext4".
func (v *Verdict) String() string {
	if v.Kind != Known {
		return fmt.Sprintf("%s (%s)", v.Kind, v.Basis)
	}
	s := make([]string, len(v.Found))
	for i, f := range v.Found {
		s[i] = f.String()
	}
	return strings.Join(s, "; ")
}

// String is "partition 2: LUKS2".
func (f Found) String() string {
	if f.Where == "" {
		return f.Name
	}
	return f.Where + ": " + f.Name
}

// At joins the names of what is in the place that begins at start and has size bytes.
func (v *Verdict) At(start, size int64) string {
	var s []string
	for _, f := range v.Found {
		if f.Start == start && f.Size == size {
			s = append(s, f.Name)
		}
	}
	return strings.Join(s, ", ")
}

// Options of Disk.
type Options struct {
	Size     int64         // of the disk
	Sector   int           // 0 = 512
	Limit    time.Duration // 0 = DefaultLimit
	Places   []Part        // more places to look at: partitions that somebody else knows of
	Progress func(done, total int64)
}

// DefaultLimit is generous: what is read are 128 MiB and 4096 blocks, which takes a
// hard disk about a minute.
const DefaultLimit = 3 * time.Minute

// Disk looks at a disk. r reads any range of it, as blockdev.Reader does. The error
// is a read that failed: nothing is known of the disk then.
func Disk(ctx context.Context, r io.ReaderAt, o Options) (*Verdict, error) {
	if o.Sector == 0 {
		o.Sector = 512
	}
	if o.Limit == 0 {
		o.Limit = DefaultLimit
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	s := newSampler(ctx, r, o)
	if err := s.edges(); err != nil {
		return nil, err
	}
	d := &disk{r: newPages(r), size: o.Size, sector: int64(o.Sector)}
	v := &Verdict{}
	if err := d.look(v, o.Places); err != nil {
		return nil, err
	}
	if len(v.Found) > 0 {
		v.Kind = Known
		v.Hash = s.sum()
		return v, nil
	}
	if err := s.rest(); err != nil {
		return nil, err
	}
	v.Basis, v.Hash = s.basis(), s.sum()
	if s.complete() {
		v.Kind = Blank
	}
	return v, nil
}

// disk is a disk that is looked at.
type disk struct {
	r            io.ReaderAt
	size, sector int64
}

// most is how many places are looked at: tables on a disk may say anything.
const most = 512

// look fills Found and Parts.
func (d *disk) look(v *Verdict, more []Part) error {
	todo, err := d.inside(v, Part{Size: d.size}, 0)
	if err != nil {
		return err
	}
	todo = append(todo, more...)
	seen := map[[2]int64]bool{{0, d.size}: true}
	for depth := 1; len(todo) > 0 && depth <= 4; depth++ {
		var next []Part
		for _, p := range todo {
			key := [2]int64{p.Start, p.Size}
			if seen[key] || p.Start < 0 || p.Size <= 0 || p.Start > d.size-p.Size || len(seen) > most {
				continue
			}
			seen[key] = true
			v.Parts = append(v.Parts, p)
			parts, err := d.inside(v, p, depth)
			if err != nil {
				return err
			}
			next = append(next, parts...)
		}
		todo = next
	}
	return nil
}

// inside adds what is in a place, and returns the places that a table in it names.
func (d *disk) inside(v *Verdict, p Part, depth int) ([]Part, error) {
	at := &place{r: d.r, start: p.Start, size: p.Size, sector: d.sector}
	found, parts := tables(at, p, depth)
	at.parts = parts
	found = append(found, recognise(at)...)
	if len(found) == 0 && at.has(510, "\x55\xaa") {
		found = []Found{{Name: BootSector}}
	}
	for _, f := range found {
		f.Where, f.Start, f.Size, f.Label = p.Where, p.Start, p.Size, p.Label
		v.Found = append(v.Found, f)
	}
	return parts, at.err
}

// digits is the name that a hash gives.
func digits(sum []byte) string { return hex.EncodeToString(sum[:4]) }
