package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/vm"
	"github.com/rig-freebsd/rig/internal/vm/lan"
	"github.com/rig-freebsd/rig/overlay"
	"github.com/rig-freebsd/rig/overlay/answers"
)

// webrigManifest is what an image says of the default profile's questions and networks.
func webrigManifest(t *testing.T) *manifest.Manifest {
	t.Helper()
	return profileManifest(t, overlay.Webrig())
}

func profileManifest(t *testing.T, profile fs.FS) *manifest.Manifest {
	t.Helper()
	cfg, err := image.LoadConfig(profile, image.ConfigFile)
	if err != nil {
		t.Fatal(err)
	}
	return &manifest.Manifest{Name: cfg.Name, Questions: cfg.Questions, Networks: cfg.Networks, Checks: cfg.Checks}
}

// testPair is the default site's pair without machines.
func testPair(t *testing.T, o pairOptions) *pair {
	t.Helper()
	return pairOf(t, o, webrigManifest(t))
}

func pairOf(t *testing.T, o pairOptions, m *manifest.Manifest) *pair {
	t.Helper()
	p := &pair{pairOptions: o, log: newLabels(&bytes.Buffer{}), consoles: newLabels(&bytes.Buffer{})}
	if _, err := p.describe(m); err != nil {
		t.Fatal(err)
	}
	for _, m := range p.members {
		m.server = &vm.Server{}
	}
	if err := p.network(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.unplug)
	return p
}

// fake is a server as its networks see it: it answers ARP, and for those packets
// that rule lets in with SYN and ACK where something listens, else with RST.
type fake struct {
	port   *lan.Port
	at     map[netip.Addr]net.HardwareAddr
	listen []uint16
	rule   func(src netip.Addr, port uint16) bool
}

func (f *fake) serve(ctx context.Context) {
	for {
		frame, err := f.port.Recv(ctx)
		if err != nil {
			return
		}
		if a, err := lan.ParseARP(frame); err == nil && a.Op == lan.ARPRequest && f.at[a.Target] != nil {
			f.port.Send(lan.ARP{Op: lan.ARPReply, SenderMAC: f.at[a.Target], Sender: a.Target, TargetMAC: a.SenderMAC, Target: a.Sender}.Frame())
		}
		p, err := lan.ParsePacket(frame)
		if err != nil || p.Proto != lan.TCP || p.Flags != lan.SYN || !f.rule(p.Src, p.DstPort) {
			continue
		}
		answer := lan.Packet{SrcMAC: p.DstMAC, DstMAC: p.SrcMAC, Src: p.Dst, Dst: p.Src, Proto: lan.TCP,
			SrcPort: p.DstPort, DstPort: p.SrcPort, Flags: lan.RST | lan.ACK, Ack: p.Seq + 1}
		if slices.Contains(f.listen, p.DstPort) {
			answer.Flags = lan.SYN | lan.ACK
		}
		f.port.Send(answer.Frame())
	}
}

// fakeServer puts fakes of a server on both networks. leak opens a port to all.
func fakeServer(t *testing.T, p *pair, i int, leak uint16, jailMAC byte) {
	t.Helper()
	m := p.members[i]
	own, err := net.ParseMAC(m.macs[0])
	if err != nil {
		t.Fatal(err)
	}
	inic, err := net.ParseMAC(m.macs[1])
	if err != nil {
		t.Fatal(err)
	}
	jail := func(n byte) net.HardwareAddr { return net.HardwareAddr{0x02, 0, 0, 0, jailMAC, n} }
	to := func(check string) netip.Addr { return packet(t, m, check).To }
	martian, admin := packet(t, m, "martian source").From, packet(t, m, "SSH host").From
	doors := []uint16{22, 2220, 2230, 2240}
	public := &fake{port: p.networks[0].sw.Attach(m.name), at: map[netip.Addr]net.HardwareAddr{to("web 443"): own}, listen: []uint16{22},
		rule: func(src netip.Addr, port uint16) bool {
			if src == martian {
				return false
			}
			return port == 80 || port == 443 || port == leak || slices.Contains(doors, port) && src == admin
		}}
	private := &fake{port: p.networks[1].sw.Attach(m.name), rule: func(netip.Addr, uint16) bool { return false },
		at: map[netip.Addr]net.HardwareAddr{to("private host"): inic, to("private node_j"): jail(1), to("private pg_j"): jail(2)}}
	go public.serve(t.Context())
	go private.serve(t.Context())
}

