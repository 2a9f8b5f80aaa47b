package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// ErrNoParts says that a server gives only whole files.
var ErrNoParts = errors.New("the server gives no parts of files")

// Error is a failure of the network or of a server, not of what was read.
type Error struct {
	URL string
	Err error
}

func (e *Error) Error() string { return fmt.Sprintf("read %s: %v", e.URL, e.Err) }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Remote is a file on a web server of which only what is read is asked for. It may
// be used by several goroutines at once; it keeps 16 MiB at most.
type Remote struct {
	ctx  context.Context
	c    *Client
	url  string
	size int64
	tag  string // of the version that is read

	mu     sync.Mutex
	pieces []piece // the one used last comes last
	next   int64   // where the last piece that was asked for ended
	ahead  int64   // bytes to ask for at least
}

type piece struct {
	off int64
	b   []byte
}

const (
	minAhead = 128 << 10
	maxAhead = 4 << 20 // reached by reading forward
	kept     = 4       // pieces
)

// Remote opens the file at url. The error is ErrNoParts when the server gives no
// parts, and fs.ErrNotExist when there is no such file.
func (c *Client) Remote(ctx context.Context, url string) (*Remote, error) {
	r := &Remote{ctx: ctx, c: c, url: url, size: -1, ahead: minAhead}
	if _, err := r.load(0, minAhead); err != nil {
		return nil, err
	}
	return r, nil
}

// Size is the size of the file.
func (r *Remote) Size() int64 { return r.size }

// ReadAt implements io.ReaderAt.
func (r *Remote) ReadAt(p []byte, off int64) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n < len(p) {
		at := off + int64(n)
		if at >= r.size {
			return n, io.EOF
		}
		x, err := r.piece(at)
		if err != nil {
			return n, err
		}
		n += copy(p[n:], x.b[at-x.off:])
	}
	return n, nil
}

// piece returns one that holds the byte at off.
func (r *Remote) piece(off int64) (piece, error) {
	for i, x := range r.pieces {
		if off >= x.off && off < x.off+int64(len(x.b)) {
			r.pieces = append(append(r.pieces[:i:i], r.pieces[i+1:]...), x)
			return x, nil
		}
	}
	if off == r.next {
		r.ahead = min(2*r.ahead, maxAhead)
	} else {
		r.ahead = minAhead
	}
	return r.load(off, min(r.ahead, r.size-off))
}

func (r *Remote) load(off, n int64) (piece, error) {
	x := piece{off: off}
	err := r.c.retry(r.ctx, func() (bool, error) {
		b, size, tag, err := r.c.askRange(r.ctx, r.url, off, off+n)
		switch {
		case err != nil:
			return false, err
		case b == nil:
			return false, permanentError{ErrNoParts}
		case r.size >= 0 && (size != r.size || tag != r.tag):
			return false, permanentError{errors.New("the file changed while it was read")}
		}
		r.size, r.tag, x.b = size, tag, b
		return true, nil
	})
	if err != nil {
		return x, &Error{r.url, err}
	}
	r.next = off + int64(len(x.b))
	if len(r.pieces) == kept {
		r.pieces = r.pieces[1:]
	}
	r.pieces = append(r.pieces, x)
	return x, nil
}

// askRange returns the bytes of a file from first to before last, or to its end, its
// size, and what the server calls its version. The bytes are nil when the server
// gives no parts.
func (c *Client) askRange(parent context.Context, url string, first, last int64) (b []byte, size int64, tag string, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	req, err := newRange(ctx, url, fmt.Sprintf("bytes=%d-%d", first, last-1))
	if err != nil {
		return nil, 0, "", err
	}
	resp, err := c.client().Do(req)
	if err != nil {
		return nil, 0, "", err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return nil, 0, "", nil
	case http.StatusPartialContent:
	case http.StatusRequestedRangeNotSatisfiable:
		return nil, 0, "", permanentError{errors.New("it is shorter than expected")}
	default:
		return nil, 0, "", newStatusError(resp)
	}
	var from, to int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &from, &to, &size); err != nil || from != first || to < from || to >= last {
		return nil, 0, "", nil
	}
	tag = resp.Header.Get("ETag") + resp.Header.Get("Last-Modified")
	watch := time.AfterFunc(orDefault(c.Stall, stall), func() { cancel(errStalled) })
	defer watch.Stop()
	b = make([]byte, to-from+1)
	for n := 0; n < len(b); {
		k, err := resp.Body.Read(b[n:])
		watch.Reset(orDefault(c.Stall, stall))
		if n += k; err != nil && n < len(b) {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			} else if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return nil, 0, "", err
		}
	}
	return b, size, tag, nil
}
