package zfs

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// A packed nvlist in XDR encoding (OpenZFS 2.4 module/nvpair/nvpair.c): a header
// of four bytes, then a list. A list is version and flags, then pairs up to one
// whose sizes are zero. A pair is its encoded size, its size in memory, name,
// type, number of elements, values; everything is big-endian and padded to four
// bytes. The encoded size counts from its own first byte and lets a reader step
// over types it does not know.
const (
	nvEncodingXDR   = 1
	nvVersion       = 0
	nvMaxDepth      = 20 // labels nest four deep
	nvMaxPairs      = 1 << 14
	nvTypeBoolean   = 1 // present means true
	nvTypeUint64    = 8
	nvTypeString    = 9
	nvTypeNvlist    = 19
	nvTypeNvlists   = 20
	nvTypeBoolValue = 21
)

// nvlist maps names to values of the types a label is read for: uint64, string,
// bool, nvlist, []nvlist. Pairs of other types are left out.
type nvlist map[string]any

var errNvlist = errors.New("not an nvlist")

// decodeNvlist decodes a packed nvlist; what follows it in b is ignored.
func decodeNvlist(b []byte) (nvlist, error) {
	if len(b) < 4 || b[0] != nvEncodingXDR {
		return nil, fmt.Errorf("%w in XDR encoding", errNvlist)
	}
	x := &xdr{b: b[4:]}
	budget := nvMaxPairs
	return x.list(0, &budget)
}

// xdr reads big-endian values from the front of b.
type xdr struct{ b []byte }

func (x *xdr) take(n int) ([]byte, error) {
	if n < 0 || n > len(x.b) {
		return nil, fmt.Errorf("%w: %d bytes wanted, %d left", errNvlist, n, len(x.b))
	}
	v := x.b[:n]
	x.b = x.b[n:]
	return v, nil
}

func (x *xdr) uint32() (uint32, error) {
	v, err := x.take(4)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(v), nil
}

func (x *xdr) uint64() (uint64, error) {
	v, err := x.take(8)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(v), nil
}

func (x *xdr) string() (string, error) {
	n, err := x.uint32()
	if err != nil {
		return "", err
	}
	if uint64(n) > uint64(len(x.b)) {
		return "", fmt.Errorf("%w: a string of %d bytes, %d left", errNvlist, n, len(x.b))
	}
	v, err := x.take(int(n+3) &^ 3)
	if err != nil {
		return "", err
	}
	return string(v[:n]), nil
}

// list decodes version, flags and pairs. budget bounds the pairs of the whole
// tree.
func (x *xdr) list(depth int, budget *int) (nvlist, error) {
	if depth > nvMaxDepth {
		return nil, fmt.Errorf("%w: nested deeper than %d", errNvlist, nvMaxDepth)
	}
	version, err := x.uint32()
	if err != nil {
		return nil, err
	}
	if version != nvVersion {
		return nil, fmt.Errorf("%w: version %d", errNvlist, version)
	}
	if _, err := x.uint32(); err != nil { // flags
		return nil, err
	}
	out := nvlist{}
	for {
		rest := len(x.b)
		encoded, err := x.uint32()
		if err != nil {
			return nil, err
		}
		decoded, err := x.uint32()
		if err != nil {
			return nil, err
		}
		if encoded == 0 && decoded == 0 {
			return out, nil
		}
		if *budget--; *budget < 0 {
			return nil, fmt.Errorf("%w: more than %d pairs", errNvlist, nvMaxPairs)
		}
		if encoded < 8 || uint64(encoded) > uint64(rest) {
			return nil, fmt.Errorf("%w: a pair of %d bytes, %d left", errNvlist, encoded, rest)
		}
		body, err := x.take(int(encoded) - 8)
		if err != nil {
			return nil, err
		}
		if err := (&xdr{b: body}).pair(out, depth, budget); err != nil {
			return nil, err
		}
	}
}

// pair decodes name, type, count and value into out.
func (x *xdr) pair(out nvlist, depth int, budget *int) error {
	name, err := x.string()
	if err != nil {
		return err
	}
	kind, err := x.uint32()
	if err != nil {
		return err
	}
	count, err := x.uint32()
	if err != nil {
		return err
	}
	switch kind {
	case nvTypeBoolean:
		out[name] = true
	case nvTypeBoolValue:
		v, err := x.uint32()
		if err != nil {
			return err
		}
		out[name] = v != 0
	case nvTypeUint64:
		out[name], err = x.uint64()
	case nvTypeString:
		out[name], err = x.string()
	case nvTypeNvlist:
		out[name], err = x.list(depth+1, budget)
	case nvTypeNvlists:
		var lists []nvlist
		for range count { // each takes at least 16 bytes of x.b
			l, err := x.list(depth+1, budget)
			if err != nil {
				return err
			}
			lists = append(lists, l)
		}
		out[name] = lists
	}
	return err
}

func (l nvlist) num(name string) uint64     { v, _ := l[name].(uint64); return v }
func (l nvlist) str(name string) string     { v, _ := l[name].(string); return v }
func (l nvlist) list(name string) nvlist    { v, _ := l[name].(nvlist); return v }
func (l nvlist) lists(name string) []nvlist { v, _ := l[name].([]nvlist); return v }
