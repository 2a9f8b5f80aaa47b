package reader

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/iso"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/fetch"
)

// Result is what a check found.
type Result string

// Results of checks.
const (
	OK   Result = "ok"
	Bad  Result = "bad"
	Note Result = "note" // worth knowing; nothing that any hash or rule is about
	None Result = "none" // there is nothing to compare with
)

// Check is one check of an image. Text says what was looked at, or is one problem
// each.
type Check struct {
	What   string   `json:"what"`
	Result Result   `json:"result"`
	Text   []string `json:"text"`
}

// Outside is a file that no hash covers, since it differs between media of an image.
// Text says what it is; the content of answers is not said.
type Outside struct {
	Path string `json:"path"`
	Text string `json:"text"`
}

// Verification is what Verify found.
type Verification struct {
	Path       string             `json:"path"`
	Form       Form               `json:"form"`
	Size       int64              `json:"size"`
	Image      string             `json:"image"`
	Partitions []Partition        `json:"partitions"`
	Manifest   *manifest.Manifest `json:"manifest"`
	Answers    bool               `json:"answers"` // it carries answers, which may hold secrets
	Checks     []Check            `json:"checks"`
	Outside    []Outside          `json:"outside"`
	Problems   []string           `json:"problems"` // of all checks
}

// Names of checks.
const (
	checkManifest = "manifest"
	checkTable    = "partition table"
	checkESP      = "file system of efi"
	checkRig      = "file system of rig"
	checkISO      = "file system of the ISO"
	checkLayers   = "layers"
	checkFiles    = "boot files"
	checkUnlisted = "other files"
	checkPMBR     = "boot code of sector 0"
	checkGPTBoot  = "boot partition"
	checkLoader   = "loader on the ESP"
	checkElTorito = "boot catalog"
	checkNetBoot  = "network boot"
	checkRest     = "every other byte"
)

// verifier collects what the checks of an image find.
type verifier struct {
	*Verification
	i   *Image
	ctx context.Context
	net error // of reading over a network: nothing is known then
}

// Verify checks everything in the image that has a hash, the rules of its file
// systems and tables, and the boot areas, which no hash covers, by the bundle's own
// copies. With exact, disks and ISOs are compared byte by byte with what this
// program would write, which also looks at the space that nothing uses. The error
// says that checking was not possible; what is wrong is in Problems.
func (i *Image) Verify(ctx context.Context, exact bool) (*Verification, error) {
	v := &verifier{&Verification{Path: i.Path, Form: i.Form, Size: i.Size, Image: i.Manifest.Image, Partitions: i.Partitions,
		Manifest: i.Manifest, Answers: i.Answers() != nil, Outside: []Outside{}, Problems: []string{}}, i, ctx, nil}
	v.add(checkManifest, nil, "the image id is that of its content")
	for _, c := range i.checks {
		i.o.Progress("check "+c.what, 0, 0)
		v.add(c.what, c.run(ctx), "its own rules and sums hold")
	}
	if v.net != nil {
		return nil, v.net
	}
	if err := v.hashes(); err != nil {
		return nil, err
	}
	if err := i.medium.check(v); err != nil {
		return nil, err
	}
	v.others()
	if m, ok := i.medium.(rewriter); ok && exact {
		if err := v.exact(m); err != nil {
			return nil, err
		}
	}
	if err := cmp.Or(ctx.Err(), v.net); err != nil {
		return nil, err
	}
	return v.Verification, nil
}

// add adds a check: of a joined error every part is a problem of its own.
func (v *verifier) add(what string, err error, fine string, args ...any) {
	if err == nil {
		v.Checks = append(v.Checks, Check{what, OK, []string{fmt.Sprintf(fine, args...)}})
		return
	}
	v.lost(err)
	c := Check{what, Bad, nil}
	for _, e := range parts(err) {
		c.Text = append(c.Text, e.Error())
	}
	v.Checks = append(v.Checks, c)
	v.Problems = append(v.Problems, c.Text...)
}

