package live

import (
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

const rtld = "/libexec/ld-elf.so.1"

func file(p string, perm uint16, content []byte) tree.Entry {
	e := tree.FileEntry(p, content)
	e.Perm = perm
	return e
}

func link(p, to string) tree.Entry {
	return tree.Entry{Path: p, Kind: tree.Symlink, Perm: 0o755, Owner: "root", Group: "wheel", Link: to}
}

func hard(p, to string) tree.Entry { return tree.Entry{Path: p, Kind: tree.HardLink, Link: to} }

func dir(p string, perm uint16) tree.Entry {
	return tree.Entry{Path: p, Kind: tree.Dir, Perm: perm, Owner: "root", Group: "operator"}
}

// base is a small FreeBSD: each entry stands for a shape of the real one.
func base(t *testing.T) *tree.Tree {
	t.Helper()
	tr, err := tree.New([]tree.Entry{
		dir("sbin", 0o750), // an uncommon mode that must survive
		file("libexec/ld-elf.so.1", 0o555, program("", nil, "")),
		file("lib/libc.so.7", 0o444, program("", []string{"libsys.so.7"}, "")),
		file("lib/libsys.so.7", 0o444, program("", nil, "")),
		file("lib/libgeom.so.5", 0o444, program("", []string{"libc.so.7"}, "")),
		file("usr/lib/libxo.so.0", 0o444, program("", []string{"libc.so.7"}, "")),
		file("usr/lib/private/libown.so.1", 0o444, program("", nil, "")),
		link("usr/lib/libgeom.so.5", "../../lib/libgeom.so.5"),
		file("sbin/geom", 0o555, program(rtld, []string{"libgeom.so.5", "libxo.so.0"}, "")),
		hard("sbin/gpart", "sbin/geom"),
		hard("sbin/gnop", "sbin/geom"),
		file("lib/geom/geom_part.so", 0o444, program("", []string{"libgeom.so.5"}, "")),
		file("lib/geom/geom_nop.so", 0o444, program("", []string{"libgeom.so.5"}, "")),
		file("bin/sh", 0o555, program(rtld, []string{"libc.so.7"}, "")),
		link("usr/bin/sh", "/usr/alias/sh"),
		link("usr/alias", "../bin"),
		file("usr/bin/script", 0o555, []byte("#! /usr/bin/sh -e\ntrue\n")),
		file("usr/bin/own", 0o555, program(rtld, []string{"libown.so.1"}, "/nowhere:$ORIGIN/../lib/private")),
		file("usr/bin/broken", 0o555, program(rtld, []string{"libgone.so.1", "libc.so.7"}, "")),
		link("usr/bin/loop", "loop"),
		file("usr/share/locale/C.UTF-8/LC_CTYPE", 0o444, []byte("x")),
		link("etc/os-release", "../var/run/os-release"),
		file("etc/master.passwd", 0o600, []byte("# $FreeBSD$\nroot::0:0::0:0:Charlie &:/root:/bin/csh\n"+
			"daemon:*:1:1::0:0:Owner of many:/root:/usr/sbin/nologin\n")),
		file("etc/group", 0o644, []byte("wheel:*:0:root\noperator:*:5:root\n")),
	})
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func paths(t *tree.Tree) []string {
	var out []string
	for e := range t.All() {
		if e.Kind != tree.Dir {
			out = append(out, e.Path)
		}
	}
	return out
}

func TestClosure(t *testing.T) {
	for _, tt := range []struct {
		name            string
		programs, extra []string
		want            string
	}{
		{"library of a library", []string{"/bin/sh"}, nil, "bin/sh lib/libc.so.7 lib/libsys.so.7 libexec/ld-elf.so.1"},
		{"class of a hard link, not of its other names", []string{"sbin/gpart"}, nil,
			"lib/geom/geom_part.so lib/libc.so.7 lib/libgeom.so.5 lib/libsys.so.7 libexec/ld-elf.so.1 sbin/gpart usr/lib/libxo.so.0"},
		{"origin", []string{"/usr/bin/own"}, nil, "libexec/ld-elf.so.1 usr/bin/own usr/lib/private/libown.so.1"},
		{"script", []string{"/usr/bin/script"}, nil,
			"bin/sh lib/libc.so.7 lib/libsys.so.7 libexec/ld-elf.so.1 usr/alias usr/bin/script usr/bin/sh"},
		{"extra file and directory", nil, []string{"/etc/group", "/usr/share/locale", "etc/os-release"},
			"etc/group usr/share/locale/C.UTF-8/LC_CTYPE"},
		{"nothing", nil, nil, ""},
	} {
		got, err := Closure(base(t), tt.programs, tt.extra...)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if s := strings.Join(paths(got), " "); s != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, s, tt.want)
		}
	}
}

func TestClosureKeepsModes(t *testing.T) {
	got, err := Closure(base(t), []string{"/sbin/gpart"})
	if err != nil {
		t.Fatal(err)
	}
	if e, ok := got.Lookup("sbin"); !ok || e.Perm != 0o750 || e.Group != "operator" || e.Implied {
		t.Errorf("sbin is %+v, want base's own", e)
	}
	if e, _ := got.Lookup("sbin/gpart"); e.Kind != tree.File || e.Size == 0 {
		t.Errorf("gpart, whose first name is left out, is %+v, want the file", e)
	}
}

