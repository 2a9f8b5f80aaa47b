package firstboot

import (
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

	"rig/answers"
	"rig/image"
	"rig/image/gpt"
	"rig/image/ufs"
	"rig/internal/blockdev"
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

// runTests is the body of a package's TestMain: it removes the image.
func runTests(m *testing.M) int {
	code := m.Run()
	if r, err := demoImage(); err == nil {
		os.RemoveAll(filepath.Dir(r.Path))
	}
	return code
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
		if id := manifest.MediumOf(f.switchOf(d.name + "p3")); id != "" {
			return id
		}
	}
	return ""
}

// switchOf is the text of the switch on a rig partition, nil when there is none.
func (f *fakeBSD) switchOf(part string) []byte {
	t, closer, err := rigTree(f.dev(part), f.man.Boot.RigSize)
	if err != nil {
		return nil
	}
	defer closer.Close()
	text, _ := t.ReadFile(manifest.SwitchFile, manifest.SwitchSize)
	return text
}

// rigTree opens a rig partition.
func rigTree(dev string, size int64) (*tree.Tree, io.Closer, error) {
	d, err := blockdev.Open(dev, 0, false)
	if err != nil {
		return nil, nil, err
	}
	fsys, err := ufs.Open(d, size)
	if err == nil {
		var t *tree.Tree
		if t, err = fsys.Tree(); err == nil {
			return t, d, nil
		}
	}
	d.Close()
	return nil, nil, err
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
	t, d, err := rigTree(dev, size)
	if err != nil {
		return err
	}
	defer d.Close()
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
				p = strings.TrimPrefix(p, Dev)
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
		return healthy(f.t, f.poolName), nil
	}
	return "", nil
}

// healthy is what "zpool status -j --json-int" prints of a pool of this name in which all
// is well.
func healthy(t testing.TB, pool string) string {
	return strings.ReplaceAll(moduleFile(t, "zfs/testdata/status-healthy.json"), `"zroot"`, `"`+pool+`"`)
}