// lost remembers a failure of the network.
func (v *verifier) lost(err error) bool {
	var net *fetch.Error
	if errors.As(err, &net) {
		v.net = cmp.Or(v.net, error(net))
	}
	return v.net != nil
}

func (v *verifier) note(what string, r Result, format string, args ...any) {
	v.Checks = append(v.Checks, Check{what, r, []string{fmt.Sprintf(format, args...)}})
}

// parts are the errors that were joined.
func parts(err error) []error {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range many.Unwrap() {
			out = append(out, parts(e)...)
		}
		return out
	}
	return []error{err}
}

// fault takes a problem that was found when the image was opened.
func (v *verifier) fault(what string) error {
	for _, f := range v.i.faults {
		if f.what == what {
			return f.err
		}
	}
	return nil
}

// hashes compares every layer and boot file with the manifest.
func (v *verifier) hashes() error {
	var layers, files []manifest.BootFile
	for _, l := range v.Manifest.Layers {
		layers = append(layers, manifest.BootFile{Part: manifest.RoleRig, Path: l.Path(), Size: l.Size, SHA256: l.SHA256})
	}
	for _, f := range v.Manifest.Files {
		if f.Part == manifest.RoleRig || v.i.ESP != nil {
			files = append(files, f)
		}
	}
	var done, total int64
	for _, f := range slices.Concat(layers, files) {
		total += f.Size
	}
	for _, c := range []struct {
		what  string
		files []manifest.BootFile
	}{{checkLayers, layers}, {checkFiles, files}} {
		var errs []error
		for _, f := range c.files {
			if err := v.ctx.Err(); err != nil {
				return err
			}
			v.i.o.Progress("check hashes", done, total)
			t := v.i.Rig
			if f.Part == manifest.RoleESP {
				t = v.i.ESP
			}
			err := Matches(t, f)
			if v.lost(err) {
				return v.net
			}
			errs = append(errs, err)
			done += f.Size
		}
		v.add(c.what, errors.Join(errs...), "%d hashes match", len(c.files))
	}
	return nil
}

// Matches compares a file with what the manifest says of it.
func Matches(t *tree.Tree, want manifest.BootFile) error {
	e, ok := t.Lookup(want.Path)
	if !ok {
		return fmt.Errorf("%s: missing", want.Path)
	}
	if e.Kind != tree.File {
		return fmt.Errorf("%s: it is a %s", want.Path, e.Kind)
	}
	if e.Size != want.Size {
		return fmt.Errorf("%s: %d bytes, the manifest says %d", want.Path, e.Size, want.Size)
	}
	got, err := e.Digest()
	if err != nil {
		return fmt.Errorf("%s: %w", want.Path, err)
	}
	if got != want.SHA256 {
		return fmt.Errorf("%s: its hash is not the manifest's", want.Path)
	}
	return nil
}

// others looks at what the manifest does not list.
func (v *verifier) others() {
	listed := map[string]bool{"rig:" + manifest.File: true}
	for _, f := range v.Manifest.Files {
		listed[string(f.Part)+":"+f.Path] = true
	}
	for _, l := range v.Manifest.Layers {
		listed["rig:"+l.Path()] = true
	}
	var errs []error
	for part, t := range map[manifest.Role]*tree.Tree{manifest.RoleESP: v.i.ESP, manifest.RoleRig: v.i.Rig} {
		if t == nil {
			continue
		}
		for e := range t.All() {
			if e.Kind == tree.Dir || listed[string(part)+":"+e.Path] {
				continue
			}
			text, known := v.outside(part, e)
			if !known {
				errs = append(errs, fmt.Errorf("%s: the manifest does not list it", e.Path))
			} else if text != "" {
				v.Outside = append(v.Outside, Outside{e.Path, text})
			}
		}
	}
	slices.SortFunc(v.Outside, func(a, b Outside) int { return strings.Compare(a.Path, b.Path) })
	if _, ok := v.i.medium.(*web); ok {
		v.note(checkUnlisted, None, "a web server gives no list of its files")
		return
	}
	v.add(checkUnlisted, errors.Join(errs...), "none but those that belong to the medium")
}

