package lint

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/overlay/lint/pf"
)

// The drawing's page is A4 landscape: 1100 wide, where the smallest text is 10 high.
// A rig that needs more room gets a larger page of the same proportions.
const (
	pageWidth = 1100
	pageRatio = 1.4142
	textSize  = 10
	nameSize  = 12
	margin    = 20
	boxGap    = 12 // between jails
	boxPad    = 6
	rowHeight = 15
	barHeight = 22
)

// Colours: grey for what is filtered, one for cables that are not, one for tunnels.
const (
	ink        = "#333333"
	line       = "#777777"
	paper      = "#ffffff"
	panel      = "#f4f5f6"
	bar        = "#e3e6e8"
	cableInk   = "#b8651b"
	tunnelInk  = "#2e6b4f"
	sansSerif  = "Helvetica, Arial, 'DejaVu Sans', sans-serif"
	leftAlign  = "start"
	midAlign   = "middle"
	rightAlign = "end"
)

// WriteSVG draws a rig: each server with card, pf, bridges, cables, jails and
// addresses, the wires between the servers, and the tunnels. The same rig makes
// the same bytes.
func WriteSVG(w io.Writer, rig *Rig) error {
	_, err := w.Write(draw(rig).svg())
	return err
}

// frame is the place of one server in the drawing, and the heights all share.
type frame struct {
	m          *Machine
	jails      []*Node // from left to right
	x, w       int
	boxW       int
	plan       *heights
	upper, low []*Bridge
}

// heights are the vertical places of a drawing.
type heights struct {
	world, top, card, pf, upper, jails, jailsEnd, low, lowCard, end, wire, tunnels int
	tops, ports, cables, bottoms                                                   int // rows in the jails
}

func draw(rig *Rig) *canvas {
	h := &heights{}
	var frames []*frame
	boxes, uppers, lowers := 0, 1, 1
	for _, m := range rig.Servers {
		f := &frame{m: m, jails: arrange(m), plan: h}
		for _, b := range m.Bridges {
			if slices.ContainsFunc(b.Members, func(s string) bool { i := m.Host.iface(s); return i != nil && i.Card }) {
				f.low = append(f.low, b)
			} else {
				f.upper = append(f.upper, b)
			}
		}
		f.measure()
		boxes, uppers, lowers = max(boxes, len(f.jails)), max(uppers, len(f.upper)), max(lowers, len(f.low))
		frames = append(frames, f)
	}
	n := max(1, len(frames))
	boxW := 0
	for _, f := range frames {
		boxW = max(boxW, f.boxW)
	}
	need := boxes*boxW + max(0, boxes-1)*boxGap + 2*margin
	frameW := max(need, (pageWidth-(n+1)*margin)/n)
	if boxes > 0 {
		boxW = (frameW - 2*margin + boxGap) / boxes
		boxW -= boxGap
	}
	c := &canvas{w: n*frameW + (n+1)*margin}
	h.set(uppers, lowers)
	for i, f := range frames {
		f.x, f.w, f.boxW = margin+i*(frameW+margin), frameW, boxW
		f.draw(c)
	}
	drawWires(c, rig, h)
	bottom := drawTunnels(c, rig, h)
	c.page(bottom + margin)
	return c
}

// set computes the vertical places from what has to fit between them.
func (h *heights) set(uppers, lowers int) {
	h.world = 34
	h.top = h.world + barHeight + 22
	h.card = h.top + 28
	h.pf = h.card + 34 + 20
	h.upper = h.pf + barHeight + 26
	h.jails = h.upper + uppers*(barHeight+10) + 38
	h.jailsEnd = h.jails + 56 + (h.tops+h.ports+h.bottoms)*rowHeight + h.cables*(rowHeight+8)
	h.low = h.jailsEnd + 48
	h.lowCard = h.low + lowers*(barHeight+10) + 14
	h.end = h.lowCard + barHeight + 14
	h.wire = h.end + 20
	h.tunnels = h.wire + barHeight + 28
}