// moduleFile is the content of a file by its path from the module's root.
func moduleFile(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	for ; err == nil && dir != "/"; dir = filepath.Dir(dir) {
		if _, serr := os.Stat(filepath.Join(dir, "go.mod")); serr == nil {
			break
		}
	}
	b, rerr := os.ReadFile(filepath.Join(dir, name))
	if err := errors.Join(err, rerr); err != nil {
		t.Fatal(err)
	}
	return string(b)
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

// geli keeps what geli(8) does to the partitions. A name is a partition's, or
// gpt/LABEL.
func (f *fakeBSD) geli(verb, name, pass string, readOnly bool) error {
	name = strings.TrimPrefix(name, Dev)
	if label, ok := strings.CutPrefix(name, "gpt/"); ok {
		if name = f.labelled(label); name == "" {
			return errors.New("No such device: " + label)
		}
	}
	switch verb {
	case "init":
		if f.opened[name] || f.imported {
			return errors.New("Operation not permitted")
		}
		if f.sealed == nil {
			f.sealed = map[string]string{}
		}
		f.sealed[name] = pass
		w, err := os.OpenFile(f.dev(name), os.O_WRONLY, 0)
		f.check(err)
		st, err := w.Stat()
		f.check(err)
		_, err = w.WriteAt([]byte("GEOM::ELI"), st.Size()-512)
		f.check(errors.Join(err, w.Close()))
	case "attach":
		if f.sealed[name] != pass || f.opened[name] {
			return errors.New("Wrong key for " + name)
		}
		f.opened[name] = true
		inside, err := os.OpenFile(f.dev(name+".eli"), os.O_CREATE|os.O_RDWR, 0o600)
		f.check(err)
		st, err := os.Stat(f.dev(name))
		f.check(errors.Join(err, inside.Truncate(st.Size()-4096), inside.Close()))
	case "detach":
		if !f.opened[name] || f.imported {
			return errors.New("Device busy")
		}
		delete(f.opened, name)
	}
	return nil
}

// flip changes a byte of a file on a rig partition.
func (f *fakeBSD) flip(part, file string) {
	f.t.Helper()
	d, err := blockdev.Open(f.dev(part), 0, true)
	f.check(err)
	defer d.Close()
	fsys, err := ufs.Open(d, f.man.Boot.RigSize)
	f.check(err)
	r, err := fsys.Ranges(file)
	f.check(err)
	b := make([]byte, 1)
	at := r[0].Off + r[0].Len/2
	_, err = d.ReadAt(b, at)
	f.check(err)
	b[0] ^= 1
	_, err = d.WriteAt(b, at)
	f.check(err)
}

// unit is what was installed.
func (f *fakeBSD) unit() manifest.Unit { return manifest.Unit{Pool: f.poolName, Name: f.man.Image} }

// testManifest is an image of two jails.
func testManifest() *manifest.Manifest {
	sha := func(c string) string { return strings.Repeat(c, 64) }
	return &manifest.Manifest{
		Schema: manifest.Schema, Name: "webrig", Image: "webrig-15.1-1a2b3c4d5e6f",
		FreeBSD: manifest.FreeBSD{Version: "15.1-RELEASE", Arch: "amd64"},
		Layers: []manifest.Layer{
			{Role: manifest.LayerBase, SHA256: sha("a"), Size: 200 << 20, Entries: 30000},
			{Role: manifest.LayerKernel, SHA256: sha("b"), Size: 50 << 20, Entries: 900},
			{Role: manifest.LayerHost, SHA256: sha("c"), Size: 4096, Entries: 40, Templates: []string{"etc/hostname.tmpl"}},
			{Role: manifest.LayerJail, Jail: "pg_j", SHA256: sha("d"), Size: 1024, Entries: 7},
		},
		Pool: zfs.Pool{Name: "zroot-{id}", Ashift: 12, Props: map[string]string{"autotrim": "off"}, Root: map[string]string{"compression": "on", "atime": "off"}},
		Datasets: []zfs.Dataset{
			{Name: "home", Mountpoint: "/home"},
			{Name: "var", Mountpoint: "/var", Props: map[string]string{"canmount": "off"}},
			{Name: "var/tmp", Mountpoint: "/var/tmp", Mode: "1777"},
			{Name: "data/pg_j/db", Mountpoint: "/jails/pg_j/var/db/postgres", Props: map[string]string{"recordsize": "16k"}, Owner: "770:770", Mode: "0750"},
		},
		Host: manifest.Host{Run: []string{"sysrc -R / foo=\"it's\""}},
		Users: []manifest.User{
			{Name: "root", PasswordHash: "secrets.root"},
			{Name: "admin", UID: 1001, Groups: []string{"wheel", "operator"}, Comment: "Ann & co", Keys: "users.admin.keys"},
		},
		Jails: []manifest.Jail{
			{Name: "pg_j", Users: []manifest.User{{Name: "deployer", UID: 1001, Shell: "/bin/csh", Home: "/srv"}}},
			{Name: "bare", Run: []string{"true"}},
		},
		Boot: manifest.Boot{ESPSize: 260 << 20, RigSize: 2 << 30, Swap: 2 << 30, MenuDelay: 3},
		Questions: []answers.Question{
			{Key: "xnic.match", Type: answers.NIC, Required: true},
			{Key: "users.admin.keys", Type: answers.SSHKey, List: true},
			{Key: "secrets.root", Type: answers.PasswordHash, Required: true, Generate: true},
			{Key: "secrets.tunnel", Type: answers.Secret, Required: true},
		},
	}
}

// fakeRunner answers commands by their beginning and notes them all.
type fakeRunner struct {
	answers map[string]string // beginning of the line → output; "!" fails
	lines   []string
	stdin   []string
}

func (f *fakeRunner) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	f.lines, f.stdin = append(f.lines, c.String()), append(f.stdin, string(c.Stdin))
	best := ""
	for k := range f.answers {
		if strings.HasPrefix(c.String(), k) && len(k) > len(best) {
			best = k
		}
	}
	if out := f.answers[best]; strings.HasPrefix(out, "!") {
		return nil, &run.Error{Argv: c.Argv, Status: 1, Stderr: out[1:], Err: errors.New("exit status 1")}
	} else {
		return []byte(out), nil
	}
}

// rootWithManifest is a machine's file system with the medium mounted.
func rootWithManifest(t testing.TB, m *manifest.Manifest) string {
	t.Helper()
	root := t.TempDir()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, BundleDir, manifest.File)
	sw := filepath.Join(root, BundleDir, manifest.SwitchFile)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, b, 0o644),
		os.MkdirAll(filepath.Dir(sw), 0o755), os.WriteFile(sw, manifest.InstallSwitch("00112233aabbccdd"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return root
}
