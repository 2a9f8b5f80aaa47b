package fat

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// Write writes the volume: the reserved sectors, the FATs, the root directory
// and every allocated cluster, each in full. Clusters that are not allocated are
// not touched; only on a destination of zeros are two images equal. Content is
// read once, in the order of the tree. After Write, use [Open] and [FS.Check].
func (p *Plan) Write(dst io.WriterAt) error {
	for _, part := range []func(io.WriterAt) error{
		p.writeReserved,
		p.writeFATs,
		p.writeRoot,
		p.writeData,
	} {
		if err := part(dst); err != nil {
			return fmt.Errorf("fat: %w", err)
		}
	}
	return nil
}

func (p *Plan) writeReserved(dst io.WriterAt) error {
	b := make([]byte, int64(p.reserved)*p.sectorSize)
	at := func(sector int) []byte { return b[int64(sector)*p.sectorSize:] }
	if p.bits != 32 {
		copy(b, p.boot16())
	} else {
		free := p.clusters - (p.next - firstCluster)
		info := fsinfo{Sig1: infoSig1, Sig2: infoSig2, Sig3: infoSig3,
			Free: put32(free), NextFree: put32(p.next)}
		if free == 0 {
			info.NextFree = put32(math.MaxUint32) // unknown
		}
		for _, base := range []int{0, backupBoot} {
			copy(at(base), p.boot32())
			copy(at(base+infoSector), marshal(&info))
			copy(at(base + 2)[bootSize-2:], bootMagic[:]) // FATGEN103: of more boot code
			// fsck_msdosfs reads 1024 bytes of FSInfo and wants the end of both
			// halves signed; with sectors of 512 the second is the one above.
			copy(at(base + infoSector)[2*bootSize-2:], bootMagic[:])
		}
	}
	_, err := dst.WriteAt(b, 0)
	return err
}

func (p *Plan) bpb() bpb {
	b := bpb{
		OEM:         oemName,
		SectorSize:  put16(uint16(p.sectorSize)),
		ClusterSize: uint8(p.clusterSize / p.sectorSize),
		Reserved:    put16(uint16(p.reserved)),
		FATs:        fats,
		RootEntries: put16(uint16(p.rootEntries)),
		Media:       media,
		Track:       put16(63),
		Heads:       put16(255),
		Hidden:      put32(p.opts.HiddenSectors),
	}
	// bpb33 of bpb.h has Hidden in 16 bits when Sectors16 is used; both agree on
	// its low half.
	if p.bits != 32 && p.sectors <= math.MaxUint16 {
		b.Sectors16 = put16(uint16(p.sectors))
	} else {
		b.Sectors32 = put32(p.sectors)
	}
	return b
}

func (p *Plan) extboot() extboot {
	x := extboot{Drive: 0x80, Signature: 0x29, Serial: put32(p.opts.Serial), Label: p.label}
	copy(x.Type[:], fmt.Sprintf("FAT%-5d", p.bits))
	return x
}

func (p *Plan) boot16() []byte {
	b := boot16{bpb: p.bpb(), extboot: p.extboot(), Magic: bootMagic}
	b.Jump = [3]byte{0xeb, 0x3c, 0x90}
	b.FATSectors16 = put16(uint16(p.fatSectors))
	copy(b.Code[:], bootCode)
	return marshal(&b)
}

func (p *Plan) boot32() []byte {
	b := boot32{bpb: p.bpb(), extboot: p.extboot(), Magic: bootMagic}
	b.Jump = [3]byte{0xeb, 0x58, 0x90}
	b.bpb32 = bpb32{FATSectors32: put32(p.fatSectors), Root: put32(p.rootCluster),
		FSInfo: put16(infoSector), Backup: put16(backupBoot)}
	copy(b.Code[:], bootCode)
	return marshal(&b)
}

// writeFATs writes all copies at once, in pieces that hold whole entries of
// every width.
func (p *Plan) writeFATs(dst io.WriterAt) error {
	const entries = 1 << 17
	bits := int64(p.bits)
	piece := make([]byte, entries*bits/8)
	at, c := 0, uint32(0) // p.order[at] is the first node that does not end before c
	for off := int64(0); off < p.fatSize(); off += int64(len(piece)) {
		clear(piece)
		for i := range int64(entries) {
			if c >= p.next {
				break
			}
			for c >= firstCluster && p.order[at].end() <= c {
				at++
			}
			putEntry(piece, p.bits, i, p.mask(p.entry(c, p.order[at])))
			c++
		}
		b := piece[:min(int64(len(piece)), p.fatSize()-off)]
		for i := range fats {
			if _, err := dst.WriteAt(b, p.fatOff(i)+off); err != nil {
				return err
			}
		}
	}
	return nil
}

// end is the cluster behind the node's last, 0 when it has none.
func (n *node) end() uint32 { return n.first + n.clusters }

// entry is the FAT entry of cluster c, which belongs to n unless it is one of
// the first two.
func (p *Plan) entry(c uint32, n *node) uint32 {
	switch {
	case c == 0:
		return 0x0fffff00 | media
	case c == 1: // with the bits that say clean and without errors
		return clusterEOFE
	case c+1 == n.end():
		return clusterEOFE
	}
	return c + 1
}

