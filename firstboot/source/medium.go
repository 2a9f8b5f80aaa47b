package source

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

	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fetch"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// Opened is a source that was opened: a rig partition or an ISO is mounted read only at
// BundleDir; of a web server the manifest was read.
type Opened struct {
	Source   Source
	Disk     facts.Disk // that it is on; none for a web server
	Manifest *manifest.Manifest

	root string        // where the machine's file system is, "" for /
	web  *fetch.Client // of a web server
}

// OpenMedium finds and mounts what this system was booted from: the rig partition, or
// the ISO, with the image of kenv rig.image and the id of rig.medium. Two that have both
// are refused, as it cannot be known which one's answers count. Without an id, when the
// installer of an installed disk was booted, the medium is preferred to disks it was
// copied to. root is where the machine's file system is, "" for /.
func OpenMedium(ctx context.Context, r run.Runner, root string, f *facts.Facts) (*Opened, error) {
	image, id := f.Kenv[manifest.EnvImage], f.Kenv[manifest.EnvMedium]
	var found []*Opened
	var tried []string
	for _, c := range rigPartitions(f) {
		m, has, err := look(ctx, r, root, []string{"mount", "-t", "ufs", "-o", "ro", place.Dev + c.part.Name, place.BundleDir})
		switch {
		case err == nil && image != "" && m.Image != image:
			err = fmt.Errorf("it holds image %s", m.Image)
		case err == nil && id != "" && has != id:
			err = fmt.Errorf("it is another medium than the one that was booted")
		case err == nil:
			found = append(found, &Opened{root: root, Source: RigPartition{c.disk.Name, c.part.Name}, Disk: c.disk, Manifest: m})
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
			tried = append(tried, fmt.Sprintf("%s: %v", ISO{manifest.ISOLabel(image)}, err))
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
	part facts.Partition
	disk facts.Disk
	rank place.Rank
}

// rigPartitions are all rig partitions, a medium's first.
func rigPartitions(f *facts.Facts) (all []candidate) {
	for _, d := range f.Disks {
		for _, p := range d.Partitions {
			rank := place.RankOf(p.Label)
			if p.Type == "freebsd-ufs" && rank != place.NoRig {
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
		if _, uerr := r.Run(ctx, run.New("umount", place.BundleDir)); err == nil {
			err = uerr
		}
	}()
	if m, err = place.BundleManifest(root); err != nil {
		return nil, "", err
	}
	text, err := os.ReadFile(filepath.Join(root, place.BundleDir, manifest.SwitchFile))
	return m, manifest.MediumOf(text), err
}

// mount mounts the medium.
func (md *Opened) mount(ctx context.Context, r run.Runner) error {
	kind := "ufs"
	if _, iso := md.Source.(ISO); iso {
		kind = "cd9660"
	}
	_, err := r.Run(ctx, run.New("mount", "-t", kind, "-o", "ro", place.Dev+md.Source.String(), place.BundleDir))
	return err
}

// name is a medium for people.
func (md *Opened) name() string {
	if md.Disk.Serial == "" {
		return md.Source.String()
	}
	return fmt.Sprintf("%s (serial %s)", md.Source, md.Disk.Serial)
}

// isoBoot is the label of the first partition of an ISO that was written to a stick.
const isoBoot = "isoboot"

// openISO finds the ISO of an image: in a drive, or written to a stick.
func openISO(ctx context.Context, r run.Runner, root string, f *facts.Facts, image string) (*Opened, error) {
	iso := ISO{manifest.ISOLabel(image)}
	m, _, err := look(ctx, r, root, []string{"mount", "-t", "cd9660", "-o", "ro", place.Dev + iso.String(), place.BundleDir})
	if err == nil && m.Image != image {
		err = fmt.Errorf("it holds image %s", m.Image)
	}
	if err != nil {
		return nil, err
	}
	md := &Opened{root: root, Source: iso, Manifest: m}
	for _, d := range f.Disks {
		if slices.ContainsFunc(d.Partitions, func(p facts.Partition) bool { return p.Label == isoBoot }) {
			md.Disk = d
		}
	}
	return md, nil
}

// Check compares every layer of the medium, and every other file of its rig
// partition, with its hash. Of a web server it asks whether they are there.
func (md *Opened) Check(ctx context.Context, progress func(done, total int64)) error {
	if web, ok := md.Source.(Web); ok {
		return md.probe(ctx, web.URL, progress)
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
			errs = append(errs, fmt.Errorf("%s of %s: %w", f.what, md.Source, err))
		}
		done += f.size
	}
	progress(done, total)
	return diag.Hint(errors.Join(errs...), "the medium is damaged: write the image again, to another stick if this one did it")
}

func (md *Opened) checkFile(path string, size int64, sum string) error {
	f, err := os.Open(filepath.Join(md.root, place.BundleDir, path))
	if err != nil {
		return err
	}
	defer f.Close()
	return layer.Verify(f, size, sum)
}

// ESPAnswers reads answers from the ESP of every disk that has a rig partition;
// the medium's come last, so that they are the strongest.
func ESPAnswers(f *facts.Facts, md *Opened) ([]answers.Source, error) {
	var out []answers.Source
	if iso, ok := md.Source.(ISO); ok { // an ISO cannot be edited; the answers are those it was built with
		b, err := os.ReadFile(filepath.Join(md.root, place.BundleDir, manifest.AnswersFile))
		if err == nil {
			out = append(out, answers.Source{Name: iso.String() + ":" + manifest.AnswersFile, Data: b})
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	disks := slices.DeleteFunc(slices.Clone(f.Disks), func(d facts.Disk) bool { return d.Name == md.Disk.Name })
	for _, d := range append(disks, md.Disk) {
		if !slices.ContainsFunc(d.Partitions, func(p facts.Partition) bool { return place.RankOf(p.Label) != place.NoRig }) {
			continue
		}
		for _, p := range d.Partitions {
			if p.Type != "efi" {
				continue
			}
			b, err := disk.ReadESPFile(md.root+place.Dev+p.Name, p.Size, manifest.AnswersFile)
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

// KenvAnswers are kernel environment variables rig.answers.KEY=value, which a
// loader, iPXE or a hypervisor sets.
func KenvAnswers(f *facts.Facts) answers.Source {
	const prefix = "rig.answers."
	s := answers.Source{Name: "kenv", Values: map[string]string{}}
	for k, v := range f.Kenv {
		if key, ok := strings.CutPrefix(k, prefix); ok {
			s.Values[key] = v
		}
	}
	return s
}
