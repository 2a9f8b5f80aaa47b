package firstboot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"rig/answers"
	"rig/image/fat"
	"rig/internal/blockdev"
	"rig/internal/diag"
	"rig/internal/fetch"
	"rig/internal/run"
	"rig/layer"
	"rig/manifest"
	"rig/zfs"
)

// Medium is what the installer takes everything from: a rig partition or an ISO,
// mounted read only at BundleDir, or a directory on a web server.
type Medium struct {
	root      string // as in Machine
	Partition string // "vtbd0p3", "iso9660/RIG_1A2B3C4D5E6F", "http://10.9.0.1"
	Disk      Disk
	Manifest  *manifest.Manifest

	net *fetch.Client // nil but for a web server
}

// imageLabel is the label of the rig partition in an image; installed disks have
// their serial in it.
const imageLabel = string(manifest.RoleRig)

// OpenMedium finds and mounts what this system was booted from: the rig partition, or
// the ISO, with the image of kenv rig.image and the id of rig.medium. Two that have both
// are refused, as it cannot be known which one's answers count. Without an id, when the
// installer of an installed disk was booted, the medium is preferred to disks it was
// copied to. root is where the machine's file system is, as in Machine.
func OpenMedium(ctx context.Context, r run.Runner, root string, f *Facts) (*Medium, error) {
	image, id := f.Kenv[manifest.EnvImage], f.Kenv[manifest.EnvMedium]
	var found []*Medium
	var tried []string
	for _, c := range rigPartitions(f) {
		m, has, err := look(ctx, r, root, []string{"mount", "-t", "ufs", "-o", "ro", devDir + c.part.Name, BundleDir})
		switch {
		case err == nil && image != "" && m.Image != image:
			err = fmt.Errorf("it holds image %s", m.Image)
		case err == nil && id != "" && has != id:
			err = fmt.Errorf("it is another medium than the one that was booted")
		case err == nil:
			found = append(found, &Medium{root: root, Partition: c.part.Name, Disk: c.disk, Manifest: m})
		}
		if err != nil {
			tried = append(tried, fmt.Sprintf("%s: %v", c.part.Name, err))
		}
		if err == nil && id == "" {
			break
		}
	}
	if image != "" && (id == manifest.RawMedium || len(found) == 0) {
		md, err := openISO(ctx, r, root, f, image)
		if err == nil {
			found = append(found, md)
		} else {
			tried = append(tried, fmt.Sprintf("%s: %v", isoDir+manifest.ISOLabel(image), err))
		}
	}
	switch len(found) {
	case 1:
		return found[0], found[0].mount(ctx, r)
	case 0:
		err := fmt.Errorf("find the installation medium: no partition holds image %q", image)
		if len(tried) > 0 {
			err = fmt.Errorf("%w (%s)", err, strings.Join(tried, "; "))
		}
		return nil, diag.Hint(err, "reconnect the medium this system was booted from, or write the image again")
	}
	var names []string
	for _, md := range found {
		names = append(names, md.name())
	}
	return nil, diag.Hint(fmt.Errorf("find the installation medium: %s are equal, and which one was booted is not known", strings.Join(names, " and ")),
		"take out the one that was not booted; copies made by \"rigimage flash\" can be told apart")
}

// candidate is a rig partition.
type candidate struct {
	part Partition
	disk Disk
	rank int
}

