package fat

import (
	"errors"
	"fmt"
	"math"
	"path"
	"sort"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// Options describe the volume. Size is required.
type Options struct {
	Size          int64     // bytes, a multiple of SectorSize
	SectorSize    int       // 512 or 4096; 0 = 512
	Label         string    // at most 11 characters; "" = none
	Serial        uint32    // volume id
	Time          time.Time // of the label, and of entries without a time
	HiddenSectors uint32    // sectors of the disk before the volume
}

// Plan is a volume laid out for a tree: every cluster has its place.
type Plan struct {
	geometry
	opts  Options
	label [11]byte
	root  *node
	order []*node // all nodes in order of their clusters, the root first
	next  uint32  // first cluster that is not allocated
}

// node is a file or directory on its way to the volume.
type node struct {
	entry    *tree.Entry
	parent   *node // the root's is itself
	children []*node
	short    shortName
	long     []uint16 // nil when short says it all
	slots    int      // directories: entries they hold
	first    uint32   // cluster; 0 = none
	clusters uint32
}

// Layout chooses the type of the volume and the place of everything in t. The
// type follows the size as FreeBSD's install-boot.sh does: FAT32 where 65525
// clusters of one sector fit (33292 KiB; 260 MiB with sectors of 4096 bytes),
// else FAT16, from about 2100 KiB, else FAT12. Up to 260 MiB clusters have one
// sector wherever the type allows it, as in bsdinstall's ESP. Symbolic
// and hard links, names FAT cannot store, names that differ only in case and
// files over 4 GiB-1 are refused, all of them in one error.
func Layout(t *tree.Tree, o Options) (*Plan, error) {
	if o.SectorSize == 0 {
		o.SectorSize = 512
	}
	p := &Plan{opts: o}
	var err error
	if p.label, err = label(o.Label); err != nil {
		return nil, fmt.Errorf("fat: %w", err)
	}
	if err := p.addNodes(t); err != nil {
		return nil, err
	}
	rootEntries := max(defaultRoot, p.root.slots)
	if p.geometry, err = chooseGeometry(o.Size, int64(o.SectorSize), rootEntries); err != nil {
		return nil, err
	}
	return p, p.allocate()
}

// addNodes makes the nodes of t, checks them, and names them.
func (p *Plan) addNodes(t *tree.Tree) error {
	var errs []error
	nodes := map[string]*node{}
	for e := range t.All() {
		n := &node{entry: e}
		nodes[e.Path] = n
		if e.Path == "." {
			n.parent, p.root = n, n
		} else {
			n.parent = nodes[path.Dir(e.Path)]
			n.parent.children = append(n.parent.children, n)
		}
		p.order = append(p.order, n)
		if err := checkEntry(e); err != nil {
			errs = append(errs, fmt.Errorf("fat %s: %w", e.Path, err))
		}
	}
	for _, n := range p.order {
		if n.entry.Kind == tree.Dir {
			if err := p.nameChildren(n); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func checkEntry(e *tree.Entry) error {
	switch {
	case e.Kind != tree.File && e.Kind != tree.Dir:
		return fmt.Errorf("it is a %s; FAT has only files and directories", e.Kind)
	case e.Size > maxFile:
		return fmt.Errorf("%d bytes; a file on FAT has at most %d", e.Size, int64(maxFile))
	case len(e.Path) > maxPath:
		return fmt.Errorf("path of %d bytes; %d is the limit", len(e.Path), maxPath)
	case e.Path == ".":
		return nil
	}
	return checkName(path.Base(e.Path))
}

// nameChildren gives the children of d their short names and counts d's slots.
func (p *Plan) nameChildren(d *node) error {
	names := make([]string, len(d.children))
	seen := make(map[string]string, len(names))
	var errs []error
	for i, c := range d.children {
		names[i] = path.Base(c.entry.Path)
		key := fold(names[i])
		if other, dup := seen[key]; dup {
			errs = append(errs, fmt.Errorf("fat %s: differs from %q only in case", c.entry.Path, other))
		}
		seen[key] = names[i]
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	shorts, err := aliases(names)
	if err != nil {
		return fmt.Errorf("fat %s: %w", d.entry.Path, err)
	}
	switch {
	case d != p.root:
		d.slots = 2 // . and ..
	case p.opts.Label != "":
		d.slots = 1
	}
	for i, c := range d.children {
		c.short, c.long = shorts[i], longUnits(names[i], shorts[i])
		d.slots += longSlots(c.long) + 1
	}
	if d.slots > maxDirSlots {
		return fmt.Errorf("fat %s: a directory of %d entries; %d is the limit", d.entry.Path, d.slots, maxDirSlots)
	}
	return nil
}

// chooseGeometry tries FAT32, FAT16 and FAT12, and clusters from the smallest
// sensible one on, until the number of clusters suits the type.
func chooseGeometry(size, sectorSize int64, rootEntries int) (geometry, error) {
	var g geometry
	if sectorSize != 512 && sectorSize != 4096 {
		return g, fmt.Errorf("fat: sector size %d is neither 512 nor 4096", sectorSize)
	}
	if size <= 0 || size%sectorSize != 0 || size/sectorSize > math.MaxUint32 {
		return g, fmt.Errorf("fat: %d bytes are not 1 to %d sectors of %d", size, int64(math.MaxUint32), sectorSize)
	}
	for _, t := range []struct {
		bits     int
		min, max int64 // clusters
		cluster  int64 // smallest cluster
	}{
		{32, minClusters32, maxClusters32, max(sectorSize, clusterFor(size))},
		{16, minClusters16 + typeMargin, minClusters32 - 1 - typeMargin, sectorSize},
		{12, 1, minClusters16 - 1 - typeMargin, sectorSize},
	} {
		g = geometry{bits: t.bits, sectorSize: sectorSize, sectors: uint32(size / sectorSize), fatCopies: fats}
		if t.bits == 32 {
			g.reserved, g.rootCluster = reserved32, firstCluster
		} else {
			perSector := int(sectorSize / direntSize)
			g.reserved, g.rootEntries = 1, uint32((rootEntries+perSector-1)/perSector*perSector)
		}
		for g.clusterSize = t.cluster; g.clusterSize <= maxCluster; g.clusterSize *= 2 {
			n := g.fitFAT()
			if n < t.min {
				break // larger clusters are fewer
			}
			if n <= t.max && g.rootEntries <= math.MaxUint16 {
				g.clusters = uint32(n)
				return g, nil
			}
		}
	}
	return g, fmt.Errorf("fat: no FAT volume of %d bytes in sectors of %d with %d root entries is possible", size, sectorSize, rootEntries)
}

// clusterFor is the smallest cluster of FAT32: one sector up to 260 MiB as
// bsdinstall makes its ESP, then the table of FATGEN103.
func clusterFor(size int64) int64 {
	switch {
	case size <= 260<<20:
		return 512
	case size <= 8<<30:
		return 4 << 10
	case size <= 16<<30:
		return 8 << 10
	case size <= 32<<30:
		return 16 << 10
	}
	return 32 << 10
}

// fitFAT sets fatSectors to the smallest FAT that describes all clusters it
// leaves room for, and returns their number.
func (g *geometry) fitFAT() int64 {
	g.fatSectors = 0
	limit := g.fatSectorsFor(g.countClusters())
	g.fatSectors = uint32(sort.Search(int(limit), func(n int) bool {
		g.fatSectors = uint32(n)
		return g.fatSectorsFor(g.countClusters()) <= int64(n)
	}))
	return g.countClusters()
}

// allocate gives every node its clusters: one run each, in tree order, so that
// p.order is also the order on disk.
func (p *Plan) allocate() error {
	p.next = firstCluster
	var used, need int64
	var over *node
	for _, n := range p.order {
		var bytes int64
		switch {
		case n.entry.Kind == tree.File:
			bytes = n.entry.Size
		case n == p.root && p.bits != 32: // has its own region
		default:
			bytes = max(1, int64(n.slots)*direntSize)
		}
		count := (bytes + p.clusterSize - 1) / p.clusterSize
		need += count
		if need > int64(p.clusters) && over == nil {
			over = n
		}
		if count == 0 || over != nil {
			continue
		}
		n.first, n.clusters = firstCluster+uint32(used), uint32(count)
		used += count
	}
	if over != nil {
		return fmt.Errorf("fat %s: volume is full: %d clusters of %d bytes are needed in all, FAT%d in %d bytes has %d",
			over.entry.Path, need, p.clusterSize, p.bits, p.opts.Size, p.clusters)
	}
	p.next += uint32(used)
	return nil
}
