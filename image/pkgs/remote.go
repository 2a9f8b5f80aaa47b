package pkgs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fetch"
)

// cached describes the catalogue in a cache directory.
type cached struct {
	URL string
	Tag string // of the server, see fetch.Client.Tag
	source
}

const cachedFile = "catalogue.json"

func openRemote(ctx context.Context, repo Repo, o Options) ([]*Package, error) {
	cache, err := o.cacheDir()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(repo.URL))
	dir := filepath.Join(cache, "catalogues", hex.EncodeToString(sum[:8]))
	if o.Offline {
		old, have := readCached(dir, repo.URL)
		if !have {
			return nil, diag.Hint(errors.New("its catalogue was not downloaded before"), "run once with access to the network")
		}
		return load(ctx, repo, old.source, filepath.Join(dir, old.Archive), o)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, diag.Hint(err, "name a writable cache directory")
	}
	lock, err := lockFile(ctx, filepath.Join(dir, "lock"), o.logf)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	client := &fetch.Client{Logf: o.Logf}
	if o.Progress != nil {
		client.Progress = func(_ string, done, total int64) { o.Progress("catalogue of "+repo.Name, done, total) }
	}
	old, have := readCached(dir, repo.URL)
	if have && old.Tag != "" {
		tag, err := client.Tag(ctx, repo.fileURL(old.Archive))
		if err == nil && tag == old.Tag {
			list, err := load(ctx, repo, old.source, filepath.Join(dir, old.Archive), o)
			if err == nil || ctx.Err() != nil {
				return list, err
			}
			o.logf("repository %s: catalogue in the cache: %v; downloading it again", repo.Name, err)
		}
	}
	return download(ctx, repo, client, dir, o)
}

// download replaces the catalogue in dir by the server's.
func download(ctx context.Context, repo Repo, client *fetch.Client, dir string, o Options) ([]*Package, error) {
	now := cached{URL: repo.URL}
	var file string
	var err error
	now.source, file, err = locate(func(name string, limit int64) (string, error) {
		u := repo.fileURL(name)
		tag, err := client.Tag(ctx, u)
		if err != nil {
			return "", err
		}
		// A part is resumed only when it is of the same version.
		sum := sha256.Sum256([]byte(tag))
		part := filepath.Join(dir, name+"."+hex.EncodeToString(sum[:4])+".part")
		stale, _ := filepath.Glob(filepath.Join(dir, name+".*.part"))
		for _, s := range stale {
			if s != part || tag == "" || name == metaFile {
				os.Remove(s)
			}
		}
		now.Tag = tag
		return part, client.File(ctx, u, part, limit)
	})
	if err != nil {
		if diag.HintOf(err) == "" {
			err = diag.Hint(err, "check the network and the URL; a mirror of the repository in a directory can be named instead")
		}
		return nil, err
	}
	list, err := load(ctx, repo, now.source, file, o)
	if err != nil {
		if ctx.Err() == nil {
			os.Remove(file)
		}
		return nil, err
	}
	text, err := json.Marshal(now)
	if err != nil {
		return nil, err
	}
	if err := os.Rename(file, filepath.Join(dir, now.Archive)); err != nil {
		return nil, err
	}
	return list, os.WriteFile(filepath.Join(dir, cachedFile), text, 0o644)
}

// readCached describes what dir has of the repository.
func readCached(dir, url string) (cached, bool) {
	var c cached
	text, err := os.ReadFile(filepath.Join(dir, cachedFile))
	if err != nil || json.Unmarshal(text, &c) != nil || c.URL != url || !fs.ValidPath(c.Archive) || strings.Contains(c.Archive, "/") {
		return cached{}, false
	}
	_, err = os.Stat(filepath.Join(dir, c.Archive))
	return c, err == nil
}