// rigPartitions are all rig partitions, a medium's first.
func rigPartitions(f *Facts) (all []candidate) {
	for _, d := range f.Disks {
		for _, p := range d.Partitions {
			rank := rigRank(p.Label)
			if p.Type == "freebsd-ufs" && rank > 0 {
				all = append(all, candidate{p, d, rank})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b candidate) int { return cmp.Compare(a.rank, b.rank) })
	return all
}

// look mounts what may be the medium, reads its manifest and the id of the medium, and
// lets it go.
func look(ctx context.Context, r run.Runner, root string, mount []string) (m *manifest.Manifest, id string, err error) {
	if _, err := r.Run(ctx, run.New(mount...)); err != nil {
		return nil, "", err
	}
	defer func() {
		if _, uerr := r.Run(ctx, run.New("umount", BundleDir)); err == nil {
			err = uerr
		}
	}()
	if m, err = readManifest(root); err != nil {
		return nil, "", err
	}
	text, err := os.ReadFile(filepath.Join(root, BundleDir, manifest.SwitchFile))
	return m, manifest.MediumOf(text), err
}

// mount mounts the medium.
func (md *Medium) mount(ctx context.Context, r run.Runner) error {
	kind := "ufs"
	if strings.HasPrefix(md.Partition, isoDir) {
		kind = "cd9660"
	}
	_, err := r.Run(ctx, run.New("mount", "-t", kind, "-o", "ro", devDir+md.Partition, BundleDir))
	return err
}

// name is a medium for people.
func (md *Medium) name() string {
	if md.Disk.Serial == "" {
		return md.Partition
	}
	return fmt.Sprintf("%s (serial %s)", md.Partition, md.Disk.Serial)
}

// isoDir is where GEOM shows ISO 9660 volumes by their label, below /dev.
const isoDir = "iso9660/"

// isoBoot is the label of the first partition of an ISO that was written to a stick.
const isoBoot = "isoboot"

// openISO finds the ISO of an image: in a drive, or written to a stick.
func openISO(ctx context.Context, r run.Runner, root string, f *Facts, image string) (*Medium, error) {
	dev := isoDir + manifest.ISOLabel(image)
	m, _, err := look(ctx, r, root, []string{"mount", "-t", "cd9660", "-o", "ro", devDir + dev, BundleDir})
	if err == nil && m.Image != image {
		err = fmt.Errorf("it holds image %s", m.Image)
	}
	if err != nil {
		return nil, err
	}
	md := &Medium{root: root, Partition: dev, Manifest: m}
	for _, d := range f.Disks {
		if slices.ContainsFunc(d.Partitions, func(p Partition) bool { return p.Label == isoBoot }) {
			md.Disk = d
		}
	}
	return md, nil
}

// rigRank orders rig partitions by label; 0 is none.
func rigRank(label string) int {
	switch {
	case label == imageLabel:
		return 1
	case strings.HasPrefix(label, string(manifest.Installing)+"-"):
		return 2
	case strings.HasPrefix(label, string(manifest.RoleRig)+"-"):
		return 3
	}
	return 0
}

// readManifest reads the manifest of the medium that is mounted.
func readManifest(root string) (*manifest.Manifest, error) {
	f, err := os.Open(filepath.Join(root, BundleDir, manifest.File))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return manifest.Decode(f)
}

// Check compares every layer of the medium, and every other file of its rig
// partition, with its hash. Of a web server it asks whether they are there.
func (md *Medium) Check(ctx context.Context, progress func(done, total int64)) error {
	if md.FromNet() {
		return md.probe(ctx, progress)
	}
	files := bundleFiles(md.Manifest)
	var total, done int64
	for _, f := range files {
		total += f.size
	}
	var errs []error
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		progress(done, total)
		if err := md.checkFile(f.path, f.size, f.sum); err != nil {
			errs = append(errs, fmt.Errorf("%s of %s: %w", f.what, md.Partition, err))
		}
		done += f.size
	}
	progress(done, total)
	return diag.Hint(errors.Join(errs...), "the medium is damaged: write the image again, to another stick if this one did it")
}

func (md *Medium) checkFile(path string, size int64, sum string) error {
	f, err := os.Open(filepath.Join(md.root, BundleDir, path))
	if err != nil {
		return err
	}
	defer f.Close()
	return layer.Verify(f, size, sum)
}

