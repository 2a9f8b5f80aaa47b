package firstboot

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/firstboot/source"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/blockdev"
	"github.com/rig-freebsd/rig/internal/probe"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// State is how far an earlier install on these disks came.
type State struct {
	Unfinished []facts.Disk // their rig partition is still labelled "installing-…"
	Finished   []facts.Disk // labelled "rig-…"
	Pool       string       // name of the pool that was looked at, "" when there is none
	PoolImage  string       // image it was declared complete for, "" when it was not
	Encrypted  bool         // the pool that was looked at is
	Locked     []facts.Disk // an install was on them, its pool is encrypted, and nothing opened it
}

// Complete reports whether the pool on these disks is a complete system of image.
func (s State) Complete(image string) bool { return s.PoolImage == image }

// Inspect looks at what is on the disks. A pool of our own disks is imported read
// only, without mounting anything, to ask whether it was declared complete. pass
// opens disks that are encrypted, for as long as that takes; they are read below root.
func Inspect(ctx context.Context, r run.Runner, root string, f *facts.Facts, m *manifest.Manifest, pass answers.SecretValue) (s State, err error) {
	var pools []zfs.Label
	note := func(l zfs.Label) {
		if m.NamesPool(l.Pool) && !slices.ContainsFunc(pools, func(o zfs.Label) bool { return o.PoolGUID == l.PoolGUID }) {
			pools = append(pools, l)
		}
	}
	for _, d := range f.Disks {
		ours := false
		for _, p := range d.Partitions {
			switch place.RankOf(p.Label) {
			case place.Unfinished:
				s.Unfinished, ours = append(s.Unfinished, d), true
			case place.Installed:
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
		if l, err := readLabel(root + place.Dev + name + ".eli"); err != nil {
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
	if _, err := r.Run(ctx, zfs.ImportReadOnlyCmd(l.PoolGUID, place.Target)); err != nil {
		return nil
	}
	out, err := r.Run(ctx, run.New("zfs", "get", "-Hp", "-o", "value", place.PropDone, l.Pool))
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
func (s State) Targets(f *facts.Facts, md *source.Opened) []zfs.Disk {
	var out []zfs.Disk
	for _, d := range f.Disks {
		t := d.Target()
		t.Ours = slices.ContainsFunc(s.Unfinished, func(u facts.Disk) bool { return u.Name == d.Name })
		t.BootMedium = d.Name == md.Disk.Name && len(d.Partitions) == 3 &&
			slices.ContainsFunc(d.Partitions, func(p facts.Partition) bool { return p.Label == place.ImageLabel })
		out = append(out, t)
	}
	return out
}

// unlock opens, read only, the encrypted members on disks that an install began
// on, and notes those it cannot open. It returns the partitions that are to be closed
// again.
func (s *State) unlock(ctx context.Context, r run.Runner, f *facts.Facts, pass answers.SecretValue) (opened []string, err error) {
	loaded := false
	for _, d := range f.Disks {
		name := geliPartition(d)
		if name == "" {
			continue
		}
		if pass == "" {
			s.Locked = append(s.Locked, d)
			continue
		}
		if !loaded {
			if _, err := r.Run(ctx, run.New("kldload", "-n", "geom_eli")); err != nil {
				return opened, err
			}
			loaded = true
		}
		if _, err := r.Run(ctx, withPassphrase(pass, "geli", "attach", "-r", "-j", "-", place.Dev+name)); err != nil {
			s.Locked = append(s.Locked, d) // it is another's, or damaged
			continue
		}
		opened, s.Encrypted = append(opened, name), true
	}
	return opened, nil
}

// geliPartition is the partition of a disk that holds an encrypted member of a
// pool of ours, "" when there is none.
func geliPartition(d facts.Disk) string {
	name, ours := "", false
	for _, p := range d.Partitions {
		ours = ours || place.RankOf(p.Label) > place.Image
		if strings.HasPrefix(p.Label, string(manifest.RoleGELI)+"-") && strings.Contains(p.Holds, probe.GELI) {
			name = p.Name
		}
	}
	if !ours {
		return ""
	}
	return name
}

// detach closes encrypted members.
func detach(ctx context.Context, r run.Runner, opened []string) error {
	var errs []error
	for _, dev := range opened {
		_, err := r.Run(context.WithoutCancel(ctx), run.New("geli", "detach", dev))
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
