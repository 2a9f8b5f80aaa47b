package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/network"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fetch"
	"github.com/rig-freebsd/rig/internal/work"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// Booted is the web server that a machine which was booted from the network gets its
// image from; nil when it was booted from a disk. A loader that came by TFTP says which
// server that was.
func Booted(f *facts.Facts) (*Web, error) {
	if base := f.Kenv[manifest.EnvURL]; base != "" {
		if u, err := url.Parse(base); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, diag.Inputf("kenv %s=%q is not an http URL", manifest.EnvURL, base)
		}
		return &Web{strings.TrimRight(base, "/")}, nil
	}
	if host := f.Kenv["boot.tftproot.server"]; host != "" {
		return &Web{"http://" + host}, nil
	}
	return nil, nil
}

// OpenWeb reads the manifest of an image that is on a web server. The machine has an
// address.
func OpenWeb(ctx context.Context, root string, f *facts.Facts, web Web, logf func(format string, a ...any)) (*Opened, error) {
	client := newClient(logf)
	b, err := client.Bytes(ctx, web.URL+"/"+manifest.File, maxManifest)
	if err != nil {
		return nil, network.NetHint(fmt.Errorf("get the image from the network: %w", err))
	}
	m, err := manifest.Decode(strings.NewReader(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", web, manifest.File, err)
	}
	if want := f.Kenv[manifest.EnvImage]; want != "" && m.Image != want {
		return nil, diag.Hint(fmt.Errorf("%s has image %s; this installer is of %s", web, m.Image, want), "restart: the server has another image by now")
	}
	if err := os.WriteFile(root+place.NetManifest, b, 0o600); err != nil {
		return nil, err
	}
	return &Opened{root: root, Source: web, Manifest: m, web: client}, nil
}

// maxManifest is more bytes than any manifest has.
const maxManifest = 16 << 20

// newClient is patient with a network that has just come up.
func newClient(logf func(format string, a ...any)) *fetch.Client {
	return &fetch.Client{Attempts: 5, Logf: logf}
}

// FromNet reports whether the bundle has to be fetched from a web server.
func (md *Opened) FromNet() bool { return md.web != nil }

// probe asks for the size of every file of the bundle, before any disk is touched.
func (md *Opened) probe(ctx context.Context, base string, progress func(done, total int64)) error {
	files := bundleFiles(md.Manifest)
	var errs []error
	for i, f := range files {
		progress(int64(i), int64(len(files)))
		size, err := md.web.Size(ctx, base+"/"+f.path)
		if err == nil && size >= 0 && size != f.size {
			err = fmt.Errorf("%s/%s: %d bytes; expected %d", base, f.path, size, f.size)
		}
		if err != nil {
			errs = append(errs, err)
		}
		if len(errs) > 2 || ctx.Err() != nil {
			break
		}
	}
	return diag.Hint(errors.Join(errs...), "the server has no complete image: make its directory again with \"rigimage build -o DIR/\"; no disk was touched")
}

// bundleFile is one file of a bundle whose content is known.
type bundleFile struct {
	what, path, sum string
	size            int64
}

// bundleFiles lists layers first, as they are unpacked first.
func bundleFiles(m *manifest.Manifest) []bundleFile {
	names := map[string]string{}
	for _, l := range m.Layers {
		if names[l.Path()] == "" {
			names[l.Path()] = strings.TrimSpace(fmt.Sprintf("layer %s %s", l.Role, l.Jail))
		}
	}
	var files []bundleFile
	for _, f := range m.Pinned() {
		if f.Part == manifest.RoleRig {
			files = append(files, bundleFile{cmp.Or(names[f.Path], f.Path), f.Path, f.SHA256, f.Size})
		}
	}
	return files
}

// fetchers is how many files are fetched at the same time.
const fetchers = 4

// Bundle fills BundleDir from a web server.
type Bundle struct {
	Root     string // where the machine's file system is, "" for /
	Manifest *manifest.Manifest
	Logf     func(format string, args ...any)
	Progress work.Progress // may be nil
}

// Fetch brings what is not there yet of the bundle at the URL base to BundleDir, and
// compares each file with its hash.
func (b Bundle) Fetch(ctx context.Context, base string) error {
	client := newClient(b.Logf)
	var total int64
	files := bundleFiles(b.Manifest)
	for _, f := range files {
		total += f.size
	}
	var mu sync.Mutex
	var done int64
	work := make(chan bundleFile)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range fetchers {
		wg.Go(func() {
			for f := range work {
				if err := b.fetchFile(ctx, client, base, f); err != nil {
					cancel(err)
				}
				mu.Lock()
				done += f.size
				b.Progress.Report("fetch", done, total)
				mu.Unlock()
			}
		})
	}
	for _, f := range files {
		if ctx.Err() != nil {
			break
		}
		work <- f
	}
	close(work)
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return b.fetchUnpinned(ctx, client, base)
}

// fetchUnpinned completes the bundle by what no manifest can have the hash of: itself,
// and the switch.
func (b Bundle) fetchUnpinned(ctx context.Context, client *fetch.Client, base string) error {
	text, err := client.Bytes(ctx, base+"/"+manifest.File, maxManifest)
	if err != nil {
		return err
	}
	now, err := manifest.Decode(strings.NewReader(string(text)))
	if err != nil || now.Image != b.Manifest.Image {
		return fmt.Errorf("%s/%s changed during the install", base, manifest.File)
	}
	dir := b.Root + place.BundleDir
	return errors.Join(
		os.WriteFile(filepath.Join(dir, manifest.File), text, 0o644),
		os.MkdirAll(filepath.Join(dir, manifest.ConfDir), 0o755),
		os.WriteFile(filepath.Join(dir, manifest.SwitchFile), manifest.InstallSwitch(manifest.NewMedium()), 0o644))
}

// fetchFile fetches one file under another name, so that a name stands for content that
// was compared.
func (b Bundle) fetchFile(ctx context.Context, client *fetch.Client, base string, f bundleFile) error {
	name := filepath.Join(b.Root+place.BundleDir, f.path)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	part := name + partSuffix
	if err := client.File(ctx, base+"/"+f.path, part, f.size); err != nil {
		return err
	}
	return b.accept(part, base, f)
}

const partSuffix = ".part"

// accept gives a downloaded file its name when it is what it should be.
func (b Bundle) accept(part, base string, f bundleFile) error {
	in, err := os.Open(part)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := layer.Verify(in, f.size, f.sum); err != nil {
		_ = os.Remove(part) // another attempt begins anew
		return diag.Hint(fmt.Errorf("%s of %s/%s: %w", f.what, base, f.path, err), "what the server has, or what came of it, is damaged; no disk was made bootable")
	}
	mode := fs.FileMode(0o644)
	if f.path == manifest.PkgStatic {
		mode = 0o755
	}
	return errors.Join(os.Chmod(part, mode), os.Rename(part, strings.TrimSuffix(part, partSuffix)))
}

// Unpack fetches a layer and unpacks it while it comes. What was unpacked counts
// only when the whole of it turned out to be right.
func (b Bundle) Unpack(ctx context.Context, l manifest.Layer, dir, base string) error {
	f := bundleFile{"layer " + string(l.Role), l.Path(), l.SHA256, l.Size}
	part := filepath.Join(b.Root+place.BundleDir, f.path) + partSuffix
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		return err
	}
	in, err := newClient(b.Logf).Follow(ctx, base+"/"+f.path, part, f.size)
	if err != nil {
		return err
	}
	defer in.Close()
	uerr := layer.Unpack(ctx, in, l.Size, dir, layer.UnpackOptions{
		Progress: func(done, total int64) { b.Progress.Report("fetch and unpack "+string(l.Role), done, total) },
	})
	if err := in.Wait(); err != nil {
		return err
	}
	// A wrong hash explains what the layer could not be unpacked for.
	if err := b.accept(part, base, f); err != nil {
		return err
	}
	return uerr
}

