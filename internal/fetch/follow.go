package fetch

import (
	"context"
	"fmt"
	"os"
	"sync"
)

// tail is how much of a file's end is asked for at once, before the rest has come:
// formats have their tables there.
const tail = 64 << 10

// Following is a file that can be read while it is downloaded: a read waits for its
// bytes. What is read has not been compared with any hash yet.
type Following struct {
	size   int64
	file   *os.File
	cancel context.CancelFunc

	mu    sync.Mutex
	more  sync.Cond // the download went on or ended
	have  int64     // bytes from the beginning that are there
	ended bool
	err   error  // of the download
	end   []byte // the last bytes, nil when the server gives no parts
}

// Follow begins to complete the file part with what is at url, size bytes. Close must
// be called.
func (c *Client) Follow(ctx context.Context, url, part string, size int64) (*Following, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &Following{size: size, cancel: cancel}
	f.more.L = &f.mu
	end, err := c.part(ctx, url, max(0, size-tail), size)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("download %s: %w", url, err)
	}
	f.end = end
	file, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		cancel()
		return nil, err
	}
	f.file = file
	progress := c.Progress
	d := &Client{Attempts: c.Attempts, Pause: c.Pause, Stall: c.Stall, Logf: c.Logf, Progress: func(url string, done, total int64) {
		f.reached(done)
		if progress != nil {
			progress(url, done, total)
		}
	}}
	go func() {
		err := d.File(ctx, url, part, size)
		if st, serr := file.Stat(); err == nil && serr == nil && st.Size() != size {
			err = fmt.Errorf("download %s: it has %d bytes; expected %d", url, st.Size(), size)
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.ended, f.err = true, err; err == nil {
			f.have = size
		}
		f.more.Broadcast()
	}()
	return f, nil
}

func (f *Following) reached(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.have = n
	f.more.Broadcast()
}

// ReadAt waits until the bytes are there, or never will be.
func (f *Following) ReadAt(p []byte, off int64) (int, error) {
	if begin := f.size - int64(len(f.end)); off >= begin && off+int64(len(p)) <= f.size {
		return copy(p, f.end[off-begin:]), nil
	}
	f.mu.Lock()
	for !f.ended && f.have < min(off+int64(len(p)), f.size) {
		f.more.Wait()
	}
	err := f.err
	f.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return f.file.ReadAt(p, off)
}

// Wait waits for the end of the download.
func (f *Following) Wait() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.ended {
		f.more.Wait()
	}
	return f.err
}

// Close ends the download if it goes on.
func (f *Following) Close() error {
	f.cancel()
	_ = f.Wait()
	return f.file.Close()
}

// part returns the bytes of a file from first to before last, nil when the server
// gives no parts.
func (c *Client) part(ctx context.Context, url string, first, last int64) ([]byte, error) {
	var b []byte
	err := c.retry(ctx, func() (bool, error) {
		var size int64
		var err error
		b, size, _, err = c.askRange(ctx, url, first, last)
		if err == nil && b != nil && size != last {
			err = permanentError{fmt.Errorf("it has %d bytes; expected %d", size, last)}
		}
		return false, err
	})
	return b, err
}