// packet is what a check sends to a member.
func packet(t *testing.T, m *member, check string) manifest.Packet {
	t.Helper()
	i := slices.IndexFunc(m.packets, func(k manifest.Packet) bool { return k.Check.Name == check })
	if i < 0 {
		t.Fatalf("there is no check %s", check)
	}
	return m.packets[i]
}

func TestChecks(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for silence")
	}
	for _, tt := range []struct {
		name  string
		o     pairOptions
		leak  uint16
		macB  byte
		wrong string // rows that fail
	}{
		{"as it should be", pairOptions{line: lan.Line{Loss: 0.05, Delay: time.Millisecond}}, 0, 1, ""},
		{"leaks", pairOptions{}, 8080, 0, "regb other ports: 8080 refused\nregb other ports: 8080 refused\n" +
			"both private MAC addresses: the same: 02:00:00:00:00:01: 2, 02:00:00:00:00:02: 2\n"},
		{"cut", pairOptions{line: lan.Line{Cut: true}}, 0, 1, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := testPair(t, tt.o)
			fakeServer(t, p, 0, 0, 0)
			fakeServer(t, p, 1, tt.leak, tt.macB)
			rows, err := p.checks(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var table bytes.Buffer
			printRows(&table, rows)
			wrong := ""
			for _, r := range rows {
				if !r.OK {
					wrong += fmt.Sprintf("%s %s: %s\n", r.Server, r.Check, r.Got)
				}
			}
			if wrong != tt.wrong {
				t.Errorf("failed:\n%swant\n%s%s", wrong, tt.wrong, &table)
			}
			if tt.name == "leaks" {
				golden(t, "pair.table", table.String())
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("RIG_UPDATE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// A pair of another profile: one network, which has the gateway too, and other names.
func TestOtherPair(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for silence")
	}
	profile := filepath.Join("testdata", "profiles", "twins")
	m := profileManifest(t, os.DirFS(profile))
	p := pairOf(t, pairOptions{site: filepath.Join(profile, siteName), lineOf: []string{"wire", "em0"}}, m)
	for i, want := range []string{"castor [52:54:00:72:69:a1]", "pollux [02:00:00:00:00:b0]"} {
		if got := fmt.Sprint(p.members[i].name, " ", p.members[i].macs); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for i, m := range p.members {
		operator := packet(t, m, "operators").From
		f := &fake{port: p.networks[0].sw.Attach(m.name), listen: []uint16{22},
			at: map[netip.Addr]net.HardwareAddr{packet(t, m, "address").To: {2, 0, 0, 0, 0, byte(i)}},
			rule: func(src netip.Addr, port uint16) bool {
				return port == 443 || port == 22 && src == operator || port == 6379 && i == 1
			}}
		go f.serve(t.Context())
	}
	rows, err := p.checks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var table bytes.Buffer
	printRows(&table, rows)
	golden(t, "pair_twins.table", table.String())
}

// What a pair cannot be simulated by is said, with what is missing.
func TestPairRefuses(t *testing.T) {
	twins := filepath.Join("testdata", "profiles", "twins")
	other := filepath.Join(twins, siteName)
	for _, tt := range []struct {
		name string
		o    pairOptions
		edit func(*manifest.Manifest)
		want string
	}{
		{"no link", pairOptions{site: other}, func(m *manifest.Manifest) { m.Networks[0].Link = false }, "run --pair: rig.toml of profile twins has no network that joins two servers"},
		{"no networks", pairOptions{site: other}, func(m *manifest.Manifest) { m.Networks, m.Checks = nil, nil }, "run --pair: rig.toml of profile twins has no network that joins two servers"},
		{"another line", pairOptions{site: other, lineOf: []string{"inic"}}, func(*manifest.Manifest) {}, "run --pair: there is no line inic; the network that joins the servers is wire, on em0"},
		{"no site", pairOptions{}, func(*manifest.Manifest) {}, "run --pair: no site file given, and the image is of profile twins"},
		{"no sender", pairOptions{site: other}, func(m *manifest.Manifest) { m.Checks[0].From = []string{"ops.none"} }, "run --pair: server castor: check HTTPS: no address in ops.none to try it from"},
	} {
		m := profileManifest(t, os.DirFS(twins))
		m.Questions = append(m.Questions, answers.Question{Key: "ops.none", Type: answers.IP, List: true})
		tt.edit(m)
		if _, err := (&pair{pairOptions: tt.o}).describe(m); err == nil || err.Error() != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		}
	}
}

// A server that does not answer fails where something must pass, and the checks
// end when they are told to.
func TestChecksCancelled(t *testing.T) {
	p := testPair(t, pairOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if rows, err := p.checks(ctx); err == nil || !strings.Contains(err.Error(), "context deadline exceeded") {
		t.Errorf("%v %v", rows, err)
	}
}

func TestMembers(t *testing.T) {
	p := testPair(t, pairOptions{})
	for i, want := range []string{
		"a rega [52:54:00:72:69:a1 52:54:00:72:69:a2] [RIG-D1 RIG-D2 RIG-D3 RIG-D4] 10.0.0.110 10.0.0.1 192.168.56.30 203.0.113.8",
		"b regb [52:54:00:72:69:b1 52:54:00:72:69:b2] [RIG-D1 RIG-D2 RIG-D3 RIG-D4] 10.0.0.111 10.0.0.1 192.168.56.31 203.0.113.8",
	} {
		m := p.members[i]
		web, tunnels := packet(t, m, "web 443"), packet(t, m, "tunnels node_j")
		if got := fmt.Sprint(m.letter, " ", m.name, " ", m.macs, " ", m.serials, " ", web.To, " ", m.gateways[0], " ", tunnels.To, " ", packet(t, m, "SSH host").From); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		if got := tunnels.From.String(); got != "192.168.56.1" {
			t.Errorf("a neighbour has %v", got)
		}
	}
}

func TestSimulatedDisks(t *testing.T) {
	for _, tt := range []struct {
		wish          answers.DiskWish
		serials, then string
	}{
		{answers.DiskWish{Rule: answers.RuleLargestEqual}, "RIG-D1 RIG-D2 RIG-D3 RIG-D4", ""},
		{answers.DiskWish{Mirror: []string{"serial:A", "serial:B"}, Spares: []string{"serial:C"}, Wipe: true}, "A B C RIG-D4", ""},
		{answers.DiskWish{Mirror: []string{"ada0", "serial:B"}}, "RIG-D1 B RIG-D3 RIG-D4", "serial:RIG-D1 serial:B"},
		{answers.DiskWish{Mirror: []string{"serial:X", "serial:" + strings.Repeat("L", 21)}}, "X RIG-D2 RIG-D3 RIG-D4", "serial:X serial:RIG-D2"},
	} {
		w := tt.wish
		before := fmt.Sprint(tt.wish)
		serials, changed := simulatedDisks(&w)
		if got := strings.Join(serials, " "); got != tt.serials {
			t.Errorf("%v: serials %s, want %s", tt.wish, got, tt.serials)
		}
		if changed != (tt.then != "") || changed && strings.Join(w.Mirror, " ") != tt.then {
			t.Errorf("%v: changed %v to %v", tt.wish, changed, w)
		}
		if fmt.Sprint(tt.wish) != before {
			t.Errorf("the site's own wish was changed to %v", tt.wish)
		}
	}
}

func TestParsePercent(t *testing.T) {
	for in, want := range map[string]float64{"0%": 0, "5%": 0.05, "2.5%": 0.025, "100%": 1, "5": -1, "101%": -1, "-1%": -1, "NaN%": -1, "%": -1} {
		got, err := parsePercent(in)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %v %v", in, got, err)
		}
	}
}

func TestLabels(t *testing.T) {
	var b bytes.Buffer
	l := newLabels(&b)
	l.add("rega")
	l.print("rega", "login: ")
	l.print("rig", "up")
	l.color = true
	l.print("rega", "x")
	if want := "rega│ login: \nrig │ up\n\x1b[36mrega│\x1b[0m x\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

// demoImage builds an image without FreeBSD in dir.
func demoImage(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	var out, errs bytes.Buffer
	args = append([]string{"build", "--demo", "--cache", filepath.Join(dir, "cache"), "-o", path}, args...)
	if status := runMain(args, cli.Stdio{Out: &out, Err: &errs, Getenv: os.Getenv}); status != 0 {
		t.Fatalf("build: status %d\n%s", status, &errs)
	}
	return path
}

func TestPairImage(t *testing.T) {
	if testing.Short() {
		t.Skip("builds images")
	}
	t.Chdir("../..")
	dir := t.TempDir()
	plain := demoImage(t, dir, "plain.img")
	t.Run("stick", func(t *testing.T) { testStick(t, dir, plain) })
	t.Run("run", func(t *testing.T) { testRunPair(t, plain) })
}

// A stick made of an image without answers is, byte for byte, the image that is
// built with them.
func testStick(t *testing.T, dir, plain string) {
	s, err := loadPairSite(pairOptions{}, webrigManifest(t))
	if err != nil {
		t.Fatal(err)
	}
	m, err := newMember(s, webrigManifest(t).Reach(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.generate(dir, func(string) {}); err != nil {
		t.Fatal(err)
	}
	text, err := m.answers(s)
	if err != nil {
		t.Fatal(err)
	}
	file, stick := filepath.Join(dir, "a.toml"), filepath.Join(dir, "stick.img")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := vm.WriteStick(stick, plain, manifest.AnswersFile, text); err != nil {
		t.Fatal(err)
	}
	if !sameFile(t, stick, demoImage(t, dir, "answers.img", "--answers", file)) {
		t.Error("the stick differs from the image built with the same answers")
	}
	in, err := imageManifest(t.Context(), stick)
	if err != nil {
		t.Fatal(err)
	}
	if want := webrigManifest(t); len(in.Questions) != len(want.Questions) || !reflect.DeepEqual(in.Reach(), want.Reach()) {
		t.Errorf("in the image: %d questions, %v", len(in.Questions), in.Reach())
	}
	set, err := answers.Resolve(in.Questions, answers.Source{Name: "a.toml", Data: text})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.CheckUnattended(); err != nil || !set.Bool(answers.KeyUnattended) {
		t.Errorf("the answers do not do for an unattended install: %v", err)
	}
}

// screen is an output that a test reads while it is written.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// testRunPair runs the command with a program for QEMU that behaves as an
// installation and a server do.
func testRunPair(t *testing.T, img string) {
	qemu := filepath.Join(t.TempDir(), "fakeqemu")
	if out, err := exec.Command("go", "build", "-o", qemu, "./cmd/rigimage/testdata/fakeqemu").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	temp, keep := t.TempDir(), filepath.Join(t.TempDir(), "keep")
	t.Setenv("RIG_QEMU", qemu)
	t.Setenv("RIG_ACCEL", "tcg")
	t.Setenv("RIG_VM_DIR", temp)
	args := []string{"run", img, "--pair", "--bios", "--disk-size", "1m"}

	// From the stick to the checks, in a directory that goes.
	var out, errs screen
	err := dispatch(t.Context(), append(args, "--check", "--json"), cli.Stdio{Out: &out, Err: &errs, Getenv: os.Getenv})
	if err != nil {
		t.Fatalf("%v\n%s%s", err, &errs, &out)
	}
	var table struct{ Checks []row }
	if err := json.Unmarshal([]byte(out.String()), &table); err != nil || len(table.Checks) != 33 {
		t.Errorf("%d checks, %v", len(table.Checks), err)
	}
	for _, want := range []string{"rig │ rega: installing\n", "regb│ rig: step 2/2 switch: flip the switches\n", "rig │ regb: step 2/2 switch: flip the switches\n",
		"rig │ rega: installed\n", "rig │ rega: booting\n", "rig │ rega: up\n", "rig │ regb: secrets.root_hash, made for this run: "} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("%q is not in\n%s", want, &errs)
		}
	}
	if left, _ := os.ReadDir(temp); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	// Kept, with ports of this host, until Ctrl-C; then what is installed boots.
	for _, first := range []bool{true, false} {
		out, errs = screen{}, screen{}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- dispatch(ctx, append(args, "--keep", keep, "--inic-loss", "5%"), cli.Stdio{Out: &out, Err: &errs, Getenv: os.Getenv})
		}()
		waitFor(t, &errs, "Ctrl-C cuts the power of both")
		if addr := regexp.MustCompile(`(127\.0\.0\.1:\d+) leads to regb, 10\.0\.0\.111:443`).FindStringSubmatch(errs.String()); addr == nil {
			t.Errorf("no port leads to regb:\n%s", &errs)
		} else if got := readAll(t, addr[1]); got != "this is regb\n" {
			t.Errorf("at %s: %q", addr[1], got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("after Ctrl-C: %v", err)
		}
		if got := strings.Contains(errs.String(), "made for this run"); got != first {
			t.Errorf("first run %v, passwords shown %v", first, got)
		}
		if got := strings.Contains(errs.String(), "installing"); got != first {
			t.Errorf("first run %v, installed %v", first, got)
		}
		if !strings.Contains(out.String(), "\nok  both    private MAC addresses") {
			t.Errorf("no table:\n%s", &out)
		}
	}
	if fi, err := os.Stat(filepath.Join(keep, pairSecrets)); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("the secrets kept: %v %v", fi, err)
	}
}

func waitFor(t *testing.T, s *screen, text string) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !strings.Contains(s.String(), text); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no %q in\n%s", text, s)
		}
	}
}

func readAll(t *testing.T, addr string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Error(err)
	}
	return string(b)
}

