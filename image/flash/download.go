package flash

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fetch"
)

// DownloadOptions of Download.
type DownloadOptions struct {
	URL      string
	Dir      string // where unfinished downloads stay and are resumed
	Progress func(what string, done, total int64)
	Logf     func(format string, args ...any)
}

// Download fetches an image into a file of its directory, from where an earlier
// call left off, and compares it with URL.sha256 where the server has that.
// The caller removes the file when it is written.
func Download(ctx context.Context, o DownloadOptions) (*Image, string, error) {
	if !strings.HasPrefix(o.URL, "http://") && !strings.HasPrefix(o.URL, "https://") {
		return nil, "", diag.Inputf("%s: expected a URL that begins with http:// or https://", o.URL)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, "", err
	}
	c := &fetch.Client{Logf: o.Logf, Progress: func(url string, done, total int64) {
		if o.Progress != nil && url == o.URL {
			o.Progress("download", done, max(0, total))
		}
	}}
	tag, err := c.Tag(ctx, o.URL)
	if err != nil {
		return nil, "", err
	}
	want, err := publishedSum(ctx, c, o)
	if err != nil {
		return nil, "", err
	}
	// A new version on the server is another file here.
	id := sha256.Sum256([]byte(o.URL + "\n" + tag + "\n" + want))
	part := filepath.Join(o.Dir, hex.EncodeToString(id[:8])+".part")
	for {
		st, err := os.Stat(part)
		resumed := err == nil && st.Size() > 0
		if err := c.File(ctx, o.URL, part, 0); err != nil {
			return nil, "", err
		}
		if want == "" {
			return &Image{Name: o.URL, file: part}, part, nil
		}
		got, err := fileSum(ctx, part)
		if err != nil {
			return nil, "", err
		}
		if got == want {
			return &Image{Name: o.URL, file: part, Checked: true}, part, nil
		}
		if err := os.Remove(part); err != nil {
			return nil, "", err
		}
		if !resumed {
			return nil, "", diag.Hint(fmt.Errorf("download %s: its SHA-256 is %s, %s.sha256 says %s", o.URL, got, path.Base(o.URL), want),
				"the server has an image and a checksum that do not belong together")
		}
	}
}

// publishedSum reads URL.sha256, "" when the server has none: a hash alone, as
// sha256sum prints it, or as BSD's sha256 does.
func publishedSum(ctx context.Context, c *fetch.Client, o DownloadOptions) (string, error) {
	part := filepath.Join(o.Dir, "sum.part")
	defer os.Remove(part)
	if err := os.Remove(part); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	err := c.File(ctx, o.URL+".sha256", part, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(part)
	if err != nil {
		return "", err
	}
	for _, w := range strings.Fields(string(b)) {
		if sum, err := hex.DecodeString(w); err == nil && len(sum) == sha256.Size {
			return strings.ToLower(w), nil
		}
	}
	return "", fmt.Errorf("download %s.sha256: it holds no SHA-256", o.URL)
}

func fileSum(ctx context.Context, name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	for buf := make([]byte, 1<<20); ; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}
