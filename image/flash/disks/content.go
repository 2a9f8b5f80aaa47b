package disks

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/rig-freebsd/rig/internal/probe"
	"github.com/rig-freebsd/rig/zfs"
)

// Progress is told how far a phase is.
type Progress = func(what string, done, total int64)

// lookAt finds out what is on disks, on all of them at once.
func lookAt(ctx context.Context, disks []*Disk, progress Progress) error {
	what := fmt.Sprintf("look at %d disks", len(disks))
	if len(disks) == 1 {
		what = "look at " + disks[0].Path
	}
	var mu sync.Mutex
	done, total := make([]int64, len(disks)), make([]int64, len(disks))
	var wg sync.WaitGroup
	for i, d := range disks {
		wg.Go(func() {
			d.look(ctx, func(n, of int64) {
				mu.Lock()
				defer mu.Unlock()
				if done[i], total[i] = n, of; progress != nil {
					progress(what, sum(done), sum(total))
				}
			})
		})
	}
	wg.Wait()
	return ctx.Err()
}

func sum(list []int64) (n int64) {
	for _, v := range list {
		n += v
	}
	return n
}

// look fills what depends on the disk's content. That it cannot be read is something
// it holds.
func (d *Disk) look(ctx context.Context, progress func(done, total int64)) {
	v, err := d.verdict(ctx, progress)
	if err != nil {
		d.Content, d.Holds = probe.Unknown.String(), append(d.Holds, "unreadable: "+err.Error())
		return
	}
	d.Content, d.Basis, d.Hash = v.Kind.String(), v.Basis, v.Hash
	if v.Kind == probe.Unknown {
		d.Holds = append(d.Holds, v.String())
	}
	for _, f := range v.Found {
		if f.Where == "" {
			d.Holds = append(d.Holds, f.Name)
		}
		if text := "a member: " + f.Name; f.Member {
			if f.Where != "" {
				text += " (" + f.Where + ")"
			}
			if !slices.Contains(d.Member, text) {
				d.Member = append(d.Member, text)
			}
		}
	}
	for _, p := range v.Parts {
		text := fmt.Sprintf("%s %s, %s", p.Table, p.Where, zfs.FormatSize(p.Size))
		if p.Label != "" {
			text += fmt.Sprintf(", %q", p.Label)
		}
		if in := v.At(p.Start, p.Size); in != "" {
			text += ": " + in
		}
		d.Holds = append(d.Holds, text)
	}
}

func (d *Disk) verdict(ctx context.Context, progress func(done, total int64)) (*probe.Verdict, error) {
	r, f, err := d.openReader()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return probe.Disk(ctx, r, probe.Options{Size: d.Size, Sector: d.SectorSize, Progress: progress})
}
