package gpt

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Partition is one entry. Its number is its place in Table.Partitions, from 1.
type Partition struct {
	Type       Type
	Label      string // at most 36 characters; unique, as it becomes /dev/gpt/LABEL
	GUID       string
	Start      int64 // bytes from the beginning of the disk
	Size       int64 // bytes
	Attributes uint64
}

// Table is a wish for the partition table of a disk, or one that was read.
type Table struct {
	DiskGUID   string
	SectorSize int   // 512 or 4096; 0 = 512
	DiskSize   int64 // bytes
	Partitions []Partition
}

// Align rounds off up to a multiple of to.
func Align(off, to int64) int64 { return (off + to - 1) / to * to }

// DeriveGUID returns the GUID of one part of an image: a version 8 UUID (RFC
// 9562) from the SHA-256 of both strings, in lower case.
func DeriveGUID(imageID, role string) string {
	s := sha256.Sum256(fmt.Appendf(nil, "rig guid %q %q", imageID, role))
	b := s[:16]
	b[6] = b[6]&0x0f | 8<<4 // version
	b[8] = b[8]&0x3f | 0x80 // variant
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func (t *Table) sectorSize() int64 {
	if t.SectorSize == 0 {
		return 512
	}
	return int64(t.SectorSize)
}

// Usable returns the area partitions may lie in, in bytes: start is the first
// byte, end the first byte of the backup table.
func (t *Table) Usable() (start, end int64) {
	ss := t.sectorSize()
	return 2*ss + tableSize, t.DiskSize - ss - tableSize
}

var guidForm = regexp.MustCompile(`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)

const nilGUID = "00000000-0000-0000-0000-000000000000"

func checkGUID(s string) error {
	if !guidForm.MatchString(s) || s == nilGUID {
		return fmt.Errorf("%q is not a GUID", s)
	}
	return nil
}

// Validate reports everything that is wrong with t.
func (t *Table) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("gpt: "+format, args...)) }
	ss := t.sectorSize()
	if ss != 512 && ss != 4096 {
		fail("sector size %d is neither 512 nor 4096", ss)
		return errors.Join(errs...)
	}
	if start, end := t.Usable(); t.DiskSize%ss != 0 || start >= end {
		fail("disk of %d bytes is too small or not a whole number of sectors", t.DiskSize)
	}
	if err := checkGUID(t.DiskGUID); err != nil {
		fail("disk: %w", err)
	}
	if len(t.Partitions) > entries {
		fail("%d partitions; %d is the limit", len(t.Partitions), entries)
	}
	guids := map[string]int{strings.ToLower(t.DiskGUID): 0}
	labels := map[string]int{}
	for i := range t.Partitions {
		p := &t.Partitions[i]
		for _, err := range p.problems(t) {
			fail("partition %d (%s): %w", i+1, p.Label, err)
		}
		if j, dup := guids[strings.ToLower(p.GUID)]; dup {
			fail("partition %d (%s): GUID %s is also that of %s", i+1, p.Label, p.GUID, owner(j))
		}
		guids[strings.ToLower(p.GUID)] = i + 1
		if j, dup := labels[p.Label]; dup && p.Label != "" {
			fail("partition %d (%s): partition %d has the same label", i+1, p.Label, j)
		}
		labels[p.Label] = i + 1
	}
	for _, err := range t.overlaps() {
		fail("%w", err)
	}
	return errors.Join(errs...)
}

func owner(i int) string {
	if i == 0 {
		return "the disk"
	}
	return fmt.Sprintf("partition %d", i)
}

// problems are those of one partition alone.
func (p *Partition) problems(t *Table) []error {
	var errs []error
	if err := checkGUID(string(p.Type)); err != nil {
		errs = append(errs, fmt.Errorf("type: %w", err))
	}
	if err := checkGUID(p.GUID); err != nil {
		errs = append(errs, err)
	}
	if err := checkLabel(p.Label); err != nil {
		errs = append(errs, err)
	}
	ss := t.sectorSize()
	start, end := t.Usable()
	switch {
	case p.Size <= 0:
		errs = append(errs, fmt.Errorf("size of %d bytes", p.Size))
	case p.Start%ss != 0 || p.Size%ss != 0:
		errs = append(errs, fmt.Errorf("start %d and size %d must be multiples of the sector size %d", p.Start, p.Size, ss))
	case p.Start < start || p.Start > end || p.Size > end-p.Start:
		errs = append(errs, fmt.Errorf("%d bytes at %d are outside the usable area from %d to %d", p.Size, p.Start, start, end))
	}
	if strings.EqualFold(string(p.Type), string(FreeBSDBoot)) && p.Size > pmbrLimit {
		errs = append(errs, fmt.Errorf("%d bytes of boot code; pmbr loads at most %d", p.Size, pmbrLimit))
	}
	return errs
}

// checkLabel refuses what go-diskfs panics on (characters outside the basic
// plane) and what geom_label could not make a device name of.
func checkLabel(s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("label %q is not UTF-8", s)
	}
	for _, r := range s {
		if r > 0xffff || r == '/' || unicode.IsControl(r) {
			return fmt.Errorf("label %q contains %q, which cannot be used", s, r)
		}
	}
	if n := utf8.RuneCountInString(s); n > labelUnits {
		return fmt.Errorf("label %q has %d characters; %d is the limit", s, n, labelUnits)
	}
	return nil
}

func (t *Table) overlaps() []error {
	order := make([]int, len(t.Partitions))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		pa, pb := &t.Partitions[a], &t.Partitions[b]
		switch {
		case pa.Start < pb.Start:
			return -1
		case pa.Start > pb.Start:
			return 1
		}
		return 0
	})
	var errs []error
	far := -1 // the partition that reaches furthest so far
	for _, i := range order {
		p := &t.Partitions[i]
		if far >= 0 && p.Start < t.Partitions[far].Start+t.Partitions[far].Size {
			errs = append(errs, fmt.Errorf("partition %d (%s) overlaps partition %d (%s)",
				i+1, p.Label, far+1, t.Partitions[far].Label))
		}
		if far < 0 || p.Start+p.Size > t.Partitions[far].Start+t.Partitions[far].Size {
			far = i
		}
	}
	return errs
}
