package zfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"testing"
)

// pairs are the pairs of an nvlist in order: name, value, name, value …
type pairs []any

// packNvlist encodes p as the kernel does, with the memory sizes, which no reader
// needs, left at 1.
func packNvlist(p pairs) []byte {
	return append([]byte{nvEncodingXDR, 1, 0, 0}, packPairs(p)...)
}

func packPairs(p pairs) []byte {
	be := binary.BigEndian
	b := be.AppendUint32(be.AppendUint32(nil, nvVersion), 1)
	for i := 0; i < len(p); i += 2 {
		body := packString(p[i].(string))
		kind, count, value := packValue(p[i+1])
		body = be.AppendUint32(be.AppendUint32(body, kind), count)
		body = append(body, value...)
		b = be.AppendUint32(be.AppendUint32(b, uint32(len(body)+8)), 1)
		b = append(b, body...)
	}
	return append(b, make([]byte, 8)...)
}

func packValue(v any) (kind, count uint32, value []byte) {
	be := binary.BigEndian
	switch v := v.(type) {
	case nil:
		return nvTypeBoolean, 0, nil
	case bool:
		n := uint32(0)
		if v {
			n = 1
		}
		return nvTypeBoolValue, 1, be.AppendUint32(nil, n)
	case uint64:
		return nvTypeUint64, 1, be.AppendUint64(nil, v)
	case []uint64: // a type the reader steps over
		value = be.AppendUint32(nil, uint32(len(v)))
		for _, n := range v {
			value = be.AppendUint64(value, n)
		}
		return 16, uint32(len(v)), value
	case string:
		return nvTypeString, 1, packString(v)
	case pairs:
		return nvTypeNvlist, 1, packPairs(v)
	case []pairs:
		for _, l := range v {
			value = append(value, packPairs(l)...)
		}
		return nvTypeNvlists, uint32(len(v)), value
	}
	panic(fmt.Sprintf("no nvlist type for %T", v))
}

func packString(s string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(s)))
	b = append(b, s...)
	return append(b, make([]byte, -len(s)&3)...)
}

// putLabel writes label i with nv and its checksum into dev.
func putLabel(dev []byte, i int, order binary.ByteOrder, nv []byte) {
	size := len(dev) &^ (labelSize - 1)
	at := i * labelSize
	if i >= 2 {
		at = size - (labelCount-i)*labelSize
	}
	at += physOffset
	phys := dev[at : at+physSize]
	clear(phys)
	copy(phys, nv)
	eck := phys[physSize-eckSize:]
	order.PutUint64(eck, eckMagic)
	order.PutUint64(eck[8:], uint64(at))
	sum := sha256.Sum256(phys)
	for j := 0; j < 32; j += 8 {
		order.PutUint64(eck[8+j:], binary.BigEndian.Uint64(sum[j:]))
	}
}

func memberLabel(txg uint64, state PoolState) pairs {
	leaf := func(guid uint64, path string) pairs {
		return pairs{"type", "disk", "id", uint64(0), "guid", guid, "path", path, "whole_disk", uint64(1), "create_txg", uint64(4)}
	}
	return pairs{
		"version", uint64(5000), "name", "zroot", "state", uint64(state), "txg", txg, "pool_guid", uint64(77),
		"hostid", uint64(0xdeadbeef), "hostname", "hvm", "top_guid", uint64(10), "guid", uint64(12),
		"vdev_children", uint64(1),
		"vdev_tree", pairs{
			"type", "mirror", "id", uint64(0), "guid", uint64(10), "ashift", uint64(12), "odd", []uint64{1, 2, 3},
			"children", []pairs{leaf(11, "/dev/gpt/zfs-S1"), leaf(12, "/dev/gpt/zfs-S2")},
		},
		"features_for_read", pairs{"com.delphix:hole_birth", nil, "com.delphix:embedded_data", nil}, "on", true,
	}
}

func TestReadLabel(t *testing.T) {
	dev := make([]byte, 5*labelSize+512) // the last two are before the odd end
	for i := range labelCount {
		putLabel(dev, i, binary.LittleEndian, packNvlist(memberLabel(uint64(100+i), StateExported)))
	}
	want := &Label{
		Pool: "zroot", PoolGUID: 77, GUID: 12, TopGUID: 10, Path: "/dev/gpt/zfs-S2", State: StateExported, Hostname: "hvm",
		HostID: 0xdeadbeef, TXG: 103, Version: 5000,
		Tree: LabelVdev{Type: "mirror", GUID: 10, Ashift: 12, Children: []LabelVdev{
			{Type: "disk", GUID: 11, Path: "/dev/gpt/zfs-S1"}, {Type: "disk", GUID: 12, Path: "/dev/gpt/zfs-S2"}}},
	}
	check := func(t *testing.T, want *Label) {
		t.Helper()
		got, err := ReadLabel(bytes.NewReader(dev), int64(len(dev)))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("\n got %+v, %v\nwant %+v", got, err, want)
		}
	}
	check(t, want)
	if got := want.Tree.Paths(); !reflect.DeepEqual(got, []string{"/dev/gpt/zfs-S1", "/dev/gpt/zfs-S2"}) {
		t.Errorf("Paths: %q", got)
	}
	if got := want.String(); got != "pool zroot (exported)" {
		t.Errorf("String: %s", got)
	}

	dev[4*labelSize+physOffset+1000] ^= 1 // the newest is damaged
	want.TXG = 102
	check(t, want)

	copy(dev[labelSize:], dev[3*labelSize:4*labelSize]) // a label elsewhere than it was written to
	clear(dev[3*labelSize:])
	want.TXG = 100
	check(t, want)

	clear(dev)
	check(t, nil)

	putLabel(dev, 1, binary.BigEndian, packNvlist(memberLabel(7, StateDestroyed)))
	want.TXG, want.State = 7, StateDestroyed
	check(t, want)

	clear(dev)
	putLabel(dev, 0, binary.LittleEndian, packNvlist(pairs{"version", uint64(5000), "state", uint64(3), "guid", uint64(5), "path", "/dev/gpt/zfs-S3"}))
	spare := &Label{GUID: 5, State: StateSpare, Version: 5000, Path: "/dev/gpt/zfs-S3"}
	check(t, spare)
	if got := spare.String(); got != "ZFS spare" {
		t.Errorf("String: %s", got)
	}
}

