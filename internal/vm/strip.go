package vm

// stripper turns what a terminal would be sent into text: escape sequences of
// ECMA-48 (CSI, OSC, DCS, charset selection) go, and so do all control
// characters but newline and tab. It keeps its state between chunks, so that a
// sequence may be cut anywhere.
type stripper struct{ state stripState }

type stripState int

const (
	stripText   stripState = iota
	stripEscape            // after ESC
	stripCSI               // after ESC [, up to a byte 0x40–0x7e
	stripString            // in OSC, DCS, PM, APC, up to BEL or ESC \
	stripStringEscape
	stripOne // one more byte, as in ESC ( B
)

const (
	bel = 0x07
	esc = 0x1b
	del = 0x7f
)

// append adds the text of src to dst.
func (s *stripper) append(dst, src []byte) []byte {
	for _, b := range src {
		switch s.state {
		case stripText:
			switch {
			case b == esc:
				s.state = stripEscape
			case b == '\n', b == '\t', b >= ' ' && b != del:
				dst = append(dst, b)
			}
		case stripEscape:
			s.state = afterEscape(b)
		case stripCSI:
			if b >= 0x40 && b <= 0x7e {
				s.state = stripText
			}
		case stripString:
			switch b {
			case bel:
				s.state = stripText
			case esc:
				s.state = stripStringEscape
			}
		case stripStringEscape:
			s.state = stripText
			if b != '\\' {
				s.state = afterEscape(b)
			}
		case stripOne:
			s.state = stripText
		}
	}
	return dst
}

func afterEscape(b byte) stripState {
	switch b {
	case '[':
		return stripCSI
	case ']', 'P', '^', '_', 'X':
		return stripString
	case '(', ')', '*', '+', '#', '%', ' ':
		return stripOne
	case esc:
		return stripEscape
	}
	return stripText
}
