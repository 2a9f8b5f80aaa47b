package probe

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Labels of ZFS (OpenZFS 2.4 include/sys/vdev_impl.h): two at the beginning of a
// device and two at the end of its last whole 256 KiB.
const (
	zfsLabel     = 256 << 10
	zfsPhys      = 16 << 10          // vdev_phys_t in the label: a packed nvlist
	zfsPhysSize  = 112 << 10         //
	zfsRing      = 128 << 10         // uberblocks
	zfsUber      = 0x00bab10c        // ub_magic
	zfsEck       = 0x210da7ab10c7a11 // zec_magic, behind the nvlist
	nvlistString = 9                 // DATA_TYPE_STRING
)

// zfsLabels recognises labels, damaged ones too: by the end of the nvlist's block or
// by an uberblock.
func zfsLabels(p *place) string {
	size := p.size - p.size%zfsLabel
	var numbers []string
	name := ""
	for i := range int64(4) {
		at := i * zfsLabel
		if i >= 2 {
			at = size - (4-i)*zfsLabel
		}
		if at < 0 || size < zfsLabel || !p.own(at) || !isLabel(p, at) {
			continue
		}
		numbers = append(numbers, fmt.Sprint(i))
		if name == "" {
			name = poolName(p.at(at+zfsPhys, zfsPhysSize))
		}
	}
	if numbers == nil {
		return ""
	}
	of := "of pool " + name
	if name == "" {
		of = "without a pool's name: a spare, a cache or a damaged label"
	}
	return fmt.Sprintf("ZFS member %s (label %s)", of, strings.Join(numbers, " "))
}

func isLabel(p *place, at int64) bool {
	eck := p.at(at+zfsPhys+zfsPhysSize-40, 8)
	if eck != nil && (binary.LittleEndian.Uint64(eck) == zfsEck || binary.BigEndian.Uint64(eck) == zfsEck) {
		return true
	}
	for off := at + zfsRing; off < at+zfsLabel; off += 1 << 10 { // the smallest uberblock
		if b := p.at(off, 8); b != nil && (binary.LittleEndian.Uint64(b) == zfsUber || binary.BigEndian.Uint64(b) == zfsUber) {
			return true
		}
	}
	return false
}

// poolName is the string "name" of a packed nvlist (module/nvpair/nvpair.c, XDR),
// "" when there is none or it is damaged.
func poolName(b []byte) string {
	const header = 4 + 8
	if len(b) < header || b[0] != 1 { // NV_ENCODE_XDR
		return ""
	}
	for b = b[header:]; len(b) >= 12; {
		size, n := int(binary.BigEndian.Uint32(b)), int(binary.BigEndian.Uint32(b[8:]))
		if size < 20 || size > len(b) || n < 0 || n > size-20 {
			return ""
		}
		key, rest := string(b[12:12+n]), b[12+(n+3)/4*4:size]
		if key == "name" && len(rest) >= 12 && binary.BigEndian.Uint32(rest) == nvlistString {
			if k := int(binary.BigEndian.Uint32(rest[8:])); k >= 0 && k <= len(rest)-12 {
				return string(rest[12 : 12+k])
			}
		}
		b = b[size:]
	}
	return ""
}