// arrange orders jails so that cables are short, beginning from the last started.
func arrange(m *Machine) []*Node {
	jails := slices.Clone(m.Jails)
	slices.Reverse(jails)
	if len(jails) > 7 {
		return jails
	}
	best, length := jails, -1
	var try func(done, left []*Node)
	try = func(done, left []*Node) {
		if len(left) == 0 {
			sum := 0
			for _, c := range m.Cables {
				a := slices.IndexFunc(done, func(n *Node) bool { return n.Name == c.Ends[0].Jail })
				b := slices.IndexFunc(done, func(n *Node) bool { return n.Name == c.Ends[1].Jail })
				if a >= 0 && b >= 0 {
					sum += max(a-b, b-a)
				}
			}
			if length < 0 || sum < length {
				best, length = slices.Clone(done), sum
			}
			return
		}
		for i := range left {
			try(append(slices.Clone(done), left[i]), append(slices.Clone(left[:i]), left[i+1:]...))
		}
	}
	try(nil, jails)
	return best
}

// label is an interface with its addresses.
func label(i *Iface) string {
	s := i.Name
	for _, a := range i.Addrs {
		s += " " + a.String()
	}
	return s
}

// ends finds the interfaces of a jail that lead to upper and to lower bridges.
func (f *frame) ends(j *Node) (up, down []*Iface) {
	for _, i := range j.Ifaces {
		cable, end := f.m.end(i.Name)
		if cable == nil {
			continue
		}
		far := cable.Ends[1-end]
		switch {
		case far.Jail != "": // drawn between the jails
		case slices.ContainsFunc(f.low, func(b *Bridge) bool { return b.Name == far.Bridge }):
			down = append(down, i)
		default:
			up = append(up, i)
		}
	}
	return up, down
}

// measure finds the width a jail needs and how many rows there are.
func (f *frame) measure() {
	for _, j := range f.jails {
		up, down := f.ends(j)
		f.plan.tops, f.plan.bottoms = max(f.plan.tops, len(up)), max(f.plan.bottoms, len(down))
		for _, i := range j.Ifaces {
			f.boxW = max(f.boxW, textWidth(label(i), textSize)+2*boxPad)
		}
		f.boxW = max(f.boxW, textWidth(j.Name, nameSize)+2*boxPad)
	}
	for _, j := range f.jails {
		f.plan.ports = max(f.plan.ports, len(j.ports(f.boxW-2*boxPad)))
	}
	n := 0
	for _, cable := range f.m.Cables {
		if cable.Ends[0].Jail != "" && cable.Ends[1].Jail != "" {
			n++
		}
	}
	f.plan.cables = max(f.plan.cables, n)
}

func (f *frame) boxX(i int) int { return f.x + margin + i*(f.boxW+boxGap) }

func (f *frame) draw(c *canvas) {
	h := f.plan
	mid := f.x + f.w/2
	c.rect(f.x, h.top, f.w, h.end-h.top, paper)
	c.text(f.x+10, h.top+17, nameSize, leftAlign, c.fit(f.m.Name, nameSize, f.w/2-120), true, ink)
	for _, i := range f.m.Host.Ifaces {
		if !i.Card || len(i.Addrs) == 0 {
			continue
		}
		w := 220
		c.line(mid, h.world+barHeight, mid, h.card, line, "")
		c.box(mid-w/2, h.card, w, 34, bar)
		c.text(mid, h.card+14, textSize, midAlign, c.fit(label(i), textSize, w-8), true, ink)
		if f.m.Host.Gateway.IsValid() {
			c.text(mid, h.card+28, textSize, midAlign, c.fit("gateway "+f.m.Host.Gateway.String(), textSize, w-8), false, ink)
		}
		break
	}
	inner := f.w - 2*margin
	c.line(mid, h.card+34, mid, h.pf, line, "")
	c.box(f.x+margin, h.pf, inner, barHeight, panel)
	c.text(mid, h.pf+15, textSize, midAlign, c.fit(f.m.pfSummary(), textSize, inner-8), false, ink)
	if len(f.upper) > 0 {
		c.line(mid, h.pf+barHeight, mid, h.upper, line, "4 3")
	}
	f.bars(c, f.upper, h.upper)
	f.bars(c, f.low, h.low)
	for _, b := range f.low {
		for _, name := range b.Members {
			if i := f.m.Host.iface(name); i == nil || !i.Card {
				continue
			}
			c.line(mid, h.lowCard-14-10, mid, h.lowCard, line, "")
			c.box(mid-60, h.lowCard, 120, barHeight, bar)
			c.text(mid, h.lowCard+15, textSize, midAlign, c.fit(name, textSize, 112), true, ink)
			c.line(mid, h.lowCard+barHeight, mid, h.wire, line, "")
			break
		}
	}
	f.cables(c)
	for i, j := range f.jails {
		f.jail(c, i, j)
	}
}

