package iso

import (
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

func header(sig string, size int) suspHeader {
	return suspHeader{Sig: [2]byte{sig[0], sig[1]}, Len: uint8(size), Version: 1}
}

func fieldSP() []byte {
	return marshal(&suspSP{suspHeader: header("SP", 7), Check: [2]byte{0xbe, 0xef}})
}

func fieldER() []byte {
	size := 8 + len(erID) + len(erDes) + len(erSrc)
	b := marshal(&suspER{suspHeader: header("ER", size),
		IDLen: uint8(len(erID)), DesLen: uint8(len(erDes)), SrcLen: uint8(len(erSrc)), ExtVersion: 1})
	return append(b, erID+erDes+erSrc...)
}

func fieldCE(a area) []byte {
	return marshal(&suspCE{suspHeader: header("CE", ceSize),
		Block: putBoth32(a.block), Off: putBoth32(uint32(a.off)), Size: putBoth32(uint32(a.size))})
}

func (p *Plan) fieldPX(n *node) []byte {
	e := n.entry
	return marshal(&rripPX{suspHeader: header("PX", 44),
		Mode: putBoth32(mode(e)), Links: putBoth32(n.links), UID: putBoth32(e.UID), GID: putBoth32(e.GID), Serial: putBoth32(n.serial)})
}

func mode(e *tree.Entry) uint32 {
	switch e.Kind {
	case tree.Dir:
		return modeDir | uint32(e.Perm)
	case tree.Symlink:
		return modeLink | uint32(e.Perm)
	}
	return modeFile | uint32(e.Perm)
}

func (p *Plan) fieldTF(n *node) []byte {
	return marshal(&rripTF{suspHeader: header("TF", 12), Flags: tfModify, Modify: putDate7(p.time(n))})
}

// time is the time of an entry, the volume's when it has none.
func (p *Plan) time(n *node) time.Time {
	if n.entry.ModTime.IsZero() {
		return p.opts.time()
	}
	return n.entry.ModTime
}

func (o *Options) time() time.Time {
	if o.Time.IsZero() {
		return time.Unix(0, 0)
	}
	return o.Time
}

// fieldsNM is a name in as many fields as it takes: one up to 250 bytes. The
// loader reads no name of several.
func fieldsNM(name string) [][]byte {
	var out [][]byte
	for {
		part := cut(name, maxField-nmSize)
		name = name[len(part):]
		f := rripNM{suspHeader: header("NM", nmSize+len(part))}
		if name != "" {
			f.Flags = flagContinue
		}
		out = append(out, append(marshal(&f), part...))
		if name == "" {
			return out
		}
	}
}

// fieldsSL is a link's target in as many fields as it takes. A slash at the
// beginning is the component ROOT; every other slash stands between two
// components, which may be empty. So "/" is ROOT and an empty one: FreeBSD writes
// no slash for ROOT, but one before the next component.
//
// Every field but the last ends within a component, even if only nothing is left
// of it for the next field: libarchive loses a slash between two fields.
func fieldsSL(target string) [][]byte {
	var out [][]byte
	var b []byte // components of the field that is being filled
	flush := func(flags uint8) {
		out = append(out, append(marshal(&rripSL{suspHeader: header("SL", slSize+len(b)), Flags: flags}), b...))
		b = nil
	}
	add := func(flags uint8, text string) {
		b = append(b, marshal(&slComponent{flags, uint8(len(text))})...)
		b = append(b, text...)
	}
	const room, head = maxField - slSize, 2
	components := strings.Split(target, "/")
	for i, s := range components {
		reserve := head // for the beginning of the next component
		if i == len(components)-1 {
			reserve = 0
		}
		for whole := true; ; whole = false {
			left := room - len(b) - head
			if len(s) > left-reserve {
				part := cut(s, left)
				add(flagContinue, part)
				flush(flagContinue)
				s = s[len(part):]
				continue
			}
			switch {
			case whole && i == 0 && s == "":
				add(flagRoot, "")
			case whole && s == ".":
				add(flagCurrent, "")
			case whole && s == "..":
				add(flagParent, "")
			default:
				add(0, s)
			}
			break
		}
	}
	flush(0)
	return out
}
