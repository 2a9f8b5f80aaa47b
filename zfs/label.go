package zfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The label of a pool member (OpenZFS 2.4 include/sys/vdev_impl.h): two at the
// beginning of the device and two at the end of its last whole 256 KiB.
const (
	labelSize  = 256 << 10
	labelCount = 4
	physOffset = 16 << 10  // vdev_phys_t within the label
	physSize   = 112 << 10 // packed nvlist, then zio_eck_t
	eckSize    = 8 + 32    // zec_magic, zec_cksum
	eckMagic   = 0x210da7ab10c7a11
)

// PoolState is the state of the pool a label was written for.
type PoolState uint64

// Values of pool_state_t that are found on disk (include/sys/fs/zfs.h).
const (
	StateActive    PoolState = 0 // imported when last written
	StateExported  PoolState = 1
	StateDestroyed PoolState = 2
	StateSpare     PoolState = 3 // hot spare, not in use; its label names no pool
	StateL2Cache   PoolState = 4
)

// String is the state as zpool names it.
func (s PoolState) String() string {
	names := [...]string{"active", "exported", "destroyed", "spare", "cache"}
	if s < PoolState(len(names)) {
		return names[s]
	}
	return fmt.Sprintf("state %d", uint64(s))
}

// Label is what the label of a pool member says.
type Label struct {
	Pool     string    `json:"pool,omitempty"` // "" for a spare or a cache device
	PoolGUID uint64    `json:"poolGUID,omitempty"`
	GUID     uint64    `json:"guid"` // of this device
	TopGUID  uint64    `json:"topGUID,omitempty"`
	Path     string    `json:"path,omitempty"` // of this device, as the last system knew it
	State    PoolState `json:"state"`
	Hostname string    `json:"hostname,omitempty"`
	HostID   uint64    `json:"hostID,omitempty"`
	TXG      uint64    `json:"txg,omitempty"` // 0 for a spare or a cache device
	Version  uint64    `json:"version,omitempty"`
	Tree     LabelVdev `json:"tree,omitzero"` // the top-level vdev this device belongs to
}

// LabelVdev is a vdev of a label's tree.
type LabelVdev struct {
	Type     string      `json:"type"` // "mirror", "disk", "raidz", "spare", "replacing", "file"
	GUID     uint64      `json:"guid"`
	Path     string      `json:"path,omitempty"` // of a leaf, as the last system knew it
	Ashift   uint64      `json:"ashift,omitempty"`
	Spare    bool        `json:"spare,omitempty"` // a hot spare in use
	Children []LabelVdev `json:"children,omitempty"`
}

// String is the label in words: "pool zroot (exported)", "ZFS spare".
func (l *Label) String() string {
	switch l.State {
	case StateSpare, StateL2Cache:
		return "ZFS " + l.State.String()
	}
	return fmt.Sprintf("pool %s (%s)", l.Pool, l.State)
}

// Paths returns the leaves below v, in order.
func (v LabelVdev) Paths() []string {
	if len(v.Children) == 0 {
		if v.Path == "" {
			return nil
		}
		return []string{v.Path}
	}
	var out []string
	for _, c := range v.Children {
		out = append(out, c.Paths()...)
	}
	return out
}

// ReadLabel reads the four labels of a device of size bytes and returns what the
// newest valid one says, nil when none is valid. An error is a failed read when
// no label could be found despite it.
func ReadLabel(r io.ReaderAt, size int64) (*Label, error) {
	size -= size % labelSize
	if size < labelCount*labelSize {
		return nil, nil
	}
	var best *Label
	var failed []error
	buf := make([]byte, physSize)
	for i := range int64(labelCount) {
		at := i * labelSize
		if i >= labelCount/2 {
			at = size - (labelCount-i)*labelSize
		}
		at += physOffset
		if n, err := r.ReadAt(buf, at); n < len(buf) {
			failed = append(failed, fmt.Errorf("read label %d: %w", i, err))
			continue
		}
		if !checksumOK(buf, uint64(at)) {
			continue
		}
		l, err := parseLabel(buf[:physSize-eckSize])
		if err != nil {
			continue
		}
		if best == nil || l.TXG > best.TXG {
			best = l
		}
	}
	if best == nil {
		return nil, errors.Join(failed...)
	}
	return best, nil
}

// checksumOK verifies the embedded checksum of a vdev_phys_t read from byte
// offset at: SHA-256 over the block with the place as the checksum's first word.
// The digest is stored as four words in the writer's byte order. A label found
// at another place than it was written to does not verify.
func checksumOK(phys []byte, at uint64) bool {
	eck := phys[len(phys)-eckSize:]
	var order binary.ByteOrder = binary.LittleEndian
	if order.Uint64(eck) != eckMagic {
		order = binary.BigEndian
	}
	if order.Uint64(eck) != eckMagic {
		return false
	}
	var verifier [32]byte
	order.PutUint64(verifier[:], at)
	h := sha256.New()
	h.Write(phys[:len(phys)-len(verifier)])
	h.Write(verifier[:])
	sum := h.Sum(nil)
	for i := 0; i < len(sum); i += 8 {
		order.PutUint64(sum[i:], binary.BigEndian.Uint64(sum[i:]))
	}
	return bytes.Equal(sum, eck[8:])
}

// parseLabel decodes the packed nvlist of a label. A label that names neither a
// pool nor an auxiliary device is an error.
func parseLabel(b []byte) (*Label, error) {
	nv, err := decodeNvlist(b)
	if err != nil {
		return nil, err
	}
	if _, ok := nv["state"].(uint64); !ok {
		return nil, fmt.Errorf("label without a pool state")
	}
	l := &Label{
		Pool: nv.str("name"), PoolGUID: nv.num("pool_guid"), GUID: nv.num("guid"), TopGUID: nv.num("top_guid"),
		Path: nv.str("path"), State: PoolState(nv.num("state")), Hostname: nv.str("hostname"), HostID: nv.num("hostid"),
		TXG: nv.num("txg"), Version: nv.num("version"),
	}
	if l.GUID == 0 {
		return nil, fmt.Errorf("label without a device GUID")
	}
	if aux := l.State == StateSpare || l.State == StateL2Cache; !aux && (l.Pool == "" || l.PoolGUID == 0) {
		return nil, fmt.Errorf("label without a pool")
	}
	if tree := nv.list("vdev_tree"); tree != nil {
		l.Tree = labelVdev(tree)
		if v := l.Tree.find(l.GUID); v != nil {
			l.Path = v.Path
		}
	}
	return l, nil
}

func labelVdev(nv nvlist) LabelVdev {
	v := LabelVdev{
		Type: nv.str("type"), GUID: nv.num("guid"), Path: nv.str("path"), Ashift: nv.num("ashift"),
		Spare: nv.num("is_spare") != 0,
	}
	for _, c := range nv.lists("children") {
		v.Children = append(v.Children, labelVdev(c))
	}
	return v
}

func (v *LabelVdev) find(guid uint64) *LabelVdev {
	if v.GUID == guid {
		return v
	}
	for i := range v.Children {
		if f := v.Children[i].find(guid); f != nil {
			return f
		}
	}
	return nil
}
