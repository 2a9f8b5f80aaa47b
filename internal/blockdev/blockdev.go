// Package blockdev reads and writes disks and partitions at any offset. FreeBSD's
// disk devices are character devices: they take whole sectors only, and have no
// cache of their own, so small reads are served from a few cached chunks. Everything
// that rig reads from a device goes through [Reader].
package blockdev

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Device is an open disk, partition or image file. It is an io.ReaderAt and an
// io.WriterAt for any offset and length; writes that do not cover whole sectors
// read the sectors first.
type Device struct {
	f      *os.File
	r      *Reader
	sector int64 // bytes
	size   int64 // bytes, 0 of what is no disk
	mu     sync.Mutex
	chunks [cached]chunk
	tick   int
}

type chunk struct {
	off  int64 // -1 = empty
	used int
	data []byte
}

const (
	chunkSize = 128 << 10 // bytes
	cached    = 16        // chunks kept: 2 MiB
)

// Open opens a device whose sectors have this many bytes (0 = 4096, which is
// right for every sector size up to it). With write, the device is opened for
// reading and writing.
func Open(name string, sector int64, write bool) (*Device, error) {
	if sector == 0 {
		sector = 4096
	}
	if sector < 512 || chunkSize%sector != 0 {
		return nil, fmt.Errorf("open %s: sectors of %d bytes are not supported", name, sector)
	}
	mode := os.O_RDONLY
	if write {
		mode = os.O_RDWR
	}
	f, err := os.OpenFile(name, mode, 0)
	if err != nil {
		return nil, err
	}
	smallest, size, err := geometry(f)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: size and sectors: %w", name, err)
	}
	d := &Device{f: f, sector: sector, size: size, r: NewReader(f, name, min(smallest, sector), size)}
	for i := range d.chunks {
		d.chunks[i].off = -1
	}
	return d, nil
}

// ReadAt implements io.ReaderAt.
func (d *Device) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(p) >= chunkSize && off%d.sector == 0 && int64(len(p))%d.sector == 0 {
		return d.r.ReadAt(p, off)
	}
	n := 0
	for n < len(p) {
		base := (off + int64(n)) / chunkSize * chunkSize
		data, err := d.load(base)
		at := off + int64(n) - base
		if at >= int64(len(data)) {
			if err == nil {
				err = io.EOF
			}
			return n, err
		}
		n += copy(p[n:], data[at:])
	}
	return n, nil
}

// load returns the chunk at base, shorter than chunkSize at the end of the
// device. The error says why it is short.
func (d *Device) load(base int64) ([]byte, error) {
	d.tick++
	old := 0
	for i := range d.chunks {
		c := &d.chunks[i]
		if c.off == base {
			c.used = d.tick
			return c.data, nil
		}
		if c.used < d.chunks[old].used {
			old = i
		}
	}
	c := &d.chunks[old]
	if c.data == nil {
		c.data = make([]byte, chunkSize)
	}
	c.off = -1
	buf := c.data[:chunkSize]
	n, err := d.r.ReadAt(buf, base)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if n < chunkSize {
		return append([]byte(nil), buf[:n]...), io.EOF // the end is not worth caching
	}
	c.off, c.used, c.data = base, d.tick, buf
	return buf, nil
}

// WriteAt implements io.WriterAt.
func (d *Device) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.chunks { // whatever is cached of the range is stale now
		if c := &d.chunks[i]; c.off >= 0 && c.off < off+int64(len(p)) && off < c.off+chunkSize {
			c.off = -1
		}
	}
	lo, hi := off/d.sector*d.sector, (off+int64(len(p))+d.sector-1)/d.sector*d.sector
	if lo == off && hi == off+int64(len(p)) {
		return d.f.WriteAt(p, off)
	}
	buf := make([]byte, hi-lo)
	if n, err := d.r.ReadAt(buf, lo); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	} else if int64(n) < hi-lo && int64(n) > off-lo { // a regular file may end inside
		buf = buf[:max(int64(n), off-lo+int64(len(p)))]
	}
	copy(buf[off-lo:], p)
	if n, err := d.f.WriteAt(buf, lo); err != nil {
		return max(0, min(len(p), n-int(off-lo))), err
	}
	return len(p), nil
}

// Sync makes the written durable.
func (d *Device) Sync() error { return d.f.Sync() }

// Close closes the device.
func (d *Device) Close() error { return d.f.Close() }

// Size returns the device's size in bytes: what the disk says, or a file's end.
func (d *Device) Size() (int64, error) {
	if d.size > 0 {
		return d.size, nil
	}
	return d.f.Seek(0, io.SeekEnd)
}
