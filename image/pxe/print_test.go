package pxe

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/referee"
)

var update = flag.Bool("update", false, "write testdata")

// printed is Print on a segment that this host need not have.
func printed(t *testing.T, kind string, o Options) string {
	t.Helper()
	o, err := o.complete(testSegment)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := kinds[kind](&b, o, testSegment); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestPrint(t *testing.T) {
	conf := map[string]string{"boot/loader.conf.local": "rig.url=\"{http}\"\nrig.done_url=\"{http}/rig/done\"\n"}
	full := Options{Dir: "/srv/rig", Files: conf, DHCP: Full, Lease: 2 * time.Hour, Router: netip.MustParseAddr("10.9.0.254"), DNS: []netip.Addr{netip.MustParseAddr("10.9.0.253")}}
	for _, c := range []struct {
		name, kind string
		o          Options
	}{
		{"dnsmasq-full.conf", "dnsmasq", full},
		{"dnsmasq-off.conf", "dnsmasq", Options{Dir: "/srv/rig", DHCP: Off, Ports: Ports{HTTP: 8000}}},
		{"nginx.conf", "nginx", Options{Dir: "/srv/rig", Files: conf, Answers: "/srv/answers", Ports: Ports{HTTP: 8000}}},
		{"boot.ipxe", "ipxe", Options{Dir: "/srv/rig", Files: conf}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := printed(t, c.kind, c.o)
			golden := filepath.Join("testdata", c.name)
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || got != string(want) {
				t.Errorf("%v; now it is\n%s", err, got)
			}
		})
	}
	var b bytes.Buffer
	o := Options{Dir: "/srv/rig", Listen: netip.MustParseAddr("127.0.0.1"), DHCP: Proxy}
	if err := Print(&b, "dnsmasq", o); err == nil || !strings.Contains(err.Error(), "its proxy mode cannot serve") || diag.HintOf(err) == "" {
		t.Error(err)
	}
	if err := Print(&b, "nginx", Options{Dir: "/srv/$x", Listen: o.Listen}); err == nil || !strings.Contains(err.Error(), `"/srv/$x": not a name`) {
		t.Error(err)
	}
	if err := Print(&b, "apache", o); err == nil || err.Error() != `print "apache": there are dnsmasq, nginx and ipxe` {
		t.Error(err)
	}
	if err := Print(&b, "ipxe", o); err != nil || !strings.Contains(b.String(), "http://127.0.0.1/boot/loader.efi") {
		t.Error(err, b.String())
	}
}

func TestPrintDnsmasqAccepted(t *testing.T) {
	referee.Need(t, "dnsmasq")
	for _, name := range []string{"dnsmasq-full.conf", "dnsmasq-off.conf"} {
		referee.Run(t, "dnsmasq", "--test", "--conf-file="+filepath.Join("testdata", name))
	}
}

func TestPrintNginxAccepted(t *testing.T) {
	referee.Need(t, "nginx")
	conf := nginxConfig(t, printed(t, "nginx", Options{Dir: t.TempDir() + `/a "b"`, Answers: `/a "b"`, Ports: Ports{HTTP: 8000}}))
	if out := referee.Run(t, "nginx", "-t", "-q", "-c", conf); out != "" {
		t.Error(out)
	}
}

// nginxConfig puts a server into a configuration without files outside of the test.
func nginxConfig(t testing.TB, server string) string {
	t.Helper()
	dir := t.TempDir()
	server = strings.Replace(server, "listen 10.9.0.1:", "listen 127.0.0.1:", 1)
	var b strings.Builder
	b.WriteString("daemon off; master_process off; error_log stderr; pid " + dir + "/pid; events {} http { access_log off;\n")
	for _, d := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		b.WriteString(d + "_temp_path " + dir + "/" + d + ";\n")
	}
	b.WriteString(server + "}\n")
	conf := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(conf, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return conf
}
