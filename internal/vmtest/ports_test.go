package vmtest

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/rig-freebsd/rig/internal/vm"
)

// port is a small tree that the real pkg(8) makes a package of.
type port struct {
	name, version string
	deps          []string // names of other ports
	user          string   // made by the package, with the uid
	uid           int
	preInstall    string
	postInstall   string
	files         map[string]portFile // by path below /
}

type portFile struct {
	mode int64
	text string
	from string // a tool of NeedTools instead of text
}

// daemonScript is an rc(8) script of a service that only waits.
func daemonScript(name, user string) string {
	return strings.NewReplacer("NAME", name, "USER", user).Replace(`#!/bin/sh
# PROVIDE: NAME
# REQUIRE: LOGIN
# KEYWORD: shutdown
. /etc/rc.subr
name="NAME"
rcvar="NAME_enable"
load_rc_config $name
: ${NAME_enable:="YES"}
pidfile="/var/run/NAME.pid"
procname="/usr/local/sbin/NAME"
command_interpreter="/bin/sh"
start_cmd="/usr/sbin/daemon -f -p $pidfile -u USER /bin/sh /usr/local/sbin/NAME"
run_rc_command "$1"
`)
}

// waiting is the program of such a service.
const waiting = "#!/bin/sh\nwhile :; do sleep 3600; done\n"

// spipedScript runs the pipes of rc.conf, by the variables of the port of spiped.
const spipedScript = `#!/bin/sh
# PROVIDE: spiped
# REQUIRE: LOGIN
# KEYWORD: shutdown
. /etc/rc.subr
name="spiped"
rcvar="spiped_enable"
start_cmd="spiped_start"
stop_cmd="spiped_stop"
status_cmd="spiped_status"
spiped_start()
{
	local p mode
	for p in $spiped_pipes; do
		eval "mode=\${spiped_pipe_${p}_mode} source=\${spiped_pipe_${p}_source} target=\${spiped_pipe_${p}_target} key=\${spiped_pipe_${p}_key}"
		case $mode in encrypt) mode=-e ;; *) mode=-d ;; esac
		/usr/local/bin/spiped $mode -s "$source" -t "$target" -k "$key" -p /var/run/spiped_$p.pid -u spiped
	done
}
spiped_stop()
{
	local p
	for p in $spiped_pipes; do
		[ -s /var/run/spiped_$p.pid ] && pkill -F /var/run/spiped_$p.pid spiped
	done
	return 0
}
spiped_status()
{
	local p
	for p in $spiped_pipes; do
		pgrep -F /var/run/spiped_$p.pid spiped >/dev/null || return 1
	done
}
load_rc_config $name
: ${spiped_enable:="NO"}
run_rc_command "$1"
`

// service is a port with one service that runs as a user of its own.
func service(name, version, program, user string, uid int, deps ...string) port {
	return port{name: name, version: version, deps: deps, user: user, uid: uid,
		postInstall: "echo \"$PKG_NAME $PKG_PREFIX\" >/usr/local/share/" + program + "/installed\n",
		files: map[string]portFile{
			"usr/local/sbin/" + program:              {0o755, waiting, ""},
			"usr/local/etc/rc.d/" + program:          {0o755, daemonScript(program, user), ""},
			"usr/local/share/" + program + "/README": {0o644, "A service that waits.\n", ""},
		}}
}

// ports are the packages of the test's repository.
func ports() []port {
	share := func(name, text string) map[string]portFile {
		return map[string]portFile{"usr/local/share/" + name + "/README": {0o644, text, ""}}
	}
	return []port{
		{name: "pkg", version: "2.8.99.1", files: map[string]portFile{
			"usr/local/sbin/pkg-static": {0o755, "", "pkg-static"}, "usr/local/sbin/pkg": {0o755, "", "pkg-static"}}},
		{name: "rig-common", version: "1.0,1", files: share("rig-common", "What others need.\n")},
		{name: "rig-tool", version: "1.2_3", deps: []string{"rig-common"}, files: map[string]portFile{
			"usr/local/bin/rig-tool": {0o755, "#!/bin/sh\necho a tool\n", ""}}},
		{name: "spiped", version: "1.6.4", user: "spiped", uid: 259, deps: []string{"rig-common"}, files: map[string]portFile{
			"usr/local/bin/spiped": {0o755, "", "spiped"}, "usr/local/bin/spipe": {0o755, "", "spipe"},
			"usr/local/etc/rc.d/spiped": {0o755, spipedScript, ""}}},
		service("pgstand17-server", "17.5", "pgstand", "postgres", 770, "rig-common"),
		service("pgstand18-server", "18.1", "pgstand", "postgres", 770, "rig-common"),
		service("pgstand19-server", "19.b2", "pgstand", "postgres", 770, "rig-common"), // a pre-release is not taken
		service("webd", "2.0.1", "webd", "www2", 281),
		service("appd", "0.9", "appd", "appd", 282, "webd-lib"),
		{name: "webd-lib", version: "3", files: share("webd-lib", "Needed by appd.\n")},
		{name: "rig-broken", version: "1", postInstall: "echo 'this package cannot be configured' >&2\nexit 1\n", files: share("rig-broken", "It fails.\n")},
		{name: "unwanted", version: "1", files: share("unwanted", "Nobody asks for it.\n")},
	}
}

