package manifest

import (
	"bytes"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

func hash(c string) string { return strings.Repeat(c, 64) }

// sample is the manifest of testdata/manifest-v1.json; it uses every field.
func sample() *Manifest {
	lo, hi := int64(576), int64(9000)
	return &Manifest{
		Schema: 1, Name: "webrig", Image: "webrig-15.1-1a2b3c4d5e6f",
		FreeBSD: FreeBSD{Version: "15.1-RELEASE", Arch: "amd64"},
		Layers: []Layer{
			{Role: LayerBase, SHA256: hash("a"), Size: 200 << 20, ContentSize: 900 << 20, Entries: 30000},
			{Role: LayerKernel, SHA256: hash("b"), Size: 50 << 20, ContentSize: 150 << 20, Entries: 900},
			{Role: LayerHost, SHA256: hash("c"), Size: 4096, ContentSize: 10000, Entries: 40, Templates: []string{"etc/hosts.tmpl", "etc/pf.conf.tmpl"}},
			{Role: LayerJail, Jail: "pg_j", SHA256: hash("d"), Size: 1024, ContentSize: 5000, Entries: 7},
		},
		Pool: zfs.Pool{Name: "zroot-{id}", Ashift: 12, Props: map[string]string{"autotrim": "on"}, Root: map[string]string{"compression": "on", "atime": "off"}},
		Datasets: []zfs.Dataset{
			{Name: "home", Mountpoint: "/home"},
			{Name: "var"},
			{Name: "var/log", Mountpoint: "/var/log", Mode: "0755"},
			{Name: "data/pg_j/db", Mountpoint: "/jails/pg_j/var/db/postgres", Props: map[string]string{"recordsize": "16k"}, Owner: "770:770", Mode: "0700"},
		},
		Host:  Host{Packages: []string{"spiped"}, Services: []string{"sshd"}, Run: []string{"sysrc zfsd_enable=YES"}, Keep: []string{"/etc/ips_*"}},
		Users: []User{{Name: "root", PasswordHash: "secrets.root"}, {Name: "ann", UID: 1001, Groups: []string{"wheel"}, Shell: "/bin/sh", Home: "/home/ann", Comment: "Ann <ann@example.org> & co", Keys: "users.ann.keys"}},
		Jails: []Jail{{
			Name: "pg_j", Interfaces: []string{"pg_b"}, Users: []User{{Name: "deployer", UID: 1001}},
			Packages: []string{"postgresql17-server"}, Services: []string{"postgresql"}, Run: []string{"service postgresql initdb\n"}, Keep: []string{"/usr/local/etc/tls"},
		}},
		Boot: Boot{ESPSize: 260 << 20, RigSize: 2 << 30, Swap: 2 << 30, Console: ConsoleSerial, Speed: 115200, MenuDelay: 3},
		Questions: []answers.Question{
			{Key: "xnic.inet", Type: answers.CIDR, Prompt: "Address", Help: "Of the public interface.", Required: true, Outside: []string{"10.0.2.0/24"}, Distinct: "addresses"},
			{Key: "xnic.gateway", Type: answers.IP, Required: true, GatewayOf: "xnic.inet"},
			{Key: "inic.inet", Type: answers.CIDR, Apart: []string{"xnic.inet"}, Distinct: "addresses"},
			{Key: "inic.mtu", Type: answers.Int, Min: &lo, Max: &hi, Default: int64(1500)},
			{Key: "private.pg", Type: answers.IP, Within: "inic.inet"},
			{Key: "server.role", Type: answers.Choice, Choices: []string{"primary", "replica"}, Default: "primary"},
			{Key: "users.ann.keys", Type: answers.SSHKey, List: true},
			{Key: "secrets.root", Type: answers.PasswordHash, Required: true, Generate: true},
			{Key: "secrets.mail", Type: answers.Text, Secret: true},
			{Key: "disks", Type: answers.Disks, Required: true, Default: map[string]any{"rule": "largest-equal", "swap": int64(1 << 30)}},
			{Key: "xnic.match", Type: answers.NIC},
			{Key: "inic.vlan", Type: answers.VLAN},
			{Key: "peers.admin", Type: answers.Net, List: true},
		},
		Files: []BootFile{
			{Part: RoleESP, Path: "EFI/BOOT/BOOTX64.EFI", Size: 600000, SHA256: hash("1")},
			{Part: RoleRig, Path: "boot/kernel/kernel", Size: 30 << 20, SHA256: hash("2")},
			{Part: RoleRig, Path: "rig/mfsroot.uzip", Size: 60 << 20, SHA256: hash("3")},
		},
		Networks: []Network{
			{Name: "public", Interface: "xnic", NIC: "xnic.match", Address: "xnic.inet", Gateway: "xnic.gateway", Trial: &Trial{Address: "xnic", Gateway: "gateway", Route: "xnic_routes", Card: "xnic_mac"}},
			{Name: "private", Interface: "inic", NIC: "xnic.match", Address: "inic.inet", VLAN: "inic.vlan", Link: true},
		},
		Checks: []Check{
			{Name: "SSH", From: []string{"peers.admin"}, To: "xnic.inet", Proto: TCP, Ports: []int64{22}, Want: WantPass, Local: []int64{2222, 9222}},
			{Name: "private address", To: "private.pg", Proto: ARP, Want: WantReply},
		},
	}
}

// The file is frozen: manifests of schema 1 are on disks out there.
func TestFrozenV1(t *testing.T) {
	want, err := os.ReadFile("testdata/manifest-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("schema 1 changed; got\n%s", got)
	}
	m, err := Decode(bytes.NewReader(want))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(m, sample()) {
		t.Errorf("got %#v", m)
	}
}

func TestLayerPath(t *testing.T) {
	if got, want := (Layer{SHA256: "ab"}).Path(), "rig/layers/ab.tar.zst"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := os.ReadFile("testdata/manifest-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		if !strings.Contains(string(good), old) {
			t.Fatalf("%q is not in the vector", old)
		}
		return strings.Replace(string(good), old, new, 1)
	}
	for _, tt := range []struct{ name, in, want string }{
		{"empty", "", "manifest: line 1: unexpected end of JSON input"},
		{"no JSON", "\n{]", "manifest: line 2: invalid character ']' looking for beginning of object key string"},
		{"array", "[]", "manifest: line 1: manifest: found array; expected object"},
		{"something else", `{"a": 1}`, "manifest: schema is missing; this is no manifest of an image"},
		{"newer", `{"schema": 2, "new": {}}`, "manifest: schema 2 is newer than this program knows (1); use a newer riginstall"},
		{"older", replace(`"schema": 1`, `"schema": 0`), "manifest: schema: 0; expected 1"},
		{"unknown field", replace(`"image":`, `"imago":`), `manifest: unknown field "imago"`},
		{"unknown field of a question", replace(`"prompt":`, `"promt":`), `manifest: unknown field "promt"`},
		{"wrong type", replace(`"ashift": 12`, `"ashift": "12"`), "manifest: line 46: pool.ashift: found string; expected whole number"},
		{"trailing data", string(good) + "{}", "manifest: line 298: invalid character '{' after top-level value"},
		{"key twice", replace(`"image":`, `"Name": "x", "image":`), `manifest: line 4: key "Name" is there twice`},
		{"deep key twice", replace(`"recordsize": "16k"`, `"recordsize": "16k", "recordsize": "8k"`), `manifest: line 72: key "recordsize" is there twice`},
		{"fraction", replace(`"default": 1500`, `"default": 1500.5`), "manifest: question inic.mtu: default: 1500.5 is no whole number"},
		{"too large", strings.Repeat(" ", maxSize+1), "manifest: larger than 16 MiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Decode(strings.NewReader(tt.in))
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
			if diag.ExitCode(err) != 2 {
				t.Errorf("exit code %d, want 2", diag.ExitCode(err))
			}
		})
	}
	bad := errors.New("disk on fire")
	if _, err := Decode(failing{bad}); !errors.Is(err, bad) || diag.ExitCode(err) != 1 {
		t.Errorf("a read error became %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestValidate(t *testing.T) {
	for _, tt := range []struct {
		want string
		edit func(m *Manifest)
	}{
		{`name: "Web Rig"; expected a profile's name of lower-case letters, digits, - and _, at most 40`, func(m *Manifest) { m.Name = "Web Rig" }},
		{`image: "a/b"; expected an image id of lower-case letters, digits, . and -, at most 60`, func(m *Manifest) { m.Image = "a/b" }},
		{`freebsd.version: "current"; expected a release, as 15.1-RELEASE`, func(m *Manifest) { m.FreeBSD.Version = "current" }},
		{"layers: there is no host layer", func(m *Manifest) { m.Layers = append(m.Layers[:2:2], m.Layers[3]) }},
		{"layers[4]: a second base layer", func(m *Manifest) { m.Layers = append(m.Layers, m.Layers[0]) }},
		{`layers[3].jail: there is no jail "x"`, func(m *Manifest) { m.Layers[3].Jail = "x" }},
		{`layers[0].jail: "pg_j"; a base layer belongs to no jail`, func(m *Manifest) { m.Layers[0].Jail = "pg_j" }},
		{`layers[3].role: "extra"; expected base, kernel, host or jail`, func(m *Manifest) { m.Layers[3].Role = "extra" }},
		{`layers[0].sha256: "../../x"; expected 64 lower-case hexadecimal digits`, func(m *Manifest) { m.Layers[0].SHA256 = "../../x" }},
		{"layers[0]: size 0, content_size 943718400, entries 30000; expected a size above 0 and none below", func(m *Manifest) { m.Layers[0].Size = 0 }},
		{`layers[2].templates: "../x.tmpl"; expected a clean relative path`, func(m *Manifest) { m.Layers[2].Templates = []string{"../x.tmpl"} }},
		{`layers[2].templates: "etc/a" does not end in .tmpl`, func(m *Manifest) { m.Layers[2].Templates = []string{"etc/a"} }},
		{`layers[2].templates: "a.tmpl" is not in order`, func(m *Manifest) { m.Layers[2].Templates = []string{"b.tmpl", "a.tmpl"} }},
		{`pool.name: "mirror"; zpool(8) reserves mirror`, func(m *Manifest) { m.Pool.Name = "mirror" }},
		{"pool.ashift: 8; expected 9 to 16", func(m *Manifest) { m.Pool.Ashift = 8 }},
		{"pool.root.mountpoint: rig sets this property itself", func(m *Manifest) { m.Pool.Root["mountpoint"] = "/" }},
		{`pool.props.a b: "a b"; expected a property's name`, func(m *Manifest) { m.Pool.Props["a b"] = "on" }},
		{`datasets./x: "/x"; expected a dataset's name below the pool, as data/db_j/files`, func(m *Manifest) { m.Datasets[0].Name = "/x" }},
		{"datasets.var/log: the dataset is there twice\ndatasets.var/log.mountpoint: /var/log is also that of var/log", func(m *Manifest) { m.Datasets = append(m.Datasets, m.Datasets[2]) }},
		{"datasets.var: the dataset comes after var/log, which is below it", func(m *Manifest) { m.Datasets[1], m.Datasets[2] = m.Datasets[2], m.Datasets[1] }},
		{"datasets.ROOT/x: ROOT and datasets below it are the installer's", func(m *Manifest) { m.Datasets[1].Name = "ROOT/x" }},
		{"datasets.data/pg_j: data/pg_j is the installer's; expected one below it", func(m *Manifest) { m.Datasets[3].Name = "data/pg_j" }},
		{`datasets.data/x/db: there is no jail "x"`, func(m *Manifest) { m.Datasets[3].Name = "data/x/db" }},
		{"datasets.db.mountpoint: /jails is a jail's, and the dataset is not below data/", func(m *Manifest) {
			m.Datasets[3].Name, m.Datasets[3].Mountpoint = "db", "/jails"
		}},
		{`pool.name: "zroot-{ID}"; expected a pool's name, as zroot-{id}`, func(m *Manifest) { m.Pool.Name = "zroot-{ID}" }},
		{`host.keep: "etc/x"; expected a clean absolute path below the root, as /usr/local/etc/nginx/tls`, func(m *Manifest) { m.Host.Keep = []string{"etc/x"} }},
		{`host.keep: "/"; expected a clean absolute path below the root, as /usr/local/etc/nginx/tls`, func(m *Manifest) { m.Host.Keep = []string{"/"} }},
		{`host.keep: "/etc/../x"; expected a clean absolute path below the root, as /usr/local/etc/nginx/tls`, func(m *Manifest) { m.Host.Keep = []string{"/etc/../x"} }},
		{`jails.pg_j.keep: "/a/[b"; a [ is not closed`, func(m *Manifest) { m.Jails[0].Keep = []string{"/a/[b"} }},
		{`jails.pg_j.keep: "/a" is there twice`, func(m *Manifest) { m.Jails[0].Keep = []string{"/a", "/a"} }},
		{"jails.pg_j.users.deployer.password_hash: secrets.root is the password of root of the host; a jail has passwords of its own, or none",
			func(m *Manifest) { m.Jails[0].Users[0].PasswordHash = "secrets.root" }},
		{"datasets.data/pg_j/db.mountpoint: /var/db; expected a path below /jails/pg_j", func(m *Manifest) { m.Datasets[3].Mountpoint = "/var/db" }},
		{"datasets.home.mountpoint: /jails/pg_j/x is a jail's, and the dataset is not below data/", func(m *Manifest) { m.Datasets[0].Mountpoint = "/jails/pg_j/x" }},
		{`datasets.home.mountpoint: "home"; expected a clean absolute path below /`, func(m *Manifest) { m.Datasets[0].Mountpoint = "home" }},
		{`datasets.home.owner: "ann"; expected numeric uid:gid, as 770:770`, func(m *Manifest) { m.Datasets[0].Owner = "ann" }},
		{`datasets.home.mode: "rwx"; expected an octal mode, as 0750`, func(m *Manifest) { m.Datasets[0].Mode = "rwx" }},
		{"users.ann.uid: 0; expected 0 for root, 1 to 65533 for others\nusers.ann.uid: 0 is also that of root", func(m *Manifest) { m.Users[1].UID = 0 }},
		{`users.ann.shell: "sh"; expected a clean absolute path`, func(m *Manifest) { m.Users[1].Shell = "sh" }},
		{"users.ann.comment: a colon, which separates the fields of passwd(5)", func(m *Manifest) { m.Users[1].Comment = "a:b" }},
		{`users.ann.keys: there is no question "x"`, func(m *Manifest) { m.Users[1].Keys = "x" }},
		{"users.root.password_hash: question users.ann.keys is not of type password_hash", func(m *Manifest) { m.Users[0].PasswordHash = "users.ann.keys" }},
		{"jails.pg_j: the jail is there twice\njails.pg_j.interfaces: pg_b is also in jail pg_j", func(m *Manifest) { m.Jails = append(m.Jails, m.Jails[0]) }},
		{`jails.a b.name: "a b"; expected a jail's name of letters, digits, _ and -, at most 31`, func(m *Manifest) { m.Jails = append(m.Jails, Jail{Name: "a b"}) }},
		{`jails.pg_j.packages: "--help"; expected a package's name`, func(m *Manifest) { m.Jails[0].Packages = []string{"--help"} }},
		{`host.run: " "; expected shell commands`, func(m *Manifest) { m.Host.Run = []string{" "} }},
		{"boot.rig_size: 5 bytes; expected whole MiB, 1 to 1048576 of them", func(m *Manifest) { m.Boot.RigSize = 5 }},
		{`boot.console: "vga"; expected both, video or serial`, func(m *Manifest) { m.Boot.Console = "vga" }},
		{"boot.speed: 1; expected a serial speed, as 115200", func(m *Manifest) { m.Boot.Speed = 1 }},
		{"boot.menu_delay: -1; expected 0 to 3600 seconds", func(m *Manifest) { m.Boot.MenuDelay = -1 }},
		{`questions.xnic.gateway: gateway_of: there is no question "x"`, func(m *Manifest) { m.Questions[1].GatewayOf = "x" }},
		{`files[0].part: "swap"; expected efi or rig` + "\nfiles[1].path: boot/kernel/kernel is not in order, or there twice", func(m *Manifest) { m.Files[0].Part = RoleSwap }},
		{`files[2].path: "/rig/x"; expected a clean relative path` + "\nfiles[2].path: /rig/x is not in order, or there twice", func(m *Manifest) { m.Files[2].Path = "/rig/x" }},
		{"files[2].path: rig/answers.toml is not listed among the files", func(m *Manifest) { m.Files[2].Path = AnswersFile }},
		{"files[2].path: boot/kernel/kernel/x is below boot/kernel/kernel, which is a file", func(m *Manifest) { m.Files[2].Path = "boot/kernel/kernel/x" }},
		{"files[1].path: EFI/BOOT/BOOTX64.EFI is not in order, or there twice", func(m *Manifest) { m.Files[1] = m.Files[0] }},
		{`networks[1].address: there is no question "lan" of type cidr` + "\n" + `checks[1].to: "private.pg"; expected the question for a network's address, or for one within it`, func(m *Manifest) { m.Networks[1].Address = "lan" }},
		{"networks[0].trial.card: \"../x\"; expected the name of a file in /etc", func(m *Manifest) { m.Networks[0].Trial.Card = "../x" }},
		{"networks[1].trial: the network has no gateway to ask whether its settings work\nnetworks[1].trial.gateway: \"\"; expected the name of a file in /etc", func(m *Manifest) { m.Networks[0].Trial, m.Networks[1].Trial = nil, &Trial{Address: "a"} }},
		{`checks[0].from: "neighbours"; expected outside, martian, neighbour, or a question of type ip or net`, func(m *Manifest) { m.Checks[0].From[0] = "neighbours" }},
	} {
		m := sample()
		tt.edit(m)
		if err := m.Validate(); err == nil || err.Error() != tt.want {
			t.Errorf("got  %v\nwant %s", err, tt.want)
		}
		if _, err := m.Encode(); err == nil {
			t.Errorf("Encode accepts %q", tt.want)
		}
	}
}

func TestProblemsAllAtOnce(t *testing.T) {
	err := (&Manifest{}).Validate()
	var ps *diag.Problems
	if !errors.As(err, &ps) || len(ps.List) < 9 {
		t.Errorf("got %v", err)
	}
}

// FuzzDecode: nothing breaks it, and what it accepts it reproduces.
func FuzzDecode(f *testing.F) {
	good, err := os.ReadFile("testdata/manifest-v1.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"schema":1,"pool":{"props":{"a":"b"}},"questions":[{"default":[1,{"a":2}]}]}`))
	f.Add([]byte(`{"schema":1,"a":[[{}],"x",{"b":[]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(bytes.NewReader(data))
		if err != nil {
			_ = err.Error()
			return
		}
		b, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(bytes.NewReader(b))
		if err != nil {
			t.Fatalf("%v in\n%s", err, b)
		}
		c, err := again.Encode()
		if err != nil || !bytes.Equal(b, c) {
			t.Fatalf("%v\n%s\nbecame\n%s", err, b, c)
		}
	})
}

// On sectors of 4096 bytes the boot partition begins behind the larger table and ends
// where it ends on others; the other partitions are at the same places.
func TestPartsOn(t *testing.T) {
	b := Boot{ESPSize: 260 << 20, RigSize: 2 << 30}
	if got := b.PartsOn(512); !slices.Equal(got, b.Parts()) {
		t.Errorf("512: %+v", got)
	}
	got, want := b.PartsOn(4096), b.Parts()
	want[0].Start, want[0].Size = 6*4096, BootStart+BootSize-6*4096
	if !slices.Equal(got, want) {
		t.Errorf("4096: %+v", got)
	}
	for _, p := range got {
		if p.Start%4096 != 0 || p.Size%4096 != 0 {
			t.Errorf("%+v is not of whole sectors", p)
		}
	}
}
