package ufs

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
)

// small is a file system in memory and where its inodes are.
func small(t testing.TB) (*Plan, memory, *tree.Tree) {
	t.Helper()
	tr := mktree(t, mkfile("d/f", 40000, 1), mkfile("d/g", 500, 2), mkfile("e/h", 13*bsize, 3), mklink("l", "target"),
		mklink("long", strings.Repeat("x", 200)), tree.Entry{Path: "m", Kind: tree.HardLink, Link: "d/f"})
	p, err := Layout(tr, Options{Free: 256 << 10})
	if err != nil {
		t.Fatal(err)
	}
	m := make(memory, p.Size())
	for i := range m {
		m[i] = 0xa5
	}
	if err := p.Write(m); err != nil {
		t.Fatal(err)
	}
	return p, m, tr
}

func TestCheckFinds(t *testing.T) {
	le := binary.LittleEndian
	type damage func(p *Plan, m memory)
	// node changes a stored inode.
	node := func(path string, f func(d *dinode)) damage {
		return func(p *Plan, m memory) {
			b := m[p.sb.inodeOff(p.inos[path]):]
			var d dinode
			decode(b, &d)
			f(&d)
			encode(b, &d)
		}
	}
	super := func(f func(sb *superblock)) damage {
		return func(p *Plan, m memory) {
			sb := p.sb
			f(&sb)
			encode(m[sblockLoc:], &sb)
		}
	}
	group := func(f func(h *cgHeader, b []byte)) damage {
		return func(p *Plan, m memory) {
			b := m[int64(p.sb.Cblkno)*fsize:]
			var h cgHeader
			decode(b, &h)
			f(&h, b)
			encode(b, &h)
		}
	}
	// dir changes the content of a directory.
	dir := func(path string, f func(p *Plan, b []byte)) damage {
		return func(p *Plan, m memory) { f(p, m[p.nodes[p.inos[path]-rootIno].extents[0].addr*fsize:]) }
	}
	for _, c := range []struct {
		name string
		do   damage
		want string
	}{
		{"link count", node("d/f", func(d *dinode) { d.Nlink = 3 }), "link count is 3, names 2"},
		{"directory links", node("d", func(d *dinode) { d.Nlink = 1 }), "link count is 1, names 2"},
		{"sectors", node("d/f", func(d *dinode) { d.Blocks++ }), "sectors, has"},
		{"twice", node("d/g", func(d *dinode) { d.DB[0]-- }), "is in use twice"},
		{"address", node("d/g", func(d *dinode) { d.DB[0] = 1 << 40 }), "bad block address 1099511627776"},
		{"metadata", node("d/g", func(d *dinode) { d.DB[0] = 33 }), "bad block address 33"},
		{"behind", node("d/g", func(d *dinode) { d.DB[3] = d.DB[0] }), "block 3 is behind the end"},
		{"hole at end", node("d/f", func(d *dinode) { d.DB[1] = 0 }), "but its last block is 0"},
		{"indirect", node("e/h", func(d *dinode) { d.IB[1] = d.IB[0] }), "indirect block for block 4108 is behind the end"},
		{"depth", node("d", func(d *dinode) { d.Dirdepth = 7 }), "/d/: dirdepth is 7, not 1"},
		{"type", node("d/f", func(d *dinode) { d.Mode = 0o070644 }), "has no file type"},
		{"freed", node("d/f", func(d *dinode) { *d = dinode{} }), "leads to free inode"},
		{"partly freed", node("d/f", func(d *dinode) { d.Mode = 0 }), "partially allocated"},
		{"link target", node("l", func(d *dinode) { d.Size = 4 }), "symlink of 4 bytes with a NUL or more behind it"},
		{"device", node("d/f", func(d *dinode) { d.Mode = ifCHR }), "device of 40000 bytes"},
		{"file for directory", node("d", func(d *dinode) { d.Mode = ifREG | 0o755 }), "entry type is 4"},
		{"directory size", node("d", func(d *dinode) { d.Size = 500 }), "directory of 500 bytes"},
		{"entry type", dir("d", func(_ *Plan, b []byte) { b[6] = 8 }), "entry type is 8"},
		{"dot", dir("d", func(_ *Plan, b []byte) { b[0]++ }), `"." is inode`},
		{"dot dot", dir("d", func(_ *Plan, b []byte) { b[12]++ }), `".." is inode`},
		{"no dots", dir("d", func(_ *Plan, b []byte) { b[8] = 'x' }), `does not begin with "." and ".."`},
		{"record length", dir("d", func(_ *Plan, b []byte) { le.PutUint16(b[4:], 0) }), "directory entry at 0 has length 0"},
		{"slash", dir("d", func(_ *Plan, b []byte) { b[32] = '/' }), `has the name "/"`},
		{"second name", dir("d", func(_ *Plan, b []byte) { b[32] = 'g' }), "two entries of one name"},
		{"loop", dir("d", func(p *Plan, b []byte) { le.PutUint32(b[24:], p.inos["e"]); b[30] = 4 }), "has a second name"},
		{"dirty", super(func(sb *superblock) { sb.Clean = 0 }), "not clean"},
		{"totals", super(func(sb *superblock) { sb.Cstotal.Nbfree++ }), "superblock: totals are"},
		{"copy", func(p *Plan, m memory) { m[int64(p.sb.Sblkno)*fsize+1372] = 0 }, "copy of the superblock"},
		{"summary", func(p *Plan, m memory) { m[p.sb.Csaddr*fsize]++ }, "cylinder group 0: summary is"},
		{"group number", group(func(h *cgHeader, _ []byte) { h.Cgx = 9 }), "cylinder group 0: bad header"},
		{"group count", group(func(h *cgHeader, _ []byte) { h.Cs.Nffree++ }), "cylinder group 0: header is"},
		{"rotor", group(func(h *cgHeader, _ []byte) { h.Rotor = 1 << 30 }), "rotors"},
		{"inode map", group(func(h *cgHeader, b []byte) { b[h.Iusedoff+2] ^= 1 }), "map of inodes differs in 1 bytes, the first at 2"},
		{"fragment map", group(func(h *cgHeader, b []byte) { b[h.Freeoff] ^= 1 }), "map of free fragments differs in 1 bytes"},
		{"cluster map", group(func(h *cgHeader, b []byte) { b[h.Clusteroff] ^= 1 }), "map of clusters differs in 1 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, m, _ := small(t)
			c.do(p, m)
			f, err := Open(m, int64(len(m)))
			if err != nil {
				t.Fatal(err)
			}
			wantError(t, f.Check(), c.want)
			_, _ = f.Tree() // must return
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(sb *superblock)
		want string
	}{
		{"magic", func(sb *superblock) { sb.Magic = 0x011954 }, "superblock: magic is 0x11954, not 0x19540119"},
		{"unfinished", func(sb *superblock) { sb.Magic = magicBad }, "newfs did not finish"},
		{"block size", func(sb *superblock) { sb.Bsize = 3 }, "superblock: bsize is 3"},
		{"fragments", func(sb *superblock) { sb.Frag = 0 }, "superblock: frag is 0"},
		{"groups", func(sb *superblock) { sb.Ncg = 0 }, "superblock: ncg is 0"},
		{"group size", func(sb *superblock) { sb.Fpg = 8 }, "superblock: fpg is 8"},
		{"inodes", func(sb *superblock) { sb.Ipg = 5 }, "1 groups of 5 inodes"},
		{"size", func(sb *superblock) { sb.Size *= 2 }, "superblock: size is"},
		{"device", func(sb *superblock) { sb.Size += 8; sb.Fpg += 8 }, "the device has"},
		{"data", func(sb *superblock) { sb.Dblkno++ }, "superblock: dblkno is"},
		{"summary", func(sb *superblock) { sb.Csaddr = -1 }, "superblock: csaddr is -1"},
		{"place", func(sb *superblock) { sb.Sblockloc = 8192 }, "superblock: sblockloc is 8192"},
		{"clusters", func(sb *superblock) { sb.Contigsumsize = 3 }, "superblock: contigsumsize is 3"},
		{"hash", func(sb *superblock) { sb.Flags, sb.Metackhash = flagCkHash, ckSuper }, "superblock: check hash is 0x00000000"},
		{"reserve", func(sb *superblock) { sb.Minfree = 100 }, "superblock: minfree is 100"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, m, _ := small(t)
			c.do(&p.sb)
			encode(m[sblockLoc:], &p.sb)
			_, err := Open(m, int64(len(m)))
			wantError(t, err, c.want)
		})
	}
	_, m, _ := small(t)
	_, err := Open(m, 1000)
	wantError(t, err, "open ufs: superblock: read of 8192 bytes at 65536: unexpected EOF")
	_, err = Open(m, int64(len(m))-bsize)
	wantError(t, err, "the device has")
}

