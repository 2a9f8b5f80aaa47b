package firstboot

import (
	"crypto/md5" //nolint:gosec // rc.d/hostid derives kern.hostid with it
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/firstboot/root"
	"github.com/rig-freebsd/rig/firstboot/source"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/internal/text"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// Input is everything a plan depends on.
type Input struct {
	Manifest *manifest.Manifest
	Facts    *facts.Facts
	Answers  *answers.Set
	Layout   *zfs.Layout
	Identity root.Identity
	// Source is what the bundle is read from. When the disk of a rig partition is a
	// target, its boot partitions stay as they are.
	Source source.Source
}

// unit is what the plan makes.
func (in Input) unit() manifest.Unit {
	return manifest.Unit{Pool: in.Manifest.PoolName(in.Identity.HostUUID), Name: in.Manifest.Image}
}

// staging is the GPT type of a partition that is being filled.
const staging = "!72696773-7461-6765-8000-726967696e73"

// Plan returns every change an install makes, in order. It is pure: equal input
// gives equal steps.
func Plan(in Input) ([]Step, error) {
	p := &planner{Input: in, m: in.Manifest, unit: in.unit()}
	if err := p.disks(); err != nil {
		return nil, err
	}
	p.prepare()
	for _, d := range p.targets {
		p.partition(d)
	}
	if !p.fromNet() {
		p.copyBoots()
	}
	p.encrypt()
	p.createPool()
	if p.fromNet() {
		p.bundle()
	}
	if p.m.FreeBSD.Pkgbase() {
		p.pkgbase()
	} else {
		p.base()
	}
	p.host()
	for _, j := range p.m.Jails {
		p.jail(j)
	}
	p.configure()
	p.check()
	if p.fromNet() {
		p.copyBoots()
	}
	p.verify()
	p.finish()
	p.steps = append(p.steps, switchSteps(p.fromNet(), p.targets, p.unit, p.Answers.Encrypted())...)
	return p.steps, errors.Join(p.errs...)
}

type planner struct {
	Input
	m       *manifest.Manifest
	unit    manifest.Unit
	targets []target
	steps   []Step
	errs    []error
}

// target is one disk of the new system.
type target struct {
	facts.Disk
	wish   zfs.Disk // as it was chosen, for people
	serial string   // what its labels carry
	keep   bool     // it holds the source: its first partitions stay
	parts  []manifest.Part
}

func (t target) label(r manifest.Role) string { return manifest.Label(r, t.serial) }

// part is the partition that has this role; ok is false on a disk without one.
func (t target) part(r manifest.Role) (part manifest.Part, ok bool) {
	i := slices.IndexFunc(t.parts, func(p manifest.Part) bool { return p.Role == r })
	if i < 0 {
		return part, false
	}
	return t.parts[i], true
}

// index is that partition's number, as gpart(8) wants it.
func (t target) index(r manifest.Role) string {
	part, _ := t.part(r)
	return strconv.Itoa(part.Index)
}

// partName is that partition's name: "vtbd0p5".
func (t target) partName(r manifest.Role) string {
	part, _ := t.part(r)
	return place.PartName(t.Name, part.Index)
}

// dev is that partition's device.
func (t target) dev(r manifest.Role) string { return place.Dev + t.partName(r) }

// fromNet reports whether the source is a web server.
func (p *planner) fromNet() bool {
	_, web := p.Source.(source.Web)
	return web
}

// carries reports whether the source is on this disk.
func (p *planner) carries(disk string) bool {
	rig, ok := p.Source.(source.RigPartition)
	return ok && rig.Disk == disk
}

func (p *planner) step(name, title string, cmds ...run.Cmd) {
	p.steps = append(p.steps, Step{Name: name, Title: title, Cmds: cmds})
}

// disks joins the layout with the facts and lays out each target.
func (p *planner) disks() error {
	swap := p.Answers.Disks(answers.KeyDisks).SwapSize(p.m.Boot.Swap)
	labels := map[string]string{}
	for _, want := range p.Layout.Disks() {
		i := slices.IndexFunc(p.Facts.Disks, func(d facts.Disk) bool { return d.Name == want.Name })
		if i < 0 {
			return fmt.Errorf("plan: disk %s is in the layout and not in the facts", want.Name)
		}
		t := target{Disk: p.Facts.Disks[i], wish: want, keep: p.carries(want.Name)}
		t.serial = t.Serial
		if t.serial == "" {
			t.serial = t.Name
		}
		if other, dup := labels[t.label(manifest.RoleZFS)]; dup {
			return fmt.Errorf("plan: disks %s and %s would get the same labels (serial %s)", other, t.Name, t.serial)
		}
		labels[t.label(manifest.RoleZFS)] = t.Name
		tail, err := p.m.Boot.Appended(t.Size, swap)
		if err != nil {
			return fmt.Errorf("plan: %s: %w", t.Name, err)
		}
		t.parts = append(p.m.Boot.PartsOn(int64(t.SectorSize)), tail...)
		p.targets = append(p.targets, t)
	}
	if p.Answers.Encrypted() {
		p.relabelGELI()
	}
	return nil
}

func (p *planner) prepare() {
	p.step("prepare", "modules, host identity",
		run.New("kldload", "-n", "zfs"),
		run.New("sysctl", "kern.hostuuid="+p.Identity.HostUUID),
		run.New("sysctl", "kern.hostid="+p.Identity.HostID()),
	)
}

// partition gives a disk its table. Boot partitions get their real types only
// when they are filled, so that no firmware starts what is not there yet.
func (p *planner) partition(t target) {
	if t.keep {
		p.extend(t)
		return
	}
	if !t.Blank || t.Scheme != "" {
		p.wipe(t)
	}
	cmds := []run.Cmd{run.New("gpart", "create", "-s", "gpt", t.Name)}
	for _, part := range t.parts {
		typ, label := staging, t.label(part.Role)
		switch part.Role {
		case manifest.RoleSwap, manifest.RoleZFS, manifest.RoleGELI:
			typ = part.Type
		case manifest.RoleRig:
			label = t.label(manifest.Installing)
		}
		cmds = append(cmds, addPart(t, part, typ, label))
	}
	p.step("partition-"+t.Name, fmt.Sprintf("partition %s", t.wish), cmds...)
}

func addPart(t target, part manifest.Part, typ, label string) run.Cmd {
	sector := int64(t.SectorSize)
	return run.New("gpart", "add", "-i", strconv.Itoa(part.Index), "-b", strconv.FormatInt(part.Start/sector, 10),
		"-s", strconv.FormatInt(part.Size/sector, 10), "-t", typ, "-l", label, t.Name)
}

// extend appends to the disk that carries the image itself.
func (p *planner) extend(t target) {
	cmds := []run.Cmd{run.New("gpart", "recover", t.Name)}
	for i := len(t.Partitions) - 1; i >= 0; i-- {
		if n := t.Partitions[i].Index; !slices.ContainsFunc(p.m.Boot.Parts(), func(b manifest.Part) bool { return b.Index == n }) {
			cmds = append(cmds, run.New("gpart", "delete", "-i", strconv.Itoa(n), t.Name))
		}
	}
	for _, part := range t.parts {
		label := t.label(part.Role)
		if part.Role == manifest.RoleRig {
			label = t.label(manifest.Installing)
		}
		if p.m.Boot.Index(part.Role) > 0 {
			cmds = append(cmds, run.New("gpart", "modify", "-i", strconv.Itoa(part.Index), "-l", label, t.Name))
			continue
		}
		cmds = append(cmds, addPart(t, part, part.Type, label))
		if part.Role == manifest.RoleZFS || part.Role == manifest.RoleGELI { // an interrupted attempt may have left labels here
			// By the partition: writing to the disk itself makes GEOM drop its other
			// partitions, and the medium is mounted from one of them.
			cmds = append(cmds, zeroEnds(place.PartName(t.Name, part.Index), 0, part.Size)...)
		}
	}
	p.step("partition-"+t.Name, fmt.Sprintf("append swap and zfs to %s", t.wish), cmds...)
}

// wipe forgets what was on a disk: its table, and the first and last MiB of the
// disk and of each partition, where file systems and pools keep their labels.
func (p *planner) wipe(t target) {
	var cmds []run.Cmd
	for _, part := range t.Partitions {
		cmds = append(cmds, zeroEnds(t.Name, part.Start, part.Size)...)
	}
	if t.Scheme != "" {
		cmds = append(cmds, run.New("gpart", "destroy", "-F", t.Name))
	}
	cmds = append(cmds, zeroEnds(t.Name, 0, t.Size)...)
	p.step("wipe-"+t.Name, fmt.Sprintf("wipe %s", t.wish), cmds...)
}

func zeroEnds(dev string, start, size int64) []run.Cmd {
	const end = 1 << 20
	zero := func(off, n int64) run.Cmd {
		return do("zero", dev, strconv.FormatInt(off, 10), strconv.FormatInt(n, 10))
	}
	if size <= 2*end {
		return []run.Cmd{zero(start, size)}
	}
	return []run.Cmd{zero(start, end), zero(start+size-end, end)}
}

func (p *planner) createPool() {
	var v zfs.Vdevs
	for i, t := range p.targets {
		dev := p.member(t)
		if i < len(p.Layout.Mirror) {
			v.Mirror = append(v.Mirror, dev)
		} else {
			v.Spares = append(v.Spares, dev)
		}
	}
	wish := p.m.Pool
	wish.Name = p.unit.Pool
	p.step("pool", fmt.Sprintf("create pool %s: mirror of %d, %d spare", wish.Name, len(v.Mirror), len(v.Spares)),
		zfs.CreateCmd(wish, v, zfs.CreateOptions{Altroot: place.Target, Force: true}))
	p.step("datasets", "create the datasets that carry others",
		zfs.CreateDatasetCmd(p.unit.Pool+"/ROOT", map[string]string{"mountpoint": "none"}),
		zfs.CreateDatasetCmd(p.unit.Base(p.m.Image), map[string]string{"mountpoint": "none"}),
		do("mkdir", place.BaseDir, "0:0", "0755"),
		mountZFS(p.unit.Base(p.m.Image), place.BaseDir))
}

// mountZFS mounts a dataset at a place that is not its mountpoint.
func mountZFS(dataset, dir string) run.Cmd { return run.New("mount", "-t", "zfs", dataset, dir) }

// base unpacks the base system once; the roots of host and jails are copies that
// share its blocks. Not clones: bectl(8) promotes every dataset of a boot environment
// that it activates, again and again when they have one origin (libbe's be_activate).
func (p *planner) base() {
	unpack := do("unpack", string(manifest.LayerBase), place.BaseDir)
	if p.fromNet() {
		unpack.Argv = append(unpack.Argv, p.Source.String())
	}
	p.step("base", "unpack the base system", append([]run.Cmd{
		unpack,
		run.New("pwd_mkdb", "-p", "-d", place.BaseDir+"/etc", place.BaseDir+"/etc/master.passwd"),
	}, p.sealBase()...)...)
	p.step("root", "copy it to the host's root "+p.unit.Root(), append(p.hostRoot(), do("copy-tree", place.BaseDir, place.Target))...)
}

// pkgbase installs the base system from packages: the jails' once, and the host's.
func (p *planner) pkgbase() {
	p.step("base", "install the base system of the jails", append(p.baseRoot(place.BaseDir, p.m.FreeBSD.Jail), p.sealBase()...)...)
	p.step("root", "install the base system of the host in "+p.unit.Root(), append(p.hostRoot(), p.baseRoot(place.Target, p.m.FreeBSD.Host)...)...)
}

// hostRoot creates and mounts the host's root, which all others are mounted on.
func (p *planner) hostRoot() []run.Cmd {
	return []run.Cmd{
		zfs.CreateDatasetCmd(p.unit.Root(), map[string]string{"canmount": "noauto", "mountpoint": "/"}),
		zfs.MountCmd(p.unit.Root()),
		zfs.PoolSetCmd(p.unit.Pool, "bootfs", p.unit.Root()),
	}
}

// baseRoot fills an empty root with packages of the base system. What their
// triggers may have left out is made in any case: databases, and no account
// without a password.
func (p *planner) baseRoot(dir string, packages []string) []run.Cmd {
	return append(p.repository(do(append([]string{"base-packages", dir}, packages...)...), dir),
		do("lock-accounts", dir),
		run.New("pwd_mkdb", "-p", "-d", dir+"/etc", dir+"/etc/master.passwd"),
		run.New("cap_mkdb", dir+"/etc/login.conf"),
		run.New("services_mkdb", "-q", "-o", dir+"/var/db/services.db", dir+"/etc/services"))
}

// packages installs packages in a root that has a base system.
func (p *planner) packages(dir string, packages []string) []run.Cmd {
	if len(packages) == 0 {
		return nil
	}
	cmds := []run.Cmd{
		run.New("mount", "-t", "devfs", "devfs", dir+"/dev"),
		run.New("mount", "-t", "nullfs", "-o", "ro", place.BundleDir+"/"+manifest.PkgDir, dir+place.PkgMount),
	}
	cmds = append(cmds, p.repository(do(append([]string{"packages", dir}, packages...)...), dir)...)
	return append(cmds, run.New("umount", dir+place.PkgMount), run.New("umount", dir+"/dev"))
}

// repository runs a command that uses the bundle's repository on a root, and
// forgets what it leaves of it there.
func (p *planner) repository(c run.Cmd, dir string) []run.Cmd {
	if !p.m.Repository() {
		p.errs = append(p.errs, errors.New("plan: the image has packages to install and no repository"))
	}
	return []run.Cmd{c, run.New("rm", "-rf", dir+"/var/db/pkg/repos", dir+"/var/cache/pkg")}
}

// sealBase has the base system on disk, since what is still in memory cannot be
// shared, and lets nobody change it.
func (p *planner) sealBase() []run.Cmd {
	return []run.Cmd{
		zfs.SyncCmd(p.unit.Pool),
		zfs.SetCmd(p.unit.Base(p.m.Image), map[string]string{"readonly": "on"}),
	}
}

// host creates the host's datasets and lays kernel, packages and overlay.
func (p *planner) host() {
	var cmds []run.Cmd
	for _, d := range p.m.Datasets {
		if p.jailOf(d) == "" {
			cmds = append(cmds, p.dataset(d)...)
		}
	}
	p.step("host-datasets", "create the host's datasets", cmds...)
	if p.fromNet() && !p.m.FreeBSD.Pkgbase() {
		p.step("fetch", "fetch the rest of the bundle from "+p.Source.String(), do("fetch", p.Source.String()))
	}
	if !p.m.FreeBSD.Pkgbase() {
		p.step("kernel", "unpack the kernel", do("unpack", string(manifest.LayerKernel), place.Target))
	}
	if names := p.m.Host.Packages; len(names) > 0 {
		p.step("packages", "install packages of the host: "+text.Listing(names), p.packages(place.Target, names)...)
	}
	p.step("host", "lay the host's overlay", do("unpack", string(manifest.LayerHost), place.Target))
	if len(p.m.Jails) > 0 {
		p.step("jails", "a place for the jails' roots",
			do("mkdir", place.Target+"/jails", "0:0", "0700"), // set-id programs in there are not for the host's users
			zfs.CreateDatasetCmd(p.unit.Jails(), map[string]string{"canmount": "off", "mountpoint": "/jails"}))
	}
}

// dataset creates d and sets its root's owner and mode.
func (p *planner) dataset(d zfs.Dataset) []run.Cmd {
	cmds := []run.Cmd{zfs.DatasetCmd(p.unit.Pool, d)}
	if d.Mountpoint == "" || d.Mountpoint == "none" {
		return cmds
	}
	if d.Owner != "" {
		cmds = append(cmds, run.New("chown", d.Owner, place.Target+d.Mountpoint))
	}
	if d.Mode != "" {
		cmds = append(cmds, run.New("chmod", d.Mode, place.Target+d.Mountpoint))
	}
	return cmds
}

func (p *planner) jailOf(d zfs.Dataset) string {
	for _, j := range p.m.Jails {
		if strings.HasPrefix(d.Name, manifest.DataDir+"/"+j.Name+"/") {
			return j.Name
		}
	}
	return ""
}

func (p *planner) jail(j manifest.Jail) {
	root := path.Join(place.Target, "jails", j.Name)
	cmds := []run.Cmd{
		zfs.CreateDatasetCmd(p.unit.Jail(j.Name), map[string]string{"canmount": "noauto"}),
		zfs.MountCmd(p.unit.Jail(j.Name)),
		do("copy-tree", place.BaseDir, root),
	}
	for _, d := range p.m.Datasets {
		if p.jailOf(d) == j.Name {
			cmds = append(cmds, p.dataset(d)...)
		}
	}
	cmds = append(cmds, p.packages(root, j.Packages)...)
	if slices.ContainsFunc(p.m.Layers, func(l manifest.Layer) bool { return l.Role == manifest.LayerJail && l.Jail == j.Name }) {
		cmds = append(cmds, do("unpack", string(manifest.LayerJail)+":"+j.Name, root))
	}
	title := "make and fill jail " + j.Name
	if len(j.Packages) > 0 {
		title += ": " + text.Listing(j.Packages)
	}
	p.step("jail-"+j.Name, title, cmds...)
}

// configure makes the roots this server's: accounts, passwords, templates,
// identity.
func (p *planner) configure() {
	roots := []struct {
		name, dir, jail string
		users           []manifest.User
		run             []string
	}{{"host", place.Target, "", p.m.Users, p.m.Host.Run}}
	for _, j := range p.m.Jails {
		roots = append(roots, struct {
			name, dir, jail string
			users           []manifest.User
			run             []string
		}{j.Name, place.Target + "/jails/" + j.Name, j.Name, j.Users, j.Run})
	}
	for _, r := range roots {
		var cmds []run.Cmd
		for _, u := range r.users {
			cmds = append(cmds, p.user(r.dir, u)...)
		}
		render := do("render", r.dir)
		if r.jail != "" {
			render.Argv = append(render.Argv, r.jail)
		}
		cmds = append(cmds, render)
		cmds = append(cmds, p.identity(r.dir, r.jail)...)
		if len(r.run) > 0 {
			cmds = append(cmds, run.New("mount", "-t", "devfs", "devfs", r.dir+"/dev"))
			for _, line := range r.run {
				cmds = append(cmds, run.New("chroot", r.dir, "/bin/sh", "-ec", line))
			}
			cmds = append(cmds, run.New("umount", r.dir+"/dev"))
		}
		p.step("configure-"+r.name, "accounts, values and identity of "+r.name, cmds...)
	}
	p.step("fstab", "swap and the record of this image", p.hostFiles()...)
}

// user creates an account, its key file and its password. root exists.
func (p *planner) user(dir string, u manifest.User) []run.Cmd {
	var cmds []run.Cmd
	home, id := u.Home, strconv.Itoa(u.UID)
	owner := id + ":" + id
	if u.Name == "root" {
		home, owner = "/root", "0:0"
	} else {
		if home == "" {
			home = "/home/" + u.Name
		}
		shell := u.Shell
		if shell == "" {
			shell = "/bin/sh"
		}
		add := run.New("pw", "-R", dir, "useradd", "-n", u.Name, "-u", id, "-g", u.Name, "-c", u.Comment,
			"-d", home, "-s", shell, "-h", "-")
		if len(u.Groups) > 0 {
			add.Argv = append(add.Argv, "-G", strings.Join(u.Groups, ","))
		}
		cmds = append(cmds, run.New("pw", "-R", dir, "groupadd", "-n", u.Name, "-g", id), add,
			do("mkdir", dir+home, owner, "0755"))
	}
	if keys := p.Answers.Strings(u.Keys); u.Keys != "" && len(keys) > 0 {
		cmds = append(cmds, do("mkdir", dir+home+"/.ssh", owner, "0700"),
			put(dir+home+"/.ssh/authorized_keys", owner, "0600", strings.Join(keys, "\n")+"\n"))
	}
	return append(cmds, p.password(dir, u)...)
}

// password sets u's password through standard input: a hash from the answers, or
// the one generated for this server.
func (p *planner) password(dir string, u manifest.User) []run.Cmd {
	if u.PasswordHash == "" {
		return nil
	}
	set := run.Cmd{Argv: []string{"pw", "-R", dir, "usermod", "-n", u.Name}, Secret: true}
	if hash := p.Answers.Secret(u.PasswordHash).Reveal(); hash == "*" {
		set.Argv = append(set.Argv, "-h", "-")
	} else if hash != "" {
		set.Argv, set.Stdin = append(set.Argv, "-H", "0"), []byte(hash+"\n")
	} else if pass := p.Identity.Passwords[u.PasswordHash]; pass != "" {
		set.Argv, set.Stdin = append(set.Argv, "-h", "0"), []byte(pass+"\n")
	} else {
		p.errs = append(p.errs, fmt.Errorf("plan: %s has neither a hash nor a generated password", u.PasswordHash))
	}
	return []run.Cmd{set}
}

// identity gives a root what no two machines may share. A jail's is derived from
// the host's, so that a plan stays a function of its input.
func (p *planner) identity(dir, jail string) []run.Cmd {
	id := p.Identity
	if jail != "" {
		id.HostUUID = jailUUID(id.HostUUID, jail)
	}
	cmds := []run.Cmd{
		put(dir+"/etc/hostid", "0:0", "0644", id.HostUUID+"\n"),
		put(dir+"/etc/machine-id", "0:0", "0444", id.MachineID()+"\n"),
	}
	if jail == "" {
		for _, f := range []string{"/entropy", "/boot/entropy"} {
			cmds = append(cmds, run.New("sh", "-c", "umask 077; dd if=/dev/random of="+dir+f+" bs=4096 count=1 2>/dev/null"))
		}
	}
	return cmds
}

func jailUUID(host, jail string) string {
	s := md5.Sum([]byte(host + "/" + jail)) //nolint:gosec // an identifier, not a secret
	s[6], s[8] = s[6]&0x0f|0x30, s[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", s[:4], s[4:6], s[6:8], s[8:10], s[10:])
}

func (p *planner) hostFiles() []run.Cmd {
	var tab strings.Builder
	tab.WriteString("# Device\tMountpoint\tFStype\tOptions\tDump\tPass#\n")
	for i, t := range p.targets {
		if i < len(p.Layout.Mirror) && slices.ContainsFunc(t.parts, func(q manifest.Part) bool { return q.Role == manifest.RoleSwap }) {
			fmt.Fprintf(&tab, "/dev/gpt/%s.eli\tnone\tswap\tsw\t0\t0\n", t.label(manifest.RoleSwap))
		}
	}
	return append(p.dumpless(),
		put(place.Target+"/etc/fstab", "0:0", "0644", tab.String()),
		do("mkdir", place.Target+place.ResultDir, "0:0", "0700"),
		run.New("cp", place.BundleDir+"/"+manifest.File, place.Target+place.ResultDir+"/manifest.json"),
		do("answers", place.Target+place.AnswersAt),
		do("mkdir", place.Target+"/usr/local/sbin", "0:0", "0755"),
		run.New("cp", "/usr/local/sbin/riginstall", place.Target+"/usr/local/sbin/riginstall"),
	)
}

// check tries what can be tried before a reboot, in the new system's own root.
func (p *planner) check() {
	cmds := []run.Cmd{run.New("kldload", "-n", "pf"), run.New("mount", "-t", "devfs", "devfs", place.Target+"/dev")}
	undo := []run.Cmd{run.New("umount", place.Target+"/dev")}
	cmds = append(cmds, sourceRC(place.Target))
	for _, j := range p.m.Jails {
		dir := place.Target + "/jails/" + j.Name
		cmds = append(cmds, run.New("mount", "-t", "devfs", "devfs", dir+"/dev"), sourceRC(dir))
		undo = append(undo, run.New("umount", dir+"/dev"))
	}
	cmds = append(cmds, do("check-files", place.Target))
	p.step("check", "try pf.conf, jail.conf and every rc.conf", append(cmds, undo...)...)
}

// verify reads back what the machine will boot from.
func (p *planner) verify() {
	p.step("verify", "verify pool, datasets and boot partitions",
		do("verify-pool", p.unit.Pool, strconv.Itoa(len(p.Layout.Mirror)), strconv.Itoa(len(p.Layout.Spares))),
		do("verify-roots", p.unit.Pool),
		do(append([]string{"verify-boot"}, p.names()...)...))
}

// sourceRC reads rc.conf the way rc(8) does; a file it misses shows on stderr.
func sourceRC(dir string) run.Cmd {
	return run.New("chroot", dir, "/bin/sh", "-c",
		`e=$( (. /etc/defaults/rc.conf; source_rc_confs) 2>&1 >/dev/null ); [ -z "$e" ] || { echo "$e" >&2; exit 1; }`)
}

func (p *planner) names() []string {
	var names []string
	for _, t := range p.targets {
		names = append(names, t.Name)
	}
	return names
}

// finish records the result, declares the pool complete and lets it go. From
// the declaration on, a restarted installer only switches what is left.
func (p *planner) finish() {
	p.step("result", "write result.json and the log into the new system", do("result", place.Target+place.ResultDir))
	if p.fromNet() {
		p.step("unmount", "give back the room the bundle took",
			do("umount", place.BundleDir), zfs.DestroyCmd(p.unit.Pool+"/"+bundleDataset))
	}
	p.step("complete", "declare the pool complete", zfs.SetCmd(p.unit.Pool, map[string]string{place.PropDone: p.m.Image}))
	p.step("export", "export the pool", append([]run.Cmd{run.New("umount", place.BaseDir), zfs.ExportCmd(p.unit.Pool)}, p.detach()...)...)
}
