// Package disk writes and reads what disks boot from: the boot partitions, and the switch
// that says which unit and which kernel. Bootsync keeps the disks of an installed server
// in step with its pool.
package disk

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/fat"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/blockdev"
	"github.com/rig-freebsd/rig/internal/work"
)

// Boot writes and reads the boot partitions of disks: what firmware and loader need.
type Boot struct {
	Root     string // where the machine's file system is, "" for /
	Manifest *manifest.Manifest
	Progress work.Progress // may be nil
}

// OpenRig opens the file system of a rig partition.
func OpenRig(dev string, size int64, write bool) (*blockdev.Device, *ufs.FS, error) {
	d, err := blockdev.Open(dev, 0, write)
	if err != nil {
		return nil, nil, err
	}
	fsys, err := ufs.Open(d, size)
	if err != nil {
		d.Close()
		return nil, nil, err
	}
	return d, fsys, nil
}

// openSource opens what holds the files of a rig partition: one, or the directory
// where another medium is mounted, of which the manifest says what belongs to it.
func (b Boot) openSource(from string) (*tree.Tree, io.Closer, error) {
	dir := b.Root + from
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		d, fsys, err := OpenRig(dir, b.Manifest.Boot.RigSize, false)
		if err != nil {
			return nil, nil, err
		}
		t, err := fsys.Tree()
		if err != nil {
			d.Close()
			return nil, nil, err
		}
		return t, d, nil
	}
	entries := []tree.Entry{{Path: manifest.ConfDir, Kind: tree.Dir, Perm: 0o755}}
	for name := range b.Files(manifest.RoleRig) {
		file := filepath.Join(dir, name)
		st, err := os.Stat(file)
		if err != nil {
			return nil, nil, err
		}
		entries = append(entries, tree.Entry{Path: name, Kind: tree.File, Perm: tree.PermOf(st.Mode()), ModTime: st.ModTime(), Size: st.Size(),
			Open: func() (io.ReadCloser, error) { return os.Open(file) }})
	}
	t, err := tree.New(entries)
	return t, io.NopCloser(nil), err
}

