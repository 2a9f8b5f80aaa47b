package dist

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// fetcher downloads from a mirror. Downloads that break off are resumed, in this
// run and in the next.
type fetcher struct {
	base     string // URL of the release's directory, without a slash at its end
	client   *http.Client
	o        Options
	attempts int           // without progress
	pause    time.Duration // before the second attempt, doubled for each one more
	stall    time.Duration // without a byte
}

func newFetcher(o Options) *fetcher {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.DialContext = (&net.Dialer{Timeout: 15 * time.Second}).DialContext
	tr.ResponseHeaderTimeout = 30 * time.Second
	return &fetcher{base: strings.TrimRight(o.Mirror, "/") + "/" + o.Arch + "/" + o.Version, client: &http.Client{Transport: tr},
		o: o, attempts: 3, pause: time.Second, stall: 60 * time.Second}
}

// permanentError is an answer that another attempt will not change.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// manifest downloads MANIFEST into dir.
func (f *fetcher) manifest(ctx context.Context, dir string) ([]ManifestLine, error) {
	part := filepath.Join(dir, manifestName+".part")
	if err := os.Remove(part); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	if err := f.download(ctx, manifestName, part); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(part)
	if err != nil {
		return nil, err
	}
	m, err := ParseManifest(bytes.NewReader(text))
	if err != nil { // a captive portal, an error page: not the user's input
		return nil, fmt.Errorf("%s/%s is not a manifest: %v", f.base, manifestName, err)
	}
	return m, os.Rename(part, filepath.Join(dir, manifestName))
}

// set downloads a set into dir. It gets its name only when its hash is right.
func (f *fetcher) set(ctx context.Context, dir, name, sha string) (Set, error) {
	file := name + suffix
	part := filepath.Join(dir, file+".part")
	for {
		fi, err := os.Stat(part)
		resumed := err == nil && fi.Size() > 0
		if err := f.download(ctx, file, part); err != nil {
			return Set{}, err
		}
		s, err := f.o.checkSet(ctx, part, name, sha)
		if err == nil {
			s.Path = filepath.Join(dir, file)
			return s, os.Rename(part, s.Path)
		}
		if ctx.Err() != nil {
			return Set{}, ctx.Err()
		}
		if err := os.Remove(part); err != nil {
			return Set{}, err
		}
		if !resumed {
			return Set{}, fmt.Errorf("download %s/%s: %w", f.base, file, err)
		}
		f.o.Logf("%v; downloading it from its beginning", err)
	}
}

// download completes the file part with what the mirror has under name.
func (f *fetcher) download(ctx context.Context, name, part string) error {
	out, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if err := unix.Flock(int(out.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("download %s: another process is downloading it: %w", part, err)
	}
	url := f.base + "/" + name
	pause := f.pause
	for failed := 0; ; {
		before, err := out.Seek(0, io.SeekEnd)
		if err != nil {
			return err
		}
		err = f.attempt(ctx, name, url, out, before)
		if err == nil {
			return nil
		}
		err = fmt.Errorf("download %s: %w", url, err)
		var permanent permanentError
		if ctx.Err() != nil || errors.As(err, &permanent) {
			return err
		}
		if after, serr := out.Seek(0, io.SeekEnd); serr == nil && after > before {
			failed, pause = 0, f.pause
		}
		if failed++; failed == f.attempts {
			return err
		}
		f.o.Logf("%v; trying again in %v", err, pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
		pause *= 2
	}
}

var errStalled = errors.New("nothing received for a while")

// attempt asks for the bytes after the first have and appends them to out.
func (f *fetcher) attempt(parent context.Context, name, url string, out *os.File, have int64) error {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return permanentError{err}
	}
	if have > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", have))
	}
	resp, err := f.client.Do(req)
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
		err := fmt.Errorf("the server says %s", resp.Status)
		if resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout {
			err = permanentError{err}
		}
		return err
	}
	if _, err := out.Seek(have, io.SeekStart); err != nil {
		return permanentError{err}
	}
	total := int64(-1)
	if resp.ContentLength >= 0 {
		total = have + resp.ContentLength
	}
	return f.receive(ctx, cancel, resp.Body, out, "download "+name, have, total)
}

func (f *fetcher) receive(ctx context.Context, cancel context.CancelCauseFunc, in io.Reader, out *os.File, what string, done, total int64) error {
	watch := time.AfterFunc(f.stall, func() { cancel(errStalled) })
	defer watch.Stop()
	buf := make([]byte, 128<<10)
	for {
		n, err := in.Read(buf)
		watch.Reset(f.stall)
		if _, werr := out.Write(buf[:n]); werr != nil {
			return permanentError{werr}
		}
		done += int64(n)
		f.o.Progress(what, done, total)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
}
