package qcow2

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"

	"github.com/klauspost/compress/flate"
	"github.com/rig-freebsd/rig/internal/vdisk"
)

// Options describe an image; the zero value is fast.
type Options struct {
	Compress bool // clusters that become smaller by it
	Workers  int  // goroutines that read and compress; 0 = all cores, at most 16
}

// chunk is what one worker prepares at a time.
const (
	chunk         = 512 << 10
	chunkClusters = chunk / clusterSize
)

// piece is a prepared chunk.
type piece struct {
	raw      [chunk]byte
	packed   bytes.Buffer
	clusters [chunkClusters]cluster
}

type cluster struct {
	zero     bool
	from, to int // in packed; to 0: not compressed
}

// Write writes src as an image to dst from offset 0 on, header last, and returns
// its length. The virtual disk is as long as src, rounded up to 512. The same
// input and Options give the same bytes, however many Workers there are. Memory is
// about 3 MiB a worker and 2 bytes a cluster. After Write, use [Verify].
func Write(dst io.WriterAt, src vdisk.Source, o Options) (n int64, err error) {
	if err := src.Validate(); err != nil {
		return 0, fmt.Errorf("write qcow2: %w", err)
	}
	size := vdisk.Align(src.Size, vdisk.Sector)
	groups := vdisk.Align(size, l2Entries*clusterSize) / (l2Entries * clusterSize)
	if groups > maxL1 {
		return 0, fmt.Errorf("write qcow2: %d bytes are too many", src.Size)
	}
	w := &writer{w: bufio.NewWriterSize(io.NewOffsetWriter(dst, clusterSize), 1<<20), pos: clusterSize,
		refs: []uint16{1}, l1: make([]entry, groups), group: -1}
	err = vdisk.InOrder(src.Chunks(chunk), vdisk.Workers(o.Workers), func() func(int64, *piece) error {
		return newPreparer(src, o.Compress)
	}, w.add)
	if err != nil {
		return 0, fmt.Errorf("write qcow2: %w", err)
	}
	w.finishGroup()
	h := header{Version: version, ClusterBits: clusterBits, Size: uint64(size), L1Entries: uint32(groups),
		L1Offset: uint64(w.table(w.l1)), RefcountOrder: refcountOrder, HeaderLength: headerLength}
	copy(h.Magic[:], magic)
	h.RefTableOffset, h.RefTableClusters = w.refcounts()
	if err := w.w.Flush(); err != nil {
		return 0, fmt.Errorf("write qcow2: %w", err)
	}
	head := make([]byte, clusterSize)
	binary.Encode(head, binary.BigEndian, &h)
	if _, err := dst.WriteAt(head, 0); err != nil {
		return 0, fmt.Errorf("write qcow2: %w", err)
	}
	return w.pos, nil
}

// newPreparer returns the work of one goroutine: a chunk of src, its clusters
// compressed where that pays.
func newPreparer(src vdisk.Source, compress bool) func(int64, *piece) error {
	fw, err := flate.NewWriterWindow(io.Discard, window)
	return func(i int64, p *piece) error {
		if err != nil {
			return err
		}
		if err := src.Read(p.raw[:], i*chunk); err != nil {
			return err
		}
		p.packed.Reset()
		for k := range p.clusters {
			b, c := p.raw[k*clusterSize:][:clusterSize], &p.clusters[k]
			*c = cluster{zero: vdisk.IsZero(b)}
			if c.zero || !compress {
				continue
			}
			c.from = p.packed.Len()
			fw.Reset(&p.packed)
			if _, err := fw.Write(b); err != nil {
				return err
			}
			if err := fw.Close(); err != nil {
				return err
			}
			if c.to = p.packed.Len(); c.to-c.from >= clusterSize {
				p.packed.Truncate(c.from)
				c.to = 0
			}
		}
		return nil
	}
}

// writer writes forward; bufio keeps the first error.
type writer struct {
	w     *bufio.Writer
	pos   int64
	refs  []uint16 // of the clusters of the file
	l1    []entry
	group int64 // number of l2, -1 before the first
	l2    [l2Entries]entry
}

// bytes writes b and counts a reference to each cluster it touches.
func (w *writer) bytes(b []byte) {
	end := w.pos + int64(len(b))
	for c := w.pos / clusterSize; c*clusterSize < end; c++ {
		if c == int64(len(w.refs)) {
			w.refs = append(w.refs, 0)
		}
		w.refs[c]++
	}
	w.w.Write(b) // Flush reports the error
	w.pos = end
}

// align goes on to the next cluster; what it skips belongs to compressed clusters.
func (w *writer) align() {
	n := vdisk.Align(w.pos, clusterSize) - w.pos
	w.w.Write(make([]byte, n)) // Flush reports the error
	w.pos += n
}

// table writes a table in clusters of its own and returns where.
func (w *writer) table(t any) int64 {
	w.align()
	at := w.pos
	b := make([]byte, vdisk.Align(int64(binary.Size(t)), clusterSize))
	binary.Encode(b, binary.BigEndian, t)
	w.bytes(b)
	return at
}

func (w *writer) add(i int64, p *piece) error {
	if g := i * chunk / (l2Entries * clusterSize); g != w.group {
		w.finishGroup()
		w.group = g
	}
	for k, c := range p.clusters {
		if c.zero {
			continue
		}
		e := &w.l2[(i*chunkClusters+int64(k))%l2Entries]
		if c.to > 0 {
			*e = pack(w.pos, int64(c.to-c.from))
			w.bytes(p.packed.Bytes()[c.from:c.to])
			continue
		}
		w.align()
		*e = copied | entry(w.pos)
		w.bytes(p.raw[k*clusterSize:][:clusterSize])
	}
	_, err := w.w.Write(nil) // an earlier error
	return err
}

// finishGroup writes the L2 table, if any of its clusters is stored.
func (w *writer) finishGroup() {
	if w.group >= 0 && w.l2 != [l2Entries]entry{} {
		w.l1[w.group] = copied | entry(w.table(&w.l2))
	}
	clear(w.l2[:])
}

// refcounts writes the refcounts of all clusters, those of their own tables
// included, and returns where the table of blocks is.
func (w *writer) refcounts() (offset uint64, clusters uint32) {
	w.align()
	used := w.pos / clusterSize
	blocks, tables := int64(0), int64(0)
	for {
		b := vdisk.Align(used+blocks+tables, refsInBlock) / refsInBlock
		t := vdisk.Align(8*b, clusterSize) / clusterSize
		if b == blocks && t == tables {
			break
		}
		blocks, tables = b, t
	}
	refs := make([]uint16, blocks*refsInBlock)
	copy(refs, w.refs)
	for i := range blocks + tables {
		refs[used+i] = 1
	}
	table := make([]uint64, blocks)
	for i := range table {
		table[i] = uint64(w.table(refs[i*refsInBlock:][:refsInBlock]))
	}
	return uint64(w.table(table)), uint32(tables)
}
