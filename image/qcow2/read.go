package qcow2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/flate"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Reader reads the virtual disk of an image. It may be used by several goroutines
// at once.
type Reader struct {
	*vdisk.Blocks
	r         io.ReaderAt
	length    int64 // of the file
	h         header
	l1        []entry
	inflaters sync.Pool

	mu    sync.Mutex // guards the last table used
	group int64
	l2    *[l2Entries]entry
}

// Open reads header and L1 table of an image of size bytes and checks that they are
// of the kind that Write makes. No more memory is allocated than the image is long.
func Open(r io.ReaderAt, size int64) (*Reader, error) {
	v := &Reader{r: r, length: size, group: -1}
	if err := v.open(); err != nil {
		return nil, fmt.Errorf("open qcow2: %w", err)
	}
	v.Blocks = vdisk.NewBlocks(int64(v.h.Size), clusterSize, v.fill)
	return v, nil
}

func (v *Reader) open() error {
	if err := v.readStruct(0, &v.h); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	if err := v.h.check(v.length); err != nil {
		return fmt.Errorf("header: %w", err)
	}
	v.l1 = make([]entry, v.h.L1Entries)
	if err := v.readStruct(int64(v.h.L1Offset), v.l1); err != nil {
		return fmt.Errorf("L1 table: %w", err)
	}
	for i, e := range v.l1 {
		if err := v.checkEntry(e); err != nil {
			return fmt.Errorf("L1 table: entry %d: %w", i, err)
		}
	}
	return nil
}

func (h *header) check(size int64) error {
	switch {
	case string(h.Magic[:]) != magic:
		return errors.New("not a QCOW2: it does not begin with QFI")
	case h.Version != version || h.ClusterBits != clusterBits || h.RefcountOrder != refcountOrder || h.Incompatible != 0 || h.HeaderLength != headerLength:
		return fmt.Errorf("version %d, clusters of 1<<%d bytes, features %#x; only version 3 with clusters of 64 KiB and no features is supported",
			h.Version, h.ClusterBits, h.Incompatible)
	case h.BackingOffset != 0 || h.Encryption != 0 || h.Snapshots != 0:
		return errors.New("backing files, encryption and snapshots are not supported")
	case h.Size == 0 || h.Size%vdisk.Sector != 0 || h.Size > maxL1*l2Entries*clusterSize ||
		uint64(h.L1Entries) != (h.Size+l2Entries*clusterSize-1)/(l2Entries*clusterSize):
		return fmt.Errorf("%d L1 entries for a disk of %d bytes", h.L1Entries, h.Size)
	case size%clusterSize != 0 || !inside(h.L1Offset, 8*int64(h.L1Entries), size):
		return fmt.Errorf("L1 table at %d of %d bytes", h.L1Offset, size)
	case !inside(h.RefTableOffset, int64(h.RefTableClusters)*clusterSize, size):
		return fmt.Errorf("refcount table at %d of %d bytes", h.RefTableOffset, size)
	}
	return nil
}

// inside reports whether n bytes at the start of a cluster are within size bytes.
func inside(off uint64, n, size int64) bool {
	return off >= clusterSize && off%clusterSize == 0 && off <= math.MaxInt64 && n <= size && int64(off) <= size-n
}

func (v *Reader) readStruct(off int64, p any) error {
	b := make([]byte, binary.Size(p))
	if err := vdisk.ReadFull(v.r, b, off); err != nil {
		return err
	}
	_, err := binary.Decode(b, binary.BigEndian, p)
	return err
}

// checkEntry asks for a cluster in the file, or none.
func (v *Reader) checkEntry(e entry) error {
	switch {
	case e == 0:
		return nil
	case e&compressed != 0:
		if start, end := e.packed(); e&copied != 0 || start < clusterSize || end > v.length {
			return fmt.Errorf("%#x is not a compressed cluster of %d bytes", uint64(e), v.length)
		}
	case e&^offsetMask != copied || !inside(uint64(e.offset()), clusterSize, v.length):
		return fmt.Errorf("%#x is not a cluster of %d bytes", uint64(e), v.length)
	}
	return nil
}

