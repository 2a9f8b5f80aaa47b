// Package fakebsd stands for a FreeBSD in tests: its disks, their tables, pools and mounts
// are files in a directory, and its programs answer as FreeBSD's do.
package fakebsd

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

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/image/gpt"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/image/ufs"
	"github.com/rig-freebsd/rig/internal/blockdev"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
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

// Answers are those of an install onto all four disks that asks nothing.
const Answers = `[server]
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

// Image builds a small image once: rigimage's own, with no FreeBSD inside.
var Image = sync.OnceValues(func() (*image.Result, error) {
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
		Answers: []byte(Answers), AnswersName: "answers.toml",
		Riginstall: func(context.Context) (string, error) { return prog, nil },
	})
})

// Main is the body of a package's TestMain: it removes the image.
func Main(m *testing.M) int {
	code := m.Run()
	if r, err := Image(); err == nil {
		os.RemoveAll(filepath.Dir(r.Path))
	}
	return code
}

// Machine stands for a FreeBSD with disks: gpart keeps tables, mount shows what
// is on a rig partition, zpool leaves labels. Everything is below root; devices
// are files there, partitions files of their own.
type Machine struct {
	T        testing.TB
	Root     string
	Man      *manifest.Manifest
	Disks    []*Disk
	PoolName string
	pool     []string // providers of the pool, nil when there is none
	Imported bool
	Prop     string // rig:complete
	Mounted  bool   // the medium at BundleDir
	Lines    []string
	Stdin    map[string]string // of commands, by line
	Fail     map[string]string // beginning of a command → what it complains
	Kenv     string            // more of it
	address  string            // what DHCP gives
	Sealed   map[string]string // partition that is a GELI provider → its passphrase; nil when none ever was
	Opened   map[string]bool   // those of them that are attached
}

// Disk is a disk.
type Disk struct {
	Name, Serial string
	Size         int64
	Parts        []facts.Partition
}

// New is a machine with four disks. The image is on a stick, or on the first
// of them.
func New(t testing.TB, stick bool) *Machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root sets owners")
	}
	img, err := Image()
	if err != nil {
		t.Fatal(err)
	}
	f := &Machine{T: t, Root: memoryDir(t), Man: img.Manifest, Stdin: map[string]string{}, Fail: map[string]string{}, Opened: map[string]bool{}}
	for _, d := range []string{"dev/gpt", "rig", "mnt", "usr/local/sbin", place.StateDir} {
		f.Check(os.MkdirAll(filepath.Join(f.Root, d), 0o755))
	}
	f.Check(os.WriteFile(filepath.Join(f.Root, "usr/local/sbin/riginstall"), []byte("x"), 0o555))
	for i := range 4 {
		f.add(&Disk{Name: fmt.Sprintf("vtbd%d", i), Serial: fmt.Sprintf("S%d", i+1), Size: 4 << 30})
	}
	on := f.Disks[0]
	if stick {
		on = f.add(&Disk{Name: "da0", Serial: "STICK", Size: 1 << 30})
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

// Check ends the test when there is an error.
func (f *Machine) Check(err error) {
	f.T.Helper()
	if err != nil {
		f.T.Fatal(err)
	}
}

// Dev is the file of a device.
func (f *Machine) Dev(name string) string { return filepath.Join(f.Root, "dev", name) }

func (f *Machine) add(d *Disk) *Disk {
	f.Check(os.WriteFile(f.Dev(d.Name), nil, 0o600))
	f.Check(os.Truncate(f.Dev(d.Name), d.Size))
	f.Disks = append(f.Disks, d)
	return d
}

// dd writes an image to a disk.
func (f *Machine) dd(img string, d *Disk) {
	src, err := os.Open(img)
	f.Check(err)
	defer src.Close()
	st, err := src.Stat()
	f.Check(err)
	table, err := gpt.Read(src, st.Size(), 512)
	f.Check(err)
	for i, p := range table.Partitions {
		typ := []string{"freebsd-boot", "efi", "freebsd-ufs"}[i]
		part := facts.Partition{Index: i + 1, Name: fmt.Sprintf("%sp%d", d.Name, i+1), Type: typ, Label: p.Label, Start: p.Start, Size: p.Size}
		d.Parts = append(d.Parts, part)
		out, err := os.Create(f.Dev(part.Name))
		f.Check(err)
		_, err = io.Copy(out, io.NewSectionReader(src, p.Start, p.Size))
		f.Check(errors.Join(err, out.Close()))
	}
}

// Disk is a disk by its name, nil when there is none.
func (f *Machine) Disk(name string) *Disk {
	i := slices.IndexFunc(f.Disks, func(d *Disk) bool { return d.Name == name })
	if i < 0 {
		return nil
	}
	return f.Disks[i]
}

// Reboot forgets what was in memory.
func (f *Machine) Reboot() {
	f.Imported, f.Mounted, f.Lines, f.Fail, f.Opened = false, false, nil, map[string]string{}, map[string]bool{}
	f.empty("dev/gpt")
	f.empty("rig")
	f.empty("mnt")
}

func (f *Machine) empty(dir string) {
	f.Check(os.RemoveAll(filepath.Join(f.Root, dir)))
	f.Check(os.MkdirAll(filepath.Join(f.Root, dir), 0o755))
}

// Run implements run.Runner.
func (f *Machine) Run(ctx context.Context, c run.Cmd) ([]byte, error) {
	line := c.String()
	f.Lines = append(f.Lines, line)
	if len(c.Stdin) > 0 {
		f.Stdin[line] = string(c.Stdin)
	}
	err := ctx.Err()
	for begin, said := range f.Fail {
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

func (f *Machine) run(argv []string, line, stdin string) (string, error) {
	switch {
	case argv[0] == "geli":
		return "", f.geli(argv[1], argv[len(argv)-1], strings.TrimSuffix(stdin, "\n"))
	case strings.HasPrefix(line, "sysctl -n machdep"):
		return "BIOS\n2147483648\n15.1-RELEASE\n", nil
	case line == "kenv":
		return fmt.Sprintf("rig.image=%q\nrig.medium=%q\nrig.mode=\"install\"\n%s", f.Man.Image, f.booted(), f.Kenv), nil
	case argv[0] == "ifconfig":
		return f.ifconfig(), nil
	case argv[0] == "dhclient":
		f.address = "\tinet 10.9.0.130 netmask 0xffffff00 broadcast 10.9.0.255\n"
	case strings.HasPrefix(line, "mount -t zfs") && argv[4] == "/rig":
		f.Mounted = true
	case strings.HasPrefix(line, "mount -t zfs"):
		f.empty(argv[4])
	case line == "umount "+place.BaseDir:
		f.empty(place.BaseDir)
	case strings.HasPrefix(line, "sysctl -b kern.geom.confxml"):
		return f.Confxml(), nil
	case strings.HasPrefix(line, "mount -t ufs"):
		return "", f.Mount(strings.TrimPrefix(argv[5], "/dev/"))
	case line == "umount /rig":
		if !f.Mounted {
			return "", errors.New("not a file system root directory")
		}
		f.Mounted = false
		f.empty("rig")
	case argv[0] == "gpart":
		return "", f.gpart(argv[1], argv[2:])
	case argv[0] == "zpool":
		return f.zpool(argv[1:])
	case strings.HasPrefix(line, "zfs get -Hp -o value rig:complete"):
		if f.Prop == "" {
			return "-\n", nil
		}
		return f.Prop + "\n", nil
	case strings.HasPrefix(line, "zfs set rig:complete="):
		f.Prop = strings.TrimPrefix(argv[2], "rig:complete=")
	case strings.HasPrefix(line, "zfs mount"):
		_, jail, _ := strings.Cut(argv[2], "/ROOT/"+f.Man.Image)
		return "", os.MkdirAll(filepath.Join(f.Root, "mnt", jail), 0o755)
	case strings.HasPrefix(line, "zfs create"):
		if slices.Contains(argv, "canmount=noauto") || slices.Contains(argv, "canmount=off") {
			return "", nil
		}
		for _, a := range argv {
			if dir, ok := strings.CutPrefix(a, "mountpoint=/"); ok {
				return "", os.MkdirAll(filepath.Join(f.Root, "mnt", dir), 0o755)
			}
		}
	case argv[0] == "cp":
		b, err := os.ReadFile(f.Root + argv[1])
		if err != nil {
			return "", err
		}
		return "", os.WriteFile(f.Root+argv[2], b, 0o644)
	}
	return "", nil
}

// booted is the id of the medium that a firmware starts: the stick's, else that of the
// first disk that boots an installer.
func (f *Machine) booted() string {
	disks := slices.Clone(f.Disks)
	slices.SortFunc(disks, func(a, b *Disk) int { return strings.Compare(a.Name, b.Name) })
	for _, d := range disks { // da0, the stick, before vtbd0
		if id := manifest.MediumOf(f.switchOf(d.Name + "p3")); id != "" {
			return id
		}
	}
	return ""
}

// switchOf is the text of the switch on a rig partition, nil when there is none.
func (f *Machine) switchOf(part string) []byte {
	t, closer, err := rigTree(f.Dev(part), f.Man.Boot.RigSize)
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

// Mount shows the files of a rig partition.
func (f *Machine) Mount(part string) error {
	if f.Mounted {
		return errors.New("Device busy")
	}
	if err := LayFiles(f.Dev(part), filepath.Join(f.Root, "rig"), f.Man.Boot.RigSize); err != nil {
		return err
	}
	f.Mounted = true
	return nil
}

// LayFiles writes the files of a rig partition into a directory.
func LayFiles(dev, dir string, size int64) error {
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

func (f *Machine) gpart(verb string, args []string) error {
	d := f.Disk(args[len(args)-1])
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
	at := slices.IndexFunc(d.Parts, func(p facts.Partition) bool { return p.Index == index })
	name := fmt.Sprintf("%sp%d", d.Name, index)
	if (verb == "destroy" || verb == "delete") && slices.ContainsFunc(d.Parts, func(p facts.Partition) bool { return f.Opened[p.Name] }) {
		return errors.New("Device busy")
	}
	if f.Imported && (verb == "destroy" || verb == "delete") && slices.ContainsFunc(f.pool, func(p string) bool { return strings.HasPrefix(p, d.Name+"p") }) {
		return errors.New("Device busy")
	}
	switch verb {
	case "destroy":
		for _, p := range d.Parts {
			f.Check(os.Remove(f.Dev(p.Name)))
		}
		d.Parts = nil
	case "add":
		if at >= 0 {
			return errors.New("Device busy")
		}
		p := facts.Partition{Index: index, Name: name, Type: opt("-t"), Label: opt("-l"), Start: 512 * number(opt("-b")), Size: 512 * number(opt("-s"))}
		if p.Start+p.Size > d.Size {
			return errors.New("No space left on device")
		}
		d.Parts = append(d.Parts, p)
		f.Check(os.WriteFile(f.Dev(name), nil, 0o600))
		return os.Truncate(f.Dev(name), p.Size)
	case "delete":
		if at < 0 {
			return errors.New("No such file or directory")
		}
		d.Parts = slices.Delete(d.Parts, at, at+1)
		return os.Remove(f.Dev(name))
	case "modify":
		if at < 0 {
			return errors.New("No such file or directory")
		}
		if l := opt("-l"); l != "" {
			d.Parts[at].Label = l
		}
		if t := opt("-t"); t != "" {
			d.Parts[at].Type = t
		}
	}
	return nil
}

func (f *Machine) zpool(args []string) (string, error) {
	switch args[0] {
	case "create":
		f.pool, f.Imported, f.Prop = nil, true, ""
		f.PoolName = args[slices.Index(args, "none")+1]
		f.empty("mnt")
		for _, a := range args {
			if label, ok := strings.CutPrefix(a, "/dev/gpt/"); ok {
				f.pool = append(f.pool, f.provider(label))
			} else if p, ok := strings.CutSuffix(a, ".eli"); ok {
				p = strings.TrimPrefix(p, place.Dev)
				if f.pool = append(f.pool, p); !f.Opened[p] {
					return "", errors.New("cannot open '" + a + "'")
				}
			}
		}
		for _, p := range f.pool {
			if f.Sealed[p] == "" {
				f.Label(p)
			} else {
				f.Label(p + ".eli")
			}
		}
	case "import":
		if f.pool == nil || args[len(args)-1] != poolGUID || f.Imported || !slices.ContainsFunc(f.pool, func(p string) bool { return f.Sealed[p] == "" || f.Opened[p] }) {
			return "", errors.New("cannot import: no such pool available")
		}
		f.Imported = true
	case "export":
		if !f.Imported || args[len(args)-1] != f.PoolName {
			return "", errors.New("cannot open '" + args[len(args)-1] + "': no such pool")
		}
		f.Imported = false
	case "status":
		return HealthyPool(f.T, f.PoolName), nil
	}
	return "", nil
}

// HealthyPool is what "zpool status -j --json-int" prints of a pool of this name in which all
// is well.
func HealthyPool(t testing.TB, pool string) string {
	return strings.ReplaceAll(ModuleFile(t, "zfs/testdata/status-healthy.json"), `"zroot"`, `"`+pool+`"`)
}

// ModuleFile is the content of a file by its path from the module's root.
func ModuleFile(t testing.TB, name string) string {
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

func (f *Machine) provider(label string) string {
	p := f.labelled(label)
	if p == "" {
		f.T.Errorf("no partition has the label %s", label)
	}
	return p
}

// labelled is the partition with a label, "" for none.
func (f *Machine) labelled(label string) string {
	for _, d := range f.Disks {
		for _, p := range d.Parts {
			if p.Label == label {
				return p.Name
			}
		}
	}
	return ""
}

// Label writes the first of the four labels of a pool's member (OpenZFS
// vdev_impl.h): an XDR nvlist and its checksum.
func (f *Machine) Label(provider string) {
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
	pair("name", 9, text(f.PoolName))
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
	w, err := os.OpenFile(f.Dev(provider), os.O_WRONLY, 0)
	f.Check(err)
	_, err = w.WriteAt(phys, at)
	f.Check(errors.Join(err, w.Close()))
}

// Confxml is kern.geom.confxml.
func (f *Machine) Confxml() string {
	var disks, parts strings.Builder
	for _, d := range f.Disks {
		fmt.Fprintf(&disks, `<geom id="g"><name>%s</name><provider id="%s"><mode>r0w0e0</mode><name>%s</name><mediasize>%d</mediasize>`+
			`<sectorsize>512</sectorsize><stripesize>0</stripesize><config><rotationrate>0</rotationrate><ident>%s</ident></config></provider></geom>`,
			d.Name, d.Name, d.Name, d.Size, d.Serial)
		if len(d.Parts) == 0 {
			continue
		}
		fmt.Fprintf(&parts, `<geom id="p"><name>%s</name><config><scheme>GPT</scheme><first>40</first><last>%d</last><state>OK</state></config>`+
			`<consumer id="c"><provider ref="%s"/></consumer>`, d.Name, d.Size/512-41, d.Name)
		for _, p := range d.Parts {
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

// Datasets are those an install made, by the commands that did.
func (f *Machine) Datasets(name string) (list []zfs.DatasetInfo, err error) {
	for _, line := range f.Lines {
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
			d.Mountpoint = filepath.Join(place.Target, d.Mountpoint)
		}
		list = append(list, d)
	}
	return list, nil
}

// whole reads a disk with its partitions at their places.
type whole struct {
	f     *Machine
	disk  *Disk
	files map[string]*os.File
}

// Open opens a disk; it is a facts.Prober's OpenDisk.
func (f *Machine) Open(name string) (io.ReaderAt, io.Closer, error) {
	w := &whole{f, f.Disk(name), map[string]*os.File{}}
	for _, p := range append([]facts.Partition{{Name: name}}, w.disk.Parts...) {
		file, err := os.Open(f.Dev(p.Name))
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
	n, err := w.files[w.disk.Name].ReadAt(b, off)
	for _, p := range w.disk.Parts {
		lo, hi := max(off, p.Start), min(off+int64(n), p.Start+p.Size)
		if lo < hi {
			if _, err := w.files[p.Name].ReadAt(b[lo-off:hi-off], lo-p.Start); err != nil {
				return 0, err
			}
		}
	}
	return n, err
}

// Part is a partition of a disk by its number.
func (f *Machine) Part(disk string, i int) facts.Partition {
	f.T.Helper()
	for _, p := range f.Disk(disk).Parts {
		if p.Index == i {
			return p
		}
	}
	f.T.Fatalf("%s has no partition %d", disk, i)
	return facts.Partition{}
}

func (f *Machine) ifconfig() string {
	if f.Kenv == "" {
		return ""
	}
	return "vtnet0: flags=1008843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST,LOWER_UP> metric 0 mtu 1500\n" +
		"\tether 52:54:00:72:69:01\n" + f.address + "\tmedia: Ethernet autoselect (10Gbase-T <full-duplex>)\n\tstatus: active\n"
}

// geli keeps what geli(8) does to the partitions. A name is a partition's, or
// gpt/LABEL.
func (f *Machine) geli(verb, name, pass string) error {
	name = strings.TrimPrefix(name, place.Dev)
	if label, ok := strings.CutPrefix(name, "gpt/"); ok {
		if name = f.labelled(label); name == "" {
			return errors.New("No such device: " + label)
		}
	}
	switch verb {
	case "init":
		if f.Opened[name] || f.Imported {
			return errors.New("Operation not permitted")
		}
		if f.Sealed == nil {
			f.Sealed = map[string]string{}
		}
		f.Sealed[name] = pass
		w, err := os.OpenFile(f.Dev(name), os.O_WRONLY, 0)
		f.Check(err)
		st, err := w.Stat()
		f.Check(err)
		_, err = w.WriteAt([]byte("GEOM::ELI"), st.Size()-512)
		f.Check(errors.Join(err, w.Close()))
	case "attach":
		if f.Sealed[name] != pass || f.Opened[name] {
			return errors.New("Wrong key for " + name)
		}
		f.Opened[name] = true
		inside, err := os.OpenFile(f.Dev(name+".eli"), os.O_CREATE|os.O_RDWR, 0o600)
		f.Check(err)
		st, err := os.Stat(f.Dev(name))
		f.Check(errors.Join(err, inside.Truncate(st.Size()-4096), inside.Close()))
	case "detach":
		if !f.Opened[name] || f.Imported {
			return errors.New("Device busy")
		}
		delete(f.Opened, name)
	}
	return nil
}

// Flip changes a byte of a file on a rig partition.
func (f *Machine) Flip(part, file string) {
	f.T.Helper()
	d, err := blockdev.Open(f.Dev(part), 0, true)
	f.Check(err)
	defer d.Close()
	fsys, err := ufs.Open(d, f.Man.Boot.RigSize)
	f.Check(err)
	r, err := fsys.Ranges(file)
	f.Check(err)
	b := make([]byte, 1)
	at := r[0].Off + r[0].Len/2
	_, err = d.ReadAt(b, at)
	f.Check(err)
	b[0] ^= 1
	_, err = d.WriteAt(b, at)
	f.Check(err)
}

// Unit is what was installed.
func (f *Machine) Unit() manifest.Unit { return manifest.Unit{Pool: f.PoolName, Name: f.Man.Image} }

// Manifest is an image of two jails.
func Manifest() *manifest.Manifest {
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

// Runner answers commands by their beginning.
type Runner struct {
	Answers map[string]string // beginning of the line → output; "!" fails
}

// Run implements run.Runner.
func (f *Runner) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	best := ""
	for k := range f.Answers {
		if strings.HasPrefix(c.String(), k) && len(k) > len(best) {
			best = k
		}
	}
	if out := f.Answers[best]; strings.HasPrefix(out, "!") {
		return nil, &run.Error{Argv: c.Argv, Status: 1, Stderr: out[1:], Err: errors.New("exit status 1")}
	} else {
		return []byte(out), nil
	}
}

// MediumRoot is a machine's file system with the medium mounted.
func MediumRoot(t testing.TB, m *manifest.Manifest) string {
	t.Helper()
	root := t.TempDir()
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(root, place.BundleDir, manifest.File)
	sw := filepath.Join(root, place.BundleDir, manifest.SwitchFile)
	if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, b, 0o644),
		os.MkdirAll(filepath.Dir(sw), 0o755), os.WriteFile(sw, manifest.InstallSwitch("00112233aabbccdd"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return root
}