// outside says of a file that no hash covers what it is, "" when a check of its own
// has.
func (v *verifier) outside(part manifest.Role, e *tree.Entry) (text string, known bool) {
	switch {
	case isAnswers(e.Path):
		return fmt.Sprintf("answers, %d bytes, which may hold secrets (not shown)", e.Size), true
	case part != manifest.RoleRig: // where people put files
		return fmt.Sprintf("not of the image, on the ESP, %d bytes", e.Size), true
	case e.Path == manifest.SwitchFile:
		return v.settings(e), true
	case e.Path == manifest.File+".minisig":
		return "signature, which is not checked here", true
	case path.Dir(e.Path) == manifest.ConfDir:
		return v.settings(e), true
	case v.i.medium == v.i.volume() && slices.Contains(isoBoot, e.Path), v.i.Form == Directory && e.Path == pxeBoot:
		return "", true
	case v.i.Form == Directory && e.Path == iPXE:
		return fmt.Sprintf("script for iPXE, %d bytes", e.Size), true
	case strings.HasPrefix(e.Path, "boot/kernel-"), e.Path == "boot/nextboot.conf":
		// bootsync and the loader put them there, when something was installed
		return fmt.Sprintf("of the installed system, %d bytes", e.Size), v.installed()
	}
	return "", false
}

// installed reports whether the medium is a disk that boots an installed system.
func (v *verifier) installed() bool {
	d, ok := v.i.medium.(*disk)
	return ok && d.rigFS.Label() != string(manifest.RoleRig)
}

// settings are the lines of a loader.conf(5) that are no comments.
func (v *verifier) settings(e *tree.Entry) string {
	text, err := v.i.Rig.ReadFile(e.Path, 1<<20)
	if err != nil {
		return err.Error()
	}
	if id := manifest.MediumOf(text); e.Path == manifest.SwitchFile && bytes.Equal(text, manifest.InstallSwitch(id)) {
		if id == manifest.RawMedium {
			return "as built: it boots the installer"
		}
		return "it boots the installer, as medium " + id
	}
	var lines []string
	for l := range strings.Lines(string(text)) {
		if l = strings.TrimSpace(l); l != "" && l[0] != '#' {
			lines = append(lines, l)
		}
	}
	what := "comments only"
	if lines != nil {
		what = "sets " + strings.Join(lines, ", ")
	}
	if e.Path == manifest.SwitchFile && v.i.Form != Directory && !v.installed() {
		return "not as built: " + what
	}
	return what
}

// copyOf returns a file of the bundle that a boot area is a copy of.
func (v *verifier) copyOf(name string) ([]byte, bool) {
	if _, ok := v.i.Rig.Lookup(name); !ok {
		return nil, false
	}
	b, err := v.i.Rig.ReadFile(name, manifest.BootSize)
	return b, err == nil
}

// area compares a boot area with the bundle's copy and zeros behind it.
func (v *verifier) area(what, name string, have []byte, err error) {
	want, ok := v.copyOf(name)
	switch {
	case err != nil:
		v.add(what, err, "")
	case !ok:
		v.note(what, None, "the bundle has no %s to compare it with", name)
	case len(want) > len(have):
		v.add(what, fmt.Errorf("%s: %d bytes are not enough for %s", what, len(have), name), "")
	case !bytes.Equal(have[:len(want)], want):
		v.add(what, fmt.Errorf("%s: it is not %s of the bundle", what, name), "")
	case bytes.ContainsFunc(have[len(want):], func(r rune) bool { return r != 0 }):
		v.add(what, fmt.Errorf("%s: there is something behind %s", what, name), "")
	default:
		v.add(what, nil, "it is %s of the bundle, whose hash is checked", name)
	}
}

