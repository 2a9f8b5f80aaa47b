package firstboot

import (
	"strconv"
	"strings"

	"rig/internal/run"
	"rig/manifest"
	"rig/zfs"
)

// copyBoots fills the boot partitions of all disks but the medium's own.
func (p *planner) copyBoots() {
	for _, d := range p.targets {
		if !d.keep {
			p.copyBoot(d)
		}
	}
}

// copyBoot fills a disk's boot partitions and then makes it bootable. From here
// on it boots the installer, as the medium does.
func (p *planner) copyBoot(t target) {
	esp := []string{"write-esp", p.from(), t.dev(2)}
	if t.SectorSize != 512 {
		esp = append(esp, strconv.Itoa(t.SectorSize))
	}
	cmds := []run.Cmd{
		do("copy-rig", p.from(), t.dev(3)),
		do(esp...),
		run.New("gpart", "bootcode", "-p", BundleDir+"/boot/gptboot", "-i", "1", t.Name),
	}
	for _, part := range p.m.Boot.Parts() {
		cmds = append(cmds, run.New("gpart", "modify", "-i", strconv.Itoa(part.Index), "-t", part.Type, t.Name))
	}
	cmds = append(cmds, run.New("gpart", "bootcode", "-b", BundleDir+"/boot/pmbr", t.Name))
	p.step("boot-"+t.Name, "copy the boot partitions to "+t.Name, cmds...)
}

// from is where copies of the boot partitions are made from: the medium's rig
// partition, or the directory where a medium without one is mounted.
func (p *planner) from() string {
	if strings.HasPrefix(p.Source, isoDir) || fromNet(p.Source) {
		return BundleDir
	}
	return devDir + p.Source
}

// bundle makes room in the pool for what comes from a web server, as the boot
// partitions are filled last then: a disk whose install is interrupted does not boot
// at all, and the machine boots from the network again.
func (p *planner) bundle() {
	cmds := []run.Cmd{
		zfs.CreateDatasetCmd(p.unit.Pool+"/"+bundleDataset, map[string]string{"mountpoint": "none"}),
		mountZFS(p.unit.Pool+"/"+bundleDataset, BundleDir),
	}
	if p.m.FreeBSD.Pkgbase() {
		cmds = append(cmds, do("fetch", p.Source))
	}
	p.step("bundle", "make room for what comes from "+p.Source, cmds...)
}

// bundleDataset holds the bundle while a machine is installed from a web server.
const bundleDataset = "rig/bundle"

// fromNet reports whether a plan's source is a web server.
func fromNet(source string) bool { return strings.Contains(source, "://") }

// switchSteps makes finished disks boot the installed system: the answers leave
// the ESPs, then each disk's switch is overwritten in place.
func switchSteps(source string, targets []target, unit manifest.Unit, encrypted bool) []Step {
	var steps []Step
	if !fromNet(source) {
		steps = append(steps, Step{Name: "unmount", Title: "let go of the medium", Cmds: []run.Cmd{do("umount", BundleDir)}})
	}
	for _, t := range targets {
		flip := do("switch", t.dev(3), unit.Root())
		if encrypted {
			flip.Argv = append(flip.Argv, encryptedWord)
		}
		steps = append(steps, Step{
			Name: "switch-" + t.Name, Title: "boot " + unit.Root() + " from " + t.Name,
			Cmds: []run.Cmd{
				do("forget-answers", t.dev(2)),
				flip,
				run.New("gpart", "modify", "-i", "3", "-l", t.label(manifest.RoleRig), t.Name),
			},
		})
	}
	return steps
}

// FinishPlan completes an install that was interrupted after its pool was
// declared complete: it only switches the disks left over. source is as in Input.
func FinishPlan(unit manifest.Unit, source string, left []Disk, encrypted bool) []Step {
	var targets []target
	for _, d := range left {
		t := target{Disk: d, serial: d.Serial}
		if t.serial == "" {
			t.serial = d.Name
		}
		targets = append(targets, t)
	}
	return switchSteps(source, targets, unit, encrypted)
}