func TestClosureLinks(t *testing.T) {
	tr, err := tree.New([]tree.Entry{
		file("bin/sh", 0o555, program("", nil, "")),
		link("compat/bin", "/bin"),
		link("usr/bin/sh", "../../compat/bin/sh"),
		file("usr/libexec/script", 0o555, []byte("#! /usr/bin/sh -e\ntrue\n")),
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Closure(tr, []string{"usr/libexec/script"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"bin/sh", "compat/bin", "usr/bin/sh", "usr/libexec/script"}
	if s := paths(got); !slices.Equal(s, want) {
		t.Errorf("got %q, want %q", s, want)
	}
}

func TestClosureMissing(t *testing.T) {
	_, err := Closure(base(t), []string{"/bin/sh", "/bin/gone", "/usr/bin/broken", "/usr/bin/loop"}, "/etc/nothing")
	if err == nil {
		t.Fatal("no error")
	}
	want := `live: base has not all that the installer needs:
  /bin/gone
  /etc/nothing
  /usr/bin/loop
  libgone.so.1, which /usr/bin/broken needs`
	if err.Error() != want {
		t.Errorf("got %v\nwant %s", err, want)
	}
}

func TestClosureDamaged(t *testing.T) {
	whole := program(rtld, []string{"libc.so.7"}, "/a")
	for n := range whole { // every length of it, none may panic
		tr, err := tree.New([]tree.Entry{file("bin/cut", 0o555, whole[:n]), file("libexec/ld-elf.so.1", 0o555, nil),
			file("lib/libc.so.7", 0o444, nil)})
		if err != nil {
			t.Fatal(err)
		}
		_, err = Closure(tr, []string{"bin/cut"})
		if n == 40 && (err == nil || !strings.Contains(err.Error(), "/bin/cut: ")) {
			t.Errorf("40 bytes of a program: %v, want an error about /bin/cut", err)
		}
	}
	if _, err := Closure(base(t), []string{"/sbin"}); err == nil || !strings.Contains(err.Error(), "/sbin: a directory, not a program") {
		t.Errorf("directory as a program: %v", err)
	}
}

func options() Options {
	return Options{
		Programs:   []string{"/bin/sh", "/sbin/gpart"},
		Riginstall: tree.FileEntry("anything", []byte("installer")),
		Time:       time.Unix(1_700_000_000, 0),
	}
}

func TestRoot(t *testing.T) {
	o := options()
	var err error
	o.Kernel, err = tree.New([]tree.Entry{file("boot/kernel/zfs.ko", 0o555, []byte("z")), file("boot/kernel/pf.ko", 0o555, []byte("p")),
		file("boot/kernel/kernel", 0o555, []byte("k")), file("boot/kernel/linker.hints", 0o444, []byte("h"))})
	if err != nil {
		t.Fatal(err)
	}
	o.Modules = []string{"zfs", "pf.ko"}
	root, err := Root(base(t), o)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := root.WriteMtree(&b, false); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"./etc/rc type=file mode=0555",
		"./etc/fstab type=file mode=0644",
		"./usr/local/sbin/riginstall type=file mode=0555 uname=root gname=wheel time=1700000000.000000000 size=9",
		"./boot/kernel/zfs.ko type=file", "./boot/kernel/pf.ko type=file", "./boot/kernel/linker.hints type=file",
		"./mnt type=dir", "./rig type=dir", "./dev type=dir", "./var type=dir", "./tmp type=dir", "./sbin type=dir mode=0750",
		"./etc/spwd.db type=link", "./etc/master.passwd type=file mode=0600",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in the root:\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), "boot/kernel/kernel") {
		t.Error("the kernel itself is in the root; the loader has it")
	}
	text := func(p string) string {
		s, err := root.ReadFile(p, 1<<20)
		if err != nil {
			t.Error(err)
		}
		return string(s)
	}
	if got := text("etc/master.passwd"); !strings.HasPrefix(got, "root:*:0:0::0:0:Charlie &:/root:/bin/sh\ndaemon:*:1:1:") {
		t.Errorf("master.passwd:\n%s", got)
	}
	if got := text("etc/passwd"); !strings.HasPrefix(got, "root:*:0:0:Charlie &:/root:/bin/sh\n") {
		t.Errorf("passwd:\n%s", got)
	}
}

func TestRootErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Options)
		want string
	}{
		{"no installer", func(o *Options) { o.Riginstall = tree.Entry{} }, "live: riginstall: no program given"},
		{"module", func(o *Options) { o.Kernel, _ = tree.New(nil); o.Modules = []string{"zfs", "pf"} }, "the kernel set has no zfs.ko, pf.ko"},
		{"program", func(o *Options) { o.Programs = []string{"/sbin/zpool"} }, "\n  /sbin/zpool"},
		{"size", func(o *Options) {
			o.Riginstall.Size = MaxSize + 1
			o.Riginstall.Open = func() (io.ReadCloser, error) { panic("read") }
		}, "installer root of 128 MiB; at most 128 fit"},
	} {
		o := options()
		tt.edit(&o)
		if _, err := Root(base(t), o); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
}

// Every program that /etc/rc calls must be in the root.
func TestScriptPrograms(t *testing.T) {
	have := map[string]bool{}
	for _, p := range Programs() {
		if have[p] {
			t.Errorf("%s is listed twice", p)
		}
		have[p] = true
	}
	for _, p := range []string{"/sbin/mount", "/bin/mkdir", "/sbin/dmesg", "/bin/kenv", "/bin/cat", "/bin/ps", "/bin/date", "/bin/cp",
		"/usr/sbin/pwd_mkdb", "/bin/hostname", "/sbin/sysctl", "/sbin/ifconfig", "/sbin/kldload", "/bin/sh"} {
		if !have[p] {
			t.Errorf("/etc/rc calls %s, which is not in Programs", p)
		}
	}
}
