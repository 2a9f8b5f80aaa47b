package network

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
)

func TestNICs(t *testing.T) {
	f := &facts.Facts{NICs: []facts.NIC{{Device: "igb0", MAC: "02:00:00:00:00:01"}, {Device: "igb1", MAC: "02:00:00:00:00:02", Link: true}, {Device: "igb2", MAC: "02:00:00:00:00:03", Link: true}}}
	m := &manifest.Manifest{Questions: []answers.Question{{Key: "x.nic", Type: answers.NIC}, {Key: "i.nic", Type: answers.NIC}, {Key: "other", Type: answers.Int}}}
	const present = "; present are igb0 02:00:00:00:00:01, igb1 02:00:00:00:00:02, igb2 02:00:00:00:00:03"
	for _, tt := range []struct{ x, i, want string }{
		{"mac:02:00:00:00:00:01", "igb1", "igb0 igb1"},
		{"auto", "igb1", "igb2 igb1"}, // what is named is not what auto takes
		{"mac:02:00:00:00:00:09", "igb0", "a: x.nic: no interface matches mac:02:00:00:00:00:09" + present},
		{"igb0", "mac:02:00:00:00:00:01", "a: i.nic: igb0 02:00:00:00:00:01 is x.nic already"},
		{"auto", "", "a: x.nic: 2 interfaces match auto" + present},
		{"em0", "em1", "a: x.nic: no interface matches em0" + present + "\na: i.nic: no interface matches em1" + present},
	} {
		values := map[string]string{"x.nic": tt.x}
		if tt.i != "" {
			values["i.nic"] = tt.i
		}
		set, err := answers.Resolve(m.Questions, answers.Source{Name: "a", Values: values})
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := Resolve(f, m, set); err != nil {
			got = err.Error()
		} else {
			got = set.NIC("x.nic").Device + " " + set.NIC("i.nic").Device
		}
		if got != tt.want {
			t.Errorf("%s, %s:\ngot  %s\nwant %s", tt.x, tt.i, got, tt.want)
		}
	}
	if _, err := FindNIC(&facts.Facts{}, answers.NICMatch{}, nil); err == nil || err.Error() != "no network interface is present" {
		t.Error(err)
	}
}

// "auto" among several cards with a link is the one on which the gateway answers.
func TestAutoNIC(t *testing.T) {
	m := &manifest.Manifest{Questions: []answers.Question{
		{Key: "xnic.match", Type: answers.NIC}, {Key: "xnic.inet", Type: answers.CIDR}, {Key: "xnic.gateway", Type: answers.IP, GatewayOf: "xnic.inet"}},
		Networks: []manifest.Network{{Name: "public", Interface: "xnic", NIC: "xnic.match", Address: "xnic.inet", Gateway: "xnic.gateway"}}}
	const before = "em0: flags=8802<BROADCAST>\n\tether 02:00:00:00:00:01\n\tstatus: no carrier\n" +
		"em1: flags=8843<UP>\n\tether 02:00:00:00:00:02\n\tstatus: active\n"
	after := strings.NewReplacer("8802<", "8843<UP,", "no carrier", "active").Replace(before)
	for _, tt := range []struct {
		segment segment
		want    string
	}{
		{segment{"em0 192.0.2.1": true}, "em0"},
		{segment{"em1 192.0.2.1": true}, "em1"},
		{segment{}, "2 interfaces match auto"},
		{segment{"em0 192.0.2.1": true, "em1 192.0.2.1": true}, "2 interfaces match auto"},
	} {
		set, err := answers.Resolve(m.Questions, answers.Source{Name: "a", Values: map[string]string{
			"xnic.match": "auto", "xnic.inet": "192.0.2.10/24", "xnic.gateway": "192.0.2.1"}})
		if err != nil {
			t.Fatal(err)
		}
		nics, err := facts.NICs(before)
		if err != nil {
			t.Fatal(err)
		}
		f := &facts.Facts{NICs: nics}
		c := Cards{Facts: f, Who: tt.segment.who, Run: run.NewScript(t,
			run.Expect{Line: "ifconfig em0 up"}, run.Expect{Line: "ifconfig -a", Stdout: after})}
		synctest.Test(t, func(t *testing.T) {
			if err := c.AskGateways(t.Context(), m, set); err != nil {
				t.Fatal(err)
			}
		})
		got := fmt.Sprint(Resolve(f, m, set))
		if err := Resolve(f, m, set); err == nil {
			got = set.NIC("xnic.match").Device
		}
		if !strings.Contains(got, tt.want) {
			t.Errorf("%v: %s, want %s", tt.segment, got, tt.want)
		}
	}
}

// A script is one for sh whatever a disk says of itself.
