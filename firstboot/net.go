package firstboot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"rig/answers"
	"rig/internal/diag"
	"rig/internal/fetch"
	"rig/internal/run"
	"rig/layer"
	"rig/manifest"
)

// netURL is where a machine that was booted from the network gets its image: the URL
// of the directory, without a slash at its end; "" when it was booted from a disk. A
// loader that came by TFTP says which server that was.
func netURL(f *Facts) string {
	if u := f.Kenv[manifest.EnvURL]; u != "" {
		return strings.TrimRight(u, "/")
	}
	if host := f.Kenv["boot.tftproot.server"]; host != "" {
		return "http://" + host
	}
	return ""
}

// netMedium reads the manifest of an image that is on a web server.
func (in *Installer) netMedium(ctx context.Context, f *Facts, base string) (*Medium, error) {
	if u, err := url.Parse(base); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, diag.Inputf("kenv %s=%q is not an http URL", manifest.EnvURL, base)
	}
	if err := in.netUp(ctx, f); err != nil {
		return nil, err
	}
	client := newClient(in.netLog)
	b, err := client.Bytes(ctx, base+"/"+manifest.File, maxManifest)
	if err != nil {
		return nil, netHint(fmt.Errorf("get the image from the network: %w", err))
	}
	m, err := manifest.Decode(strings.NewReader(string(b)))
	if err != nil {
		return nil, fmt.Errorf("%s/%s: %w", base, manifest.File, err)
	}
	if want := f.Kenv[manifest.EnvImage]; want != "" && m.Image != want {
		return nil, diag.Hint(fmt.Errorf("%s has image %s; this installer is of %s", base, m.Image, want), "restart: the server has another image by now")
	}
	if err := os.WriteFile(in.Root+NetManifest, b, 0o600); err != nil {
		return nil, err
	}
	return &Medium{root: in.Root, Partition: base, Manifest: m, net: client}, nil
}

// NetManifest is the manifest of an image that comes over the network, until the
// bundle is there.
const NetManifest = StateDir + "/manifest.json"

// maxManifest is more bytes than any manifest has.
const maxManifest = 16 << 20

func netHint(err error) error {
	return diag.Hint(err, "is the server there? Look with \"ifconfig\" and \"fetch\" in a shell; no disk was touched")
}

// newClient is patient with a network that has just come up.
func newClient(logf func(format string, a ...any)) *fetch.Client {
	return &fetch.Client{Attempts: 5, Logf: logf}
}

func (in *Installer) netLog(format string, a ...any) { in.sayf("rig: "+format, a...) }

// netUp gets an address by DHCP, unless a card has one: on the card that the loader
// came in by, else on the first one with a link on which there is a server.
func (in *Installer) netUp(ctx context.Context, f *Facts) error {
	if slices.ContainsFunc(f.NICs, func(n NIC) bool { return len(n.Inet) > 0 }) {
		return nil
	}
	cards := slices.Clone(f.NICs)
	came := f.Kenv["boot.netif.hwaddr"]
	slices.SortStableFunc(cards, func(a, b NIC) int {
		return cardRank(b, came) - cardRank(a, came)
	})
	var failed []string
	for _, n := range cards {
		in.sayf("rig: asking for an address on %s (%s)", n.Device, n.MAC)
		if _, err := in.Run.Run(ctx, run.New("dhclient", n.Device)); err != nil {
			failed = append(failed, fmt.Sprintf("%s (%s): %v", n.Device, n.MAC, err))
			continue
		}
		out, err := in.Run.Run(ctx, run.New("ifconfig", n.Device))
		if err != nil {
			return err
		}
		now, err := parseIfconfig(string(out))
		if err == nil && len(now) == 1 && len(now[0].Inet) > 0 {
			in.sayf("rig: %s has address %s", n.Device, now[0].Inet[0])
			return nil
		}
		failed = append(failed, fmt.Sprintf("%s (%s): no DHCP server answered", n.Device, n.MAC))
	}
	if len(failed) == 0 {
		failed = []string{"there is no network card"}
	}
	return netHint(fmt.Errorf("get an address by DHCP: %s", strings.Join(failed, "; ")))
}

// cardRank is higher for cards that are better to ask on.
func cardRank(n NIC, came string) int {
	return 2*b2i(strings.EqualFold(n.MAC, came)) + b2i(n.Link)
}

// FromNet reports whether the bundle has to be fetched from a web server.
func (md *Medium) FromNet() bool { return md.net != nil }

