package firstboot

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"rig/image"
	"rig/image/gpt"
	"rig/internal/run"
	"rig/manifest"
	"rig/tree"
	"rig/zfs"
)

const tinyProfile = `schema = 1
name = "tiny"
[freebsd]
version = "15.1-RELEASE"
arch = "amd64"
[pool]
name = "zroot-{id}"
ashift = 12
[boot]
esp_size = "4m"
rig_size = "6m"
swap = "64m"
[[host.users]]
name = "root"
password_hash = "secrets.root"
[[jail]]
name = "pg_j"
[[jail.dataset]]
name = "db"
mountpoint = "/jails/pg_j/db"
[[question]]
key = "server.name"
type = "label"
required = true
[[question]]
key = "secrets.root"
type = "password_hash"
required = true
[[question]]
key = "secrets.tunnel"
type = "secret"
`

const tinyAnswers = `[server]
name = "www"
[secrets]
root = "$6$saltsalt$qFmFH.bQmmtXzyBY0s9v7Oicd2z4XSIecDzlB5KiA2/jctKu9YterLp8wwnSq.qc.eoxqOmSuNp2xS0ktL3nh/"
tunnel = "0123456789abcdef0123456789abcdef"
[install]
unattended = true
after = "poweroff"
[disks]
mirror = ["serial:S1", "serial:S2"]
spares = ["serial:S3", "serial:S4"]
`

// demoImage builds a small image once: rigimage's own, with no FreeBSD inside.
var demoImage = sync.OnceValues(func() (*image.Result, error) {
	dir, err := os.MkdirTemp("", "rig-firstboot-")
	if err != nil {
		return nil, err
	}
	prog := filepath.Join(dir, "riginstall")
	if err := os.WriteFile(prog, []byte("a stand-in\n"), 0o755); err != nil {
		return nil, err
	}
	return image.Build(context.Background(), image.Options{
		Profile: fstest.MapFS{
			image.ConfigFile:          {Data: []byte(tinyProfile)},
			"host/etc/hostname.tmpl":  {Data: []byte("{{.server.name}}\n")},
			"host/etc/pf.conf":        {Data: []byte("block\n")},
			"jails/pg_j/etc/key.tmpl": {Data: []byte("{{.secrets.tunnel.Reveal}}{{.rig.jail}}\n")},
			"jails/pg_j.mtree":        {Data: []byte("./etc/key mode=0600\n")},
		},
		ProfileName: "tiny", Output: filepath.Join(dir, "tiny.img"), Also: []string{filepath.Join(dir, "pxe") + "/"}, Cache: filepath.Join(dir, "cache"), Demo: true,
		Answers: []byte(tinyAnswers), AnswersName: "answers.toml",
		Riginstall: func(context.Context) (string, error) { return prog, nil },
	})
})

func TestMain(m *testing.M) {
	code := m.Run()
	if r, err := demoImage(); err == nil {
		os.RemoveAll(filepath.Dir(r.Path))
	}
	os.Exit(code)
}

// fakeBSD stands for a FreeBSD with disks: gpart keeps tables, mount shows what
// is on a rig partition, zpool leaves labels. Everything is below root; devices
// are files there, partitions files of their own.
type fakeBSD struct {
	t        testing.TB
	root     string
	man      *manifest.Manifest
	disks    []*fakeTable
	poolName string
	pool     []string // providers of the pool, nil when there is none
	imported bool
	prop     string // rig:complete
	mounted  bool   // the medium at BundleDir
	lines    []string
	stdin    map[string]string // of commands, by line
	fail     map[string]string // beginning of a command → what it complains
	kenv     string            // more of it
	address  string            // what DHCP gives
	sealed   map[string]string // partition that is a GELI provider → its passphrase; nil when none ever was
	opened   map[string]bool   // those of them that are attached
}

// fakeTable is a disk.
type fakeTable struct {
	name, serial string
	size         int64
	parts        []Partition
}

// newBSD is a machine with four disks. The image is on a stick, or on the first
// of them.
func newBSD(t testing.TB, stick bool) *fakeBSD {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root sets owners")
	}
	img, err := demoImage()
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeBSD{t: t, root: memoryDir(t), man: img.Manifest, stdin: map[string]string{}, fail: map[string]string{}, opened: map[string]bool{}}
	for _, d := range []string{"dev/gpt", "rig", "mnt", "usr/local/sbin", StateDir} {
		f.check(os.MkdirAll(filepath.Join(f.root, d), 0o755))
	}
	f.check(os.WriteFile(filepath.Join(f.root, "usr/local/sbin/riginstall"), []byte("x"), 0o555))
	for i := range 4 {
		f.add(&fakeTable{name: fmt.Sprintf("vtbd%d", i), serial: fmt.Sprintf("S%d", i+1), size: 4 << 30})
	}
	on := f.disks[0]
	if stick {
		on = f.add(&fakeTable{name: "da0", serial: "STICK", size: 1 << 30})
	}
	f.dd(img.Path, on)
	return f
}

