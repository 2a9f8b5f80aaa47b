package probe

import (
	"encoding/binary"
	"fmt"
	"unicode/utf16"
)

// Partition tables, by UEFI 2.10 §5, and FreeBSD 15.1's sys/sys/disk/{mbr,bsd,apm}.h.
const (
	mbrSlots     = 446 // offset of the four entries
	mbrSlotSize  = 16
	gptEntrySize = 128 // and 2ⁿ times as much
	mostEntries  = 1024
	mostLogical  = 128
	bsdMagic     = 0x82564557
)

// tables finds the partition tables in a place, and the parts they name. depth is 0
// for the disk itself: only there a GPT is looked for.
func tables(at *place, p Part, depth int) (found []Found, parts []Part) {
	add := func(name string, more []Part) {
		found, parts = append(found, Found{Name: name, Table: true}), append(parts, more...)
	}
	if depth == 0 {
		if more, n, ok := gpt(at); ok {
			add("GPT with "+count(n, "partition"), more)
		}
		if more, ok := apm(at); ok {
			add("APM with "+count(len(more), "partition"), more)
		}
	}
	if more, ok := mbr(at, p); ok {
		add("MBR with "+count(len(more), "partition"), more)
	}
	if more, ok := bsdLabel(at, p); ok {
		add("BSD label with "+count(len(more), "partition"), more)
	}
	return found, parts
}

