package flash

import (
	"bytes"
	"errors"
	"io"
	"sync/atomic"
	"testing"

	"github.com/rig-freebsd/rig/image/flash/disks"
	"github.com/rig-freebsd/rig/image/manifest"
	"golang.org/x/sys/unix"
)

// badDisk is a file that fails as told.
type badDisk struct {
	device
	failAt  int64 // writes that reach it fail with err
	err     error
	lieAt   int64 // this byte of what is written is lost
	syncErr error
	onWrite func()
	dieAt   int64 // once a write reached it everything fails with err
	dead    atomic.Bool
	wrap    int64 // of a counterfeit: what goes behind it lands at the beginning
	size    int64 // where the disk ends once it was written and flushed: it shrank
	written atomic.Bool
	synced  atomic.Bool
	unread  int64 // reads that reach it fail with err
}

// dies reports whether the disk is dead, now or by this access.
func (b *badDisk) dies(off, n int64) bool {
	if b.dieAt > 0 && off <= b.dieAt && off+n > b.dieAt {
		b.dead.Store(true)
	}
	return b.dead.Load()
}

// ReadAt ends where the disk does, and fails as told.
func (b *badDisk) ReadAt(p []byte, off int64) (int, error) {
	if b.dead.Load() || b.unread > 0 && off <= b.unread && off+int64(len(p)) > b.unread {
		return 0, b.err
	}
	if b.size > 0 && b.synced.Load() && off+int64(len(p)) > b.size {
		n, err := b.device.ReadAt(p[:max(0, b.size-off)], off)
		return n, errors.Join(err, io.EOF)
	}
	if b.wrap > 0 && off >= b.wrap {
		off -= b.wrap
	}
	return b.device.ReadAt(p, off)
}

func (b *badDisk) WriteAt(p []byte, off int64) (int, error) {
	b.written.Store(true)
	if b.onWrite != nil {
		b.onWrite()
	}
	if b.failAt > 0 && off+int64(len(p)) > b.failAt && off <= b.failAt || b.dies(off, int64(len(p))) {
		return 0, b.err
	}
	if b.wrap > 0 && off >= b.wrap {
		off -= b.wrap
	}
	if b.lieAt > 0 && off <= b.lieAt && off+int64(len(p)) > b.lieAt {
		p = bytes.Clone(p)
		p[b.lieAt-off] ^= 1
	}
	return b.device.WriteAt(p, off)
}

func (b *badDisk) Zero(off, n int64) error {
	if b.failAt > 0 && off+n > b.failAt && off <= b.failAt || b.dies(off, n) {
		return b.err
	}
	if b.wrap > 0 && off >= b.wrap {
		off -= b.wrap
	}
	return b.device.Zero(off, n)
}

func (b *badDisk) Sync() error {
	if b.dead.Load() {
		return b.err
	}
	b.synced.Store(b.written.Load())
	return errors.Join(b.device.Sync(), b.syncErr)
}

func TestBadDisks(t *testing.T) {
	img := demoImage(t)
	for _, c := range []struct {
		name string
		bad  *badDisk
		want string
	}{
		{"write error", &badDisk{failAt: 50 << 20, err: unix.EIO}, "(partition rig): input/output error"},
		{"hint", &badDisk{failAt: 50 << 20, err: unix.EIO}, "smartctl"},
		{"ends early", &badDisk{failAt: 45 << 20, err: io.ErrUnexpectedEOF}, "the disk ends earlier than it says"},
		{"full", &badDisk{failAt: 45 << 20, err: unix.ENOSPC}, "the file system that holds this file is full"},
		{"gone", &badDisk{failAt: 45 << 20, err: unix.ENXIO}, "the disk is gone"},
		{"ESP", &badDisk{failAt: 2 << 20, err: unix.EIO}, "(partition efi)"},
		{"boot code", &badDisk{failAt: manifest.BootStart + 8192, err: unix.EIO}, "input/output error"},
		{"loses a bit", &badDisk{lieAt: 41<<20 + 70000}, "are not what was written"},
		{"loses a bit of the table", &badDisk{lieAt: 600}, "partition table"},
		{"cannot flush", &badDisk{syncErr: unix.EIO}, "flush"},
		{"dies", &badDisk{dieAt: 45 << 20, err: unix.ENXIO}, "the disk is gone"},
		{"counterfeit", &badDisk{wrap: 40 << 20}, "are not what was written"},
		{"shrinks", &badDisk{size: 50 << 20}, "the disk ends earlier than it says: it is counterfeit, failing, or was made smaller meanwhile"},
		{"cannot be read", &badDisk{unread: 41<<20 + 4096, err: unix.EIO}, "read back"},
	} {
		t.Run(c.name, func(t *testing.T) {
			to := blankFile(t, 80<<20, true)
			bad := c.bad
			o := Options{Disk: disk(t, to), Image: file(t, img), open: func(d *disks.Disk) (device, error) {
				dev, err := openDevice(d)
				bad.device = dev
				return bad, err
			}}
			_, r, err := attempt(o)
			if c.name != "cannot flush" {
				wantError(t, err, c.want)
			}
			if r != nil {
				t.Errorf("result %+v", r)
			}
			if bad.failAt < headSize && bad.failAt > 0 || bad.dieAt > 0 || bad.syncErr != nil {
				wantError(t, err, "its partition table could not be taken away for sure: start no machine from it")
				return // its first MiB cannot be written, or not any more
			}
			wantError(t, err, "has no partition table now: nothing boots from it")
			noTable(t, to, 512)
		})
	}
}
