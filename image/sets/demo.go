package sets

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/layer"
	"github.com/rig-freebsd/rig/image/tree"
	"github.com/ulikunitz/xz"
)

// DemoVersion is the release that the demo sets say they are of.
const DemoVersion = "15.1-DEMO"

const demoText = "rig demo, no FreeBSD inside\n"

// WriteDemoSets writes base.txz, kernel.txz and MANIFEST into dir, which is made
// when it does not exist: tiny sets of text files, enough to run every step of a
// build, not to boot. Programs ("sbin/zpool") are added to those every base has.
// The bytes depend on programs only.
func WriteDemoSets(dir string, programs []string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("write demo sets: %w", err)
	}
	var manifest strings.Builder
	for _, s := range []struct {
		name, description string
		entries           []tree.Entry
	}{
		{"base", "Base system (MANDATORY)", demoBase(programs)},
		{"kernel", "Kernel (MANDATORY)", demoKernel()},
	} {
		t, err := tree.New(s.entries)
		if err != nil {
			return fmt.Errorf("write demo set %s: %w", s.name, err)
		}
		var b bytes.Buffer
		if err := writeTXZ(&b, t); err != nil {
			return fmt.Errorf("write demo set %s: %w", s.name, err)
		}
		file := s.name + suffix
		if err := os.WriteFile(filepath.Join(dir, file), b.Bytes(), 0o644); err != nil {
			return fmt.Errorf("write demo sets: %w", err)
		}
		sum := sha256.Sum256(b.Bytes())
		fmt.Fprintf(&manifest, "%s\t%s\t%d\t%s\t%q\ton\n", file, hex.EncodeToString(sum[:]), t.Len(), s.name, s.description)
	}
	if err := os.WriteFile(filepath.Join(dir, manifestName), []byte(manifest.String()), 0o644); err != nil {
		return fmt.Errorf("write demo sets: %w", err)
	}
	return nil
}

func writeTXZ(w io.Writer, t *tree.Tree) error {
	z, err := xz.WriterConfig{DictCap: 1 << 20, CheckSum: xz.CRC64}.NewWriter(w)
	if err != nil {
		return err
	}
	if err := layer.WriteTar(z, t); err != nil {
		return err
	}
	return z.Close()
}

var demoTime = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

func demoFile(p, content string, perm uint16) tree.Entry {
	e := tree.FileEntry(p, []byte(content))
	e.Perm, e.ModTime = perm, demoTime
	return e
}

func demoBase(programs []string) []tree.Entry {
	var out []tree.Entry
	for p, perm := range demoDirs {
		e := tree.Entry{Path: p, Kind: tree.Dir, Perm: perm, Owner: "root", Group: "wheel", ModTime: demoTime}
		if p == "var/empty" {
			e.Flags = tree.Immutable
		}
		out = append(out, e)
	}
	for p, content := range demoFiles {
		out = append(out, demoFile(p, content, 0o644))
	}
	out = append(out,
		demoFile("etc/master.passwd", demoMasterPasswd, 0o600),
		demoFile("etc/passwd", demoPasswd(), 0o644),
		demoFile("bin/freebsd-version", "#!/bin/sh\nUSERLAND_VERSION=\""+DemoVersion+"\"\necho $USERLAND_VERSION\n", 0o555),
		demoFile("boot/pmbr", demoSector("no boot code"), 0o444),
		tree.Entry{Path: "etc/os-release", Kind: tree.Symlink, Perm: 0o755, Owner: "root", Group: "wheel",
			ModTime: demoTime, Link: "../var/run/os-release"},
	)
	for _, p := range []string{"lib/libc.so.7", "libexec/ld-elf.so.1", "sbin/init"} {
		e := demoFile(p, demoText, 0o555)
		e.Flags = tree.Immutable
		out = append(out, e)
	}
	for _, p := range []string{"rescue/sh", "rescue/ls"} {
		out = append(out, tree.Entry{Path: p, Kind: tree.HardLink, Link: "rescue/["})
	}
	out = append(out, demoFile("rescue/[", demoProgram, 0o555))
	su := demoFile("usr/bin/su", demoProgram, 0o4555)
	su.Flags = tree.Immutable
	out = append(out, su)

	have := map[string]bool{}
	for i := range out {
		have[out[i].Path] = true
	}
	for _, p := range slices.Concat([]string{"bin/sh", "sbin/zpool", "sbin/gpart"}, programs) {
		if p = path.Clean(strings.TrimPrefix(p, "/")); !have[p] {
			have[p] = true
			out = append(out, demoFile(p, demoProgram, 0o555))
		}
	}
	return out
}

func demoKernel() []tree.Entry {
	var out []tree.Entry
	for _, f := range []string{"kernel", "linker.hints", "bridgestp.ko", "geom_eli.ko", "geom_uzip.ko", "if_bridge.ko", "if_epair.ko",
		"if_vlan.ko", "nullfs.ko", "pf.ko", "pflog.ko", "tmpfs.ko", "unionfs.ko", "xdr.ko", "zfs.ko"} {
		out = append(out, demoFile("boot/kernel/"+f, demoText, 0o555))
	}
	return out
}