// CopyRig writes the file system of one rig partition anew on another: same
// files, same content, and a switch that says "installer", with an id of its own. from
// is a rig partition, or the directory where another source is mounted.
func (b Boot) CopyRig(from, to string) error {
	size := b.Manifest.Boot.RigSize
	t, src, err := b.openSource(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if t, err = b.rigTree(t); err != nil {
		return err
	}
	plan, err := ufs.Layout(t, ufs.Options{Label: "rig", Size: size, ID: manifest.FSID(b.Manifest.Image)})
	if err != nil {
		return err
	}
	dst, err := blockdev.Open(b.Root+to, 0, true)
	if err != nil {
		return err
	}
	defer dst.Close()
	w := &work.Meter{W: dst, Total: t.Size(), Report: func(n, total int64) { b.Progress.Report("copy to "+to, n, total) }}
	if err := plan.Write(w); err != nil {
		return err
	}
	return errors.Join(dst.Sync(), dst.Close())
}

// rigTree is what belongs on every rig partition: what the manifest lists, and
// itself. Kernels that bootsync added, and the switch of an installed disk, are
// the source's own.
func (b Boot) rigTree(t *tree.Tree) (*tree.Tree, error) {
	want := b.Files(manifest.RoleRig)
	t, err := t.Filter(func(e *tree.Entry) bool {
		if e.Kind == tree.Dir {
			if e.Path == manifest.ConfDir {
				return true
			}
			for p := range want {
				if e.Path == "." || strings.HasPrefix(p, e.Path+"/") {
					return true
				}
			}
			return false
		}
		_, ok := want[e.Path]
		return ok
	})
	if err != nil {
		return nil, err
	}
	e, ok := t.Lookup(manifest.SwitchFile)
	if !ok {
		return nil, fmt.Errorf("%s is missing", manifest.SwitchFile)
	}
	sw := tree.FileEntry(manifest.SwitchFile, manifest.InstallSwitch(manifest.NewMedium()))
	sw.ModTime = e.ModTime
	upper, err := tree.New([]tree.Entry{sw})
	if err != nil {
		return nil, err
	}
	t, err = tree.Merge(t, upper)
	if err != nil {
		return nil, err
	}
	return t.Resolve(&tree.Accounts{Users: map[string]uint32{"root": 0}, Groups: map[string]uint32{"wheel": 0}})
}

// part is the device of a disk's boot partition.
func (b Boot) part(disk string, role manifest.Role) string {
	return b.Root + place.Dev + place.PartName(disk, b.Manifest.Boot.Index(role))
}

// Files maps every file a boot partition must hold to its SHA-256; the
// empty string stands for files whose content the manifest does not pin.
func (b Boot) Files(part manifest.Role) map[string]string {
	want := map[string]string{}
	for _, f := range b.Manifest.Pinned() {
		if f.Part == part {
			want[f.Path] = f.SHA256
		}
	}
	if part == manifest.RoleRig {
		want[manifest.File], want[manifest.SwitchFile] = "", ""
	}
	return want
}

// WriteESP formats an ESP for sectors of this many bytes, or of what its device has when
// sector is 0. from is as in CopyRig.
func (b Boot) WriteESP(from, to string, sector int) error {
	if sector == 0 {
		var err error
		if sector, err = blockdev.SectorSize(b.Root + to); err != nil {
			return fmt.Errorf("sector size of %s: %w", to, err)
		}
	}
	t, src, err := b.openSource(from)
	if err != nil {
		return err
	}
	defer src.Close()
	loader, ok := t.Lookup("boot/loader.efi")
	if !ok {
		return fmt.Errorf("%s has no boot/loader.efi", from)
	}
	esp, err := manifest.ESP(*loader, nil, loader.ModTime)
	if err != nil {
		return err
	}
	plan, err := fat.Layout(esp, fat.Options{Size: b.Manifest.Boot.ESPSize, SectorSize: sector, Label: "EFISYS",
		Serial: crc32.ChecksumIEEE([]byte(to)), Time: loader.ModTime})
	if err != nil {
		return err
	}
	dst, err := blockdev.Open(b.Root+to, 0, true)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := plan.Write(dst); err != nil {
		return err
	}
	return errors.Join(dst.Sync(), dst.Close())
}

// Verify reads the boot partitions of every disk, by its name, back and compares each
// file with the manifest: same list, same hashes, answers excepted.
func (b Boot) Verify(disks []string) error {
	var errs []error
	for i, disk := range disks {
		b.Progress.Report("verify boot partitions", int64(i), int64(len(disks)))
		d, fsys, err := OpenRig(b.part(disk, manifest.RoleRig), b.Manifest.Boot.RigSize, false)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t, err := fsys.Tree()
		if err == nil {
			err = CompareFiles(t, b.Files(manifest.RoleRig), "boot/kernel-", manifest.ConfDir+"/")
		}
		d.Close()
		if err == nil {
			err = b.VerifyESP(b.part(disk, manifest.RoleESP))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", disk, err))
		}
	}
	return errors.Join(errs...)
}

// VerifyESP compares the files of an ESP with the manifest.
func (b Boot) VerifyESP(dev string) error {
	d, _, t, err := openESP(dev, b.Manifest.Boot.ESPSize, false)
	if err != nil {
		return err
	}
	defer d.Close()
	return CompareFiles(t, b.Files(manifest.RoleESP), manifest.AnswersFile)
}

// CompareFiles checks that t holds the wanted files with the wanted content and
// no others, but for names that begin with one of ignore.
func CompareFiles(t *tree.Tree, want map[string]string, ignore ...string) error {
	var errs []error
	seen := map[string]bool{}
	for e := range t.All() {
		if e.Kind == tree.Dir || slices.ContainsFunc(ignore, func(p string) bool { return strings.HasPrefix(e.Path, p) }) {
			continue
		}
		seen[e.Path] = true
		sum, ok := want[e.Path]
		if !ok {
			errs = append(errs, fmt.Errorf("%s does not belong there", e.Path))
			continue
		}
		if sum == "" {
			continue
		}
		got, err := e.Digest()
		if err != nil {
			errs = append(errs, err)
		} else if got != sum {
			errs = append(errs, fmt.Errorf("%s: content differs from the manifest", e.Path))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if !seen[p] {
			errs = append(errs, fmt.Errorf("%s is missing", p))
		}
	}
	return errors.Join(errs...)
}

// ForgetAnswers overwrites the answers on an ESP in place. The file stays, with
// nothing in it: that needs no change to the file system's structures.
func (b Boot) ForgetAnswers(esp string) error {
	d, fsys, t, err := openESP(b.Root+esp, b.Manifest.Boot.ESPSize, true)
	if err != nil {
		return err
	}
	defer d.Close()
	e, ok := t.Lookup(manifest.AnswersFile)
	if !ok || e.Size == 0 {
		return nil
	}
	ranges, err := fsys.Ranges(manifest.AnswersFile)
	if err != nil {
		return err
	}
	text := []byte("# used and wiped by riginstall\n")
	for i, r := range ranges {
		blank := []byte(strings.Repeat("\n", int(r.Len)))
		if i == 0 {
			copy(blank, text[:min(len(text), len(blank))])
		}
		if _, err := d.WriteAt(blank, r.Off); err != nil {
			return err
		}
	}
	return errors.Join(d.Sync(), d.Close())
}

// Switch overwrites the switch of one rig partition in place, so that it boots dataset,
// and reads it back. kernel is the directory of its kernel, "" for the image's.
func (b Boot) Switch(rig, dataset, kernel string, encrypted bool) error {
	text, err := manifest.InstalledSwitch(dataset, kernel, encrypted)
	if err != nil {
		return err
	}
	return WriteSwitch(b.Root+rig, b.Manifest.Boot.RigSize, text)
}

// WriteSwitch overwrites the switch on a rig partition of this many bytes and reads it back.
func WriteSwitch(dev string, size int64, text []byte) error {
	d, fsys, err := OpenRig(dev, size, true)
	if err != nil {
		return err
	}
	defer d.Close()
	ranges, err := fsys.Ranges(manifest.SwitchFile)
	if err != nil {
		return err
	}
	if len(ranges) != 1 || ranges[0].Len != manifest.SwitchSize {
		return fmt.Errorf("%s on %s is not one block of %d bytes", manifest.SwitchFile, dev, manifest.SwitchSize)
	}
	if _, err := d.WriteAt(text, ranges[0].Off); err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return err
	}
	back := make([]byte, len(text))
	if _, err := d.ReadAt(back, ranges[0].Off); err != nil {
		return err
	}
	if string(back) != string(text) {
		return fmt.Errorf("%s on %s reads back differently", manifest.SwitchFile, dev)
	}
	return d.Close()
}

// ReadSwitch returns the text of a rig partition's switch.
func ReadSwitch(dev string, size int64) ([]byte, error) {
	d, fsys, err := OpenRig(dev, size, false)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	t, err := fsys.Tree()
	if err != nil {
		return nil, err
	}
	return t.ReadFile(manifest.SwitchFile, manifest.SwitchSize)
}

// Zero overwrites n bytes at off of a device with zeros, and waits until they are there.
func Zero(dev string, off, n int64) error {
	d, err := blockdev.Open(dev, 0, true)
	if err != nil {
		return err
	}
	defer d.Close()
	buf := make([]byte, 1<<20)
	for n > 0 {
		k := min(n, int64(len(buf)))
		if _, err := d.WriteAt(buf[:k], off); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return errors.Join(d.Sync(), d.Close())
}

// ReadESPFile reads a file of an ESP of this many bytes; fs.ErrNotExist when there is none.
func ReadESPFile(dev string, size int64, name string) ([]byte, error) {
	d, _, t, err := openESP(dev, size, false)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if _, ok := t.Lookup(name); !ok {
		return nil, fs.ErrNotExist
	}
	return t.ReadFile(name, 1<<20)
}

// openESP opens an ESP of this many bytes and its files, which are read from d.
func openESP(dev string, size int64, write bool) (d *blockdev.Device, fsys *fat.FS, t *tree.Tree, err error) {
	if d, err = blockdev.Open(dev, 0, write); err != nil {
		return nil, nil, nil, err
	}
	if fsys, err = fat.Open(d, size); err == nil {
		t, err = fsys.Tree()
	}
	if err != nil {
		d.Close()
	}
	return d, fsys, t, err
}