func TestReadLabelNone(t *testing.T) {
	for _, size := range []int{0, 1, labelSize, 4*labelSize - 1} {
		if l, err := ReadLabel(bytes.NewReader(make([]byte, size)), int64(size)); l != nil || err != nil {
			t.Errorf("size %d: %v, %v", size, l, err)
		}
	}
	if _, err := ReadLabel(bytes.NewReader(nil), 8*labelSize); err == nil || err.Error() != "read label 0: EOF\nread label 1: EOF\nread label 2: EOF\nread label 3: EOF" {
		t.Errorf("a device that cannot be read: %v", err)
	}
	dev := make([]byte, 4*labelSize)
	for _, nv := range []pairs{
		{"name", "p", "pool_guid", uint64(1), "guid", uint64(2)}, // no state
		{"state", uint64(0), "name", "p", "pool_guid", uint64(1)},
		{"state", uint64(0), "guid", uint64(2)},
		{"state", "active", "guid", uint64(2), "name", "p", "pool_guid", uint64(1)},
	} {
		putLabel(dev, 0, binary.LittleEndian, packNvlist(nv))
		if l, err := ReadLabel(bytes.NewReader(dev), int64(len(dev))); l != nil || err != nil {
			t.Errorf("%v: %v, %v", nv, l, err)
		}
	}
	putLabel(dev, 2, binary.LittleEndian, packNvlist(memberLabel(1, StateActive))) // found although a read fails
	if l, err := ReadLabel(bytes.NewReader(dev[:3*labelSize]), int64(len(dev))); l == nil || err != nil {
		t.Errorf("one label unreadable: %v, %v", l, err)
	}
}

func TestPoolStateString(t *testing.T) {
	if got := fmt.Sprint(StateActive, StateL2Cache, PoolState(9)); got != "active cache state 9" {
		t.Error(got)
	}
}

func TestDecodeNvlistErrors(t *testing.T) {
	deep := pairs{}
	for range nvMaxDepth + 1 {
		deep = pairs{"n", deep}
	}
	many := make(pairs, 0, 2*nvMaxPairs+2)
	for range nvMaxPairs + 1 {
		many = append(many, "b", nil)
	}
	good := packNvlist(pairs{"name", "zroot"})
	tests := []struct {
		name string
		in   []byte
		want string
	}{
		{"empty", nil, "not an nvlist in XDR encoding"},
		{"native encoding", append([]byte{0}, good[1:]...), "not an nvlist in XDR encoding"},
		{"cut", good[:len(good)-8], "not an nvlist: 4 bytes wanted, 0 left"},
		{"cut in a pair", good[:len(good)-12], "not an nvlist: a pair of 36 bytes, 32 left"},
		{"version", append([]byte{1, 1, 0, 0, 0, 0, 0, 1}, good[8:]...), "not an nvlist: version 1"},
		{"pair shorter than its sizes", append(bytes.Clone(good[:12]), 0, 0, 0, 4, 0, 0, 0, 1), "not an nvlist: a pair of 4 bytes, 8 left"},
		{"string longer than the pair", append(bytes.Clone(good[:12]), 0, 0, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff), "not an nvlist: a string of 4294967295 bytes, 0 left"},
		{"deep", packNvlist(deep), "not an nvlist: nested deeper than 20"},
		{"many", packNvlist(many), "not an nvlist: more than 16384 pairs"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := decodeNvlist(tt.in)
			if err == nil || err.Error() != tt.want || !errors.Is(err, errNvlist) {
				t.Errorf("\n got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func FuzzDecodeNvlist(f *testing.F) {
	f.Add(packNvlist(memberLabel(1, StateActive)))
	f.Add(packNvlist(pairs{"children", []pairs{{}, {"a", true}}}))
	f.Add([]byte{1, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > physSize {
			t.Skip()
		}
		if _, err := decodeNvlist(b); err != nil && !errors.Is(err, errNvlist) {
			t.Errorf("unexpected error %v", err)
		}
		if l, err := parseLabel(b); err == nil {
			_ = l.String()
			l.Tree.Paths()
		}
	})
}