// pmbr compares the boot code of the first sector.
func (v *verifier) pmbr(code []byte, err error) {
	what, name := checkPMBR, "boot/pmbr"
	want, ok := v.copyOf(name)
	switch {
	case err != nil:
		v.add(what, err, "")
	case !ok || len(want) < len(code):
		v.note(what, None, "the bundle has no %s to compare it with", name)
	case !bytes.Equal(code, want[:len(code)]):
		v.add(what, fmt.Errorf("%s: it is not %s of the bundle", what, name), "")
	default:
		v.add(what, nil, "it is %s of the bundle, whose hash is checked", name)
	}
}

// loader compares the loader on the ESP with the one on the rig partition.
func (v *verifier) loader() {
	const onESP, onRig = "EFI/BOOT/BOOTX64.EFI", "boot/loader.efi"
	sum := func(part manifest.Role, name string) string {
		for _, f := range v.Manifest.Files {
			if f.Part == part && f.Path == name {
				return f.SHA256
			}
		}
		return ""
	}
	a, b := sum(manifest.RoleESP, onESP), sum(manifest.RoleRig, onRig)
	switch {
	case a == "":
		v.add(checkLoader, fmt.Errorf("%s: the manifest does not list it", onESP), "")
	case b == "":
		v.note(checkLoader, None, "the bundle has no %s to compare it with; its own hash is checked", onRig)
	case a != b:
		v.add(checkLoader, fmt.Errorf("%s: it is not %s of the bundle", onESP, onRig), "")
	default:
		v.add(checkLoader, nil, "it is %s of the bundle, whose hash is checked", onRig)
	}
}

// inBase compares a file that only this medium has with the base layer's.
func (v *verifier) inBase(what, name string) {
	e, ok := v.i.Rig.Lookup(name)
	l := v.i.layer(manifest.LayerBase, "")
	switch {
	case !ok:
		v.add(what, fmt.Errorf("%s: missing", name), "")
		return
	case l == nil:
		v.note(what, None, "%s: the bundle has no base layer to compare it with", name)
		return
	}
	b, want, err := baseFile(v.i, *l, name)
	switch {
	case err != nil && len(v.Problems) > 0:
		v.note(what, None, "%s: the base layer is damaged", name)
	case err != nil:
		v.add(what, err, "")
	case b == nil:
		v.note(what, None, "%s: the base layer has none to compare it with", name)
	case Matches(v.i.Rig, manifest.BootFile{Path: e.Path, Size: b.Size, SHA256: want}) != nil:
		v.add(what, fmt.Errorf("%s: it is not that of the base layer", name), "")
	default:
		v.add(what, nil, "%s is that of the base layer", name)
	}
}

// baseFile returns a file of the base layer and its hash, nil without one.
func baseFile(i *Image, l manifest.Layer, name string) (*tree.Entry, string, error) {
	base, err := i.Layer(l)
	if err != nil {
		return nil, "", err
	}
	b, ok := base.Lookup(name)
	if ok && b.Kind == tree.HardLink {
		b, ok = base.Lookup(b.Link)
	}
	if !ok {
		return nil, "", nil
	}
	sum, err := b.Digest()
	return b, sum, err
}

// check implements medium.
func (d *disk) check(v *verifier) error {
	v.i.o.Progress("check file systems", 0, 0)
	v.add(checkTable, errors.Join(v.fault(checkTable), d.places(v.Manifest)), "both copies agree, and are the manifest's")
	v.add(checkESP, d.espFS.Check(), "it is whole, and both FATs agree")
	v.add(checkRig, d.rigFS.Check(), "it is whole")
	if d.table.SectorSize != 512 {
		v.note(checkPMBR, None, "disks with sectors of %d bytes boot by UEFI only", d.table.SectorSize)
	} else {
		code, err := gpt.PMBRCode(d.r)
		v.pmbr(code, err)
		d.checkBoot(v)
	}
	v.loader()
	return v.ctx.Err()
}

