// Package unpack reads what pkg(8) writes and other streams that are compressed by one
// of zstd, xz, gzip or bzip2, or not at all.
package unpack

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
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

// Open returns what is packed in r, as its first bytes tell, and what to call when it
// was read. zstd uses as many goroutines as there are workers.
func Open(r io.Reader, workers int) (io.Reader, func(), error) {
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
