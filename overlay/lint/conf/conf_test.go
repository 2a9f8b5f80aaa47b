package conf

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/overlay/lint/flaw"
)

func TestParseRC(t *testing.T) {
	read := func(name string) (text string, known, found bool) {
		switch name {
		case "/etc/a":
			return "10.0.0.1/24\n", true, true
		case "/etc/unknown":
			return "", false, true
		}
		return "", false, false
	}
	tests := []struct{ name, text, want, flaws string }{
		{"plain", "a=YES\n", "a=YES", ""},
		{"quotes", `a="x y" b='$z' c=x"y"'z'` + "\n", "a=x y|b=$z|c=xyz", ""},
		{"comment", "# a=1\na=2 # b=3\nc=4#5\n", "a=2|c=4#5", ""},
		{"cat", "a=\"inet `/bin/cat /etc/a` up\"\nb=$(cat /etc/a)\n", "a=inet 10.0.0.1/24 up|b=10.0.0.1/24", ""},
		{"cat of nothing", "a=\"`/bin/cat /etc/b`\"\n", "a=?", "1:14 reads /etc/b, which is nowhere"},
		{"cat of what may be absent", "a=\"`cat /etc/b 2>/dev/null`\"\n", "a=?", ""},
		{"cat of what is not known", "a=\"inet `cat /etc/unknown`\"\n", "a=inet ?", ""},
		{"other command", "a=\"`hostname`\"\n", "a=?", ""},
		{"variable", "a=1\nb=\"$a ${a}2 $c\"\n", "a=1|b=1 12 ", ""},
		{"default value", "a=\"${b:-1}\"\nc=2\n", "a=?|c=2", ""},
		{"escape", "a=\"x\\\"y\\\n z\"\nb=\\$a\n", "a=x\"y z|b=$a", ""},
		{"several lines", "a=\"inet 1.2.3.4/8\n  up\"\nb=1\n", "a=inet 1.2.3.4/8\n  up|b=1", ""},
		{"one line", "a=1; b=2\n", "a=1|b=2", ""},
		{"condition", "a=YES\nif [ -x /bin/x ]; then\n\ta=NO\nfi\nb=1\n", "a=YES|a=NO?|b=1", ""},
		{"case", "case $x in\ny)\ta=1 ;;\n*)\ta=2 ;;\nesac\nb=1\n", "a=1?|a=2?|b=1", ""},
		{"commands", ". /etc/x a=1\n: ${b:=c}\nexport d\ne=1\n", "e=1", ""},
		{"open quote", "a=\"x\nb=1\n", "a=x\nb=1\n", "1:3 a quote is opened here and not closed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c, fl := ParseRC("rc.conf", tt.text, read)
			var got []string
			for _, v := range c.All {
				s := v.Name + "=" + v.Val.Text
				if v.Cond || v.Val.Unknown {
					s += "?"
				}
				got = append(got, s)
			}
			if s := strings.Join(got, "|"); s != tt.want {
				t.Errorf("got %q, want %q", s, tt.want)
			}
			if s := flawText(fl); !strings.HasSuffix(s, tt.flaws) || (s == "") != (tt.flaws == "") {
				t.Errorf("flaws %q, want %q", s, tt.flaws)
			}
		})
	}
}

func flawText(fl []flaw.Flaw) string {
	var out []string
	for _, f := range fl {
		out = append(out, fmt.Sprintf("%d:%d %s", f.At.Line, f.At.Col, f.Text))
	}
	return strings.Join(out, "\n")
}