// checkBoot compares the boot partition.
func (d *disk) checkBoot(v *verifier) {
	if d.boot == nil {
		v.note(checkGPTBoot, None, "there is none")
		return
	}
	b := make([]byte, min(d.boot.Size, 2*manifest.BootSize))
	_, err := d.r.ReadAt(b, d.boot.Start)
	v.area(checkGPTBoot, "boot/gptboot", b, err)
}

// places compares the partitions with the manifest's.
func (d *disk) places(m *manifest.Manifest) error {
	var errs []error
	for _, want := range m.Boot.PartsOn(int64(d.table.SectorSize)) {
		got := map[manifest.Role]*gpt.Partition{manifest.RoleBoot: d.boot, manifest.RoleESP: d.esp, manifest.RoleRig: d.rig}[want.Role]
		if got == nil {
			errs = append(errs, fmt.Errorf("partition %s: missing", want.Role))
		} else if got.Start != want.Start || got.Size != want.Size {
			errs = append(errs, fmt.Errorf("partition %s: %d bytes at %d, the manifest says %d at %d", got.Label, got.Size, got.Start, want.Size, want.Start))
		}
	}
	return errors.Join(errs...)
}

// isoBoot are files that an ISO has for booting.
var isoBoot = []string{"boot/cdboot", "boot/isoboot"}

// volume is the medium when it is an ISO, else nil.
func (i *Image) volume() medium {
	if v, ok := i.medium.(*volume); ok {
		return v
	}
	return nil
}

// check implements medium.
func (o *volume) check(v *verifier) error {
	v.i.o.Progress("check file systems", 0, 0)
	v.add(checkTable, v.fault(checkTable), "both copies agree")
	err := o.fs.Check()
	if want := manifest.ISOLabel(v.Image); o.fs.Volume() != want {
		err = errors.Join(err, fmt.Errorf("the volume is %s; that of the image is %s", o.fs.Volume(), want))
	}
	v.add(checkISO, err, "it is whole")
	v.add(checkESP, o.esp.Check(), "it is whole, and both FATs agree")
	code, err := gpt.PMBRCode(o.r)
	v.pmbr(code, err)
	for _, p := range o.table.Partitions {
		if p.Type != gpt.FreeBSDBoot {
			continue
		}
		b := make([]byte, min(p.Size, 2*manifest.BootSize))
		_, err := o.r.ReadAt(b, p.Start)
		v.area(checkGPTBoot, "boot/isoboot", b, err)
	}
	v.loader()
	o.catalog(v)
	for _, name := range isoBoot {
		v.inBase(checkElTorito, name)
	}
	return v.ctx.Err()
}

// catalog looks whether El Torito names the files of the volume.
func (o *volume) catalog(v *verifier) {
	g, err := o.fs.FileRange(isoBoot[0])
	if err == nil && !slices.ContainsFunc(o.boots, func(b iso.Boot) bool { return !b.EFI && b.Range.Off == g.Off }) {
		err = fmt.Errorf("%s: it does not name %s for BIOS", checkElTorito, isoBoot[0])
	}
	for _, p := range o.table.Partitions {
		if p.Type == gpt.EFI && p.Start != o.efi.Off {
			err = errors.Join(err, fmt.Errorf("%s: the ESP it names is not that of the partition table", checkElTorito))
		}
	}
	v.add(checkElTorito, err, "it names the loaders for BIOS and UEFI")
}

// check implements medium.
func (d *directory) check(v *verifier) error { return checkNet(v) }

// check implements medium.
func (w *web) check(v *verifier) error { return checkNet(v) }

func checkNet(v *verifier) error {
	v.inBase(checkNetBoot, pxeBoot)
	return v.ctx.Err()
}
