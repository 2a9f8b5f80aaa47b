package lint

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"unicode/utf8"
)

// canvas collects what a drawing is made of. Units are those of the page; a
// text's y is its baseline.
type canvas struct {
	w, h   int
	shapes bytes.Buffer
	last   bytes.Buffer // above the shapes
	texts  []text
}

type text struct {
	x, y, size int
	align      string
	s          string
}

// textWidth is an upper estimate of the width of a text.
func textWidth(s string, size int) int { return (utf8.RuneCountInString(s)*size*6 + 9) / 10 }

// fit shortens a text to a width.
func (c *canvas) fit(s string, size, width int) string {
	if textWidth(s, size) <= width {
		return s
	}
	r := []rune(s)
	for len(r) > 0 && textWidth(string(r)+"…", size) > width {
		r = r[:len(r)-1]
	}
	return string(r) + "…"
}

func (c *canvas) rect(x, y, w, h int, fill string) {
	fmt.Fprintf(&c.shapes, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" fill=\"%s\" stroke=\"%s\"/>\n", x, y, w, h, fill, line)
}

// box is a rectangle with round corners.
func (c *canvas) box(x, y, w, h int, fill string) {
	fmt.Fprintf(&c.shapes, "<rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\" rx=\"4\" fill=\"%s\" stroke=\"%s\"/>\n", x, y, w, h, fill, line)
}

func (c *canvas) line(x1, y1, x2, y2 int, ink, dash string) {
	if dash != "" {
		dash = " stroke-dasharray=\"" + dash + "\""
	}
	fmt.Fprintf(&c.shapes, "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"%s\"%s/>\n", x1, y1, x2, y2, ink, dash)
}

func (c *canvas) thick(x1, y1, x2, y2 int, ink string) {
	fmt.Fprintf(&c.shapes, "<line x1=\"%d\" y1=\"%d\" x2=\"%d\" y2=\"%d\" stroke=\"%s\" stroke-width=\"3\"/>\n", x1, y1, x2, y2, ink)
}

// arrow is a horizontal arrow between two places; back turns it.
func (c *canvas) arrow(x1, x2, y int, back bool, ink string) {
	c.line(x1, y, x2, y, ink, "")
	tip, d := x2, -7
	if back {
		tip, d = x1, 7
	}
	fmt.Fprintf(&c.shapes, "<path d=\"M%d %dL%d %dL%d %dZ\" fill=\"%s\"/>\n", tip, y, tip+d, y-4, tip+d, y+4, ink)
}

func (c *canvas) text(x, y, size int, align, s string, bold bool, ink string) {
	weight := ""
	if bold {
		weight = " font-weight=\"bold\""
	}
	c.texts = append(c.texts, text{x, y, size, align, s})
	fmt.Fprintf(&c.last, "<text x=\"%d\" y=\"%d\" font-size=\"%d\" text-anchor=\"%s\" fill=\"%s\"%s>", x, y, size, align, ink, weight)
	_ = xml.EscapeText(&c.last, []byte(s)) // a buffer takes everything
	c.last.WriteString("</text>\n")
}

// over is a text of the usual size.
func (c *canvas) over(x, y int, align, s, ink string) {
	c.text(x, y, textSize, align, s, false, ink)
}

// page sets the height: that of the proportions of the page, or width and
// height grow together.
func (c *canvas) page(bottom int) {
	ratio := pageRatio
	c.h = max(bottom, int(float64(c.w)/ratio))
	c.w = max(c.w, int(float64(c.h)*ratio))
}

func (c *canvas) svg() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" font-family=\"%s\">\n", c.w, c.h, c.w, c.h, sansSerif)
	fmt.Fprintf(&b, "<rect width=\"%d\" height=\"%d\" fill=\"%s\"/>\n", c.w, c.h, paper)
	b.Write(c.shapes.Bytes())
	b.Write(c.last.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}
