package answers

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// One file holds the answers of several servers, the common ones weaker.
func TestResolveTables(t *testing.T) {
	const text = "schema = 1\n[all]\nserver.name = \"x\"\nweb.port = 81\n[one]\nweb.port = 82\n[two]\nweb.port = \"wrong\"\n"
	s, err := Resolve(rigQuestions(), Source{Name: "f", Data: []byte(text), Tables: []string{"all", "one"}, Others: []string{"two"}})
	if err != nil {
		t.Fatal(err)
	}
	if s.String("server.name") != "x" || s.Int("web.port") != 82 {
		t.Errorf("got %v", s)
	}
	if p := s.Problem("web.port", "no"); p.String() != "f:6:12: one.web.port: no" {
		t.Errorf("problem %s", p)
	}
	_, err = Resolve(rigQuestions(), Source{Name: "f", Data: []byte(text), Tables: []string{"two"}, Others: []string{"one"}})
	want := `f:2:2: all: unknown table; known here are one, two
    [all]
     ^
f:8:12: two.web.port: found a string; expected a whole number without quotes
    web.port = "wrong"
               ^`
	if fmt.Sprint(err) != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// With an error there are the answers that could be read, and no message shows a
// secret.
func TestResolveTablesKeepsTheRest(t *testing.T) {
	s, err := Resolve(rigQuestions(), Source{Name: "f", Tables: []string{"a"}, Others: []string{"b"}, Data: []byte(
		"[a]\nweb.port = 0\nserver.name = \"x\"\nsecrets = { spiped_key = \"hunter2\" }\n[b.secrets]\nspiped_key = \"hunter3\"\n[c]\nx = \"hunter4\"\n")})
	if err == nil || strings.Contains(err.Error()+fmt.Sprint(s.Texts()), "hunter") {
		t.Errorf("got %v", err)
	}
	if s.String("server.name") != "x" || s.Int("web.port") != 0 {
		t.Errorf("got %v", s)
	}
}

func TestPeerValue(t *testing.T) {
	ip, cidr := netip.MustParseAddr("192.0.2.1"), netip.MustParsePrefix("192.0.2.1/24")
	for _, tt := range []struct {
		q       Question
		v, want any
	}{
		{Question{Type: IP}, ip, ip},
		{Question{Type: IP}, cidr, ip},
		{Question{Type: IP, List: true}, cidr, []netip.Addr{ip}},
		{Question{Type: IP, List: true}, []netip.Addr{ip, ip}, []netip.Addr{ip, ip}},
		{Question{Type: CIDR}, cidr, cidr},
		{Question{Type: Label}, "a", "a"},
		{Question{Type: NIC}, NICMatch{MAC: "52:54:00:00:00:01"}, NICMatch{MAC: "52:54:00:00:00:01"}},
		{Question{Type: Port}, int64(5), int64(5)},
	} {
		if got, err := PeerValue(tt.q, tt.v); err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%v as %s: %#v, %v", tt.v, tt.q.Type, got, err)
		}
	}
	_, err := PeerValue(Question{Type: Port, Max: ptr(4)}, int64(5))
	if want := "5 is out of range; expected 1 to 4"; fmt.Sprint(err) != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestDerive(t *testing.T) {
	qs := append(rigQuestions(), Question{Key: "private.peer", Type: IP, Within: "inic.inet", Peer: "private.node"})
	if err := ValidateQuestions(qs); err != nil {
		t.Fatal(err)
	}
	a, err := Resolve(qs, Source{Name: "a.toml", Data: []byte("inic.inet = \"10.1.0.1/24\"")})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Resolve(qs, Source{Name: "b.toml", Data: []byte("private.node = \"10.2.0.30\"")})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"xnic.inet": "derive xnic.inet: no question with a peer", "nope": "derive nope: no question with a peer"} {
		if err := a.Derive(key, b); fmt.Sprint(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := b.Derive("private.peer", a); err != nil || b.Addr("private.peer").IsValid() {
		t.Errorf("made an answer of none: %v, %v", b, err)
	}
	if err := a.Derive("private.peer", b); err != nil || a.Addr("private.peer").String() != "10.2.0.30" {
		t.Errorf("got %v, %v", a, err)
	}
	want := `b.toml:1:16: private.node: as the other server's private.peer: 10.2.0.30 is not in 10.1.0.0/24 (inic.inet); expected an address of that network
    private.node = "10.2.0.30"
                   ^`
	if err := a.Check(); fmt.Sprint(err) != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

func TestServerRelationForms(t *testing.T) {
	for _, tt := range []struct {
		q            Question
		v            any
		same, differ string
	}{
		{Question{Type: CIDR}, netip.MustParsePrefix("192.0.2.1/24"), `"192.0.2.0/24"`, "192.0.2.1"},
		{Question{Type: NIC}, NICMatch{MAC: "52:54:00:00:00:01", Device: "em0"}, `"mac:52:54:00:00:00:01"`, "52:54:00:00:00:01"},
		{Question{Type: NIC}, NICMatch{Device: "em0"}, `"em0"`, ""},
		{Question{Type: Int}, int64(9), "9", "9"},
		{Question{Type: Size}, int64(1024), `"1k"`, "1024"},
	} {
		if same, differ := SameForm(tt.q, tt.v), DifferForm(tt.v); same != tt.same || differ != tt.differ {
			t.Errorf("%v: %s and %s, want %s and %s", tt.v, same, differ, tt.same, tt.differ)
		}
	}
}

// The template says how answers of two servers hang together.
func TestTemplateOfServerRelations(t *testing.T) {
	var b bytes.Buffer
	err := Template([]Question{{Key: "a", Type: IP, Differ: true}, {Key: "b", Type: IP, Peer: "a"}, {Key: "c", Type: Int, Same: true}}, &b)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"# An IPv4 address, as 192.0.2.10; different on each server.\n#a = ",
		"# An IPv4 address, as 192.0.2.10; the other server's a.\n#b = ",
		"# A number, as 10; the same on both servers.\n#c = ",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not in\n%s", want, b.String())
		}
	}
}
