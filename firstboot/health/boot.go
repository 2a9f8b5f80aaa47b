package health

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/text"
	"github.com/rig-freebsd/rig/zfs"
)

// bootWish is what every disk must boot.
type bootWish struct {
	be     string // "zroot/ROOT/…"
	kernel string // directory below /boot of a rig partition, "" for the image's
	text   []byte // of the switch
}

// bootDisk is a disk that should have boot partitions.
type bootDisk struct {
	serial string // as in its labels
	absent bool   // the pool misses it
	half   bool   // its rig partition is still labelled "installing-…"
}

// checkBoot reads the boot partitions of every disk of the pool, all disks at once.
func (v *verifier) checkBoot(ctx context.Context) []Check {
	r := &rows{area: "boot"}
	wish, err := v.bootWish(ctx, r)
	if err != nil {
		r.fail("boot environment", err)
		return r.list
	}
	disks := v.bootDisks(r)
	found := make([]bootFound, len(disks))
	var wg sync.WaitGroup
	for i, d := range disks {
		if !d.half && !d.absent {
			wg.Go(func() { found[i] = v.readBootDisk(d.serial, wish) })
		}
	}
	wg.Wait()
	good := "SERIAL" // of a disk to copy from
	for i, d := range disks {
		if !d.half && !d.absent && found[i].content == nil {
			good, v.bundle = d.serial, v.labelled(manifest.RoleRig, d.serial)
			break
		}
	}
	for i, d := range disks {
		judgeBoot(r, d, found[i], wish, good)
	}
	return r.list
}

// bootWish asks for the active unit and identifies its kernel.
func (v *verifier) bootWish(ctx context.Context, r *rows) (bootWish, error) {
	unit, err := disk.ActiveUnit(ctx, v.Run)
	if err != nil {
		return bootWish{}, err
	}
	if err := v.checkUnits(r, unit); err != nil {
		return bootWish{}, err
	}
	be := unit.Root()
	out, err := v.Run.Run(ctx, run.New("zfs", "get", "-Hp", "-o", "value", "mounted,mountpoint", be))
	if err != nil {
		return bootWish{}, err
	}
	f := strings.Fields(string(out))
	if len(f) != 2 || f[0] != "yes" && f[0] != "no" {
		return bootWish{}, fmt.Errorf("zfs get mounted,mountpoint %s printed %q", be, out)
	}
	if f[0] == "no" || f[1] != "/" {
		r.add("boot environment", Warning, be+" is active and not the one that runs", "restart to run it, or bectl activate the one you want")
		if f[0] == "no" {
			return bootWish{be: be}, nil
		}
	} else {
		r.ok("boot environment", "%s is active and runs", be)
	}
	id, err := disk.KernelID(v.path(f[1], "boot/kernel"))
	if err != nil {
		return bootWish{}, err
	}
	w := bootWish{be: be}
	if id != v.res.Kernel {
		w.kernel = disk.KernelPrefix + id
	}
	geli, err := v.encryption(ctx)
	if err != nil {
		return bootWish{}, err
	}
	w.text, err = manifest.InstalledSwitch(be, w.kernel, geli.Boot)
	return w, err
}