// NetAnswers asks for this machine's answers where kenv says they are. In the URL,
// {mac}, {serial} and {uuid} stand for what the machine is known by, and {id} for each
// of them in that order, then "default": the first file that exists is taken.
func NetAnswers(ctx context.Context, f *facts.Facts, md *Opened) ([]answers.Source, error) {
	template := f.Kenv[manifest.EnvAnswersURL]
	if template == "" || !md.FromNet() {
		return nil, nil
	}
	var tried []string
	for _, u := range answerURLs(template, f) {
		b, err := md.web.Bytes(ctx, u, 1<<20)
		if err == nil {
			return []answers.Source{{Name: u, Data: b}}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, network.NetHint(fmt.Errorf("get this machine's answers: %w", err))
		}
		tried = append(tried, path.Base(u))
	}
	return nil, diag.Hint(fmt.Errorf("get this machine's answers: %s has none of %s", template, strings.Join(tried, ", ")),
		"put its answers there under one of these names; no disk was touched")
}

// answerURLs is a template filled in, once for each name the machine has.
func answerURLs(template string, f *facts.Facts) []string {
	var macs []string
	for _, n := range f.NICs {
		macs = append(macs, strings.ReplaceAll(strings.ToLower(n.MAC), ":", "-"))
	}
	names := map[string][]string{"{mac}": macs}
	if s := f.SMBIOS["system.serial"]; s != "" {
		names["{serial}"] = []string{plainName(s)}
	}
	if s := f.SMBIOS["system.uuid"]; s != "" {
		names["{uuid}"] = []string{strings.ToLower(s)}
	}
	names["{id}"] = slices.Concat(macs, names["{serial}"], names["{uuid}"], []string{"default"})
	urls := []string{template}
	for _, key := range slices.Sorted(maps.Keys(names)) {
		var next []string
		for _, u := range urls {
			if !strings.Contains(u, key) {
				next = append(next, u)
				continue
			}
			for _, v := range names[key] {
				next = append(next, strings.ReplaceAll(u, key, v))
			}
		}
		urls = next
	}
	for _, key := range []string{"{mac}", "{serial}", "{uuid}"} { // the machine has none
		urls = slices.DeleteFunc(urls, func(u string) bool { return strings.Contains(u, key) })
	}
	return urls
}

// plainName is a serial number as a file's name: other bytes than letters, digits, "-",
// "_" and "." become "_".
func plainName(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z') {
			return r
		}
		return '_'
	}, s)
}

// TellDone tells the server that this machine is installed; that it could not be told
// is no failure of the install.
func TellDone(ctx context.Context, f *facts.Facts, logf func(format string, a ...any)) {
	u := f.Kenv[manifest.EnvDoneURL]
	if u == "" {
		return
	}
	mac := strings.ToLower(f.Kenv["boot.netif.hwaddr"])
	if mac == "" && len(f.NICs) > 0 {
		mac = f.NICs[0].MAC
	}
	if err := newClient(logf).Post(ctx, u+"?mac="+url.QueryEscape(mac)); err != nil {
		logf("the server was not told: %v", err)
	}
}
