package sets

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/internal/fetch"
)

// fetcher downloads from a mirror.
type fetcher struct {
	base   string // URL of the release's directory, without a slash at its end
	client *fetch.Client
	o      Options
}

func newFetcher(o Options) *fetcher {
	return &fetcher{base: strings.TrimRight(o.Mirror, "/") + "/" + o.Arch + "/" + o.Version, o: o, client: &fetch.Client{
		Progress: func(url string, done, total int64) { o.Progress("download "+path.Base(url), done, total) }, Logf: o.Logf}}
}

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
	return f.client.File(ctx, f.base+"/"+name, part, 0)
}