// checkUnits looks for units that would come up without their jails, and for
// roots that bectl could not activate.
func (v *verifier) checkUnits(r *rows, active manifest.Unit) error {
	list, err := v.Datasets.List(active.Pool + "/ROOT")
	if err != nil {
		return err
	}
	var names []string
	origins := map[string][]string{}
	for _, d := range list {
		names = append(names, d.Name)
		if d.Origin != "" {
			origins[d.Origin] = append(origins[d.Origin], d.Name)
		}
	}
	if !slices.Contains(names, active.Root()) {
		return fmt.Errorf("zfs list -r %s/ROOT does not list %s", active.Pool, active.Root())
	}
	for _, name := range names {
		unit, ok := manifest.ParseUnit(name)
		if !ok || strings.Contains(name, "@") {
			continue
		}
		missing := disk.MissingJails(list, unit, v.m)
		switch {
		case len(missing) == 0:
		case unit == active:
			r.add("jails of "+unit.Name, Failed, "it is active and without the roots of "+text.Listing(missing), "bectl activate another one before the next restart")
		default:
			r.add("jails of "+unit.Name, Warning, "it is without the roots of "+text.Listing(missing)+": bectl create was called without -r",
				"bectl destroy -o "+unit.Name+"; \"bectl create -r NAME\" makes one with jails")
		}
	}
	for _, o := range slices.Sorted(maps.Keys(origins)) {
		if of := origins[o]; len(of) > 1 {
			r.add("clones of "+o, Failed, strings.Join(of, " and ")+" are: bectl activate would never end",
				"make roots with zfs create and \"riginstall do copy-tree\", not with zfs clone")
		}
	}
	return nil
}

// bootDisks lists the disks of the pool by the serial in their labels, and those
// that have a rig partition and are not in the pool.
func (v *verifier) bootDisks(r *rows) []bootDisk {
	var disks []bootDisk
	add := func(d bootDisk) {
		i := slices.IndexFunc(disks, func(o bootDisk) bool { return o.serial == d.serial })
		if i < 0 {
			disks = append(disks, d)
			return
		}
		disks[i].half = disks[i].half || d.half
		disks[i].absent = disks[i].absent && d.absent // a spare in use is there twice
	}
	var leaves func(zfs.Vdev)
	leaves = func(d zfs.Vdev) {
		for _, c := range d.Children {
			leaves(c)
		}
		if len(d.Children) > 0 {
			return
		}
		name := deviceName(d)
		up := slices.Contains([]string{"ONLINE", "AVAIL", "INUSE"}, d.State)
		if serial, ok := v.sealed(name, up); ok {
			add(bootDisk{serial: serial, absent: !up})
			return
		}
		if !strings.HasPrefix(name, "gpt/"+string(manifest.RoleZFS)+"-") {
			r.add(name, Failed, "it is in the pool and has no label of rig: nothing is known of its boot partitions",
				"partition it like the others, with labels boot-, efi-, rig-, swap- and zfs-SERIAL")
			return
		}
		add(bootDisk{serial: serialOf(name), absent: !up})
	}
	if v.status != nil {
		for _, d := range slices.Concat(v.status.Vdevs, v.status.Spares) {
			leaves(d)
		}
	}
	for _, role := range []manifest.Role{manifest.RoleRig, manifest.Installing} {
		found, _ := filepath.Glob(v.labelled(role, "*")) // the pattern is good
		for _, p := range found {
			add(bootDisk{serial: strings.TrimPrefix(path.Base(p), string(role)+"-"), half: role == manifest.Installing})
		}
	}
	if len(disks) == 0 {
		r.add("disks", Failed, "no disk has a rig partition in /dev/gpt", "")
	}
	return disks
}

func (v *verifier) labelled(role manifest.Role, serial string) string {
	return v.path(place.Dev, "gpt", string(role)+"-"+serial)
}

// bootFound is what reading a disk's boot partitions came to.
type bootFound struct {
	content error // what differs from the image
	boots   error // it boots something else than it should
	answers bool  // there are answers on the ESP
}

// readBootDisk compares one disk's boot partitions with the manifest and its
// switch with what is to be booted.
func (v *verifier) readBootDisk(serial string, wish bootWish) bootFound {
	b := disk.Boot{Root: v.Root, Manifest: v.m}
	var f bootFound
	f.content, f.boots = v.compareRig(b, v.labelled(manifest.RoleRig, serial), wish)
	esp := v.labelled(manifest.RoleESP, serial)
	err := b.VerifyESP(esp)
	if err == nil {
		f.answers, err = leftAnswers(esp, v.m.Boot.ESPSize)
	}
	if err != nil {
		f.content = errors.Join(f.content, fmt.Errorf("ESP: %w", err))
	}
	return f
}