func TestVerifyFinds(t *testing.T) {
	p, m, tr := small(t)
	for _, c := range []struct {
		name string
		do   func(e *tree.Entry)
		want string
	}{
		{"mode", func(e *tree.Entry) { e.Perm = 0o600 }, "d/f: mode is 0644, not 0600"},
		{"owner", func(e *tree.Entry) { e.UID = 7 }, "d/f: owner is 0:0, not 7:0"},
		{"flags", func(e *tree.Entry) { e.Flags = tree.Immutable }, `d/f: flags is "", not "schg"`},
		{"time", func(e *tree.Entry) { e.ModTime = e.ModTime.Add(1) }, "d/f: time is 2025-06-15T15:06:40.123456789Z, not"},
		{"size", func(e *tree.Entry) { e.Size++ }, "d/f: size is 40000, not 40001"},
		{"path", func(e *tree.Entry) { e.Path = "d/x" }, "d/x: missing"},
		{"path", func(e *tree.Entry) { e.Path = "d/x" }, "d/f: nothing described it"},
		{"content", func(e *tree.Entry) { b := pattern(40000, 1); b[33333]++; e.Open = tree.Bytes(b) }, "d/f: content differs at byte 33333"},
		{"short content", func(e *tree.Entry) { e.Open = tree.Bytes(nil) }, "d/f: described content: EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var es []tree.Entry
			for e := range tr.All() {
				x := *e
				if x.Path == "d/f" {
					c.do(&x)
				} else if x.Path == "m" {
					continue
				}
				es = append(es, x)
			}
			wantError(t, Verify(m, p.Size(), mktree(t, es...)), c.want)
		})
	}
	if err := Verify(m, p.Size(), tr); err != nil {
		t.Error(err)
	}
}
