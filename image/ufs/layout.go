package ufs

import (
	"encoding/binary"
	"errors"
	"path"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/diag"
)

// Options says what the file system is like beyond its files.
type Options struct {
	Label       string    // volume name, /dev/ufs/<Label>: at most 31 letters, digits, "-" and "_"
	Size        int64     // bytes, rounded down to fragments; 0 = the smallest that holds the tree plus Free
	Free        int64     // bytes kept free when Size is 0, in whole blocks
	FreeInodes  int64     // inodes kept free beyond the tree's, at least; growfs(8) keeps their ratio
	ID          [8]byte   // fs_id, and the seed of inode generations
	Time        time.Time // of the file system and of entries that have none, whole seconds; zero = 1970
	SoftUpdates bool
}

// Range is a run of bytes of the file system.
type Range = tree.Range

// Plan is a file system laid out: every address is known, nothing is written.
type Plan struct {
	sb    superblock
	nodes []inode           // by inode number, from rootIno
	inos  map[string]uint32 // path → inode number, hard links included
	used  bitmap            // fragments
	inUse bitmap            // inodes
	ndir  []int32           // directories in each cylinder group
	id    uint64
}

// inode is one file, directory or symlink and its place.
type inode struct {
	entry    *tree.Entry
	ino      uint32
	parent   uint32
	nlink    int
	depth    uint32
	dense    bool // its holes take room like data
	size     int64
	children []dirent   // directories: in tree order
	extents  []extent   // data, by lbn; gaps are holes
	indirs   []indirect // parents before children
}

type dirent struct {
	name string
	ino  uint32
	typ  uint8
}

// extent is a contiguous run of a file's data.
type extent struct {
	lbn   int64
	addr  int64 // fragment address
	frags int64 // a multiple of the block but for the file's tail
}

// indirect is one indirect block; level 0 holds the addresses of data.
type indirect struct {
	level int
	lbn   int64 // the first one it leads to
	addr  int64
}

// Layout gives everything in t a place. Owners must have been resolved. All
// problems of the tree are reported at once, as bad input.
func Layout(t *tree.Tree, o Options) (*Plan, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	p := &Plan{id: binary.LittleEndian.Uint64(o.ID[:]), inos: make(map[string]uint32, t.Len())}
	if err := p.number(t); err != nil {
		return nil, err
	}
	inodes := int64(len(p.nodes)) + rootIno + o.FreeInodes
	if o.Size != 0 {
		lacking, err := p.place(o, o.Size/fsize, inodes)
		if err == nil && lacking > 0 {
			err = diag.Hint(diag.Inputf("layout ufs of %d bytes: the tree needs %d bytes more", o.Size, lacking*fsize),
				"a size of 0 gives the smallest file system that holds the tree")
		}
		if err != nil {
			return nil, err
		}
		return p, nil
	}
	// From below: each round adds what the one before lacked.
	frags := smallest(inodes) + roundup(p.dataFrags()+howmany(o.Free, fsize), frag)
	for {
		lacking, err := p.place(o, frags, inodes)
		if err != nil {
			return nil, err
		}
		lacking = max(lacking, roundup(howmany(o.Free, fsize), frag)-p.sb.Cstotal.Nbfree*frag)
		if lacking <= 0 {
			return p, nil
		}
		frags += roundup(lacking, frag)
	}
}

// Size is the size of the file system in bytes.
func (p *Plan) Size() int64 { return p.sb.Size * fsize }

func ranges(sb *superblock, exts []extent, size int64) []Range {
	var out []Range
	for _, x := range exts {
		r := Range{Off: x.addr * int64(sb.Fsize), Len: min(x.frags*int64(sb.Fsize), size-x.lbn*int64(sb.Bsize))}
		if n := len(out); n > 0 && out[n-1].End() == r.Off {
			out[n-1].Len += r.Len
		} else {
			out = append(out, r)
		}
	}
	return out
}

func (o *Options) validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, diag.Inputf("layout ufs: "+format, args...)) }
	if len(o.Label) >= maxVolLen {
		bad("label %q has %d bytes; %d is the limit", o.Label, len(o.Label), maxVolLen-1)
	}
	for _, c := range []byte(o.Label) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			bad("label %q may have letters, digits, \"-\" and \"_\" only", o.Label)
			break
		}
	}
	if o.Size < 0 || o.Free < 0 || o.FreeInodes < 0 {
		bad("size %d, free %d and free inodes %d must not be negative", o.Size, o.Free, o.FreeInodes)
	}
	return errors.Join(errs...)
}

func (o *Options) unix() int64 {
	if o.Time.IsZero() {
		return 0
	}
	return o.Time.Unix()
}