// judgeBoot adds the rows of one disk. good is the serial of a disk whose boot
// partitions are as they should be.
func judgeBoot(r *rows, d bootDisk, f bootFound, wish bootWish, good string) {
	at := func(role manifest.Role, serial string) string {
		return place.Labelled(role, serial)
	}
	switch {
	case d.half:
		r.add(d.serial, Failed, "its installation was not finished: the rig partition is labelled installing-"+d.serial,
			"boot the installation medium once: it finishes the disk")
	case d.absent:
		r.skip(d.serial, "the disk is missing; see pool")
	case f.content != nil:
		r.add(d.serial, Failed, text.OneLine(errors.Join(f.content, f.boots).Error()),
			run.Quote([]string{place.Self, "do", "copy-rig", at(manifest.RoleRig, good), at(manifest.RoleRig, d.serial)})+"; "+
				run.Quote([]string{place.Self, "do", "write-esp", at(manifest.RoleRig, good), at(manifest.RoleESP, d.serial)})+"; riginstall bootsync")
	case f.boots != nil:
		r.add(d.serial, Failed, text.OneLine(f.boots.Error()), "riginstall bootsync")
	default:
		what := wish.be
		if wish.text != nil {
			what += " with " + kernelWords(wish.kernel)
		}
		r.ok(d.serial, "both partitions as in the image, boots %s", what)
	}
	if f.answers {
		r.add(d.serial+" answers", Warning, "there are answers on its ESP; they may hold secrets",
			"riginstall do forget-answers "+at(manifest.RoleESP, d.serial))
	}
}

// compareRig compares the files of a rig partition, and what it boots.
func (v *verifier) compareRig(b disk.Boot, dev string, wish bootWish) (content, boots error) {
	d, fsys, err := disk.OpenRig(dev, v.m.Boot.RigSize, false)
	if err != nil {
		return fmt.Errorf("rig partition: %w", err), nil
	}
	defer d.Close()
	t, err := fsys.Tree()
	if err != nil {
		return fmt.Errorf("rig partition: %w", err), nil
	}
	content = disk.CompareFiles(t, b.Files(manifest.RoleRig), "boot/"+disk.KernelPrefix, manifest.ConfDir+"/")
	text, err := t.ReadFile(manifest.SwitchFile, manifest.SwitchSize)
	if err != nil {
		return errors.Join(content, err), nil
	}
	return content, compareSwitch(t, string(text), wish)
}

// compareSwitch checks the switch of a rig partition, and the kernel it names.
func compareSwitch(t *tree.Tree, text string, wish bootWish) error {
	if wish.text == nil { // the kernel of an environment that is not mounted is not known
		if !strings.Contains(text, `vfs.root.mountfrom="zfs:`+wish.be+`"`) {
			return fmt.Errorf("it does not boot %s", wish.be)
		}
		return nil
	}
	if text != string(wish.text) {
		return fmt.Errorf("it does not boot %s with %s: its switch says otherwise", wish.be, kernelWords(wish.kernel))
	}
	if wish.kernel == "" {
		return nil
	}
	id, err := disk.KernelIDOf(t, "boot/"+wish.kernel)
	if err == nil && disk.KernelPrefix+id != wish.kernel {
		err = fmt.Errorf("boot/%s is another kernel than that of %s", wish.kernel, wish.be)
	}
	return err
}

func kernelWords(kernel string) string {
	if kernel == "" {
		return "the image's kernel"
	}
	return kernel
}

// leftAnswers reports whether an ESP holds answers: an install wipes them.
func leftAnswers(esp string, size int64) (bool, error) {
	b, err := disk.ReadESPFile(esp, size, manifest.AnswersFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	for line := range strings.Lines(string(b)) {
		if text := strings.TrimSpace(line); text != "" && text[0] != '#' {
			return true, nil
		}
	}
	return false, err
}
