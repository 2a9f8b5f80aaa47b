package health

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/firstboot"
	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/fakebsd"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/zfs"
)

// words is a row in one line, for comparisons.
func (c Check) words() string {
	s := string(c.Result) + " " + c.Check + ": " + c.Detail
	if c.Remedy != "" {
		s += " -> " + c.Remedy
	}
	return s
}

func wantRows(t *testing.T, got []Check, want ...string) {
	t.Helper()
	var lines []string
	for _, c := range got {
		lines = append(lines, c.words())
	}
	if g, w := strings.Join(lines, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func wantText(t *testing.T, err error, want string) {
	t.Helper()
	if got := errors.Join(err); err == nil && want != "" || err != nil && got.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

// server is a machine that riginstall installed and that runs: root is its file
// system, and answer what its programs print, by command.
type server struct {
	*fakebsd.Machine
	root   string
	lines  []string // commands in the order Verify runs them
	answer map[string]run.Expect
	now    time.Time
}

const (
	hostRC = `gateway_enable=YES
ifconfig_xnic='inet 10.0.0.110/24'
defaultrouter=10.0.0.1
ntpd_enable=YES
pf_enable=YES
pf_flags=''
pf_rules=/etc/pf.conf
rc_conf_files='/etc/rc.conf /etc/rc.conf.local'
`
	jailRC = `defaultrouter=10.0.2.1
ifconfig_lo0='inet 127.0.0.1/8'
ifconfig_pg_b='inet 10.0.2.40/24'
rc_conf_files='/etc/rc.conf /etc/rc.conf.local'
spiped_enable=YES
spiped_pipe_PGS_mode=decrypt
spiped_pipe_PGS_source='[192.168.56.40]:5434'
spiped_pipe_PGS_target='[192.168.56.40]:5432'
spiped_pipes=PGS
`
	hostIfconfig = "xnic: flags=1008843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST,LOWER_UP> metric 0 mtu 1500\n" +
		"\tether 52:54:00:00:0a:01\n\tinet 10.0.0.110/24 broadcast 10.0.0.255\n\tmedia: Ethernet autoselect (10Gbase-T <full-duplex>)\n\tstatus: active\n" +
		"lo0: flags=1008049<UP,LOOPBACK,RUNNING,MULTICAST,LOWER_UP> metric 0 mtu 16384\n\tinet 127.0.0.1/8\n\tgroups: lo\n"
	jailIfconfig = "lo0: flags=1008049<UP,LOOPBACK,RUNNING,MULTICAST,LOWER_UP> metric 0 mtu 16384\n\tinet 127.0.0.1/8\n" +
		"pg_b: flags=1008843<UP,BROADCAST,RUNNING,SIMPLEX,MULTICAST,LOWER_UP> metric 0 mtu 1500\n\tether 2e:62:56:4f:2c:ff\n\tinet 10.0.2.40/24 broadcast 10.0.2.255\n\tstatus: active\n"
)

func routes(gateway, dev string) string {
	return `{"__version": "1", "statistics":{"route-information":{"route-table":{"rt-family":[{"address-family":"Internet","rt-entry":[` +
		`{"destination":"default","gateway":"` + gateway + `","flags":"UGS","weight":1,"interface-name":"` + dev + `"},` +
		`{"destination":"127.0.0.1","gateway":"link#1","flags":"UH","weight":1,"interface-name":"lo0"}]}]}}}}`
}

// newServer is the machine after its first boot, when all is well.
func newServer(t *testing.T) *server {
	t.Helper()
	f := fakebsd.New(t, true)
	var out bytes.Buffer
	in := &firstboot.Installer{Root: f.Root, Out: &out, Run: f, Log: firstboot.NewJournal(&out), Prober: facts.Prober{Run: f, OpenDisk: f.Open}, Datasets: f.Datasets}
	if _, err := in.Install(context.Background()); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	s := &server{Machine: f, root: filepath.Join(f.Root, "mnt"), answer: map[string]run.Expect{}}
	f.Check(os.MkdirAll(filepath.Join(s.root, "dev/gpt"), 0o755))
	for _, d := range f.Disks[:4] {
		for i, role := range map[int]manifest.Role{2: manifest.RoleESP, 3: manifest.RoleRig} {
			f.Check(os.Symlink(f.Dev(f.Part(d.Name, i).Name), filepath.Join(s.root, "dev/gpt", string(role)+"-"+d.Serial)))
		}
	}
	var res place.Result
	b, err := os.ReadFile(filepath.Join(s.root, place.ResultDir, "result.json"))
	f.Check(errors.Join(err, json.Unmarshal(b, &res)))
	s.now = res.Finished.Add(3 * 24 * time.Hour)
	s.put("usr/local/bin/spiped", "", 0o755)
	s.programs()
	return s
}

// roots are the datasets of the server's boot environment.
func (s *server) roots(string) ([]zfs.DatasetInfo, error) {
	be := s.Unit().Root()
	return []zfs.DatasetInfo{{Name: s.PoolName + "/ROOT"}, {Name: be}, {Name: be + "/jails"}, {Name: be + "/jails/pg_j"}}, nil
}

// put writes a file, in the jail pg_j when its name does not begin with etc.
func (s *server) put(name, content string, mode os.FileMode) {
	s.T.Helper()
	if !strings.HasPrefix(name, "etc") {
		name = "jails/pg_j/" + name
	}
	full := filepath.Join(s.root, name)
	s.Check(os.MkdirAll(filepath.Dir(full), 0o755))
	s.Check(os.WriteFile(full, []byte(content), mode))
}

func (s *server) say(line, stdout string) {
	s.lines = append(s.lines, line)
	s.answer[line] = run.Expect{Line: line, Stdout: stdout}
}

// programs are all that Verify runs on this machine.
func (s *server) programs() {
	be, pool := s.Unit().Root(), s.PoolName
	s.say("zfs list -H -o name /", be+"\n")
	s.say("zpool status -j --json-int "+pool, fakebsd.HealthyPool(s.T, pool))
	s.say("sysctl -b kern.geom.confxml", s.Confxml())
	s.say("swapinfo -k", "Device          1K-blocks     Used    Avail Capacity\n/dev/gpt/swap-S1.eli   65536        0    65536     0%\n"+
		"/dev/gpt/swap-S2.eli   65536        0    65536     0%\nTotal              131072        0   131072     0%\n")
	s.say("zfs list -H -o name /", be+"\n")
	s.say("zpool get -Hp -o value bootfs "+pool, be+"\n")
	s.say("zfs get -Hp -o value mounted,mountpoint "+be, "yes\n/\n")
	s.say("jail -f /etc/jail.conf -e '\t'", "name=pg_j\tpath=/jails/pg_j\tvnet\texec.start=\"/bin/sh /etc/rc\"\tvnet.interface=pg_b\n")
	s.say("jls --libxo json -n name path vnet", `{"__version": "2", "jail-information": {"jail": [{"name":"pg_j","path":"/jails/pg_j","vnet":"new"}]}}`)
	s.say("service zfsd onestatus", "zfsd is running as pid 812.\n")
	s.say("/bin/sh -c '"+rcScript+"'", hostRC)
	s.say("ifconfig -f inet:cidr", hostIfconfig)
	s.say("netstat --libxo json -rn4", routes("10.0.0.1", "xnic"))
	s.say("jexec pg_j /bin/sh -c '"+rcScript+"'", jailRC)
	s.say("ifconfig -j pg_j -f inet:cidr", jailIfconfig)
	s.say("netstat --libxo json -rn4 -j pg_j", routes("10.0.2.1", "pg_b"))
	s.say("sysctl -n net.inet.ip.forwarding", "1\n")
	s.say("pfctl -si", "Status: Enabled for 3 days 00:12:44           Debug: Urgent\n\nState Table\n")
	s.say("pfctl -Pnv -f /etc/pf.conf", "block drop all\n")
	s.say("pfctl -Psr", "block drop all\n")
	s.say("pfctl -Psn", "")
	s.say("pfctl -vsI", "all\nlo\nlo0\nxnic\n")
	s.say("sockstat --libxo json -n -l -4 -P tcp -j pg_j", `{"__version": "1", "sockstat": {"socket": [`+
		`{"user":259,"command":"spiped","pid":1201,"fd":5,"proto":"tcp4","local":{"address":"192.168.56.40","port":5434},"foreign":{"address":"*","port":0}}]}}`)
	s.say("ntpq -pn", ntpq("*"))
}

func ntpq(mark string) string {
	return "     remote           refid      st t when poll reach   delay   offset  jitter\n" + strings.Repeat("=", 78) + "\n" +
		mark + "162.159.200.1   10.78.8.147      3 u   26   64  377    4.123   -0.541   0.300\n" +
		"+162.159.200.123 10.78.8.147      3 u   30   64  377    4.201   -0.611   0.280\n"
}

// verify runs Verify against the commands but those that begin with a prefix of
// never.
func (s *server) verify(never ...string) []Check {
	s.T.Helper()
	var script []run.Expect
	for _, line := range s.lines {
		if !slices.ContainsFunc(never, func(p string) bool { return strings.HasPrefix(line, p) }) {
			script = append(script, s.answer[line])
		}
	}
	got, err := Verify(context.Background(), VerifyInput{Run: run.NewScript(s.T, script...), Root: s.root, Now: s.now, Datasets: s.roots})
	s.Check(err)
	return got
}

// golden compares the table of checks with a file.
func (s *server) golden(name string, checks []Check) {
	s.T.Helper()
	var b bytes.Buffer
	s.Check(WriteChecks(&b, checks, false))
	got := strings.ReplaceAll(b.String(), s.Man.Image, "IMAGE")
	got = strings.ReplaceAll(strings.ReplaceAll(got, s.Machine.Root, ""), s.PoolName, "POOL")
	for _, l := range s.Man.Layers {
		got = strings.ReplaceAll(got, l.SHA256, "LAYER-"+string(l.Role))
	}
	file := filepath.Join("testdata", name+".txt")
	if os.Getenv("RIG_UPDATE") != "" {
		s.Check(os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	s.Check(err)
	if got != string(want) {
		s.T.Errorf("%s (RIG_UPDATE=1 rewrites it) differs:\n%s", file, got)
	}
}

func TestVerifyHealthy(t *testing.T) {
	s := newServer(t)
	got := s.verify()
	if n := Count(got); n.Errors+n.Warnings > 0 {
		t.Errorf("a healthy server has %s", n)
	}
	s.golden("healthy", got)

	var b bytes.Buffer
	s.Check(WriteChecksJSON(&b, got))
	var back struct {
		Counts Counts
		Checks []Check
	}
	if err := json.Unmarshal(b.Bytes(), &back); err != nil || back.Counts != Count(got) || !slices.Equal(back.Checks, got) {
		t.Errorf("JSON %v:\n%s", err, b.String())
	}
}

// Nothing that Verify runs or reads changes anything.
func TestVerifyOnlyReads(t *testing.T) {
	s := newServer(t)
	before, err := os.ReadFile(s.Dev("vtbd0p3"))
	s.Check(err)
	s.verify()
	after, err := os.ReadFile(s.Dev("vtbd0p3"))
	s.Check(err)
	if !bytes.Equal(before, after) {
		t.Error("the rig partition was written to")
	}
}

func TestVerifyBroken(t *testing.T) {
	s := newServer(t)
	s.Flip("vtbd1p3", manifest.MFSRoot)
	s.Check(os.Remove(filepath.Join(s.root, "dev/gpt/rig-S3")))
	s.Check(os.Rename(filepath.Join(s.root, "dev/gpt/rig-S4"), filepath.Join(s.root, "dev/gpt/installing-S4")))
	s.put("etc/pf.conf", "pass\n", 0o644)
	s.put("etc/sysctl.conf", "net.link.bridge.pfil_member=1 # both\nkern.randompid=1\n", 0o644)
	s.put("var/db/rig/net", "", 0o644)
	s.Check(os.Remove(filepath.Join(s.root, "jails/pg_j/etc/key")))
	s.Check(os.Remove(filepath.Join(s.root, "etc/hostname")))
	s.Check(os.Symlink("/etc/passwd", filepath.Join(s.root, "etc/hostname")))
	s.say("swapinfo -k", "Device 1K-blocks Used Avail Capacity\n/dev/gpt/swap-S1 65536 0 65536 0%\n")
	s.lines = s.lines[:len(s.lines)-1]
	s.answer["jls --libxo json -n name path vnet"] = run.Expect{Line: "jls --libxo json -n name path vnet",
		Stdout: `{"__version": "2", "jail-information": {"jail": []}}`}
	s.answer["service zfsd onestatus"] = run.Expect{Line: "service zfsd onestatus", Status: 1, Stderr: "zfsd is not running."}
	s.answer["netstat --libxo json -rn4"] = run.Expect{Line: "netstat --libxo json -rn4", Stdout: "Routing tables\n"}
	s.answer["pfctl -Psr"] = run.Expect{Line: "pfctl -Psr", Stdout: "pass all flags S/SA keep state\n"}
	s.answer["ntpq -pn"] = run.Expect{Line: "ntpq -pn", Status: 1, Stderr: "ntpq: read: Connection refused"}
	at := slices.Index(s.lines, "sysctl -n net.inet.ip.forwarding")
	bridge := "sysctl -n net.link.bridge.pfil_member"
	s.lines = slices.Insert(s.lines, at+1, bridge)
	s.answer[bridge] = run.Expect{Line: bridge, Stdout: "0\n"}
	s.golden("broken", s.verify("jexec", "ifconfig -j", "netstat --libxo json -rn4 -j", "sockstat"))
}

// No program answers: every row that depends on one is an error, none is "ok".
func TestVerifyNothingAnswers(t *testing.T) {
	s := newServer(t)
	got, err := Verify(context.Background(), VerifyInput{Run: mute{}, Root: s.root, Now: s.now})
	s.Check(err)
	for _, c := range got {
		if c.Result == OK && c.Area != "files" {
			t.Errorf("%s", c.words())
		}
	}
	s.golden("mute", got)
}

// mute is a machine without programs.
type mute struct{}

func (mute) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	return nil, &run.Error{Argv: c.Argv, Status: -1, Err: errors.New("executable file not found in $PATH")}
}

// A program that prints what is not known is an error, whichever it is.
func TestVerifyStrangeOutput(t *testing.T) {
	s := newServer(t)
	healthy := Count(s.verify())
	for _, line := range s.lines {
		if strings.HasPrefix(line, "service") { // its exit status counts
			continue
		}
		got, err := Verify(context.Background(), VerifyInput{Run: strange{s, line}, Root: s.root, Now: s.now, Datasets: s.roots})
		s.Check(err)
		if n := Count(got); n.Errors <= healthy.Errors {
			t.Errorf("%s: strange output counts as %s", line, n)
		}
	}
}

// strange answers as the server does, but for one command.
type strange struct {
	s    *server
	line string
}

func (x strange) Run(_ context.Context, c run.Cmd) ([]byte, error) {
	if c.String() == x.line {
		return []byte("something else altogether\n"), nil
	}
	return []byte(x.s.answer[c.String()].Stdout), nil
}

func TestVerifyElsewhere(t *testing.T) {
	root := t.TempDir()
	_, err := Verify(context.Background(), VerifyInput{Run: mute{}, Root: root})
	wantText(t, err, "verify: this is not a system riginstall made: open "+root+"/var/db/rig/manifest.json: no such file or directory")

	s := newServer(t)
	s.Check(os.WriteFile(filepath.Join(s.root, place.ResultDir, "result.json"), []byte("{"), 0o600))
	_, err = Verify(context.Background(), VerifyInput{Run: mute{}, Root: s.root})
	wantText(t, err, "verify: /var/db/rig/result.json: unexpected end of JSON input")

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s = newServer(t)
	if _, err := Verify(ctx, VerifyInput{Run: mute{}, Root: s.root}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWriteChecks(t *testing.T) {
	checks := []Check{
		{"pool", "data", Failed, "3 errors", "restore"},
		{"boot", "S1", OK, "boots", ""},
		{"time", "ntpd", Warning, "no server", ""},
		{"pool", "mirror", OK, "of 2", ""},
		{"swap", "swap", Skipped, "none", ""},
	}
	want := `boot
  ok       S1      boots
swap
  skipped  swap    none
time
  warning  ntpd    no server
pool
  error    data    3 errors
                   -> restore
  ok       mirror  of 2
2 ok, 1 warning, 1 error, 1 skipped
`
	var b bytes.Buffer
	if err := WriteChecks(&b, checks, false); err != nil || b.String() != want {
		t.Errorf("%v\n%s", err, b.String())
	}
	b.Reset()
	if err := WriteChecks(&b, checks, true); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"  \x1b[1;31merror  \x1b[0m  data", "  \x1b[32mok     \x1b[0m  S1", "  \x1b[33mwarning\x1b[0m  ntpd", "  skipped  swap"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in %q", want, b.String())
		}
	}
}