// manifest is +MANIFEST, which pkg(8) reads as UCL.
func (p port) manifest(all []port) []byte {
	m := map[string]any{"name": p.name, "version": p.version, "origin": "rig/" + p.name, "comment": "A package of the boot tests",
		"desc": "A package of the boot tests.", "maintainer": "nobody@example.org", "www": "https://example.org/", "prefix": "/usr/local",
		"licenselogic": "single", "licenses": []string{"BSD2CLAUSE"}}
	deps := map[string]any{}
	for _, d := range p.deps {
		for _, o := range all {
			if o.name == d {
				deps[d] = map[string]string{"origin": "rig/" + d, "version": o.version}
			}
		}
	}
	m["deps"] = deps
	scripts := map[string]string{}
	if p.preInstall != "" {
		scripts["pre-install"] = p.preInstall
	}
	if p.user != "" {
		m["users"], m["groups"] = []string{p.user}, []string{p.user}
		scripts["pre-install"] += fmt.Sprintf("pw groupshow %[1]s >/dev/null 2>&1 || pw groupadd %[1]s -g %[2]d\n"+
			"pw usershow %[1]s >/dev/null 2>&1 || pw useradd %[1]s -u %[2]d -g %[1]s -d /nonexistent -s /usr/sbin/nologin -c 'of a package'\n", p.user, p.uid)
	}
	if p.postInstall != "" {
		scripts["post-install"] = p.postInstall
	}
	m["scripts"] = scripts
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// signScript is a signing_command(8) of pkg repo: it signs what it reads.
const signScript = `#!/bin/sh
read -r sum
echo SIGNATURE
printf %s "$sum" | openssl dgst -sign /tmp/ports/key -sha256 -binary
echo
echo CERT
cat /tmp/ports/pub
echo END
`

// makeScript makes the repository: the real pkg(8) on a real FreeBSD.
const makeScript = `cd /tmp/ports && openssl genrsa -out key 2048 2>/dev/null && openssl rsa -in key -pubout -out pub 2>/dev/null
for p in ports/*; do
	[ -s $p/plist ] || exit 1
	./pkg-static create -q -M $p/manifest -p $p/plist -r $p/root -o repo/All || exit 1
done
./pkg-static repo -q repo signing_command: /tmp/ports/sign || exit 1
sha256 -q pub >repo/fingerprint
`

// NeedTools is the directory of programs for FreeBSD that are not part of it and
// that the tests package: pkg-static, spiped, spipe. RIG_TOOLS names it, else it is
// the user cache's rig/tools/15.1-RELEASE-amd64. Without it a test is skipped, or
// fails if RIG_REQUIRE asks for pkg.
func NeedTools(t testing.TB) string {
	t.Helper()
	dir, err := findTools()
	if err != nil {
		skip(t, "pkg", fmt.Sprintf("no real pkg to install packages with: %v", err))
	}
	return dir
}

func findTools() (string, error) {
	dir := os.Getenv("RIG_TOOLS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "rig", "tools", Release)
	}
	for _, name := range []string{"pkg-static", "spiped", "spipe"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// repository is what makeScript made.
type repository struct {
	dir         string
	fingerprint string
}

var madeRepository = struct {
	sync.Mutex
	repository
}{}

// testRepository is a signed repository of ports, made once by pkg(8) on an
// installed server.
func testRepository(t testing.TB) repository {
	t.Helper()
	madeRepository.Lock()
	defer madeRepository.Unlock()
	if keep := os.Getenv("RIG_VM_REPOSITORY"); keep != "" && madeRepository.dir == "" {
		madeRepository.repository = openRepository(t, keep)
	}
	if madeRepository.dir != "" {
		return madeRepository.repository
	}
	tools, d := NeedTools(t), anyInstalled(t)
	in, out := filepath.Join(d.Dir, "in.img"), filepath.Join(d.Dir, "out.img")
	if err := errors.Join(writePorts(in, tools), vm.CreateDisk(out, 64<<20)); err != nil {
		t.Fatal(err)
	}
	c := d.Config(vm.BIOS, 1, 2, 3, 4)
	c.Disks = append(c.Disks, vm.Disk{Path: in, Serial: "RIG-IN", BootIndex: 8}, vm.Disk{Path: out, Serial: "RIG-OUT", BootIndex: 9})
	v := Start(t, c)
	v.Login("root", rootPassword)
	v.Must("mkdir -p /tmp/ports/repo && tar xpf /dev/vtbd4 -C /tmp/ports")
	v.Must("/bin/sh /tmp/ports/make")
	v.Must("cd /tmp/ports && tar cf repo.tar -C repo . && dd if=repo.tar of=/dev/vtbd5 bs=64k conv=sync 2>/dev/null && sync")
	v.PowerOff()
	dir, err := sharedDir()
	if err != nil {
		t.Fatal(err)
	}
	if err := readTar(out, filepath.Join(dir, "repository")); err != nil {
		t.Fatal(err)
	}
	madeRepository.repository = openRepository(t, filepath.Join(dir, "repository"))
	return madeRepository.repository
}

// openRepository is a repository that makeScript made.
func openRepository(t testing.TB, dir string) repository {
	t.Helper()
	sum, err := os.ReadFile(filepath.Join(dir, "fingerprint"))
	if err != nil {
		t.Fatal(err)
	}
	return repository{dir, strings.TrimSpace(string(sum))}
}

// writePorts writes the ports as a tar onto a disk.
func writePorts(disk, tools string) (err error) {
	f, err := os.Create(disk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Truncate(64<<20), f.Close()) }()
	w := tar.NewWriter(f)
	add := func(name string, mode int64, content []byte) {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(content)), Typeflag: tar.TypeReg}))
		_, werr := w.Write(content)
		err = errors.Join(err, werr)
	}
	tool := func(name string) []byte {
		b, rerr := os.ReadFile(filepath.Join(tools, name))
		err = errors.Join(err, rerr)
		return b
	}
	add("pkg-static", 0o755, tool("pkg-static"))
	add("sign", 0o755, []byte(signScript))
	add("make", 0o755, []byte(makeScript))
	all := ports()
	for _, p := range all {
		dir := "ports/" + p.name + "/"
		var plist strings.Builder
		for _, name := range sortedKeys(p.files) {
			file := p.files[name]
			content := []byte(file.text)
			if file.from != "" {
				content = tool(file.from)
			}
			add(dir+"root/"+name, file.mode, content)
			fmt.Fprintf(&plist, "@(root,wheel,%04o) /%s\n", file.mode, name)
		}
		add(dir+"plist", 0o644, []byte(plist.String()))
		add(dir+"manifest", 0o644, p.manifest(all))
	}
	return errors.Join(err, w.Close())
}