// probe asks for the size of every file of the bundle, before any disk is touched.
func (md *Medium) probe(ctx context.Context, progress func(done, total int64)) error {
	files := bundleFiles(md.Manifest)
	var errs []error
	for i, f := range files {
		progress(int64(i), int64(len(files)))
		size, err := md.net.Size(ctx, md.Partition+"/"+f.path)
		if err == nil && size >= 0 && size != f.size {
			err = fmt.Errorf("%s/%s: %d bytes; expected %d", md.Partition, f.path, size, f.size)
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

// fetch brings what is not there yet of the bundle to BundleDir, and compares each
// file with its hash.
func (m *Machine) fetch(ctx context.Context, args []string, _ []byte) error {
	base, client := args[0], m.client()
	var total int64
	files := bundleFiles(m.Manifest)
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
				if err := m.fetchFile(ctx, client, base, f); err != nil {
					cancel(err)
				}
				mu.Lock()
				done += f.size
				m.progress("fetch", done, total)
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
	return m.fetchUnpinned(ctx, client, base)
}

// fetchUnpinned completes the bundle by what no manifest can have the hash of: itself,
// and the switch.
func (m *Machine) fetchUnpinned(ctx context.Context, client *fetch.Client, base string) error {
	b, err := client.Bytes(ctx, base+"/"+manifest.File, maxManifest)
	if err != nil {
		return err
	}
	now, err := manifest.Decode(strings.NewReader(string(b)))
	if err != nil || now.Image != m.Manifest.Image {
		return fmt.Errorf("%s/%s changed during the install", base, manifest.File)
	}
	dir := m.Root + BundleDir
	return errors.Join(
		os.WriteFile(filepath.Join(dir, manifest.File), b, 0o644),
		os.MkdirAll(filepath.Join(dir, manifest.ConfDir), 0o755),
		os.WriteFile(filepath.Join(dir, manifest.SwitchFile), manifest.InstallSwitch(manifest.NewMedium()), 0o644))
}

func (m *Machine) client() *fetch.Client {
	if m.Log == nil {
		return newClient(nil)
	}
	return newClient(m.Log.Printf)
}

// fetchFile fetches one file under another name, so that a name stands for content that
// was compared.
func (m *Machine) fetchFile(ctx context.Context, client *fetch.Client, base string, f bundleFile) error {
	name := filepath.Join(m.Root+BundleDir, f.path)
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
	return m.accept(part, base, f)
}

const partSuffix = ".part"

// accept gives a downloaded file its name when it is what it should be.
func (m *Machine) accept(part, base string, f bundleFile) error {
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

// unpackNet fetches a layer and unpacks it while it comes. What was unpacked counts
// only when the whole of it turned out to be right.
func (m *Machine) unpackNet(ctx context.Context, l manifest.Layer, dir, base string) error {
	f := bundleFile{"layer " + string(l.Role), l.Path(), l.SHA256, l.Size}
	part := filepath.Join(m.Root+BundleDir, f.path) + partSuffix
	if err := os.MkdirAll(filepath.Dir(part), 0o755); err != nil {
		return err
	}
	in, err := m.client().Follow(ctx, base+"/"+f.path, part, f.size)
	if err != nil {
		return err
	}
	defer in.Close()
	uerr := layer.Unpack(ctx, in, l.Size, dir, layer.UnpackOptions{
		Progress: func(done, total int64) { m.progress("fetch and unpack "+string(l.Role), done, total) },
	})
	if err := in.Wait(); err != nil {
		return err
	}
	// A wrong hash explains what the layer could not be unpacked for.
	if err := m.accept(part, base, f); err != nil {
		return err
	}
	return uerr
}

// netAnswers asks for this machine's answers where kenv says they are. In the URL,
// {mac}, {serial} and {uuid} stand for what the machine is known by, and {id} for each
// of them in that order, then "default": the first file that exists is taken.
func (in *Installer) netAnswers(ctx context.Context, f *Facts, md *Medium) ([]answers.Source, error) {
	template := f.Kenv[manifest.EnvAnswersURL]
	if template == "" || !md.FromNet() {
		return nil, nil
	}
	var tried []string
	for _, u := range answerURLs(template, f) {
		b, err := md.net.Bytes(ctx, u, 1<<20)
		if err == nil {
			return []answers.Source{{Name: u, Data: b}}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, netHint(fmt.Errorf("get this machine's answers: %w", err))
		}
		tried = append(tried, path.Base(u))
	}
	return nil, diag.Hint(fmt.Errorf("get this machine's answers: %s has none of %s", template, strings.Join(tried, ", ")),
		"put its answers there under one of these names; no disk was touched")
}

// answerURLs is a template filled in, once for each name the machine has.
func answerURLs(template string, f *Facts) []string {
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
	for _, key := range sortedKeys(names) {
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

// tellDone tells the server that this machine is installed; that it could not be told
// is no failure of the install.
func (in *Installer) tellDone(ctx context.Context, f *Facts) {
	u := f.Kenv[manifest.EnvDoneURL]
	if u == "" {
		return
	}
	mac := strings.ToLower(f.Kenv["boot.netif.hwaddr"])
	if mac == "" && len(f.NICs) > 0 {
		mac = f.NICs[0].MAC
	}
	if err := newClient(in.netLog).Post(ctx, u+"?mac="+url.QueryEscape(mac)); err != nil {
		in.sayf("rig: the server was not told: %v", err)
	}
}