// demoSector is a boot sector that lets the BIOS go on with its next device (int
// 0x18) and says why.
func demoSector(what string) string {
	line := "rig demo: " + what + ", no FreeBSD inside. "
	text := "\xcd\x18\xf4\xeb\xfd" + strings.Repeat(line, 440/len(line)+1)
	return text[:440] + strings.Repeat("\x00", 70) + "\x55\xaa"
}

const demoProgram = "#!/bin/sh\n# rig demo\necho 'rig demo: no FreeBSD inside' >&2\nexit 1\n"

var demoDirs = map[string]uint16{
	".": 0o755, "bin": 0o755, "boot": 0o755, "boot/defaults": 0o755, "boot/kernel": 0o755, "boot/loader.conf.d": 0o755,
	"boot/lua": 0o755, "boot/modules": 0o755, "dev": 0o555, "etc": 0o755, "etc/defaults": 0o755, "etc/jail.conf.d": 0o755,
	"etc/rc.conf.d": 0o755, "etc/rc.d": 0o755, "lib": 0o755, "libexec": 0o755, "media": 0o755, "mnt": 0o755, "proc": 0o555,
	"rescue": 0o755, "root": 0o750, "sbin": 0o755, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755,
	"usr/share": 0o755, "usr/share/keys": 0o755, "usr/share/zoneinfo": 0o755, "var": 0o755, "var/db": 0o755, "var/empty": 0o555,
	"var/log": 0o755, "var/run": 0o755, "var/tmp": 0o1777,
}

var demoFiles = map[string]string{
	"boot/defaults/loader.conf": "# " + demoText,
	"boot/device.hints":         "# " + demoText,
	"boot/gptboot":              demoText,
	"boot/cdboot":               demoText,
	"boot/isoboot":              demoText,
	"boot/loader":               demoText,
	"boot/loader.efi":           demoText,
	"boot/lua/loader.lua":       "-- " + demoText,
	"boot/pxeboot":              demoText,
	"etc/defaults/rc.conf":      "# " + demoText,
	"etc/group":                 demoGroup,
	"etc/login.conf":            "# " + demoText,
	"etc/rc":                    "# " + demoText,
	"etc/rc.subr":               "# " + demoText,
	"etc/services":              "# " + demoText,
	"etc/shells":                "/bin/sh\n",
	"etc/ttys":                  "# " + demoText,
	"usr/share/zoneinfo/UTC":    demoText,
}

// The accounts of FreeBSD 15.1's etc/master.passwd and etc/group that base.txz and
// rig's overlays name. Root is locked, unlike the real set's.
const (
	demoMasterPasswd = `# rig demo, no FreeBSD inside
root:*:0:0::0:0:Charlie &:/root:/bin/sh
toor:*:0:0::0:0:Bourne-again Superuser:/root:
daemon:*:1:1::0:0:Owner of many system processes:/root:/usr/sbin/nologin
operator:*:2:5::0:0:System &:/:/usr/sbin/nologin
bin:*:3:7::0:0:Binaries Commands and Source:/:/usr/sbin/nologin
sshd:*:22:22::0:0:Secure Shell Daemon:/var/empty:/usr/sbin/nologin
unbound:*:59:59::0:0:Unbound DNS Resolver:/var/unbound:/usr/sbin/nologin
_pflogd:*:64:64::0:0:pflogd privsep user:/var/empty:/usr/sbin/nologin
_dhcp:*:65:65::0:0:dhcp programs:/var/empty:/usr/sbin/nologin
uucp:*:66:66::0:0:UUCP pseudo-user:/var/spool/uucppublic:/usr/local/libexec/uucp/uucico
auditdistd:*:78:77::0:0:Auditdistd unprivileged user:/var/empty:/usr/sbin/nologin
www:*:80:80::0:0:World Wide Web Owner:/nonexistent:/usr/sbin/nologin
ntpd:*:123:123::0:0:NTP Daemon:/var/db/ntp:/usr/sbin/nologin
nobody:*:65534:65534::0:0:Unprivileged user:/nonexistent:/usr/sbin/nologin
`
	demoGroup = `# rig demo, no FreeBSD inside
wheel:*:0:root
daemon:*:1:
kmem:*:2:
sys:*:3:
tty:*:4:
operator:*:5:root
mail:*:6:
bin:*:7:
news:*:8:
man:*:9:
games:*:13:
staff:*:20:
sshd:*:22:
guest:*:31:
video:*:44:
unbound:*:59:
_pflogd:*:64:
_dhcp:*:65:
uucp:*:66:
dialer:*:68:
network:*:69:
audit:*:77:
www:*:80:
ntpd:*:123:
nogroup:*:65533:
nobody:*:65534:
`
)

// demoPasswd is demoMasterPasswd without class, change and expire.
func demoPasswd() string {
	var b strings.Builder
	for line := range strings.Lines(demoMasterPasswd) {
		f := strings.Split(line, ":")
		if len(f) == 10 {
			line = strings.Join(slices.Concat(f[:4], f[7:]), ":")
		}
		b.WriteString(line)
	}
	return b.String()
}