// readTar unpacks the files of a tar that lies on a disk.
func readTar(disk, dir string) error {
	f, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Join(dir, filepath.Clean("/"+h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(name, 0o755)
		case tar.TypeReg:
			var b []byte
			if b, err = io.ReadAll(r); err == nil {
				err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, b, fs.FileMode(0o644)))
			}
		}
		if err != nil {
			return err
		}
	}
}

// packagesProfile is the default profile with the test's repository and packages
// instead of its own, in a directory below dir.
func packagesProfile(t testing.TB, dir string, r repository, nginx ...string) string {
	t.Helper()
	profile := filepath.Join(dir, "profile")
	rigimage(t, "init", profile)
	file := filepath.Join(profile, "rig.toml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for jail, edit := range map[string][2]string{
		"":                   {`"rig-tool"`, ""},
		"name = \"pg_j\"":    {`"pgstand*-server", "spiped"`, `"pgstand", "spiped"`},
		"name = \"node_j\"":  {`"appd", "spiped"`, `"appd", "spiped"`},
		"name = \"nginx_j\"": {strings.Join(append([]string{`"webd"`}, nginx...), ", "), `"webd"`},
	} {
		head, tail, ok := strings.Cut(text, jail)
		if !ok {
			t.Fatalf("no %q in rig.toml", jail)
		}
		tail = replaceFirst(tail, `(?m)^packages = \[.*\]$`, "packages = ["+edit[0]+"]")
		if edit[1] != "" {
			tail = replaceFirst(tail, `(?m)^services = \[.*\]$`, `services = ["syslogd", "cron", `+edit[1]+"]")
		}
		text = head + jail + tail
	}
	text += fmt.Sprintf("\n[[repository]]\nname = \"ports\"\nurl = %q\nfingerprints = [%q]\n", "file://"+r.dir, r.fingerprint)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return profile
}

func replaceFirst(text, re, with string) string {
	loc := regexp.MustCompile(re).FindStringIndex(text)
	if loc == nil {
		panic("nothing matches " + re)
	}
	return text[:loc[0]] + with + text[loc[1]:]
}
