package live

import (
	_ "embed"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// MaxSize is the largest installer root, unpacked, in bytes.
const MaxSize = 128 << 20

// Riginstall is where the installer is in its root.
const Riginstall = "usr/local/sbin/riginstall"

// Options say what Root puts beside base's programs.
type Options struct {
	Programs   []string   // nil means Programs()
	Riginstall tree.Entry // a File; its path, owner and mode are set by Root
	Kernel     *tree.Tree // of the kernel set; nil for no modules
	Modules    []string   // names without .ko; nil means Modules()
	Time       time.Time  // of everything generated
}

// Recipe changes when what Root makes of the same sets and options changes.
func Recipe() string {
	return strings.Join(slices.Concat([]string{rc, ttys, nsswitch}, config, mountPoints, Programs(), Modules()), "\n")
}

// config lists files and directories of base taken when base has them.
var config = []string{"etc/login.conf", "etc/login.conf.db", "etc/termcap.small", "etc/protocols", "etc/services",
	"etc/defaults/devfs.rules", "etc/dhclient.conf", "etc/pf.os", "etc/ssh/ssh_config", "etc/ssl/cert.pem",
	"usr/share/locale/C.UTF-8", "usr/share/zfs/compatibility.d"}

// mountPoints are the directories that must exist because the root is read only.
var mountPoints = []string{"boot/kernel", "dev", "etc/zfs", "media", "mnt", "proc", "rig", "tmp", "usr/local/sbin", "var"}

// Root returns the installer's root file system, made from the base set t: the
// closure of the programs, kernel modules, riginstall, and generated files.
// Owners are names of base's master.passwd.
func Root(t *tree.Tree, o Options) (*tree.Tree, error) {
	programs := o.Programs
	if programs == nil {
		programs = Programs()
	}
	var extra []string
	for _, p := range config {
		if _, ok := t.Lookup(p); ok {
			extra = append(extra, p)
		}
	}
	base, err := Closure(t, programs, extra...)
	if err != nil {
		return nil, err
	}
	made, err := o.generate(t)
	if err != nil {
		return nil, fmt.Errorf("live: %w", err)
	}
	root, err := tree.Merge(base, made)
	if err != nil {
		return nil, fmt.Errorf("live: %w", err)
	}
	if n := root.Size(); n > MaxSize {
		return nil, fmt.Errorf("live: installer root of %d MiB; at most %d fit below the loader's 1 GiB", n>>20, MaxSize>>20)
	}
	return root, nil
}

// generate returns everything that is not base's as it is.
func (o *Options) generate(base *tree.Tree) (*tree.Tree, error) {
	if o.Riginstall.Kind != tree.File || o.Riginstall.Size == 0 {
		return nil, errors.New("riginstall: no program given")
	}
	inst := o.Riginstall
	inst.Path, inst.Perm, inst.Owner, inst.Group, inst.ModTime = Riginstall, 0o555, "root", "wheel", o.Time
	entries := []tree.Entry{inst}
	for _, d := range mountPoints {
		entries = append(entries, o.entry(d, tree.Dir, 0o755))
	}
	entries = append(entries, o.entry("root", tree.Dir, 0o700))
	mods, err := o.modules()
	if err != nil {
		return nil, err
	}
	accounts, err := o.accounts(base)
	if err != nil {
		return nil, err
	}
	entries = append(append(entries, mods...), accounts...)
	for p, text := range map[string]string{
		// dhclient-script then writes /etc/resolv.conf, a link to memory, itself.
		"etc/dhclient-enter-hooks": "resolvconf_enable=NO\n",
		"etc/fstab":                "",
		"etc/hosts":                "127.0.0.1 localhost rig\n",
		"etc/nsswitch.conf":        nsswitch,
		"etc/ttys":                 ttys,
	} {
		entries = append(entries, o.file(p, 0o644, text))
	}
	entries = append(entries, o.file("etc/rc", 0o555, rc),
		o.link("etc/termcap", "termcap.small"), o.link("etc/resolv.conf", "../var/run/resolv.conf"))
	return tree.New(entries)
}

func (o *Options) entry(p string, k tree.Kind, perm uint16) tree.Entry {
	return tree.Entry{Path: p, Kind: k, Perm: perm, Owner: "root", Group: "wheel", ModTime: o.Time}
}

func (o *Options) file(p string, perm uint16, text string) tree.Entry {
	e := o.entry(p, tree.File, perm)
	e.Size, e.Open = int64(len(text)), tree.Bytes([]byte(text))
	return e
}

func (o *Options) link(p, to string) tree.Entry {
	e := o.entry(p, tree.Symlink, 0o755)
	e.Link = to
	return e
}

// modules takes kernel modules, and the hints that tell the kernel which file has
// which module.
func (o *Options) modules() ([]tree.Entry, error) {
	if o.Kernel == nil {
		return nil, nil
	}
	names := o.Modules
	if names == nil {
		names = Modules()
	}
	var out []tree.Entry
	var missing []string
	for _, n := range names {
		p := "boot/kernel/" + strings.TrimSuffix(n, ".ko") + ".ko"
		e, ok := o.Kernel.Lookup(p)
		if ok && e.Kind == tree.HardLink {
			e, ok = o.Kernel.Lookup(e.Link)
		}
		if !ok || e.Kind != tree.File {
			missing = append(missing, path.Base(p))
			continue
		}
		m := *e
		m.Path = p
		out = append(out, m)
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("the kernel set has no %s", strings.Join(missing, ", "))
	}
	if e, ok := o.Kernel.Lookup("boot/kernel/linker.hints"); ok && e.Kind == tree.File {
		out = append(out, *e)
	}
	return out, nil
}

// accounts returns base's accounts with root locked: base has it without a
// password. The databases that getpwnam(3) reads are made by /etc/rc, because
// base's hold that empty password; links lead there.
func (o *Options) accounts(base *tree.Tree) ([]tree.Entry, error) {
	master, err := base.ReadFile("etc/master.passwd", 1<<20)
	if err != nil {
		return nil, err
	}
	group, err := base.ReadFile("etc/group", 1<<20)
	if err != nil {
		return nil, err
	}
	var secret, public strings.Builder
	locked := false
	for line := range strings.Lines(string(master)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if strings.HasPrefix(line, "#") || len(f) != 10 {
			continue
		}
		if f[1] = "*"; f[0] == "root" {
			f[9], locked = "/bin/sh", true
		}
		fmt.Fprintln(&secret, strings.Join(f, ":"))
		fmt.Fprintln(&public, strings.Join(append(f[:4:4], f[7:]...), ":"))
	}
	if !locked {
		return nil, errors.New("etc/master.passwd: no account root")
	}
	return []tree.Entry{
		o.file("etc/master.passwd", 0o600, secret.String()),
		o.file("etc/passwd", 0o644, public.String()),
		o.file("etc/group", 0o644, string(group)),
		o.link("etc/pwd.db", "../var/run/etc/pwd.db"),
		o.link("etc/spwd.db", "../var/run/etc/spwd.db"),
	}, nil
}

// rc is the whole startup of the installer.
//
//go:embed rc.sh
var rc string

// ttys makes init(8) start the installer on the video console and two serial
// ports, whichever exist. It appends the name of the line. A console whose
// command ends within 5 s four times in a row waits 30 s.
const ttys = `console	none	unknown	off secure
ttyv0	"/usr/local/sbin/riginstall console"	xterm	onifexists secure
ttyu0	"/usr/local/sbin/riginstall console"	vt100	onifexists secure
ttyu1	"/usr/local/sbin/riginstall console"	vt100	onifexists secure
`

const nsswitch = `group: files
hosts: files dns
networks: files
passwd: files
services: files
protocols: files
`
