package facts

import (
	"net/netip"
	"reflect"
	"testing"
)

func TestParseIfconfig(t *testing.T) {
	got, err := NICs(readTestdata(t, "ifconfig.txt"))
	if err != nil {
		t.Fatal(err)
	}
	want := []NIC{
		{Device: "vtnet0", MAC: "52:54:00:12:34:56", Driver: "vtnet", Up: true, Link: true,
			Media: "Ethernet autoselect (10Gbase-T <full-duplex>)",
			Inet:  []netip.Prefix{netip.MustParsePrefix("192.0.2.155/29"), netip.MustParsePrefix("192.0.2.156/32")}},
		{Device: "igb1", MAC: "ac:1f:6b:00:00:01", Driver: "igb", Media: "Ethernet autoselect"},
		{Device: "xnic", MAC: "08:00:27:00:00:07", Driver: "em", Up: true, Link: true, Media: "Ethernet autoselect (1000baseT <full-duplex>)",
			Inet: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/24")}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if none, err := NICs(""); none != nil || err != nil {
		t.Errorf("no interfaces: %v, %v", none, err)
	}
}

func TestParseIfconfigErrors(t *testing.T) {
	const em0 = "em0: flags=8843<UP> metric 0 mtu 1500\n"
	tests := []struct{ in, want string }{
		{"\tether 52:54:00:12:34:56\n", `output of ifconfig, line 1: "\tether 52:54:00:12:34:56" belongs to no interface`},
		{"ifconfig: no such thing\n", `output of ifconfig, line 1: "ifconfig: no such thing" is not the first line of an interface`},
		{em0 + "\tether 52:54\n", "output of ifconfig, line 2: em0: address 52:54: invalid MAC address"},
		{em0 + "\tether\n", "output of ifconfig, line 2: em0: invalid MAC address"},
		{em0 + "\tinet\n", `output of ifconfig, line 2: em0: "inet" has no address`},
		{em0 + "\tinet 1.2.3\n", `output of ifconfig, line 2: em0: "inet 1.2.3" has no IPv4 address`},
		{em0 + "\tinet 1.2.3.4/33\n", `output of ifconfig, line 2: em0: "inet 1.2.3.4/33" has no IPv4 prefix`},
		{em0 + "\tinet 1.2.3.4\n", `output of ifconfig, line 2: em0: "inet 1.2.3.4" has no netmask`},
		{em0 + "\tinet 1.2.3.4 netmask 0xff00ff00\n", `output of ifconfig, line 2: em0: "inet 1.2.3.4 netmask 0xff00ff00": netmask 0xff00ff00 has holes`},
		{em0 + "\tinet 1.2.3.4 netmask x\n", `output of ifconfig, line 2: em0: "inet 1.2.3.4 netmask x": netmask x is not a netmask`},
	}
	for _, tt := range tests {
		_, err := ParseIfconfig(tt.in)
		if err == nil || err.Error() != tt.want {
			t.Errorf("\n got %v\nwant %s", err, tt.want)
		}
	}
}

func FuzzParseIfconfig(f *testing.F) {
	f.Add(readTestdata(f, "ifconfig.txt"))
	f.Add("em0: flags=0<>\n\tinet 1.2.3.4 --> 5.6.7.8 netmask 255.255.255.255\n")
	f.Fuzz(func(t *testing.T, s string) {
		nics, err := NICs(s)
		if err != nil {
			return
		}
		for _, n := range nics {
			if n.MAC == "" || n.Device == "" {
				t.Errorf("%+v", n)
			}
			for _, p := range n.Inet {
				if !p.IsValid() {
					t.Errorf("%s: invalid prefix", n.Device)
				}
			}
		}
	})
}