// number makes the inodes, in tree order, and the directories' contents.
func (p *Plan) number(t *tree.Tree) error {
	var errs []error
	p.nodes = make([]inode, 0, t.Len()) // it never grows: nodes may be pointed at
	for e := range t.All() {
		if err := checkEntry(e); err != nil {
			errs = append(errs, err)
			continue
		}
		var n *inode
		if e.Kind == tree.HardLink {
			target, ok := p.inos[e.Link]
			if !ok {
				continue // its file was reported
			}
			n = &p.nodes[target-rootIno]
		} else {
			p.nodes = append(p.nodes, inode{entry: e, ino: uint32(len(p.nodes)) + rootIno})
			n = &p.nodes[len(p.nodes)-1]
		}
		p.inos[e.Path] = n.ino
		n.nlink++
		n.dense = n.dense || strings.HasPrefix(e.Path, "boot/") // gptboot reads a hole as block 0
		if e.Path == "." {
			n.parent, n.nlink = n.ino, 2
			continue
		}
		up := &p.nodes[p.inos[path.Dir(e.Path)]-rootIno]
		up.children = append(up.children, dirent{path.Base(e.Path), n.ino, uint8(n.mode() >> 12)})
		if e.Kind == tree.Dir {
			n.parent, n.depth = up.ino, up.depth+1
			n.nlink++ // "."
			up.nlink++
		}
	}
	for i := range p.nodes {
		n := &p.nodes[i]
		if n.nlink > linkMax {
			errs = append(errs, diag.Inputf("layout %s: %d links; %d is the limit of ufs", n.entry.Path, n.nlink, linkMax))
		}
		switch n.entry.Kind {
		case tree.Dir:
			n.size = int64(len(n.dirBytes()))
		case tree.Symlink:
			n.size = int64(len(n.entry.Link))
		default:
			n.size = n.entry.Size
		}
	}
	return errors.Join(errs...)
}

func checkEntry(e *tree.Entry) error {
	switch {
	case len(e.Path) > maxPath:
		return diag.Inputf("layout %.60s…: path of %d bytes; %d is the limit", e.Path, len(e.Path), maxPath)
	case e.Flags&sfSnapshot != 0:
		return diag.Inputf("layout %s: the snapshot flag cannot be set by hand", e.Path)
	case e.Kind == tree.Symlink && len(e.Link) > maxLink:
		return diag.Inputf("layout %s: symlink target of %d bytes; %d is the limit", e.Path, len(e.Link), maxLink)
	case e.Kind == tree.File && uint64(e.Size) > maxFileSize(bsize):
		return diag.Inputf("layout %s: file of %d bytes; %d is the limit of ufs", e.Path, e.Size, maxFileSize(bsize))
	}
	return nil
}

func (n *inode) mode() uint16 {
	switch n.entry.Kind {
	case tree.Dir:
		return ifDIR | n.entry.Perm
	case tree.Symlink:
		return ifLNK | n.entry.Perm
	}
	return ifREG | n.entry.Perm
}

// inline says whether the content is in the inode itself.
func (n *inode) inline() bool { return n.entry.Kind == tree.Symlink && n.size < maxInline }

// dirBytes is the content of a directory: entries packed into chunks of 512, the
// last entry of a chunk taking its rest.
func (n *inode) dirBytes() []byte {
	out := make([]byte, 0, dirBlkSize)
	last, room := 0, 0 // offset of the last entry; bytes left in its chunk
	add := func(d dirent) {
		need := roundup(sizeofDirent+len(d.name)+1, 4)
		if need > room {
			if room > 0 {
				grow := binary.LittleEndian.Uint16(out[last+4:]) + uint16(room)
				binary.LittleEndian.PutUint16(out[last+4:], grow)
			}
			out = append(out, make([]byte, room)...)
			room = dirBlkSize
		}
		last = len(out)
		out = append(out, make([]byte, need)...)
		encode(out[last:], &direntHeader{d.ino, uint16(need), d.typ, uint8(len(d.name))})
		copy(out[last+sizeofDirent:], d.name)
		room -= need
	}
	add(dirent{".", n.ino, ifDIR >> 12})
	add(dirent{"..", n.parent, ifDIR >> 12})
	for _, d := range n.children {
		add(d)
	}
	binary.LittleEndian.PutUint16(out[last+4:], binary.LittleEndian.Uint16(out[last+4:])+uint16(room))
	return append(out, make([]byte, room)...)
}

// runs lists the blocks of a file that need room, as extents without address.
// The last block always does: fsck_ffs allows no hole there.
func (n *inode) runs() []extent {
	if n.size == 0 || n.inline() {
		return nil
	}
	blocks := howmany(n.size, bsize)
	var out []extent
	next := int64(0)
	if !n.dense {
		for _, h := range n.entry.Holes {
			first, end := howmany(h.Off, bsize), min(h.End()/bsize, blocks-1)
			if first >= end {
				continue
			}
			if first > next {
				out = append(out, extent{lbn: next, frags: (first - next) * frag})
			}
			next = end
		}
	}
	return append(out, extent{lbn: next, frags: (blocks - next) * frag})
}
