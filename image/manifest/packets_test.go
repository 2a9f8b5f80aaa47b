package manifest

import (
	"fmt"
	"testing"

	"github.com/rig-freebsd/rig/overlay/answers"
)

// Who sends what to where, for the answers of both servers.
func TestPackets(t *testing.T) {
	qs := []answers.Question{
		{Key: "wire.inet", Type: answers.CIDR}, {Key: "wire.router", Type: answers.IP}, {Key: "wire.web", Type: answers.IP, Within: "wire.inet"},
		{Key: "wire.other", Type: answers.IP, Within: "wire.inet", Peer: "wire.web"},
		{Key: "ops.hosts", Type: answers.IP, List: true}, {Key: "ops.nets", Type: answers.Net, List: true},
	}
	resolve := func(values map[string]string) *answers.Set {
		t.Helper()
		set, err := answers.Resolve(qs, answers.Source{Name: "a", Values: values})
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	for _, tt := range []struct {
		from []string
		a    map[string]string // more answers of server A
		want string
	}{
		{[]string{FromOutside}, nil, "151.101.1.69 0"},
		{[]string{FromOutside}, map[string]string{"ops.nets": "151.101.0.0/16"}, "142.250.74.46 0"},
		{[]string{FromOutside}, map[string]string{"ops.nets": "0.0.0.0/0"}, "17.253.144.10 0"}, // all are known: the last
		{[]string{FromMartian}, map[string]string{"ops.hosts": "172.16.99.1"}, "192.168.199.1 0"},
		{[]string{FromNeighbour}, nil, "192.0.2.6 1"}, // .1 to .5 are taken
		{[]string{FromNeighbour}, map[string]string{"ops.hosts": "192.0.2.6"}, "check c: no address in neighbour to try it from"},
		{[]string{"ops.hosts", "ops.nets"}, map[string]string{"ops.nets": "203.0.113.0/24"}, "203.0.113.8 0"},
		{[]string{"ops.hosts", "ops.nets"}, map[string]string{"ops.hosts": "203.0.113.9", "ops.nets": "203.0.113.0/24"}, "203.0.113.9 0"},
		{[]string{"ops.hosts"}, map[string]string{"ops.hosts": "192.0.2.1"}, "check c: no address in ops.hosts to try it from"}, // the router
		{[]string{"ops.nets"}, nil, "check c: no address in ops.nets to try it from"},
		{[]string{"wire.other"}, map[string]string{"wire.other": "192.0.2.5"}, "192.0.2.5 2"},
	} {
		a := map[string]string{"wire.inet": "192.0.2.2/29", "wire.router": "192.0.2.1", "wire.web": "192.0.2.3"}
		for k, v := range tt.a {
			a[k] = v
		}
		b := map[string]string{"wire.inet": "192.0.2.4/29", "wire.router": "192.0.2.1", "wire.web": "192.0.2.5"}
		r := Reach{[]Network{{Name: "wire", Address: "wire.inet", Gateway: "wire.router"}}, []Check{{Name: "c", From: tt.from, To: "wire.web", Ports: []int64{80, 443}, Want: WantSilent}}}
		got := ""
		switch packets, err := r.Packets([2]*answers.Set{resolve(a), resolve(b)}, 0); {
		case err != nil:
			got = err.Error()
		default:
			got = fmt.Sprint(packets[0].From, " ", packets[0].Sender)
			if target := packets[0].Target(); target != "192.0.2.3:80,443" {
				t.Errorf("target %s", target)
			}
		}
		if got != tt.want {
			t.Errorf("%v %v: got %s, want %s", tt.from, tt.a, got, tt.want)
		}
	}
}