func TestParseIfconfig(t *testing.T) {
	tests := []struct{ text, want, flaw string }{
		{"inet 10.0.2.1/24 addm a addm b up", "[10.0.2.1/24] [a b] ", ""},
		{"inet 10.0.2.1 netmask 255.255.255.248", "[10.0.2.1/29] [] ", ""},
		{"inet 10.0.2.1 netmask 0xffffff00 mtu 9000", "[10.0.2.1/24] [] ", ""},
		{"ether 02:00:00:00:00:01 up", "[] [] 02:00:00:00:00:01", ""},
		{"inet 10.0.2.1", "[] [] ", `"10.0.2.1" has no prefix length`},
		{"inet 10.0.2.1/33", "[] [] ", `"10.0.2.1/33" is not an IPv4 address with prefix length`},
		{"inet 10.0.2.1 netmask 255.0.255.0", "[] [] ", `"10.0.2.1" netmask 255.0.255.0 is not an IPv4 address with mask`},
		{"inet 10.0.2.1 netmask x", "[] [] ", `"x" is not a netmask`},
		{"inet", "[] [] ", "inet without an address"},
		{"DHCP", "[] [] ", ""},
	}
	for _, tt := range tests {
		c, _ := ParseRC("rc.conf", "a=\""+tt.text+"\"", nil)
		a, fl := ParseIfconfig(c.Vars["a"].Val)
		var inet, addm []string
		for _, p := range a.Inet {
			inet = append(inet, p.String())
		}
		for _, w := range a.Addm {
			addm = append(addm, w.Text)
		}
		if got := fmt.Sprintf("%v %v %s", inet, addm, a.Ether.Text); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.text, got, tt.want)
		}
		msg := ""
		if len(fl) > 0 {
			msg = fl[0].Text
		}
		if msg != tt.flaw {
			t.Errorf("%s: flaw %q, want %q", tt.text, msg, tt.flaw)
		}
	}
}

func TestParseJailConf(t *testing.T) {
	c, fl := ParseJailConf("jail.conf", `
# comment
$root = "/jails";	// another
path = "$root/$name";
exec.clean; /* and
another */
allow = a, "b c";
* { mount.devfs; }
web_j {
	vnet.interface = "x_b", y_b;
	vnet.interface += z_b;
	host.hostname = "${name}.example.$dom";
	allow += d;
}
.include "/etc/jail.conf.d/*.conf";
db_j { path = /other; }
`)
	if len(fl) > 0 {
		t.Fatal(flawText(fl))
	}
	tests := []struct{ jail, param, want string }{
		{"web_j", "path", "/jails/web_j"}, {"db_j", "path", "/other"},
		{"web_j", "vnet.interface", "x_b|y_b|z_b"}, {"db_j", "vnet.interface", "unset"},
		{"web_j", "host.hostname", "web_j.example."}, {"web_j", "allow", "a|b c|d"}, {"db_j", "allow", "a|b c"},
		{"db_j", "mount.devfs", ""}, {"db_j", "exec.clean", ""},
	}
	for _, tt := range tests {
		for _, j := range c.Jails {
			if j.Name != tt.jail {
				continue
			}
			vs, set := c.Values(j, tt.param)
			var ss []string
			for _, v := range vs {
				ss = append(ss, v.Text)
			}
			got := strings.Join(ss, "|")
			if !set {
				got = "unset"
			}
			if got != tt.want {
				t.Errorf("%s of %s: got %q, want %q", tt.param, tt.jail, got, tt.want)
			}
		}
	}
	if len(c.Jails) != 2 {
		t.Errorf("%d jails", len(c.Jails))
	}
	for _, tt := range []struct{ text, want string }{
		{"a = b", "1:1 a: its \";\" is missing"},
		{"a { b = c }", "1:11 unexpected \"}\": is a \";\" missing after b?"},
		{"a { b { } }", "1:5 jail b inside of jail a: is a \"}\" missing?\n1:11 \"}\" without a jail"},
		{"a = \"b;", "1:5 a quote is opened here and not closed"},
		{"/* a", "1:1 a comment is opened here and not closed"},
		{"a b;", "1:3 \"b\" after a: is a \";\" or \"=\" missing?"},
		{"= b;", "1:1 unexpected \"=\"; expected a parameter or a jail"},
		{"a = $a; j { }", ""},
	} {
		c, fl := ParseJailConf("jail.conf", tt.text)
		for _, j := range c.Jails {
			c.Values(j, "a")
		}
		if got := flawText(fl); !strings.HasPrefix(got, tt.want) || (got == "") != (tt.want == "") {
			t.Errorf("%q: got %q, want %q", tt.text, got, tt.want)
		}
	}
}