// ESPAnswers reads answers from the ESP of every disk that has a rig partition;
// the medium's come last, so that they are the strongest.
func ESPAnswers(f *Facts, md *Medium) ([]answers.Source, error) {
	var out []answers.Source
	if strings.HasPrefix(md.Partition, isoDir) { // an ISO cannot be edited; the answers are those it was built with
		b, err := os.ReadFile(filepath.Join(md.root, BundleDir, manifest.AnswersFile))
		if err == nil {
			out = append(out, answers.Source{Name: md.Partition + ":" + manifest.AnswersFile, Data: b})
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	disks := slices.Clone(f.Disks)
	slices.SortStableFunc(disks, func(a, b Disk) int {
		return cmp.Compare(b2i(a.Name == md.Disk.Name), b2i(b.Name == md.Disk.Name))
	})
	for _, d := range disks {
		if !slices.ContainsFunc(d.Partitions, func(p Partition) bool { return rigRank(p.Label) > 0 }) {
			continue
		}
		for _, p := range d.Partitions {
			if p.Type != "efi" {
				continue
			}
			b, err := readESPFile(md.root+devDir+p.Name, p.Size, manifest.AnswersFile)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read answers on %s: %w", p.Name, err)
			}
			out = append(out, answers.Source{Name: p.Name + ":" + manifest.AnswersFile, Data: b})
		}
	}
	return out, nil
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func readESPFile(dev string, size int64, name string) ([]byte, error) {
	d, err := blockdev.Open(dev, 0, false)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fsys, err := fat.Open(d, size)
	if err != nil {
		return nil, err
	}
	t, err := fsys.Tree()
	if err != nil {
		return nil, err
	}
	if _, ok := t.Lookup(name); !ok {
		return nil, fs.ErrNotExist
	}
	return t.ReadFile(name, 1<<20)
}

// KenvAnswers are kernel environment variables rig.answers.KEY=value, which a
// loader, iPXE or a hypervisor sets.
func KenvAnswers(f *Facts) answers.Source {
	const prefix = "rig.answers."
	s := answers.Source{Name: "kenv", Values: map[string]string{}}
	for k, v := range f.Kenv {
		if key, ok := strings.CutPrefix(k, prefix); ok {
			s.Values[key] = v
		}
	}
	return s
}

// State is how far an earlier install on these disks came.
type State struct {
	Unfinished []Disk // their rig partition is still labelled "installing-…"
	Finished   []Disk // labelled "rig-…"
	Pool       string // name of the pool that was looked at, "" when there is none
	PoolImage  string // image it was declared complete for, "" when it was not
	Encrypted  bool   // the pool that was looked at is
	Locked     []Disk // an install was on them, its pool is encrypted, and nothing opened it
}

// Complete reports whether the pool on these disks is a complete system of image.
func (s State) Complete(image string) bool { return s.PoolImage == image }

// Inspect looks at what is on the disks. A pool of our own disks is imported read
// only, without mounting anything, to ask whether it was declared complete. pass
// opens disks that are encrypted, for as long as that takes; they are read below root.
func Inspect(ctx context.Context, r run.Runner, root string, f *Facts, m *manifest.Manifest, pass answers.SecretValue) (s State, err error) {
	var pools []zfs.Label
	note := func(l zfs.Label) {
		if m.NamesPool(l.Pool) && !slices.ContainsFunc(pools, func(o zfs.Label) bool { return o.PoolGUID == l.PoolGUID }) {
			pools = append(pools, l)
		}
	}
	for _, d := range f.Disks {
		ours := false
		for _, p := range d.Partitions {
			switch rigRank(p.Label) {
			case 2:
				s.Unfinished, ours = append(s.Unfinished, d), true
			case 3:
				s.Finished, ours = append(s.Finished, d), true
			}
		}
		for _, l := range d.PoolLabels {
			if ours {
				note(l.Label)
			}
		}
	}
	opened, err := s.unlock(ctx, r, f, pass)
	defer func() { err = errors.Join(err, detach(ctx, r, opened)) }()
	if err != nil {
		return s, err
	}
	for _, name := range opened {
		if l, err := readLabel(root + devDir + name + ".eli"); err != nil {
			return s, err
		} else if l != nil {
			note(*l)
		}
	}
	if len(pools) == 0 {
		return s, nil
	}
	if _, err := r.Run(ctx, run.New("kldload", "-n", "zfs")); err != nil {
		return s, err
	}
	for _, l := range pools {
		if err := s.askPool(ctx, r, l); err != nil || s.PoolImage != "" {
			return s, err
		}
	}
	return s, nil
}

// askPool asks a pool whether it was declared complete. One that cannot be imported is
// not; its disks still count as holding data.
func (s *State) askPool(ctx context.Context, r run.Runner, l zfs.Label) error {
	if _, err := r.Run(ctx, zfs.ImportReadOnlyCmd(l.PoolGUID, Target)); err != nil {
		return nil
	}
	out, err := r.Run(ctx, run.New("zfs", "get", "-Hp", "-o", "value", PropDone, l.Pool))
	if v := strings.TrimSpace(string(out)); err == nil && v != "-" {
		s.Pool, s.PoolImage = l.Pool, v
	}
	_, xerr := r.Run(ctx, zfs.ExportCmd(l.Pool))
	return errors.Join(err, xerr)
}

// readLabel reads the label of a pool's member, nil when there is none.
func readLabel(dev string) (*zfs.Label, error) {
	d, err := blockdev.Open(dev, 0, false)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	size, err := d.Size()
	if err != nil {
		return nil, err
	}
	return zfs.ReadLabel(d, size)
}

// Targets are the disks as zfs.Match wants them.
func (s State) Targets(f *Facts, md *Medium) []zfs.Disk {
	var out []zfs.Disk
	for _, d := range f.Disks {
		t := d.Target()
		t.Ours = slices.ContainsFunc(s.Unfinished, func(u Disk) bool { return u.Name == d.Name })
		t.BootMedium = d.Name == md.Disk.Name && len(d.Partitions) == 3 &&
			slices.ContainsFunc(d.Partitions, func(p Partition) bool { return p.Label == imageLabel })
		out = append(out, t)
	}
	return out
}