// bars draws bridges.
func (f *frame) bars(c *canvas, bs []*Bridge, y int) {
	for k, b := range bs {
		at := y + k*(barHeight+10)
		c.box(f.x+margin, at, f.w-2*margin, barHeight, bar)
		s := b.Name
		if i := f.m.Host.iface(b.Name); i != nil {
			s = label(i)
		}
		c.text(f.x+margin+8, at+15, textSize, leftAlign, c.fit(s, textSize, f.w-2*margin-16), true, ink)
	}
}

// pfSummary says in a line what pf redirects and translates.
func (m *Machine) pfSummary() string {
	if m.pf == nil {
		return "no pf"
	}
	var ports []string
	nat := ""
	for _, r := range m.pf.Nat {
		if r.Kind == pf.Nat {
			nat = "nat, "
			continue
		}
		for _, p := range r.Dst.Ports {
			ports = append(ports, portText(p.Low))
		}
	}
	if len(ports) == 0 {
		return "pf: " + strings.TrimSuffix(nat, ", ")
	}
	return "pf: " + nat + "rdr " + strings.Join(ports, " ")
}

// jail draws a jail with its cables to bridges.
func (f *frame) jail(c *canvas, n int, j *Node) {
	h, x := f.plan, f.boxX(n)
	c.box(x, h.jails, f.boxW, h.jailsEnd-h.jails, panel)
	up, down := f.ends(j)
	width := f.boxW - 2*boxPad
	for k, i := range up {
		px := x + f.boxW*(k+1)/(len(up)+1)
		f.drop(c, i, px, h.jails, f.barY(f.upper, h.upper, i)+barHeight, h.jails-12)
		c.text(x+f.boxW/2, h.jails+12+k*rowHeight, textSize, midAlign, c.fit(label(i), textSize, width), false, ink)
	}
	name := h.jails + h.tops*rowHeight + 18
	c.text(x+f.boxW/2, name, nameSize, midAlign, c.fit(j.Name, nameSize, width), true, ink)
	for k, s := range j.ports(width) {
		c.text(x+f.boxW/2, name+(k+1)*rowHeight, textSize, midAlign, s, false, line)
	}
	for k, i := range down {
		px := x + f.boxW*(k+1)/(len(down)+1)
		f.drop(c, i, px, h.jailsEnd, f.barY(f.low, h.low, i), h.jailsEnd+20)
		c.text(x+f.boxW/2, h.jailsEnd-6-k*rowHeight, textSize, midAlign, c.fit(label(i), textSize, width), false, ink)
	}
}

// barY is the top of the bridge that an interface of a jail leads to.
func (f *frame) barY(bs []*Bridge, y int, i *Iface) int {
	cable, end := f.m.end(i.Name)
	for k, b := range bs {
		if b.Name == cable.Ends[1-end].Bridge {
			return y + k*(barHeight+10)
		}
	}
	return y
}

// drop draws the cable from a jail to a bridge, and names its far end.
func (f *frame) drop(c *canvas, i *Iface, x, from, to, labelY int) {
	cable, end := f.m.end(i.Name)
	c.line(x, from, x, to, line, "")
	c.text(x+5, labelY, textSize, leftAlign, c.fit(cable.Ends[1-end].Name, textSize, f.boxW/2-6), false, ink)
}

// cables draws the direct cables between jails, each in a row of its own.
func (f *frame) cables(c *canvas) {
	h, row := f.plan, 0
	for _, cable := range f.m.Cables {
		a := slices.IndexFunc(f.jails, func(n *Node) bool { return n.Name == cable.Ends[0].Jail })
		b := slices.IndexFunc(f.jails, func(n *Node) bool { return n.Name == cable.Ends[1].Jail })
		if a < 0 || b < 0 {
			continue
		}
		left, right := cable.Ends[0], cable.Ends[1]
		if a > b {
			a, b, left, right = b, a, right, left
		}
		y := h.jails + (h.tops+h.ports)*rowHeight + 46 + row*(rowHeight+8)
		x1, x2 := f.boxX(a)+f.boxW, f.boxX(b)
		c.thick(x1, y-3, x2, y-3, cableInk)
		width := f.boxW - 2*boxPad
		c.over(x1-boxPad, y, rightAlign, c.fit(label(f.jails[a].iface(left.Name)), textSize, width), cableInk)
		c.over(x2+boxPad, y, leftAlign, c.fit(label(f.jails[b].iface(right.Name)), textSize, width), cableInk)
		row++
	}
}

