package pkgs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
)

const readBuffer = 128 << 10

var (
	errTruncated = errors.New("truncated")
	errTrailing  = errors.New("bytes behind its end")
	errTooLarge  = errors.New("unpacks to more than is sensible")
)

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
