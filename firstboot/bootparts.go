package firstboot

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"rig/image/fat"
	"rig/image/ufs"
	"rig/internal/blockdev"
	"rig/manifest"
	"rig/tree"
)

// openRig opens the file system of a rig partition.
func openRig(dev string, size int64, write bool) (*blockdev.Device, *ufs.FS, error) {
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
func (m *Machine) openSource(from string) (*tree.Tree, io.Closer, error) {
	dir := m.Root + from
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		d, fsys, err := openRig(dir, m.Manifest.Boot.RigSize, false)
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
	for name := range m.bootFiles(manifest.RoleRig) {
		file := filepath.Join(dir, name)
		st, err := os.Stat(file)
		if err != nil {
			return nil, nil, err
		}
		entries = append(entries, tree.Entry{Path: name, Kind: tree.File, Perm: permOf(st.Mode()), ModTime: st.ModTime(), Size: st.Size(),
			Open: func() (io.ReadCloser, error) { return os.Open(file) }})
	}
	t, err := tree.New(entries)
	return t, io.NopCloser(nil), err
}

// copyRig writes the file system of one rig partition anew on another: same
// files, same content, and a switch that says "installer", with an id of its own.
func (m *Machine) copyRig(_ context.Context, args []string, _ []byte) error {
	size := m.Manifest.Boot.RigSize
	t, src, err := m.openSource(args[0])
	if err != nil {
		return err
	}
	defer src.Close()
	if t, err = m.rigTree(t); err != nil {
		return err
	}
	plan, err := ufs.Layout(t, ufs.Options{Label: "rig", Size: size, ID: manifest.FSID(m.Manifest.Image)})
	if err != nil {
		return err
	}
	dst, err := blockdev.Open(m.Root+args[1], 0, true)
	if err != nil {
		return err
	}
	defer dst.Close()
	w := &meter{WriterAt: dst, total: t.Size(), report: func(n, total int64) { m.progress("copy to "+args[1], n, total) }}
	if err := plan.Write(w); err != nil {
		return err
	}
	return errors.Join(dst.Sync(), dst.Close())
}

// rigTree is what belongs on every rig partition: what the manifest lists, and
// itself. Kernels that bootsync added, and the switch of an installed disk, are
// the source's own.
func (m *Machine) rigTree(t *tree.Tree) (*tree.Tree, error) {
	want := m.bootFiles(manifest.RoleRig)
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

// bootFiles maps every file a boot partition must hold to its SHA-256; the
// empty string stands for files whose content the manifest does not pin.
func (m *Machine) bootFiles(part manifest.Role) map[string]string {
	want := map[string]string{}
	for _, f := range m.Manifest.Pinned() {
		if f.Part == part {
			want[f.Path] = f.SHA256
		}
	}
	if part == manifest.RoleRig {
		want[manifest.File], want[manifest.SwitchFile] = "", ""
	}
	return want
}

// writeESP formats an ESP for sectors of the size given, or of what its device has.
func (m *Machine) writeESP(_ context.Context, args []string, _ []byte) error {
	sector, err := blockdev.SectorSize(m.Root + args[1])
	if len(args) > 2 {
		sector, err = strconv.Atoi(args[2])
	}
	if err != nil {
		return fmt.Errorf("sector size of %s: %w", args[1], err)
	}
	t, src, err := m.openSource(args[0])
	if err != nil {
		return err
	}
	defer src.Close()
	loader, ok := t.Lookup("boot/loader.efi")
	if !ok {
		return fmt.Errorf("%s has no boot/loader.efi", args[0])
	}
	esp, err := manifest.ESP(*loader, nil, loader.ModTime)
	if err != nil {
		return err
	}
	plan, err := fat.Layout(esp, fat.Options{Size: m.Manifest.Boot.ESPSize, SectorSize: sector, Label: "EFISYS",
		Serial: crc32.ChecksumIEEE([]byte(args[1])), Time: loader.ModTime})
	if err != nil {
		return err
	}
	dst, err := blockdev.Open(m.Root+args[1], 0, true)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := plan.Write(dst); err != nil {
		return err
	}
	return errors.Join(dst.Sync(), dst.Close())
}

// verifyBoot reads the boot partitions of every disk back and compares each file
// with the manifest: same list, same hashes, answers excepted.
func (m *Machine) verifyBoot(_ context.Context, disks []string, _ []byte) error {
	var errs []error
	for i, disk := range disks {
		m.progress("verify boot partitions", int64(i), int64(len(disks)))
		d, fsys, err := openRig(m.Root+devDir+disk+"p3", m.Manifest.Boot.RigSize, false)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		t, err := fsys.Tree()
		if err == nil {
			err = compareFiles(t, m.bootFiles(manifest.RoleRig), "boot/kernel-", manifest.ConfDir+"/")
		}
		d.Close()
		if err == nil {
			err = m.verifyESP(m.Root + devDir + disk + "p2")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", disk, err))
		}
	}
	return errors.Join(errs...)
}

func (m *Machine) verifyESP(dev string) error {
	d, err := blockdev.Open(dev, 0, false)
	if err != nil {
		return err
	}
	defer d.Close()
	fsys, err := fat.Open(d, m.Manifest.Boot.ESPSize)
	if err != nil {
		return err
	}
	t, err := fsys.Tree()
	if err != nil {
		return err
	}
	return compareFiles(t, m.bootFiles(manifest.RoleESP), manifest.AnswersFile)
}

// compareFiles checks that t holds the wanted files with the wanted content and
// no others, but for names that begin with one of ignore.
func compareFiles(t *tree.Tree, want map[string]string, ignore ...string) error {
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
	for _, p := range sortedKeys(want) {
		if !seen[p] {
			errs = append(errs, fmt.Errorf("%s is missing", p))
		}
	}
	return errors.Join(errs...)
}

// forgetAnswers overwrites the answers on an ESP in place. The file stays, with
// nothing in it: that needs no change to the file system's structures.
func (m *Machine) forgetAnswers(_ context.Context, args []string, _ []byte) error {
	d, err := blockdev.Open(m.Root+args[0], 0, true)
	if err != nil {
		return err
	}
	defer d.Close()
	fsys, err := fat.Open(d, m.Manifest.Boot.ESPSize)
	if err != nil {
		return err
	}
	t, err := fsys.Tree()
	if err != nil {
		return err
	}
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

// switchBoot overwrites the switch of one rig partition in place and reads it
// back. After the dataset come "geli" when the pool is encrypted, and the kernel's
// directory when it is not the image's.
func (m *Machine) switchBoot(_ context.Context, args []string, _ []byte) error {
	kernel, encrypted := "", false
	for _, a := range args[2:] {
		if a == encryptedWord {
			encrypted = true
		} else {
			kernel = a
		}
	}
	text, err := manifest.InstalledSwitch(args[1], kernel, encrypted)
	if err != nil {
		return err
	}
	return writeSwitch(m.Root+args[0], m.Manifest.Boot.RigSize, text)
}

func writeSwitch(dev string, size int64, text []byte) error {
	d, fsys, err := openRig(dev, size, true)
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

// readSwitch returns the text of a rig partition's switch.
func readSwitch(dev string, size int64) ([]byte, error) {
	d, fsys, err := openRig(dev, size, false)
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

// meter reports how much was written.
type meter struct {
	io.WriterAt
	done, total int64
	report      func(done, total int64)
}

func (w *meter) WriteAt(p []byte, off int64) (int, error) {
	n, err := w.WriterAt.WriteAt(p, off)
	if w.done += int64(n); w.done <= w.total {
		w.report(w.done, w.total)
	}
	return n, err
}