// memoryDir is a directory of this test, in memory where that can be: installs
// sync often.
func memoryDir(t testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "rig-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (f *fakeBSD) check(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fakeBSD) dev(name string) string { return filepath.Join(f.root, "dev", name) }

func (f *fakeBSD) add(d *fakeTable) *fakeTable {
	f.check(os.WriteFile(f.dev(d.name), nil, 0o600))
	f.check(os.Truncate(f.dev(d.name), d.size))
	f.disks = append(f.disks, d)
	return d
}

// dd writes an image to a disk.
func (f *fakeBSD) dd(img string, d *fakeTable) {
	src, err := os.Open(img)
	f.check(err)
	defer src.Close()
	st, err := src.Stat()
	f.check(err)
	table, err := gpt.Read(src, st.Size(), 512)
	f.check(err)
	for i, p := range table.Partitions {
		typ := []string{"freebsd-boot", "efi", "freebsd-ufs"}[i]
		part := Partition{Index: i + 1, Name: fmt.Sprintf("%sp%d", d.name, i+1), Type: typ, Label: p.Label, Start: p.Start, Size: p.Size}
		d.parts = append(d.parts, part)
		out, err := os.Create(f.dev(part.Name))
		f.check(err)
		_, err = io.Copy(out, io.NewSectionReader(src, p.Start, p.Size))
		f.check(errors.Join(err, out.Close()))
	}
}

func (f *fakeBSD) disk(name string) *fakeTable {
	i := slices.IndexFunc(f.disks, func(d *fakeTable) bool { return d.name == name })
	if i < 0 {
		return nil
	}
	return f.disks[i]
}

// reboot forgets what was in memory.
func (f *fakeBSD) reboot() {
	f.imported, f.mounted, f.lines, f.fail, f.opened = false, false, nil, map[string]string{}, map[string]bool{}
	f.empty("dev/gpt")
	f.empty("rig")
	f.empty("mnt")
}

func (f *fakeBSD) empty(dir string) {
	f.check(os.RemoveAll(filepath.Join(f.root, dir)))
	f.check(os.MkdirAll(filepath.Join(f.root, dir), 0o755))
}

// Run implements run.Runner.
func (f *fakeBSD) Run(ctx context.Context, c run.Cmd) ([]byte, error) {
	line := c.String()
	f.lines = append(f.lines, line)
	if len(c.Stdin) > 0 {
		f.stdin[line] = string(c.Stdin)
	}
	err := ctx.Err()
	for begin, said := range f.fail {
		if strings.HasPrefix(line, begin) {
			err = errors.New(said)
		}
	}
	var out string
	if err == nil {
		out, err = f.run(c.Argv, line, string(c.Stdin))
	}
	if err != nil {
		return nil, &run.Error{Argv: c.Argv, Status: 1, Stderr: err.Error(), Err: err}
	}
	return []byte(out), nil
}

func (f *fakeBSD) run(argv []string, line, stdin string) (string, error) {
	switch {
	case argv[0] == "geli":
		return "", f.geli(argv[1], argv[len(argv)-1], strings.TrimSuffix(stdin, "\n"), slices.Contains(argv, "-r"))
	case strings.HasPrefix(line, "sysctl -n machdep"):
		return "BIOS\n2147483648\n15.1-RELEASE\n", nil
	case line == "kenv":
		return fmt.Sprintf("rig.image=%q\nrig.medium=%q\nrig.mode=\"install\"\n%s", f.man.Image, f.booted(), f.kenv), nil
	case argv[0] == "ifconfig":
		return f.ifconfig(), nil
	case argv[0] == "dhclient":
		f.address = "\tinet 10.9.0.130 netmask 0xffffff00 broadcast 10.9.0.255\n"
	case strings.HasPrefix(line, "mount -t zfs") && argv[4] == "/rig":
		f.mounted = true
	case strings.HasPrefix(line, "mount -t zfs"):
		f.empty(argv[4])
	case line == "umount "+BaseDir:
		f.empty(BaseDir)
	case strings.HasPrefix(line, "sysctl -b kern.geom.confxml"):
		return f.confxml(), nil
	case strings.HasPrefix(line, "mount -t ufs"):
		return "", f.mount(strings.TrimPrefix(argv[5], "/dev/"))
	case line == "umount /rig":
		if !f.mounted {
			return "", errors.New("not a file system root directory")
		}
		f.mounted = false
		f.empty("rig")
	case argv[0] == "gpart":
		return "", f.gpart(argv[1], argv[2:])
	case argv[0] == "zpool":
		return f.zpool(argv[1:])
	case strings.HasPrefix(line, "zfs get -Hp -o value rig:complete"):
		if f.prop == "" {
			return "-\n", nil
		}
		return f.prop + "\n", nil
	case strings.HasPrefix(line, "zfs set rig:complete="):
		f.prop = strings.TrimPrefix(argv[2], "rig:complete=")
	case strings.HasPrefix(line, "zfs mount"):
		_, jail, _ := strings.Cut(argv[2], "/ROOT/"+f.man.Image)
		return "", os.MkdirAll(filepath.Join(f.root, "mnt", jail), 0o755)
	case strings.HasPrefix(line, "zfs create"):
		if slices.Contains(argv, "canmount=noauto") || slices.Contains(argv, "canmount=off") {
			return "", nil
		}
		for _, a := range argv {
			if dir, ok := strings.CutPrefix(a, "mountpoint=/"); ok {
				return "", os.MkdirAll(filepath.Join(f.root, "mnt", dir), 0o755)
			}
		}
	case argv[0] == "cp":
		b, err := os.ReadFile(f.root + argv[1])
		if err != nil {
			return "", err
		}
		return "", os.WriteFile(f.root+argv[2], b, 0o644)
	}
	return "", nil
}

// booted is the id of the medium that a firmware starts: the stick's, else that of the
// first disk that boots an installer.
func (f *fakeBSD) booted() string {
	disks := slices.Clone(f.disks)
	slices.SortFunc(disks, func(a, b *fakeTable) int { return strings.Compare(a.name, b.name) })
	for _, d := range disks { // da0, the stick, before vtbd0
		text, err := readSwitch(f.dev(d.name+"p3"), f.man.Boot.RigSize)
		if id := manifest.MediumOf(text); err == nil && id != "" {
			return id
		}
	}
	return ""
}

// mount shows the files of a rig partition.
func (f *fakeBSD) mount(part string) error {
	if f.mounted {
		return errors.New("Device busy")
	}
	if err := layFiles(f.dev(part), filepath.Join(f.root, "rig"), f.man.Boot.RigSize); err != nil {
		return err
	}
	f.mounted = true
	return nil
}

// layFiles writes the files of a rig partition into a directory.
func layFiles(dev, dir string, size int64) error {
	d, fsys, err := openRig(dev, size, false)
	if err != nil {
		return err
	}
	defer d.Close()
	t, err := fsys.Tree()
	if err != nil {
		return err
	}
	for e := range t.All() {
		name := filepath.Join(dir, e.Path)
		if e.Kind == tree.Dir {
			err = os.MkdirAll(name, 0o755)
		} else {
			var b []byte
			if b, err = t.ReadFile(e.Path, 1<<30); err == nil {
				err = os.WriteFile(name, b, 0o600)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeBSD) gpart(verb string, args []string) error {
	d := f.disk(args[len(args)-1])
	if d == nil {
		return errors.New("No such geom")
	}
	opt := func(name string) string {
		if i := slices.Index(args, name); i >= 0 {
			return args[i+1]
		}
		return ""
	}
	number := func(s string) int64 { n, _ := strconv.ParseInt(s, 10, 64); return n }
	index := int(number(opt("-i")))
	at := slices.IndexFunc(d.parts, func(p Partition) bool { return p.Index == index })
	name := fmt.Sprintf("%sp%d", d.name, index)
	if (verb == "destroy" || verb == "delete") && slices.ContainsFunc(d.parts, func(p Partition) bool { return f.opened[p.Name] }) {
		return errors.New("Device busy")
	}
	if f.imported && (verb == "destroy" || verb == "delete") && slices.ContainsFunc(f.pool, func(p string) bool { return strings.HasPrefix(p, d.name+"p") }) {
		return errors.New("Device busy")
	}
	switch verb {
	case "destroy":
		for _, p := range d.parts {
			f.check(os.Remove(f.dev(p.Name)))
		}
		d.parts = nil
	case "add":
		if at >= 0 {
			return errors.New("Device busy")
		}
		p := Partition{Index: index, Name: name, Type: opt("-t"), Label: opt("-l"), Start: 512 * number(opt("-b")), Size: 512 * number(opt("-s"))}
		if p.Start+p.Size > d.size {
			return errors.New("No space left on device")
		}
		d.parts = append(d.parts, p)
		f.check(os.WriteFile(f.dev(name), nil, 0o600))
		return os.Truncate(f.dev(name), p.Size)
	case "delete":
		if at < 0 {
			return errors.New("No such file or directory")
		}
		d.parts = slices.Delete(d.parts, at, at+1)
		return os.Remove(f.dev(name))
	case "modify":
		if at < 0 {
			return errors.New("No such file or directory")
		}
		if l := opt("-l"); l != "" {
			d.parts[at].Label = l
		}
		if t := opt("-t"); t != "" {
			d.parts[at].Type = t
		}
	}
	return nil
}

func (f *fakeBSD) zpool(args []string) (string, error) {
	switch args[0] {
	case "create":
		f.pool, f.imported, f.prop = nil, true, ""
		f.poolName = args[slices.Index(args, "none")+1]
		f.empty("mnt")
		for _, a := range args {
			if label, ok := strings.CutPrefix(a, "/dev/gpt/"); ok {
				f.pool = append(f.pool, f.provider(label))
			} else if p, ok := strings.CutSuffix(a, ".eli"); ok {
				p = strings.TrimPrefix(p, devDir)
				if f.pool = append(f.pool, p); !f.opened[p] {
					return "", errors.New("cannot open '" + a + "'")
				}
			}
		}
		for _, p := range f.pool {
			if f.sealed[p] == "" {
				f.label(p)
			} else {
				f.label(p + ".eli")
			}
		}
	case "import":
		if f.pool == nil || args[len(args)-1] != poolGUID || f.imported || !slices.ContainsFunc(f.pool, func(p string) bool { return f.sealed[p] == "" || f.opened[p] }) {
			return "", errors.New("cannot import: no such pool available")
		}
		f.imported = true
	case "export":
		if !f.imported || args[len(args)-1] != f.poolName {
			return "", errors.New("cannot open '" + args[len(args)-1] + "': no such pool")
		}
		f.imported = false
	case "status":
		b, err := os.ReadFile("../zfs/testdata/status-healthy.json")
		return strings.ReplaceAll(string(b), `"zroot"`, `"`+f.poolName+`"`), err
	}
	return "", nil
}

func (f *fakeBSD) provider(label string) string {
	p := f.labelled(label)
	if p == "" {
		f.t.Errorf("no partition has the label %s", label)
	}
	return p
}

// labelled is the partition with a label, "" for none.
func (f *fakeBSD) labelled(label string) string {
	for _, d := range f.disks {
		for _, p := range d.parts {
			if p.Label == label {
				return p.Name
			}
		}
	}
	return ""
}

// label writes the first of the four labels of a pool's member (OpenZFS
// vdev_impl.h): an XDR nvlist and its checksum.
func (f *fakeBSD) label(provider string) {
	be, le := binary.BigEndian, binary.LittleEndian
	text := func(s string) []byte {
		return append(be.AppendUint32(nil, uint32(len(s))), s+"\x00\x00\x00"[:-len(s)&3]...)
	}
	nv := []byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1}
	pair := func(name string, kind uint32, value []byte) {
		body := append(be.AppendUint32(be.AppendUint32(text(name), kind), 1), value...)
		nv = append(be.AppendUint32(be.AppendUint32(nv, uint32(len(body)+8)), 1), body...)
	}
	num := func(n uint64) []byte { return be.AppendUint64(nil, n) }
	pair("name", 9, text(f.poolName))
	for k, v := range map[string]uint64{"state": 0, "txg": 4, "pool_guid": 77 /* poolGUID */, "guid": 12} {
		pair(k, 8, num(v))
	}
	phys := make([]byte, 112<<10)
	copy(phys, append(nv, 0, 0, 0, 0, 0, 0, 0, 0))
	const at = 16 << 10
	eck := phys[len(phys)-40:]
	le.PutUint64(eck, 0x0210da7ab10c7a11)
	le.PutUint64(eck[8:], at)
	sum := sha256.Sum256(phys)
	for j := 0; j < 32; j += 8 {
		le.PutUint64(eck[8+j:], be.Uint64(sum[j:]))
	}
	w, err := os.OpenFile(f.dev(provider), os.O_WRONLY, 0)
	f.check(err)
	_, err = w.WriteAt(phys, at)
	f.check(errors.Join(err, w.Close()))
}

func (f *fakeBSD) confxml() string {
	var disks, parts strings.Builder
	for _, d := range f.disks {
		fmt.Fprintf(&disks, `<geom id="g"><name>%s</name><provider id="%s"><mode>r0w0e0</mode><name>%s</name><mediasize>%d</mediasize>`+
			`<sectorsize>512</sectorsize><stripesize>0</stripesize><config><rotationrate>0</rotationrate><ident>%s</ident></config></provider></geom>`,
			d.name, d.name, d.name, d.size, d.serial)
		if len(d.parts) == 0 {
			continue
		}
		fmt.Fprintf(&parts, `<geom id="p"><name>%s</name><config><scheme>GPT</scheme><first>40</first><last>%d</last><state>OK</state></config>`+
			`<consumer id="c"><provider ref="%s"/></consumer>`, d.name, d.size/512-41, d.name)
		for _, p := range d.parts {
			fmt.Fprintf(&parts, `<provider id="%s"><mode>r0w0e0</mode><name>%s</name><mediasize>%d</mediasize><sectorsize>512</sectorsize>`+
				`<config><index>%d</index><type>%s</type><offset>%d</offset><label>%s</label></config></provider>`,
				p.Name, p.Name, p.Size, p.Index, p.Type, p.Start, p.Label)
		}
		parts.WriteString("</geom>")
	}
	return "<mesh><class><name>DISK</name>" + disks.String() + "</class><class><name>PART</name>" + parts.String() + "</class></mesh>"
}

// poolGUID is that of the pool.
const poolGUID = "77"

// datasets are those an install made, by the commands that did.
func (f *fakeBSD) datasets(name string) (list []zfs.DatasetInfo, err error) {
	for _, line := range f.lines {
		argv := strings.Fields(line)
		if !strings.HasPrefix(line, "zfs create ") || !strings.HasPrefix(argv[len(argv)-1], name) {
			continue
		}
		d := zfs.DatasetInfo{Name: argv[len(argv)-1]}
		for _, a := range argv {
			if dir, ok := strings.CutPrefix(a, "mountpoint="); ok {
				d.Mountpoint = dir
			}
		}
		if d.Mountpoint == "" { // a jail's, which has it from the dataset above
			d.Mountpoint = "/jails/" + filepath.Base(d.Name)
		}
		if d.Mountpoint != "none" {
			d.Mountpoint = filepath.Join(Target, d.Mountpoint)
		}
		list = append(list, d)
	}
	return list, nil
}

// whole reads a disk with its partitions at their places.
type whole struct {
	f     *fakeBSD
	disk  *fakeTable
	files map[string]*os.File
}

func (f *fakeBSD) open(name string) (io.ReaderAt, io.Closer, error) {
	w := &whole{f, f.disk(name), map[string]*os.File{}}
	for _, p := range append([]Partition{{Name: name}}, w.disk.parts...) {
		file, err := os.Open(f.dev(p.Name))
		if err != nil {
			return nil, nil, err
		}
		w.files[p.Name] = file
	}
	return w, w, nil
}

func (w *whole) Close() error {
	for _, f := range w.files {
		f.Close()
	}
	return nil
}

func (w *whole) ReadAt(b []byte, off int64) (int, error) {
	n, err := w.files[w.disk.name].ReadAt(b, off)
	for _, p := range w.disk.parts {
		lo, hi := max(off, p.Start), min(off+int64(n), p.Start+p.Size)
		if lo < hi {
			if _, err := w.files[p.Name].ReadAt(b[lo-off:hi-off], lo-p.Start); err != nil {
				return 0, err
			}
		}
	}
	return n, err
}

// installer is one run of riginstall on the machine.
func (f *fakeBSD) installer() (*Installer, *bytes.Buffer) {
	var out bytes.Buffer
	return &Installer{Root: f.root, Out: &out, Run: f, Log: NewJournal(&out), Prober: Prober{Run: f, OpenDisk: f.open}, Datasets: f.datasets}, &out
}

func (f *fakeBSD) part(disk string, i int) Partition {
	f.t.Helper()
	for _, p := range f.disk(disk).parts {
		if p.Index == i {
			return p
		}
	}
	f.t.Fatalf("%s has no partition %d", disk, i)
	return Partition{}
}

func (f *fakeBSD) ifconfig() string {
	if f.kenv == "" {
		return ""
	}
	return "vtnet0: flags=1008843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST,LOWER_UP> metric 0 mtu 1500\n" +
		"\tether 52:54:00:72:69:01\n" + f.address + "\tmedia: Ethernet autoselect (10Gbase-T <full-duplex>)\n\tstatus: active\n"
}