// putEntry sets entry i of a FAT that is zero there.
func putEntry(fat []byte, bits int, i int64, v uint32) {
	switch bits {
	case 32:
		binary.LittleEndian.PutUint32(fat[4*i:], v)
	case 16:
		binary.LittleEndian.PutUint16(fat[2*i:], uint16(v))
	case 12:
		j := i * 3 / 2
		if i%2 == 0 {
			fat[j], fat[j+1] = byte(v), fat[j+1]|byte(v>>8)
		} else {
			fat[j], fat[j+1] = fat[j]|byte(v<<4), byte(v>>4)
		}
	}
}

func (p *Plan) writeRoot(dst io.WriterAt) error {
	if p.bits == 32 {
		return nil // it is data
	}
	b := make([]byte, p.rootSize())
	copy(b, p.directory(p.root))
	_, err := dst.WriteAt(b, p.rootOff())
	return err
}

func (p *Plan) writeData(dst io.WriterAt) error {
	buf := make([]byte, 1<<20)
	for _, n := range p.order {
		if n.clusters == 0 {
			continue
		}
		var err error
		if n.entry.Kind == tree.Dir {
			b := make([]byte, int64(n.clusters)*p.clusterSize)
			copy(b, p.directory(n))
			_, err = dst.WriteAt(b, p.clusterOff(n.first))
		} else {
			err = p.writeFile(dst, n, buf)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", n.entry.Path, err)
		}
	}
	return nil
}

// writeFile copies exactly the described size and fills the last cluster with
// zeros.
func (p *Plan) writeFile(dst io.WriterAt, n *node, buf []byte) error {
	r, err := n.entry.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	off, left := p.clusterOff(n.first), n.entry.Size
	for left > 0 {
		b := buf[:min(int64(len(buf)), left)]
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("%d bytes described, %d missing: %w", n.entry.Size, left, err)
		}
		left -= int64(len(b))
		if pad := -n.entry.Size & (p.clusterSize - 1); left == 0 && pad > 0 {
			b = append(bytes.Clone(b), make([]byte, pad)...)
		}
		if _, err := dst.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	if n, _ := io.ReadFull(r, buf[:1]); n > 0 {
		return fmt.Errorf("content is longer than the described size")
	}
	return nil
}

// directory is the content of d, without the empty entries behind it.
func (p *Plan) directory(d *node) []byte {
	var b []byte
	if d == p.root {
		if p.opts.Label != "" {
			e := p.dirent(p.opts.Time)
			e.Name, e.Attr = p.label, attrVolume
			b = append(b, marshal(&e)...)
		}
	} else {
		b = append(b, p.dirDirent(d, dotName, d.first)...)
		up := d.parent.first
		if d.parent == p.root {
			up = 0 // FATGEN103: even on FAT32
		}
		b = append(b, p.dirDirent(d.parent, dotdot, up)...)
	}
	for _, c := range d.children {
		b = appendLong(b, c.long, c.short.sum())
		if c.entry.Kind == tree.Dir {
			b = append(b, p.dirDirent(c, c.short, c.first)...)
			continue
		}
		e := p.dirent(c.entry.ModTime)
		e.Name, e.Attr, e.Size = c.short, attrArchive, put32(uint32(c.entry.Size))
		e.setCluster(c.first)
		b = append(b, marshal(&e)...)
	}
	return b
}

func (p *Plan) dirDirent(d *node, name [11]byte, cluster uint32) []byte {
	e := p.dirent(d.entry.ModTime)
	e.Name, e.Attr = name, attrDirectory
	e.setCluster(cluster)
	return marshal(&e)
}

func (e *dirent) setCluster(c uint32) {
	e.ClusterHi, e.ClusterLo = put16(uint16(c>>16)), put16(uint16(c))
}

func (e *dirent) cluster() uint32 { return uint32(e.ClusterHi.get())<<16 | uint32(e.ClusterLo.get()) }

// dirent is an entry with all its times set to t.
func (p *Plan) dirent(t time.Time) dirent {
	if t.IsZero() {
		t = p.opts.Time
	}
	date, clock, hundredths := dosTime(t)
	return dirent{Hundredths: hundredths, CTime: clock, CDate: date, ADate: date, MTime: clock, MDate: date}
}

var (
	dosEpoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)
	dosEnd   = time.Date(2107, 12, 31, 23, 59, 59, 990e6, time.UTC)
)

// dosTime is t in UTC, kept within 1980 to 2107; direntry.h has the bits. clock
// counts 2 seconds, hundredths the rest.
func dosTime(t time.Time) (date, clock le16, hundredths uint8) {
	t = t.UTC()
	if t.Before(dosEpoch) {
		t = dosEpoch
	}
	if t.After(dosEnd) {
		t = dosEnd
	}
	y, m, d := t.Date()
	date = put16(uint16((y-1980)<<9 | int(m)<<5 | d))
	clock = put16(uint16(t.Hour()<<11 | t.Minute()<<5 | t.Second()/2))
	return date, clock, uint8(t.Second()%2*100 + t.Nanosecond()/1e7)
}

// fromDOS is the time of a directory entry; the epoch when it is nonsense.
func fromDOS(date, clock le16) time.Time {
	d, c := int(date.get()), int(clock.get())
	y, m, day := 1980+d>>9, time.Month(d>>5&15), d&31
	t := time.Date(y, m, day, c>>11, c>>5&63, c&31*2, 0, time.UTC)
	if yy, mm, dd := t.Date(); yy != y || mm != m || dd != day {
		return dosEpoch
	}
	return t
}