// ports lists what a node listens at, in lines of a width.
func (n *Node) ports(width int) (lines []string) {
	var seen []uint16
	for _, l := range n.Listen {
		if slices.Contains(seen, l.Port) {
			continue
		}
		seen = append(seen, l.Port)
		word, last := portText(l.Port), len(lines)-1
		switch {
		case last < 0:
			lines = append(lines, "listens "+word)
		case textWidth(lines[last]+" "+word, textSize) > width:
			lines = append(lines, word)
		default:
			lines[last] += " " + word
		}
	}
	return lines
}

// drawWires draws what the servers share: the internet above, the private wire below.
func drawWires(c *canvas, rig *Rig, h *heights) {
	names := make([]string, len(rig.Servers))
	private := ""
	for i, m := range rig.Servers {
		names[i] = m.Name
		for _, g := range m.segments() {
			if g.card != "" && g.name != g.card && len(g.spots) > 0 {
				private = " " + g.spots[0].prefix().Masked().String()
			}
		}
	}
	title := strings.Join(names, " and ")
	c.text(margin, 22, nameSize+2, leftAlign, c.fit(title, nameSize+2, c.w/2-2*margin), true, ink)
	legend := "dashed: routed"
	c.text(c.w-margin, 22, textSize, rightAlign, legend, false, line)
	c.text(c.w-margin-textWidth(legend, textSize)-16, 22, textSize, rightAlign, "jail to jail, not filtered", false, cableInk)
	c.box(margin, h.world, c.w-2*margin, barHeight, bar)
	c.text(c.w/2, h.world+15, textSize, midAlign, "internet", true, ink)
	c.box(margin, h.wire, c.w-2*margin, barHeight, bar)
	c.text(c.w/2, h.wire+15, textSize, midAlign, "private network"+private, true, ink)
}

// tunnel is a pipe with the end that decrypts.
type tunnel struct {
	from, to *Node
	enc, dec *Pipe
}

func (r *Rig) tunnels() (out []tunnel) {
	for _, m := range r.Servers {
		for _, j := range m.nodes() {
			for _, p := range j.Pipes {
				for _, o := range r.Servers {
					for _, k := range o.nodes() {
						for _, q := range k.Pipes {
							if o != m && p.Mode == "encrypt" && q.Mode == "decrypt" && q.Source == p.Target {
								out = append(out, tunnel{from: j, to: k, enc: p, dec: q})
							}
						}
					}
				}
			}
		}
	}
	return out
}

// drawTunnels draws an arrow for each tunnel, from the end that encrypts to the
// one that decrypts, and returns where it ended.
func drawTunnels(c *canvas, rig *Rig, h *heights) int {
	ts := rig.tunnels()
	y := h.tunnels
	if len(ts) == 0 {
		return h.wire + barHeight
	}
	c.text(margin, y, textSize, leftAlign, "tunnels (spiped):", true, tunnelInk)
	c.text(margin, y+rowHeight, textSize, leftAlign, "an arrow points to the end", false, tunnelInk)
	c.text(margin, y+2*rowHeight, textSize, leftAlign, "that decrypts", false, tunnelInk)
	name := func(n *Node, p *Pipe) string {
		return fmt.Sprintf("%s %s %s %s", n.machine.Name, n.Name, p.Source, p.Name)
	}
	x1, x2 := c.w/2-80, c.w/2+80
	for _, t := range ts {
		left, right, back := name(t.from, t.enc), name(t.to, t.dec), false
		if t.from.machine != rig.Servers[0] {
			left, right, back = right, left, true
		}
		c.text(x1-10, y, textSize, rightAlign, c.fit(left, textSize, x1-margin-190), false, tunnelInk)
		c.arrow(x1, x2, y-3, back, tunnelInk)
		c.text(x2+10, y, textSize, leftAlign, c.fit(right, textSize, c.w-x2-10-margin), false, tunnelInk)
		y += rowHeight + 6
	}
	return max(y, h.tunnels+3*rowHeight)
}
