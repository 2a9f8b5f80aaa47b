package flash

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/image/flash/disks"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/vdisk"
	"github.com/therootcompany/xz"
)

// Image is a disk image that rigimage built, plain or compressed: which of them is
// seen by its first bytes.
type Image struct {
	Name    string
	Checked bool // a checksum of the whole file was compared
	file    string
	in      io.Reader     // read once, when there is no file
	disk    *vdisk.Source // in file, a virtual disk
}

// File is the image in a file.
func File(path string) (*Image, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, diag.Hint(diag.Input(err), "\"rigimage build -o rig.img\" makes an image")
	}
	if !st.Mode().IsRegular() {
		return nil, diag.Hint(diag.Inputf("image %s: it is not a file", path), "\"-\" reads an image from the standard input")
	}
	return &Image{Name: path, file: path}, nil
}

// Stream is an image that can be read only once.
func Stream(name string, r io.Reader) *Image { return &Image{Name: name, in: r} }

// Virtual is the image in a virtual disk, which is in a file of this name.
func Virtual(path string, s vdisk.Source) *Image { return &Image{Name: path, file: path, disk: &s} }

// is reports whether the image is in the file that stands for the disk.
func (im *Image) is(d *disks.Disk) bool {
	if im.file == "" || !d.File {
		return false
	}
	a, erra := os.Stat(im.file)
	b, errb := os.Stat(d.Path)
	return erra == nil && errb == nil && os.SameFile(a, b)
}

// once reports whether the image cannot be looked at before it is written.
func (im *Image) once() bool { return im.file == "" }

// Kinds of files, by their first bytes.
const (
	magicZstd = "\x28\xb5\x2f\xfd"
	magicGzip = "\x1f\x8b"
	magicXZ   = "\xfd7zXZ\x00"

	maxDict   = 64 << 20 // bytes; dictionary of xz -9
	zstdLimit = 64 << 20 // bytes of a decoder's window
	readAhead = 256 << 10
)

// decoded is the decoded image, read forward.
type decoded struct {
	name  string
	r     io.Reader
	plain *vdisk.Source // of an image that is not compressed, in a file
	off   int64
	close []func() error
}

// open starts at the beginning of the image.
func (im *Image) open() (*decoded, error) {
	r := &decoded{name: im.Name}
	if im.disk != nil {
		r.plain = im.disk
		return r, nil
	}
	in := im.in
	if im.file != "" {
		f, err := os.Open(im.file)
		if err != nil {
			return nil, diag.Input(err)
		}
		in = f
		r.close = append(r.close, f.Close)
	}
	if err := r.decode(in); err != nil {
		r.Close()
		return nil, diag.Input(fmt.Errorf("image %s: %w", im.Name, err))
	}
	return r, nil
}

// decode finds out how in is compressed. What is not is taken as it is.
func (r *decoded) decode(in io.Reader) error {
	b := bufio.NewReaderSize(in, readAhead)
	head, err := b.Peek(len(magicXZ))
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	is := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case is(magicZstd):
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(zstdLimit), zstd.WithDecoderConcurrency(2))
		if err != nil {
			return err
		}
		r.r, r.close = z, append(r.close, func() error { z.Close(); return nil })
	case is(magicGzip):
		z, err := gzip.NewReader(b)
		if err != nil {
			return err
		}
		r.r, r.close = z, append(r.close, z.Close)
	case is(magicXZ):
		z, err := xz.NewReader(b, maxDict)
		if err != nil {
			return err
		}
		r.r = z
	default:
		r.r = b
		if f, ok := in.(*os.File); ok && len(r.close) > 0 {
			src, err := vdisk.FileSource(f)
			if err != nil {
				return err
			}
			r.plain = &src
		}
	}
	return nil
}

// next fills b with what follows and reports whether that is zeros only. Holes of
// a file are not read.
func (r *decoded) next(b []byte) (zero bool, err error) {
	off := r.off
	r.off += int64(len(b))
	if r.plain == nil {
		if _, err := io.ReadFull(r.r, b); err != nil {
			return false, r.failed(off, err)
		}
		return vdisk.IsZero(b), nil
	}
	if r.off > r.plain.Size {
		return false, r.failed(off, io.ErrUnexpectedEOF)
	}
	if !r.plain.HasData(off, int64(len(b))) {
		return true, nil
	}
	if err := r.plain.Read(b, off); err != nil {
		return false, r.failed(off, err)
	}
	return vdisk.IsZero(b), nil
}

func (r *decoded) failed(off int64, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return diag.Hint(diag.Inputf("image %s: it ends too early, behind byte %d of the disk it describes", r.name, off),
			"it was cut short: copy or download it again")
	}
	return diag.Hint(diag.Input(fmt.Errorf("image %s: at byte %d of the disk it describes: %w", r.name, off, err)),
		"it is damaged: copy or download it again")
}

// drain reads a compressed image to its end, where its checksums are, and counts
// what it holds. Behind a plain one nothing is looked for.
func (r *decoded) drain(ctx context.Context, progress func(done int64)) error {
	b := make([]byte, 1<<20)
	for r.plain == nil {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := r.r.Read(b)
		r.off += int64(n)
		progress(r.off)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return r.failed(r.off, err)
		}
	}
	return nil
}

// Close implements io.Closer.
func (r *decoded) Close() error {
	var errs []error
	for _, f := range r.close {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

// again is random access to an image in a file: what lies behind is reached by
// decoding from the beginning once more, so it is for few reads in rising order.
type again struct {
	im *Image
	r  *decoded
}

// ReadAt implements io.ReaderAt.
func (a *again) ReadAt(p []byte, off int64) (int, error) {
	if err := a.start(); err != nil {
		return 0, err
	}
	if a.r.plain != nil {
		if off+int64(len(p)) > a.r.plain.Size {
			return 0, a.r.failed(off, io.ErrUnexpectedEOF)
		}
		return len(p), a.r.plain.Read(p, off)
	}
	if off < a.r.off {
		a.Close()
		if err := a.start(); err != nil {
			return 0, err
		}
	}
	if err := a.r.skip(off - a.r.off); err != nil {
		return 0, err
	}
	_, err := a.r.next(p)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (a *again) start() error {
	if a.r != nil {
		return nil
	}
	var err error
	a.r, err = a.im.open()
	return err
}

// Close implements io.Closer.
func (a *again) Close() error {
	if a.r == nil {
		return nil
	}
	r := a.r
	a.r = nil
	return r.Close()
}

// skip passes over n bytes.
func (r *decoded) skip(n int64) error {
	if r.plain == nil {
		if k, err := io.CopyN(io.Discard, r.r, n); err != nil {
			return r.failed(r.off+k, err)
		}
	}
	r.off += n
	return nil
}
