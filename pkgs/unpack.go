package pkgs

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

const (
	readBuffer = 128 << 10
	zstdWindow = 128 << 20 // of zstd -22 --ultra
	xzDict     = 64 << 20  // of xz -9
)

var (
	errTruncated = errors.New("truncated")
	errTrailing  = errors.New("bytes behind its end")
	errTooLarge  = errors.New("unpacks to more than is sensible")
)

// unpack returns what is packed in r, as its first bytes tell.
func unpack(r io.Reader, workers int) (io.Reader, func(), error) {
	in := bufio.NewReaderSize(r, readBuffer)
	magic, err := in.Peek(6)
	if err != nil && err != io.EOF {
		return nil, nil, err
	}
	nothing := func() {}
	switch {
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		if workers == 1 {
			return sharedDecoder(in)
		}
		d, err := newDecoder(in, workers)
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		d, err := xz.NewReader(in, xzDict)
		return d, nothing, err
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		d, err := gzip.NewReader(in)
		return d, nothing, err
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(in), nothing, nil
	}
	return in, nothing, nil
}

func newDecoder(r io.Reader, workers int) (*zstd.Decoder, error) {
	return zstd.NewReader(r, zstd.WithDecoderConcurrency(workers), zstd.WithDecoderMaxWindow(zstdWindow), zstd.WithDecoderLowmem(true))
}

// decoders are kept for the next archive: each has a window of some megabytes, and a
// repository has hundreds of small archives.
var decoders sync.Pool

func sharedDecoder(r io.Reader) (io.Reader, func(), error) {
	d, ok := decoders.Get().(*zstd.Decoder)
	err := error(nil)
	if ok {
		err = d.Reset(r)
	} else {
		d, err = newDecoder(r, 1)
	}
	if err != nil {
		return nil, nil, err
	}
	return d, func() {
		if d.Reset(nil) == nil {
			decoders.Put(d)
		}
	}, nil
}

// tarReader reads a tar to its very end: two blocks of zeros, and nothing but zeros
// behind them.
type tarReader struct {
	*tar.Reader
	in    io.Reader
	left  int64 // until there is too much of it
	zeros int64 // at the end of what was read
}

func newTarReader(r io.Reader, limit int64) *tarReader {
	t := &tarReader{in: r, left: limit}
	t.Reader = tar.NewReader((*tarInput)(t))
	return t
}

// tarInput is what the tar.Reader reads from.
type tarInput tarReader

func (t *tarInput) Read(p []byte) (int, error) {
	n, err := t.in.Read(p)
	if t.left -= int64(n); t.left < 0 {
		return 0, errTooLarge
	}
	if tail := len(bytes.TrimRight(p[:n], "\x00")); tail > 0 {
		t.zeros = int64(n - tail)
	} else {
		t.zeros += int64(n)
	}
	return n, err
}

// Next is tar.Reader.Next, and io.EOF only at an end that is as it should be.
// Headers that describe no file are passed over.
func (t *tarReader) Next() (*tar.Header, error) {
	if _, err := io.Copy(io.Discard, t.Reader); err != nil {
		return nil, unpackError(err)
	}
	t.zeros = 0 // those of content do not count
	h, err := t.Reader.Next()
	for err == nil && h.Typeflag == tar.TypeXGlobalHeader {
		h, err = t.Reader.Next()
	}
	if err == io.EOF {
		return nil, t.finish()
	}
	return h, unpackError(err)
}

func (t *tarReader) finish() error {
	const end = 2 * 512
	if t.zeros < end {
		return errTruncated
	}
	buf := make([]byte, readBuffer)
	for {
		before := t.zeros
		n, err := (*tarInput)(t).Read(buf)
		if t.zeros != before+int64(n) {
			return errTrailing
		}
		if err == io.EOF {
			return io.EOF
		}
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return errTruncated
		}
		if err != nil {
			return fmt.Errorf("%w (%w)", errTrailing, err)
		}
	}
}

// unpackError tells an early end from other errors.
func unpackError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errTruncated
	}
	return err
}
