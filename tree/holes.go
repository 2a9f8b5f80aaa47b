package tree

import (
	"bytes"
	"fmt"
	"io"
)

// FindHoles reads a File and returns the runs of zeros that cover at least one
// whole block of the given size, aligned to it: what Entry.Holes may hold.
func FindHoles(e *Entry, block int) ([]Range, error) {
	if e.Kind != File || e.Size < int64(block) {
		return nil, nil
	}
	r, err := e.Open()
	if err != nil {
		return nil, fmt.Errorf("find holes of %s: %w", e.Path, err)
	}
	defer r.Close()
	var out []Range
	buf, zero := make([]byte, block), make([]byte, block)
	for off := int64(0); e.Size-off >= int64(block); off += int64(block) {
		if _, err := io.ReadFull(r, buf); err != nil {
			return nil, fmt.Errorf("find holes of %s: %w", e.Path, err)
		}
		if !bytes.Equal(buf, zero) {
			continue
		}
		if n := len(out); n > 0 && out[n-1].End() == off {
			out[n-1].Len += int64(block)
		} else {
			out = append(out, Range{Off: off, Len: int64(block)})
		}
	}
	return out, nil
}
