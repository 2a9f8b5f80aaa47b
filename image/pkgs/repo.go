package pkgs

import (
	"archive/tar"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/image/tree"
)

// localMeta is the meta.conf of repositories written here, as `pkg repo` writes it.
const localMeta = `version = 2;
packing_format = "tzst";
manifests = "packagesite.yaml";
data = "data";
filesite = "files";
manifests_archive = "packagesite";
filesite_archive = "files";
`

// LocalRepo returns an unsigned repository of the files, for pkg with
// signature_type none: meta.conf, data.pkg, packagesite.pkg and All/. Every entry is
// root's and of the time when; the bytes depend on files and when only.
func LocalRepo(files []File, when time.Time) ([]tree.Entry, error) {
	files = slices.Clone(files)
	slices.SortStableFunc(files, func(a, b File) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), CompareVersions(a.Version, b.Version))
	})
	entry := func(p string, size int64, open tree.Opener) tree.Entry {
		return tree.Entry{Path: p, Kind: tree.File, Perm: 0o644, Owner: "root", Group: "wheel", ModTime: when, Size: size, Open: open}
	}
	out := []tree.Entry{{Path: "All", Kind: tree.Dir, Perm: 0o755, Owner: "root", Group: "wheel", ModTime: when}}
	made, err := catalogueEntries(files)
	if err != nil {
		return nil, err
	}
	var lines [][]byte
	for i, f := range files {
		if i > 0 && f.ID() == files[i-1].ID() {
			if f.SHA256 != files[i-1].SHA256 {
				return nil, fmt.Errorf("repository: package %s is there twice, %s and %s", f.ID(), files[i-1].SHA256, f.SHA256)
			}
			continue
		}
		name := archiveName(f)
		lines = append(lines, made[i])
		out = append(out, entry(name, f.Size, func() (io.ReadCloser, error) { return os.Open(f.Path) }))
	}
	data := slices.Concat([]byte(`{"groups":[],"expired_packages":[],"packages":[`), bytes.Join(lines, []byte(",")), []byte("]}\n"))
	site := bytes.Join(append(lines, nil), []byte("\n"))
	m := defaultMeta()
	for _, x := range []struct {
		file, member string
		content      []byte
	}{
		{metaFile, "", []byte(localMeta)},
		{m.dataArchive + ".pkg", m.data, data},
		{m.manifestArchive + ".pkg", m.manifests, site},
	} {
		if x.member != "" {
			var err error
			if x.content, err = pack(x.member, x.content, when); err != nil {
				return nil, fmt.Errorf("repository: %s: %w", x.file, err)
			}
		}
		out = append(out, entry(x.file, int64(len(x.content)), tree.Bytes(x.content)))
	}
	return out, nil
}

func archiveName(f File) string { return "All/" + f.ID() + ".pkg" }

// catalogueEntries makes the entry of every file, on all cores.
func catalogueEntries(files []File) ([][]byte, error) {
	lines, errs := make([][]byte, len(files)), make([]error, len(files))
	var wg sync.WaitGroup
	limit := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, f := range files {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			if lines[i], errs[i] = catalogueEntry(f, archiveName(f)); errs[i] != nil {
				errs[i] = fmt.Errorf("repository: package %s: %w", f.ID(), errs[i])
			}
		})
	}
	wg.Wait()
	return lines, errors.Join(errs...)
}

// catalogueEntry is the package's own compact manifest, with what `pkg repo` adds.
func catalogueEntry(f File, name string) ([]byte, error) {
	in, err := os.Open(f.Path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	a := &Archive{r: in, size: f.Size}
	t, done, err := a.open()
	if err != nil {
		return nil, err
	}
	defer done()
	if err := a.readCompact(t); err != nil {
		return nil, err
	}
	if err := a.Check(f.Package); err != nil {
		return nil, err
	}
	var keys map[string]any
	d := json.NewDecoder(bytes.NewReader(a.Manifest))
	d.UseNumber()
	if err := d.Decode(&keys); err != nil {
		return nil, err
	}
	keys["sum"], keys["path"], keys["repopath"], keys["pkgsize"] = f.SHA256, name, name, f.Size
	var b bytes.Buffer
	e := json.NewEncoder(&b) // keys come sorted
	e.SetEscapeHTML(false)
	if err := e.Encode(keys); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// pack makes a .pkg of one member.
func pack(member string, content []byte, when time.Time) ([]byte, error) {
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, err
	}
	t := tar.NewWriter(z)
	h := &tar.Header{Typeflag: tar.TypeReg, Name: member, Size: int64(len(content)), Mode: 0o644,
		Uname: "root", Gname: "wheel", ModTime: when, Format: tar.FormatUSTAR}
	if err := t.WriteHeader(h); err != nil {
		return nil, err
	}
	if _, err := t.Write(content); err != nil {
		return nil, err
	}
	if err := t.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}
