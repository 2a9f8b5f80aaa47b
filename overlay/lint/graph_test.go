package lint

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"testing"
)

// elements reads an SVG and returns what its texts say.
func elements(t *testing.T, svg []byte) (texts []string) {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	in := false
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatal(err)
		}
		switch tok := tok.(type) {
		case xml.StartElement:
			in = tok.Name.Local == "text"
		case xml.CharData:
			if in {
				texts = append(texts, string(tok))
			}
		case xml.EndElement:
			in = false
		}
	}
}

// checkDrawing wants texts that are legible, on the page and apart.
func checkDrawing(t *testing.T, c *canvas) {
	t.Helper()
	for i, a := range c.texts {
		x1, y1, x2, y2 := a.bounds()
		if x1 < 0 || y1 < 0 || x2 > c.w || y2 > c.h {
			t.Errorf("%q is not on the page", a.s)
		}
		for _, b := range c.texts[:i] {
			u1, v1, u2, v2 := b.bounds()
			if x1 < u2 && u1 < x2 && y1 < v2 && v1 < y2 {
				t.Errorf("%q and %q overlap", a.s, b.s)
			}
		}
	}
	if ratio := float64(c.w) / float64(c.h); ratio < 1.40 || ratio > 1.43 {
		t.Errorf("the page is %d by %d, which is not A4", c.w, c.h)
	}
}

func TestWriteSVG(t *testing.T) {
	r := run(t, input(t))
	c := draw(r.Rig)
	checkDrawing(t, c)
	for _, x := range c.texts {
		if got := float64(x.size) * pageWidth / float64(c.w); got < 9 {
			t.Errorf("%q is %.1f high on a page of %d", x.s, got, pageWidth)
		}
		if strings.Contains(x.s, "…") {
			t.Errorf("%q is cut", x.s)
		}
	}
	var b, again bytes.Buffer
	if err := errors.Join(WriteSVG(&b, r.Rig), WriteSVG(&again, run(t, input(t)).Rig)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("two drawings of the same rig differ")
	}
	const doc = "../../docs/rig.svg"
	if os.Getenv("RIG_UPDATE") != "" {
		if err := os.WriteFile(doc, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if old, err := os.ReadFile(doc); err != nil || !bytes.Equal(old, b.Bytes()) {
		t.Errorf("%s is not the drawing of webrig (%v); RIG_UPDATE=1 writes it", doc, err)
	}
	have := "|" + strings.Join(elements(t, b.Bytes()), "|") + "|"
	for _, want := range []string{
		"xnic 10.0.0.110/24", "gateway 10.0.0.1", "xbridge 10.0.2.1/24", "ibridge 192.168.56.111/24", "inic",
		"pf: nat, rdr 443 80 2220 2230 2240", "nginx_j", "ngx_a", "ngx_b 10.0.2.20/24", "node_a", "pg_a", "inode_a", "ipg_a",
		"ngx_node_a 10.0.3.20/24", "ngx_node_b 10.0.3.30/24", "node_pg_a 10.0.4.30/24", "node_pg_b 10.0.4.40/24",
		"inode_b 192.168.56.31/24", "ipg_b 192.168.56.40/24", "private network 192.168.56.0/24",
		"rega node_j 192.168.56.30:5432 N2P", "regb pg_j 192.168.56.41:5433 N2P", "regb pg_j 192.168.56.41:5435 PGC", "rega pg_j 192.168.56.40:5434 PGS",
	} {
		if !strings.Contains(have, "|"+want+"|") {
			t.Errorf("the drawing lacks %q:\n%s", want, have)
		}
	}
}

// A rig of another shape: one server, four jails with long names, a cable past a
// jail, two bridges without a card.
func TestDrawOther(t *testing.T) {
	m := &Machine{Name: "a-server-with-a-rather-long-name", Host: &Node{Name: "host", root: &root{}}}
	for i := range 4 {
		j := &Node{Name: fmt.Sprintf("jail_with_name_%d", i), root: &root{Root: Root{Name: "x"}}, machine: m}
		for k := range 9 {
			j.Listen = append(j.Listen, Listener{Port: uint16(40000 + k)})
		}
		m.Jails = append(m.Jails, j)
	}
	cable := func(n, a, b int, bridge string) {
		c := &Cable{Device: fmt.Sprintf("epair%d", n)}
		c.Ends[0] = End{Name: fmt.Sprintf("interface_%d_a", n), Bridge: bridge}
		c.Ends[1] = End{Name: fmt.Sprintf("interface_%d_b", n), Jail: m.Jails[b].Name}
		m.Jails[b].Ifaces = append(m.Jails[b].Ifaces, &Iface{Name: c.Ends[1].Name, Addrs: prefixes(fmt.Sprintf("192.168.%d.200/24", 100+n))})
		if bridge == "" {
			c.Ends[0].Jail = m.Jails[a].Name
			m.Jails[a].Ifaces = append(m.Jails[a].Ifaces, &Iface{Name: c.Ends[0].Name, Addrs: prefixes(fmt.Sprintf("192.168.%d.100/24", 100+n))})
		}
		m.Cables = append(m.Cables, c)
	}
	m.Bridges = []*Bridge{{Name: "bridge_one"}, {Name: "bridge_two"}}
	cable(0, 0, 0, "bridge_one")
	cable(1, 0, 0, "bridge_two")
	cable(2, 0, 1, "")
	cable(3, 0, 2, "")
	cable(4, 1, 3, "")
	cable(5, 0, 3, "")
	checkDrawing(t, draw(&Rig{Servers: []*Machine{m}}))
	checkDrawing(t, draw(&Rig{}))
}

func prefixes(ss ...string) (out []netip.Prefix) {
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// bounds is the box of a text, at least as large as any sans-serif font makes it.
func (t text) bounds() (x1, y1, x2, y2 int) {
	w := textWidth(t.s, t.size)
	switch t.align {
	case midAlign:
		x1 = t.x - w/2
	case rightAlign:
		x1 = t.x - w
	default:
		x1 = t.x
	}
	return x1, t.y - t.size*8/10, x1 + w, t.y + t.size*2/10
}
