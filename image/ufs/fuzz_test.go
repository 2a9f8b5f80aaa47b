package ufs

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

var noise = pattern(1<<20, 9)

// shapes turns bytes into a tree: four for each entry.
func shapes(b []byte) []tree.Entry {
	sizes := []int{0, 1, fsize - 1, fsize, fsize + 1, bsize - 1, bsize, bsize + 1, 3*bsize - fsize,
		12*bsize - 1, 12 * bsize, 12*bsize + 1, 119, 512, 100000, 20 * bsize}
	var es []tree.Entry
	dir, files := ".", []string{}
	seen := map[string]bool{}
	for i := 0; len(b) >= 4 && i < 100; i, b = i+1, b[4:] {
		kind, a, c, d := b[0], b[1], b[2], b[3]
		name := fmt.Sprintf("%d%s", i, strings.Repeat("n", int(d)%253))
		p := strings.TrimPrefix(dir+"/"+name, "./")
		if len(p) > 3000 || seen[p] {
			dir = "."
			continue
		}
		seen[p] = true
		e := tree.Entry{Path: p, Perm: uint16(a)<<4 | uint16(c)&0xf, UID: uint32(c), GID: uint32(d) << 20,
			ModTime: time.Unix(int64(a)<<24, int64(c)), Flags: tree.Flags(a) & tree.NoDump}
		switch kind % 6 {
		case 0, 1:
			content := noise[int(d)*64:][:sizes[int(a)%len(sizes)]+int(c)%3]
			e.Kind, e.Size, e.Open = tree.File, int64(len(content)), tree.Bytes(content)
			files = append(files, p)
		case 2:
			e.Kind, dir = tree.Dir, p
		case 3:
			e.Kind, e.Link = tree.Symlink, strings.Repeat("l", 1+int(a)*4)
		case 4:
			size := int64(a) << (c % 32)
			if size == 0 {
				continue
			}
			off := size * int64(d) / 256 / fsize * fsize
			s := sparseEntry(p, size, []tree.Range{{Off: off, Len: min(size-off, 5000)}})
			e.Kind, e.Size, e.Open, e.Holes = tree.File, size, s.Open, s.Holes
		case 5:
			if dir != "." {
				dir = "."
			}
			if len(files) == 0 {
				continue
			}
			e = tree.Entry{Path: p, Kind: tree.HardLink, Link: files[int(a)%len(files)]}
		}
		es = append(es, e)
	}
	return es
}

func FuzzShapes(f *testing.F) {
	f.Add([]byte{}, int64(0), uint16(0))
	f.Add([]byte("\x00\x03\x00\x00\x02\x00\x00\xff\x00\x09\x00\xff\x03\x1e\x00\x00\x05\x00\x00\x00"), int64(0), uint16(10))
	f.Add([]byte("\x04\xff\x17\x80\x04\x01\x1f\xff\x04\x80\x10\x01"), int64(3<<20), uint16(300))
	f.Add([]byte(strings.Repeat("\x00\x01\x00\xf0\x01\x08\x01\x20", 60)), int64(0), uint16(0))
	f.Add([]byte(strings.Repeat("\x02\x01\x00\xf0", 12)+"\x00\x00\x00\x00"), int64(9<<20+4096), uint16(0))
	f.Fuzz(func(t *testing.T, b []byte, size int64, inodes uint16) {
		tr, err := tree.New(shapes(b))
		if err != nil {
			t.Fatal(err)
		}
		if size < 0 || size > 32<<20 {
			size = 0
		}
		p, err := Layout(tr, Options{Size: size, FreeInodes: int64(inodes)})
		if err != nil {
			if size == 0 {
				t.Fatal(err)
			}
			return
		}
		if p.Size() > 32<<20 {
			return
		}
		m := make(memory, p.Size())
		for i := range m {
			m[i] = 0xa5
		}
		if err := p.Write(m); err != nil {
			t.Fatal(err)
		}
		if err := Verify(m, p.Size(), tr); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzOpen damages metadata: errors are fine, panics, loops and large
// allocations are not.
func FuzzOpen(f *testing.F) {
	p, m, _ := small(f)
	f.Add(uint32(sblockLoc+8), uint64(7), uint32(0), uint64(0))
	f.Add(uint32(p.sb.inodeOff(4)+208), uint64(1<<33), uint32(p.sb.inodeOff(4)+16), uint64(1<<50))
	f.Add(uint32(p.nodes[0].extents[0].addr*fsize), uint64(1<<60), uint32(p.sb.Cblkno*fsize+120), uint64(1<<31))
	h := p.nodes[p.inos["e/h"]-rootIno].indirs[0].addr
	f.Add(uint32(h*fsize), uint64(h), uint32(p.sb.inodeOff(p.inos["e/h"])+216), uint64(h))
	f.Fuzz(func(t *testing.T, off1 uint32, v1 uint64, off2 uint32, v2 uint64) {
		img := make(memory, len(m))
		copy(img, m)
		for _, c := range []struct {
			off uint32
			v   uint64
		}{{off1, v1}, {off2, v2}} {
			encode(img[int64(c.off)%int64(len(img)-8):], c.v)
		}
		fs, err := Open(img, int64(len(img)))
		if err != nil {
			return
		}
		_ = fs.Check()
		_, _ = fs.Ranges("e/h")
		tr, err := fs.Tree()
		if err != nil {
			return
		}
		for e := range tr.All() {
			if e.Kind != tree.File {
				continue
			}
			r, err := e.Open()
			if err != nil {
				continue
			}
			_, _ = io.CopyN(io.Discard, r, 1<<20)
			r.Close()
		}
	})
}
