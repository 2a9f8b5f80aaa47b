// Package work is what long pieces of work have in common: they run at the same time,
// end soon when their context does, and say how far they are.
package work

import (
	"context"
	"io"
	"os"
	"sync"
)

// Together runs functions at the same time. When one fails the others are
// cancelled, and its error is returned.
func Together(ctx context.Context, fs ...func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, f := range fs {
		wg.Go(func() {
			if err := f(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

// Reader refuses to be read once its context is cancelled, so that Ctrl-C ends the
// longest piece of work soon.
type Reader struct {
	ctx context.Context
	r   io.ReaderAt
}

// Until returns r, which is read until ctx is cancelled.
func Until(ctx context.Context, r io.ReaderAt) Reader { return Reader{ctx, r} }

// ReadAt implements io.ReaderAt.
func (r Reader) ReadAt(p []byte, off int64) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.ReadAt(p, off)
}

// File is a file that refuses to be read and written once its context is cancelled.
type File struct {
	Reader
	f *os.File
}

// On returns f, which is read and written until ctx is cancelled.
func On(ctx context.Context, f *os.File) File { return File{Reader{ctx, f}, f} }

// Write implements io.Writer.
func (w File) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.f.Write(p)
}

// WriteAt implements io.WriterAt.
func (w File) WriteAt(p []byte, off int64) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.f.WriteAt(p, off)
}

// Progress is told how far a piece of work is, in whatever units it counts; it may be nil.
type Progress func(what string, done, total int64)

// Report tells p, if there is anybody to tell.
func (p Progress) Report(what string, done, total int64) {
	if p != nil {
		p(what, done, total)
	}
}

// Meter reports how much was written through it. It stops before Total is exceeded:
// what comes then are tables, which nobody counted.
type Meter struct {
	W      io.WriterAt
	Total  int64 // bytes
	Report func(done, total int64)

	done int64
}

// WriteAt implements io.WriterAt.
func (m *Meter) WriteAt(p []byte, off int64) (int, error) {
	n, err := m.W.WriteAt(p, off)
	if m.done += int64(n); m.done <= m.Total {
		m.Report(m.done, m.Total)
	}
	return n, err
}
