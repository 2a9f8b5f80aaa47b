// Package fetch downloads files over HTTP and HTTPS. Downloads that break off are
// resumed, in this run and in the next. Nothing is verified here: a caller knows a
// hash or a signature. Sizes are bytes.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Client downloads. The zero value is good; it may be used by several goroutines.
type Client struct {
	Attempts int                                 // without progress, 0 = 3
	Pause    time.Duration                       // before the second attempt, doubled for each one more, 0 = 1 s
	Stall    time.Duration                       // without a byte until the server counts as gone, 0 = 60 s
	Progress func(url string, done, total int64) // total is -1 when unknown
	Logf     func(format string, args ...any)

	once sync.Once
	http *http.Client
}

// Default limits.
const (
	attempts       = 3
	pause          = time.Second
	stall          = 60 * time.Second
	connectTimeout = 15 * time.Second
	headerTimeout  = 30 * time.Second
)

var errStalled = errors.New("nothing received for a while")

// permanentError is an answer that another attempt will not change.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// statusError is an answer other than success. It is fs.ErrNotExist when the server
// has no such file.
type statusError struct {
	code   int
	status string
}

func (e *statusError) Error() string { return "the server says " + e.status }

func (e *statusError) Is(target error) bool {
	return target == fs.ErrNotExist && (e.code == http.StatusNotFound || e.code == http.StatusGone)
}

func newStatusError(r *http.Response) error {
	err := error(&statusError{r.StatusCode, r.Status})
	if r.StatusCode < 500 && r.StatusCode != http.StatusTooManyRequests && r.StatusCode != http.StatusRequestTimeout {
		err = permanentError{err}
	}
	return err
}

func (c *Client) client() *http.Client {
	c.once.Do(func() {
		tr := http.DefaultTransport.(*http.Transport).Clone()
		tr.DialContext = (&net.Dialer{Timeout: connectTimeout}).DialContext
		tr.ResponseHeaderTimeout = headerTimeout
		c.http = &http.Client{Transport: tr}
	})
	return c.http
}

// File completes the file part with what is at url, at most limit bytes unless that
// is 0. The error is fs.ErrNotExist when there is nothing.
func (c *Client) File(ctx context.Context, url, part string, limit int64) error {
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := unix.Flock(int(out.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("download %s: another process is downloading it: %w", part, err)
	}
	err = c.retry(ctx, func() (bool, error) {
		before, err := out.Seek(0, io.SeekEnd)
		if err != nil {
			return false, permanentError{err}
		}
		err = c.attempt(ctx, url, out, before, limit)
		after, serr := out.Seek(0, io.SeekEnd)
		return serr == nil && after > before, err
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("download %s: %w", url, err)
	}
	return err
}

// Tag returns what the server calls the present version of a file, "" when it does
// not tell. It changes with the file.
func (c *Client) Tag(ctx context.Context, url string) (string, error) {
	var tag string
	err := c.ask(ctx, http.MethodHead, url, func(r *http.Response) error {
		switch r.StatusCode {
		case http.StatusOK:
			etag, time := r.Header.Get("ETag"), r.Header.Get("Last-Modified")
			if etag != "" || time != "" {
				tag = fmt.Sprintf("%s %s %d", etag, time, r.ContentLength)
			}
		case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		default:
			return newStatusError(r)
		}
		return nil
	})
	return tag, err
}

// Bytes returns what is at url, which is small: at most limit bytes.
func (c *Client) Bytes(ctx context.Context, url string, limit int64) ([]byte, error) {
	f, err := os.CreateTemp("", "rig-fetch-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := c.File(ctx, url, f.Name(), limit); err != nil {
		return nil, err
	}
	return os.ReadFile(f.Name())
}

// Size returns how large the file at url is, -1 when the server does not tell.
func (c *Client) Size(ctx context.Context, url string) (int64, error) {
	size := int64(-1)
	err := c.ask(ctx, http.MethodHead, url, func(r *http.Response) error {
		size = r.ContentLength
		return success(r)
	})
	return size, err
}

// Post sends an empty request for a server to take note of.
func (c *Client) Post(ctx context.Context, url string) error {
	return c.ask(ctx, http.MethodPost, url, success)
}

func success(r *http.Response) error {
	if r.StatusCode/100 != 2 {
		return newStatusError(r)
	}
	return nil
}

// ask makes a request of which only the header of the answer matters; judge says what
// that means.
func (c *Client) ask(ctx context.Context, method, url string, judge func(*http.Response) error) error {
	err := c.retry(ctx, func() (bool, error) {
		req, err := http.NewRequestWithContext(ctx, method, url, nil)
		if err != nil {
			return false, permanentError{err}
		}
		resp, err := c.client().Do(req)
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		return false, judge(resp)
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("ask for %s: %w", url, err)
	}
	return err
}

// retry calls try until it succeeds, fails for good or has failed several times
// without progress.
func (c *Client) retry(ctx context.Context, try func() (progress bool, err error)) error {
	first, limit := orDefault(c.Pause, pause), orDefault(c.Attempts, attempts)
	wait := first
	for failed := 0; ; {
		progress, err := try()
		var permanent permanentError
		if err == nil || ctx.Err() != nil || errors.As(err, &permanent) {
			return err
		}
		if progress {
			failed, wait = 0, first
		}
		if failed++; failed == limit {
			return err
		}
		if c.Logf != nil {
			c.Logf("%v; trying again in %v", err, wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait *= 2
	}
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// newRange is a request for a part of a file, "" for all of it.
func newRange(ctx context.Context, url, bytes string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, permanentError{err}
	}
	if bytes != "" {
		req.Header.Set("Range", bytes)
	}
	return req, nil
}

// attempt asks for the bytes after the first have and appends them to out.
func (c *Client) attempt(parent context.Context, url string, out *os.File, have, limit int64) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	bytes := ""
	if have > 0 {
		bytes = fmt.Sprintf("bytes=%d-", have)
	}
	req, err := newRange(ctx, url, bytes)
	if err != nil {
		return err
	}
	resp, err := c.client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		if err := out.Truncate(0); err != nil { // Range was not asked for, or is not supported
			return permanentError{err}
		}
		have = 0
	case http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != have {
			return permanentError{fmt.Errorf("asked for bytes from %d, got %q", have, resp.Header.Get("Content-Range"))}
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return nil // all there; the hash will tell
	default:
		return newStatusError(resp)
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return permanentError{err}
	}
	total := int64(-1)
	if resp.ContentLength >= 0 {
		total = have + resp.ContentLength
	}
	if limit > 0 && total > limit {
		return permanentError{fmt.Errorf("it has %d bytes, at most %d expected", total, limit)}
	}
	watch := time.AfterFunc(orDefault(c.Stall, stall), func() { cancel(errStalled) })
	defer watch.Stop()
	err = c.receive(resp.Body, out, url, have, total, limit, watch)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func (c *Client) receive(in io.Reader, out *os.File, url string, done, total, limit int64, watch *time.Timer) error {
	buf := make([]byte, 128<<10)
	for {
		n, err := in.Read(buf)
		watch.Reset(orDefault(c.Stall, stall))
		if done += int64(n); limit > 0 && done > limit {
			return permanentError{fmt.Errorf("it has more than the %d bytes expected", limit)}
		}
		if _, werr := out.Write(buf[:n]); werr != nil {
			return permanentError{werr}
		}
		if c.Progress != nil {
			c.Progress(url, done, total)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