func count(n int, what string) string {
	switch n {
	case 0:
		return "no " + what + "s"
	case 1:
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// gpt reads both copies, at sectors of the disk's size and of other ones: a disk may
// have come out of a case that showed it with larger sectors. n counts the entries in
// use; places outside of the disk are not among parts.
func gpt(at *place) (parts []Part, n int, ok bool) {
	for _, ss := range sectorSizes(at.sector) {
		headers := []int64{ss, at.size - ss, at.size - at.size%ss - ss}
		for i := 0; i < len(headers) && len(headers) < 8; i++ {
			h := at.at(headers[i], 92) // up to the entries' checksum
			if h == nil || string(h[:8]) != "EFI PART" {
				continue
			}
			ok = true
			if other := scaled(binary.LittleEndian.Uint64(h[32:]), ss); other > 0 {
				headers = append(headers, other)
			}
			p, k := gptEntries(at, h, ss)
			n = max(n, k)
			parts = append(parts, p...)
		}
	}
	return unique(parts), n, ok
}

func sectorSizes(sector int64) []int64 {
	out := []int64{sector}
	for _, s := range []int64{512, 4096} {
		if s != sector {
			out = append(out, s)
		}
	}
	return out
}

// scaled is an address in sectors as bytes, -1 for what no disk has.
func scaled(lba uint64, sector int64) int64 {
	if lba > uint64(1<<62/sector) {
		return -1
	}
	return int64(lba) * sector
}

func gptEntries(at *place, h []byte, ss int64) (parts []Part, n int) {
	table := scaled(binary.LittleEndian.Uint64(h[72:]), ss)
	entries, size := int64(binary.LittleEndian.Uint32(h[80:])), int64(binary.LittleEndian.Uint32(h[84:]))
	if table < 0 || size < gptEntrySize || size > 64<<10 {
		return nil, 0
	}
	for i := range min(entries, mostEntries) {
		e := at.at(table+i*size, gptEntrySize)
		if e == nil || [16]byte(e) == [16]byte{} {
			continue
		}
		n++
		first, last := scaled(binary.LittleEndian.Uint64(e[32:]), ss), scaled(binary.LittleEndian.Uint64(e[40:]), ss)
		if first < 0 || last < first {
			continue
		}
		parts = append(parts, Part{Where: fmt.Sprintf("partition %d", i+1), Table: "GPT", Label: utf16Text(e[56:]), Start: first, Size: last + ss - first})
	}
	return parts, n
}

func utf16Text(b []byte) string {
	var u []uint16
	for ; len(b) > 1; b = b[2:] {
		c := binary.LittleEndian.Uint16(b)
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

func unique(parts []Part) []Part {
	var out []Part
	seen := map[[2]int64]bool{}
	for _, p := range parts {
		if k := [2]int64{p.Start, p.Size}; !seen[k] {
			seen[k] = true
			out = append(out, p)
		}
	}
	return out
}

// slot is an entry of an MBR.
type slot struct {
	kind        byte
	status      byte
	start, size int64 // bytes
}

func slots(sector []byte, ss int64) [4]slot {
	var out [4]slot
	for i := range out {
		e := sector[mbrSlots+i*mbrSlotSize:]
		out[i] = slot{e[4], e[0], int64(binary.LittleEndian.Uint32(e[8:])) * ss, int64(binary.LittleEndian.Uint32(e[12:])) * ss}
	}
	return out
}

func extended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

// mbr reads an MBR and the chain of EBRs behind it. The boot sector of a file system
// ends like one and has text where the entries would be: an MBR has at least one
// entry that could be, and then every other that leads somewhere is taken too. The
// entry that protects a GPT is none.
func mbr(at *place, p Part) (parts []Part, ok bool) {
	b := at.at(0, 512)
	if b == nil || b[510] != 0x55 || b[511] != 0xaa || fileSystem(at) {
		return nil, false
	}
	prefix := ""
	if p.Where != "" {
		prefix = p.Where + ", "
	}
	logical := 5
	for i, s := range slots(b, at.sector) {
		if s.kind == 0 || s.kind == 0xee || s.start <= 0 || s.size <= 0 {
			continue
		}
		ok = ok || s.status&0x7f == 0 && s.start < at.size
		switch {
		case extended(s.kind):
			parts = append(parts, ebrs(at, p, s.start, prefix, &logical)...)
		case s.kind == 0xa5 || s.kind == 0xa6 || s.kind == 0xa9: // BSD's
			parts = append(parts, Part{Where: fmt.Sprintf("%sslice %d", prefix, i+1), Table: "MBR", Start: p.Start + s.start, Size: s.size})
		default:
			parts = append(parts, Part{Where: fmt.Sprintf("%spartition %d", prefix, i+1), Table: "MBR", Start: p.Start + s.start, Size: s.size})
		}
	}
	if !ok {
		return nil, false
	}
	return parts, true
}

// fileSystem reports whether a first sector is that of a file system.
func fileSystem(at *place) bool {
	return fatVersion(at, 0) != "" || at.has(3, "NTFS    ") || at.has(3, "EXFAT   ") || at.has(3, "-FVE-FS-") || at.has(3, "ReFS\x00")
}

// ebrs follows the chain of an extended partition.
func ebrs(at *place, p Part, base int64, prefix string, number *int) []Part {
	var out []Part
	next := base
	for range mostLogical {
		b := at.at(next, 512)
		if b == nil || b[510] != 0x55 || b[511] != 0xaa {
			break
		}
		e := slots(b, at.sector)
		if e[0].kind != 0 && e[0].size > 0 {
			out = append(out, Part{Where: fmt.Sprintf("%spartition %d", prefix, *number), Table: "MBR", Start: p.Start + next + e[0].start, Size: e[0].size})
			*number++
		}
		if !extended(e[1].kind) || e[1].start == 0 {
			break
		}
		next = base + e[1].start
	}
	return out
}

// bsdLabel reads a disklabel in the second sector. Its offsets count from the
// beginning of the disk or of the slice: whichever keeps them within.
func bsdLabel(at *place, p Part) (parts []Part, ok bool) {
	for _, off := range []int64{at.sector, 512, 0, 64} {
		b := at.at(off, 148+8*16)
		if b == nil || binary.LittleEndian.Uint32(b) != bsdMagic || binary.LittleEndian.Uint32(b[132:]) != bsdMagic {
			continue
		}
		ss := int64(binary.LittleEndian.Uint32(b[40:])) // d_secsize
		if ss < 512 || ss > 4096 {
			ss = at.sector
		}
		base := int64(1 << 62)
		n := min(int(binary.LittleEndian.Uint16(b[138:])), 8) // d_npartitions; larger labels have more in the next bytes
		if raw := b[148+2*16:]; n > 2 {                       // c is the whole slice
			base = int64(binary.LittleEndian.Uint32(raw[4:])) * ss
		}
		if base > p.Start+p.Size || base != p.Start {
			base = 0
		}
		for i := range n {
			e := b[148+i*16:]
			size, start := int64(binary.LittleEndian.Uint32(e))*ss, int64(binary.LittleEndian.Uint32(e[4:]))*ss
			if size == 0 || i == 2 {
				continue
			}
			where := fmt.Sprintf("partition %c", 'a'+i)
			if p.Where != "" {
				where = p.Where + ", " + where
			}
			parts = append(parts, Part{Where: where, Table: "BSD label", Start: p.Start + start - base, Size: size})
		}
		return parts, true
	}
	return nil, false
}

// apm reads an Apple partition map: a driver descriptor, then entries of one block
// each.
func apm(at *place) (parts []Part, ok bool) {
	bs := int64(512)
	if b := at.at(0, 4); b != nil && string(b[:2]) == "ER" {
		bs = int64(binary.BigEndian.Uint16(b[2:]))
	}
	if bs < 512 || !at.has(bs, "PM\x00\x00") {
		return nil, false
	}
	n := min(int64(at.be32(bs+4)), mostEntries)
	for i := range n {
		e := at.at(bs*(1+i), 80)
		if e == nil || string(e[:2]) != "PM" {
			break
		}
		parts = append(parts, Part{Where: fmt.Sprintf("partition %d", i+1), Table: "APM", Start: int64(binary.BigEndian.Uint32(e[8:])) * bs,
			Size: int64(binary.BigEndian.Uint32(e[12:])) * bs})
	}
	return parts, true
}
