package firstboot

import (
	"strconv"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/firstboot/source"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/zfs"
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
	esp := []string{"write-esp", p.from(), t.dev(manifest.RoleESP)}
	if t.SectorSize != 512 {
		esp = append(esp, strconv.Itoa(t.SectorSize))
	}
	cmds := []run.Cmd{do("copy-rig", p.from(), t.dev(manifest.RoleRig)), do(esp...)}
	_, bios := t.part(manifest.RoleBoot)
	if bios {
		cmds = append(cmds, run.New("gpart", "bootcode", "-p", place.BundleDir+"/boot/gptboot", "-i", t.index(manifest.RoleBoot), t.Name))
	}
	for _, part := range p.m.Boot.Parts() {
		cmds = append(cmds, run.New("gpart", "modify", "-i", strconv.Itoa(part.Index), "-t", part.Type, t.Name))
	}
	if bios {
		cmds = append(cmds, run.New("gpart", "bootcode", "-b", place.BundleDir+"/boot/pmbr", t.Name))
	}
	p.step("boot-"+t.Name, "copy the boot partitions to "+t.Name, cmds...)
}

// from is where copies of the boot partitions are made from: the medium's rig
// partition, or the directory where a medium without one is mounted.
func (p *planner) from() string {
	if rig, ok := p.Source.(source.RigPartition); ok {
		return place.Dev + rig.Name
	}
	return place.BundleDir
}

// bundle makes room in the pool for what comes from a web server, as the boot
// partitions are filled last then: a disk whose install is interrupted does not boot
// at all, and the machine boots from the network again.
func (p *planner) bundle() {
	cmds := []run.Cmd{
		zfs.CreateDatasetCmd(p.unit.Pool+"/"+bundleDataset, map[string]string{"mountpoint": "none"}),
		mountZFS(p.unit.Pool+"/"+bundleDataset, place.BundleDir),
	}
	if p.m.FreeBSD.Pkgbase() {
		cmds = append(cmds, do("fetch", p.Source.String()))
	}
	p.step("bundle", "make room for what comes from "+p.Source.String(), cmds...)
}

// bundleDataset holds the bundle while a machine is installed from a web server.
const bundleDataset = "rig/bundle"

// switchSteps makes finished disks boot the installed system: the answers leave
// the ESPs, then each disk's switch is overwritten in place.
func switchSteps(fromNet bool, targets []target, unit manifest.Unit, encrypted bool) []Step {
	var steps []Step
	if !fromNet {
		steps = append(steps, Step{Name: "unmount", Title: "let go of the medium", Cmds: []run.Cmd{do("umount", place.BundleDir)}})
	}
	for _, t := range targets {
		flip := do("switch", t.dev(manifest.RoleRig), unit.Root())
		if encrypted {
			flip.Argv = append(flip.Argv, encryptedWord)
		}
		steps = append(steps, Step{
			Name: "switch-" + t.Name, Title: "boot " + unit.Root() + " from " + t.Name,
			Cmds: []run.Cmd{
				do("forget-answers", t.dev(manifest.RoleESP)),
				flip,
				run.New("gpart", "modify", "-i", t.index(manifest.RoleRig), "-l", t.label(manifest.RoleRig), t.Name),
			},
		})
	}
	return steps
}

// FinishPlan completes an install that was interrupted after its pool was
// declared complete: it only switches the disks left over.
func FinishPlan(boot manifest.Boot, unit manifest.Unit, from source.Source, left []facts.Disk, encrypted bool) []Step {
	var targets []target
	for _, d := range left {
		t := target{Disk: d, serial: d.Serial, parts: boot.Parts()}
		if t.serial == "" {
			t.serial = d.Name
		}
		targets = append(targets, t)
	}
	_, web := from.(source.Web)
	return switchSteps(web, targets, unit, encrypted)
}
