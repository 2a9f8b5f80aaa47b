package flash

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"unsafe"

	"github.com/rig-freebsd/rig/image/flash/disks"
	"github.com/rig-freebsd/rig/internal/blockdev"
	"github.com/rig-freebsd/rig/internal/diag"
	"golang.org/x/sys/unix"
)

// device is a disk that is written. Offsets and lengths are whole sectors.
type device interface {
	io.ReaderAt
	io.WriterAt
	Zero(off, n int64) error // makes n bytes read as zeros
	Sync() error
	Close() error
}

// aligned is memory that disks can be read into without the system's cache.
func aligned(n int) []byte {
	const page = 4096
	b := make([]byte, n+page)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (page - 1)
	return b[skip:][:n:n]
}

func isAligned(b []byte) bool {
	return len(b) == 0 || uintptr(unsafe.Pointer(&b[0]))&4095 == 0
}

// osDevice is a disk of this machine, or a file. Where the system allows it, its
// cache is passed by: progress is then what the disk has taken, and what is read
// back comes from the disk.
type osDevice struct {
	f      *os.File
	r      *blockdev.Reader // of direct reads
	block  bool             // a device; else a file
	direct atomic.Bool
}

// openDevice opens a disk for reading and writing, for this program alone unless
// it is in use and that was said to be no reason.
func openDevice(d *disks.Disk) (device, error) {
	flags := os.O_RDWR | openDirect
	if !d.File && len(d.InUse) == 0 {
		flags |= openAlone
	}
	o := &osDevice{block: !d.File}
	f, err := os.OpenFile(d.Raw(), flags, 0)
	if errors.Is(err, unix.EINVAL) && openDirect != 0 { // tmpfs
		f, err = os.OpenFile(d.Raw(), flags&^openDirect, 0)
	} else {
		o.direct.Store(openDirect != 0)
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, diag.Hint(fmt.Errorf("open %s: something of this system uses it", d.Path), "%s", busyHint)
	case errors.Is(err, os.ErrPermission):
		return nil, diag.Hint(err, "run it as root")
	case err != nil:
		return nil, err
	}
	o.f, o.r = f, blockdev.NewReader(readerFunc(o.readDirect), d.Path, int64(d.SectorSize), d.Size)
	prepare(f)
	return o, nil
}

type readerFunc func(p []byte, off int64) (int, error)

// ReadAt implements io.ReaderAt.
func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// ReadAt implements io.ReaderAt.
func (o *osDevice) ReadAt(p []byte, off int64) (int, error) { return o.r.ReadAt(p, off) }

// readDirect reads into memory that a disk may not be able to read into.
func (o *osDevice) readDirect(p []byte, off int64) (int, error) {
	if !o.direct.Load() {
		return o.f.ReadAt(p, off)
	}
	b := p
	if !isAligned(p) {
		b = aligned(len(p))
	}
	n, err := o.f.ReadAt(b, off)
	if errors.Is(err, unix.EINVAL) {
		if o.useCache() {
			return o.f.ReadAt(p, off)
		}
	}
	if !isAligned(p) {
		copy(p, b[:n])
	}
	return n, err
}

// WriteAt implements io.WriterAt.
func (o *osDevice) WriteAt(p []byte, off int64) (int, error) {
	if !o.direct.Load() {
		return o.f.WriteAt(p, off)
	}
	b := p
	if !isAligned(p) {
		b = aligned(len(p))
		copy(b, p)
	}
	n, err := o.f.WriteAt(b, off)
	if errors.Is(err, unix.EINVAL) && o.useCache() {
		return o.f.WriteAt(p, off)
	}
	return n, err
}

// useCache gives up on direct access: file systems differ in what they accept.
func (o *osDevice) useCache() bool {
	o.direct.Store(false)
	return stopDirect(o.f) == nil
}

// Zero implements device.
func (o *osDevice) Zero(off, n int64) error {
	if zeroOut(o.f, o.block, off, n) == nil {
		return nil
	}
	zeros := aligned(int(min(n, blockSize)))
	for n > 0 {
		b := zeros[:min(n, int64(len(zeros)))]
		if _, err := o.WriteAt(b, off); err != nil {
			return err
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}

// Sync implements device. What has been synced is then read from the disk again.
func (o *osDevice) Sync() error {
	err := o.f.Sync()
	if o.block && (errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		err = nil // a raw device, which has no cache of the system's
	}
	forget(o.f)
	return err
}

// Close implements io.Closer.
func (o *osDevice) Close() error {
	if o.block {
		rereadTable(o.f)
	}
	return o.f.Close()
}
