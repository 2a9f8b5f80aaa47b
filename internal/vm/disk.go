package vm

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// CreateDisk makes a raw disk of size bytes that takes no room. The file must
// not exist.
func CreateDisk(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("create disk: %w", err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		os.Remove(path)
		return fmt.Errorf("create disk: %w", err)
	}
	return nil
}

// CloneFile copies src to dst, which must not exist, as `cp --reflink=auto
// --sparse=always` does: shared blocks where the file system can, else holes stay
// holes and zeros become holes.
func CloneFile(dst, src string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("copy %s: %w", src, err)
	}
	defer in.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("copy %s: %w", src, err)
	}
	defer func() {
		if err = errors.Join(err, out.Close()); err != nil {
			os.Remove(dst)
			err = fmt.Errorf("copy %s: %w", src, err)
		}
	}()
	if reflink(out, in) == nil {
		return nil
	}
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	if err := out.Truncate(fi.Size()); err != nil {
		return err
	}
	return copySparse(out, in, fi.Size())
}

// copySparse copies the size bytes of in but for holes and blocks of zeros.
func copySparse(out, in *os.File, size int64) error {
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		data, err := unix.Seek(int(in.Fd()), off, unix.SEEK_DATA)
		switch {
		case errors.Is(err, syscall.ENXIO): // only a hole is left
			return nil
		case err != nil: // the file system does not know: all is data
			data = off
		}
		hole, err := unix.Seek(int(in.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			hole = size
		}
		for off = data; off < hole; {
			n, err := in.ReadAt(buf[:min(int64(len(buf)), hole-off)], off)
			if n == 0 && err != nil {
				if errors.Is(err, io.EOF) {
					return io.ErrUnexpectedEOF
				}
				return err
			}
			if err := writeNonzero(out, buf[:n], off); err != nil {
				return err
			}
			off += int64(n)
		}
	}
	return nil
}

var zeros [64 << 10]byte

// writeNonzero writes b at off but for its blocks of zeros.
func writeNonzero(out *os.File, b []byte, off int64) error {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			if _, err := out.WriteAt(b[:n], off); err != nil {
				return err
			}
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// bootable says whether the disk's first sector has a boot signature.
func bootable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, sectorSize)
	_, err = io.ReadFull(f, b)
	return err == nil && b[sectorSize-2] == 0x55 && b[sectorSize-1] == 0xaa
}
