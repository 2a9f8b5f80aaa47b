package gpt

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/diskfs/go-diskfs/backend"
)

// memDisk is the few parts of a disk that go-diskfs is shown, in memory. It
// writes to nothing else, so that a table reaches the real disk in whole sectors
// and in the order of Table.Write.
type memDisk struct{ parts []part }

type part struct {
	off int64 // bytes from the beginning of the disk
	b   []byte
}

var _ backend.WritableFile = (*memDisk)(nil)

func (d *memDisk) at(off int64, n int) ([]byte, error) {
	for _, p := range d.parts {
		if i := off - p.off; i >= 0 && i <= int64(len(p.b)) && int64(n) <= int64(len(p.b))-i {
			return p.b[i:][:n], nil
		}
	}
	return nil, fmt.Errorf("gpt: %d bytes at %d are not part of a table", n, off)
}

func (d *memDisk) ReadAt(b []byte, off int64) (int, error) {
	src, err := d.at(off, len(b))
	return copy(b, src), err
}

func (d *memDisk) WriteAt(b []byte, off int64) (int, error) {
	dst, err := d.at(off, len(b))
	return copy(dst, b), err
}

// go-diskfs never calls the following on the paths used here; a Seek would mean
// that it looks for a backup table.
var errUnused = errors.New("gpt: not a file")

func (d *memDisk) Stat() (fs.FileInfo, error)     { return nil, errUnused }
func (d *memDisk) Read([]byte) (int, error)       { return 0, errUnused }
func (d *memDisk) Seek(int64, int) (int64, error) { return 0, errUnused }
func (d *memDisk) Close() error                   { return nil }

// readFull reads len(b) bytes at off.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