// entry returns what the tables say of a cluster of the disk.
func (v *Reader) entry(i int64) (entry, error) {
	g := i / l2Entries
	if v.l1[g] == 0 {
		return 0, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.group != g {
		t := new([l2Entries]entry)
		if err := v.readStruct(v.l1[g].offset(), t); err != nil {
			return 0, fmt.Errorf("L2 table %d: %w", g, err)
		}
		v.group, v.l2 = g, t
	}
	e := v.l2[i%l2Entries]
	return e, v.checkEntry(e)
}

// Allocated reports whether a cluster is stored that holds any of the n bytes at
// off.
func (v *Reader) Allocated(off, n int64) bool {
	for i := off / clusterSize; i*clusterSize < min(off+n, v.Size()); i++ {
		if e, err := v.entry(i); err != nil || e != 0 {
			return true
		}
	}
	return false
}

func (v *Reader) fill(i int64, b []byte) error {
	e, err := v.entry(i)
	switch {
	case err != nil:
	case e == 0:
		clear(b)
	case e&compressed != 0:
		err = v.inflate(e, b)
	default:
		err = vdisk.ReadFull(v.r, b, e.offset())
	}
	if err != nil {
		return fmt.Errorf("qcow2 cluster %d: %w", i, err)
	}
	return nil
}

// inflater is what reading one compressed cluster needs, kept to be used again.
type inflater struct {
	in  bytes.Reader
	raw []byte
	fr  io.ReadCloser
}

func (v *Reader) inflate(e entry, b []byte) error {
	f, _ := v.inflaters.Get().(*inflater)
	if f == nil {
		f = &inflater{raw: make([]byte, clusterSize+2*vdisk.Sector)}
		f.fr = flate.NewReader(&f.in)
	}
	defer v.inflaters.Put(f)
	start, end := e.packed()
	if end-start > int64(len(f.raw)) {
		return fmt.Errorf("%d bytes compressed", end-start)
	}
	raw := f.raw[:end-start]
	if err := vdisk.ReadFull(v.r, raw, start); err != nil {
		return err
	}
	f.in.Reset(raw)
	if err := f.fr.(flate.Resetter).Reset(&f.in, nil); err != nil {
		return err
	}
	if _, err := io.ReadFull(f.fr, b); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// Check counts the references to every cluster of the file and compares them with
// the refcounts stored.
func (v *Reader) Check() error {
	refs := make([]uint16, v.length/clusterSize)
	count := func(start, end int64) {
		for c := start / clusterSize; c*clusterSize < end; c++ {
			refs[c]++
		}
	}
	count(0, clusterSize)
	count(int64(v.h.L1Offset), int64(v.h.L1Offset)+8*int64(v.h.L1Entries))
	count(int64(v.h.RefTableOffset), int64(v.h.RefTableOffset)+int64(v.h.RefTableClusters)*clusterSize)
	for g, e := range v.l1 {
		if e == 0 {
			continue
		}
		count(e.offset(), e.offset()+clusterSize)
		for i := range int64(l2Entries) {
			switch e, err := v.entry(int64(g)*l2Entries + i); {
			case err != nil:
				return fmt.Errorf("check qcow2: cluster %d: %w", int64(g)*l2Entries+i, err)
			case e&compressed != 0:
				count(e.packed())
			case e != 0:
				count(e.offset(), e.offset()+clusterSize)
			}
		}
	}
	return v.compareRefs(refs, count)
}

func (v *Reader) compareRefs(refs []uint16, count func(start, end int64)) error {
	table := make([]entry, int64(v.h.RefTableClusters)*clusterSize/8)
	if err := v.readStruct(int64(v.h.RefTableOffset), table); err != nil {
		return fmt.Errorf("check qcow2: refcount table: %w", err)
	}
	for i, e := range table {
		if e != 0 && !inside(uint64(e), clusterSize, v.length) {
			return fmt.Errorf("check qcow2: refcount block %d at %d", i, uint64(e))
		}
		if e != 0 {
			count(int64(e), int64(e)+clusterSize)
		}
	}
	var block [refsInBlock]uint16
	for c := 0; c < len(refs); c += refsInBlock {
		i := c / refsInBlock
		if i >= len(table) || table[i] == 0 {
			return fmt.Errorf("check qcow2: no refcount of cluster %d", c)
		}
		if err := v.readStruct(int64(table[i]), &block); err != nil {
			return fmt.Errorf("check qcow2: refcount block %d: %w", i, err)
		}
		for k, want := range refs[c:min(len(refs), c+refsInBlock)] {
			if block[k] != want {
				return fmt.Errorf("check qcow2: the refcount of cluster %d is %d; it has %d references", c+k, block[k], want)
			}
		}
	}
	return nil
}

// Verify reads the image of n bytes back and compares it with the source it was
// made from: tables, refcounts, every cluster.
func Verify(img io.ReaderAt, n int64, src vdisk.Source) error {
	v, err := Open(img, n)
	if err == nil {
		err = v.Check()
	}
	if err == nil {
		err = vdisk.Verify(v, src, vdisk.Sector)
	}
	if err != nil {
		return fmt.Errorf("verify qcow2: %w", err)
	}
	return nil
}