func TestRunPairRefuses(t *testing.T) {
	t.Chdir(t.TempDir())
	for name, text := range map[string]string{"text.img": "this is no image", "bad.toml": "schema = 1\n[a.server]\nnam = \"x\"\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ args, want string }{
		{"", "stat rig.img: no such file or directory"},
		{"text.img", "text.img: it is no image that rigimage built: "},
		{"text.img --inic-loss 5", "--inic-loss 5: expected 0% to 100%"},
		{"text.img --inic-delay=-1s", "--inic-delay -1s: less than nothing"},
		{"text.img --inic-delay soon", "--inic-delay soon: expected a time, as 20ms"},
		{"text.img --mem lots", "--mem lots: "},
		{"text.img --disks 3", "flag provided but not defined: -disks"},
		{"text.img other.img", "unexpected argument \"other.img\""},
	} {
		var out, errs bytes.Buffer
		status := runMain(append([]string{"run", "--pair"}, strings.Fields(tt.args)...), cli.Stdio{Out: &out, Err: &errs, Getenv: os.Getenv})
		if status != 2 || !strings.Contains(errs.String(), "rigimage: error: "+tt.want) {
			t.Errorf("%s: status %d, %s", tt.args, status, &errs)
		}
	}
	if _, err := loadPairSite(pairOptions{site: "bad.toml"}, webrigManifest(t)); err == nil || !strings.Contains(err.Error(), "bad.toml:3:") {
		t.Errorf("a bad site: %v", err)
	}
	if err := os.WriteFile("bad.toml", []byte("schema = 1\n[a.server]\nname = \"x\"\n[b.server]\nname = \"y\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadPairSite(pairOptions{site: "bad.toml"}, webrigManifest(t)); err == nil || !strings.HasPrefix(err.Error(), "bad.toml: no answers to a.server.domain, ") {
		t.Errorf("gaps: %v", err)
	}
}

// sameFile compares large sparse files.
func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	fa, err := os.Open(a)
	if err != nil {
		t.Fatal(err)
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		t.Fatal(err)
	}
	defer fb.Close()
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, _ := fa.Read(x)
		k, _ := fb.Read(y)
		if !bytes.Equal(x[:n], y[:k]) {
			return false
		}
		if n == 0 {
			return true
		}
	}
}
