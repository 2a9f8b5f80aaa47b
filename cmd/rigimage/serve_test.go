package main

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/pxe"
	"github.com/rig-freebsd/rig/internal/cli"
)

func testManifest(t *testing.T) *manifest.Manifest {
	t.Helper()
	f, err := os.Open("../../image/manifest/testdata/manifest-v1.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := manifest.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A machine's way, as the servers see it, is a few lines.
func TestServeReport(t *testing.T) {
	m := testManifest(t)
	base, jail := m.Layers[0], m.Layers[3]
	ip := netip.MustParseAddr("10.9.0.130")
	all := func(phase pxe.Phase, file string, size int64) pxe.Event {
		return pxe.Event{Phase: phase, File: file, Bytes: size, Total: size, Took: time.Second}
	}
	missing := func(file string) pxe.Event {
		return pxe.Event{Phase: pxe.HTTP, File: file, Err: fs.ErrNotExist}
	}
	way := []pxe.Event{
		{Phase: pxe.Discover, Client: "efi"}, {Phase: pxe.Offer, Client: "efi"}, {Phase: pxe.Address, Client: "efi"},
		all(pxe.TFTP, "boot/loader.efi", 665600),
		{Phase: pxe.Discover, Client: "loader"}, {Phase: pxe.Address, Client: "loader"},
		missing("boot/lua/local.lua"), all(pxe.TFTP, "boot/lua/loader.lua", 5), all(pxe.TFTP, "boot/lua/core.lua", 6), all(pxe.TFTP, "boot/loader.conf", 7),
		{Phase: pxe.TFTP, File: "boot/kernel/kernel", Bytes: 4096, Total: 65 << 20, Err: errors.New("dropped")},
		{Phase: pxe.TFTP, File: "boot/kernel/kernel", Bytes: 4 << 20, Total: 65 << 20},
		all(pxe.TFTP, "boot/kernel/kernel", 65<<20),
		all(pxe.HTTP, "boot/kernel/small.ko", 5000),
		{Phase: pxe.Address},
		all(pxe.HTTP, manifest.File, 9000),
		missing("rig/answers/52-54-00-12-34-56.toml"), all(pxe.HTTP, "rig/answers/default.toml", 300),
		{Phase: pxe.HTTP, File: base.Path(), Bytes: 64 << 10, Total: 64 << 10, Took: time.Millisecond}, // its end
		{Phase: pxe.HTTP, File: base.Path(), Bytes: base.Size / 2, Total: base.Size, Took: 8 * time.Second, Err: io.ErrShortWrite},
		{Phase: pxe.HTTP, File: base.Path(), Bytes: base.Size / 2, Total: base.Size / 2, Took: 8 * time.Second},
		all(pxe.HTTP, jail.Path(), jail.Size),
		all(pxe.HTTP, "boot/kernel/kernel", 65<<20),
		{Phase: pxe.Installed},
	}
	for i := range way {
		way[i].MAC, way[i].IP = "52:54:00:12:34:56", ip
	}
	const want = `52:54:00:12:34:56  10.9.0.130       boots by UEFI PXE
52:54:00:12:34:56  10.9.0.130       loads boot/loader.efi
52:54:00:12:34:56  10.9.0.130       runs the loader
52:54:00:12:34:56  10.9.0.130       loads boot/kernel/kernel  65 MiB
52:54:00:12:34:56  10.9.0.130       gets an address
52:54:00:12:34:56  10.9.0.130       runs the installer
52:54:00:12:34:56  10.9.0.130       takes the answers default.toml
52:54:00:12:34:56  10.9.0.130       fetches base layer  12 MiB/s
52:54:00:12:34:56  10.9.0.130       fetches jail layer pg_j  1 KiB/s
52:54:00:12:34:56  10.9.0.130       installed
`
	var out strings.Builder
	r := newServeReport(cli.Stdio{Out: &out, Getenv: func(string) string { return "" }}, m, false)
	for range 2 { // it is started again
		out.Reset()
		for _, e := range way {
			r.event(e)
		}
		if out.String() != want {
			t.Fatalf("got\n%s", &out)
		}
	}
	if r.installed != 2 {
		t.Errorf("%d installed", r.installed)
	}
}

// What goes wrong is told once, in red where there are colours.
func TestServeReportTrouble(t *testing.T) {
	var out strings.Builder
	r := newServeReport(cli.Stdio{Out: &out, Getenv: func(string) string { return "" }}, testManifest(t), false)
	r.ready.DHCP, r.colour = pxe.Proxy, true
	mac, ip := "52:54:00:12:34:56", netip.MustParseAddr("10.9.0.130")
	for range 2 {
		for _, e := range []pxe.Event{
			{Phase: pxe.Discover, MAC: mac, Err: errors.New("architecture 6 (32-bit UEFI): nothing to boot")},
			{Phase: pxe.Offer, MAC: mac, Client: "bios"},
			{Phase: pxe.Offer, MAC: mac, Err: errors.New("no address left in 10.9.0.1-10.9.0.2")},
			{Phase: pxe.Elsewhere, MAC: mac, IP: netip.MustParseAddr("10.9.0.77")},
			{Phase: pxe.HTTP, IP: ip, File: "rig/answers/default.toml", Err: fs.ErrNotExist},
		} {
			r.event(e)
		}
	}
	const want = "52:54:00:12:34:56                   \x1b[31mcannot be booted: architecture 6 (32-bit UEFI): nothing to boot\x1b[0m\n" +
		"52:54:00:12:34:56                   boots by BIOS PXE\n" +
		"52:54:00:12:34:56                   \x1b[31mgets no address: no address left in 10.9.0.1-10.9.0.2\x1b[0m\n" +
		"52:54:00:12:34:56                   \x1b[31mtook an address of another DHCP server, 10.9.0.77\x1b[0m\n" +
		"                   10.9.0.130       \x1b[31mfinds no answers: there is no file for it, and no default.toml\x1b[0m\n"
	if out.String() != want {
		t.Errorf("got\n%q", &out)
	}
}

func TestServeJSON(t *testing.T) {
	var out strings.Builder
	r := newServeReport(cli.Stdio{Out: &out, Getenv: func(string) string { return "" }}, testManifest(t), true)
	r.event(pxe.Event{Phase: pxe.Ready, IP: netip.MustParseAddr("10.9.0.1")})
	r.event(pxe.Event{Phase: pxe.HTTP, File: "a", Err: fs.ErrNotExist})
	r.event(pxe.Event{Phase: pxe.TFTP, MAC: "52:54:00:12:34:56", File: "a", Bytes: 5, Total: 9, Took: time.Second / 2})
	var got []map[string]any
	for line := range strings.Lines(out.String()) {
		v := map[string]any{}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatal(err)
		}
		got = append(got, v)
	}
	if len(got) != 3 || got[0]["image"] != "webrig-15.1-1a2b3c4d5e6f" || got[0]["ip"] != "10.9.0.1" || got[1]["error"] != "file does not exist" ||
		got[1]["ip"] != nil || got[2]["bytes"] != 5.0 || got[2]["seconds"] != 0.5 || got[2]["error"] != nil {
		t.Errorf("%s", &out)
	}
}
