package pxe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Operations of TFTP (RFC 1350), and of its options (RFC 2347).
const (
	opRead  uint16 = 1
	opWrite uint16 = 2
	opData  uint16 = 3
	opAck   uint16 = 4
	opError uint16 = 5
	opOack  uint16 = 6
)

// Error codes.
const (
	codeUndefined uint16 = 0
	codeNotFound  uint16 = 1
	codeAccess    uint16 = 2
	codeIllegal   uint16 = 4
)

const (
	defaultBlock = 512
	minBlock     = 8
	maxBlock     = 65464 // RFC 2348
	windowBytes  = 1 << 20
	maxWindow    = 128
)

// option is one of a request.
type option struct{ name, value string }

// request is a client's first packet.
type request struct {
	op      uint16
	name    string
	mode    string
	options []option
}

var errPacket = errors.New("not a TFTP request")

// parseRequest reads a packet that came to the server's port.
func parseRequest(b []byte) (request, error) {
	var r request
	if len(b) < 2 {
		return r, errPacket
	}
	r.op = binary.BigEndian.Uint16(b)
	if r.op != opRead && r.op != opWrite {
		return r, errPacket
	}
	var fields []string
	for b = b[2:]; len(b) > 0; {
		field, rest, ok := bytes.Cut(b, []byte{0})
		if !ok {
			break // the rest is no string; firmware pads its requests
		}
		fields = append(fields, string(field))
		b = rest
	}
	if len(fields) < 2 || fields[0] == "" {
		return r, errPacket
	}
	r.name, r.mode = fields[0], strings.ToLower(fields[1])
	for o := fields[2:]; len(o) >= 2 && o[0] != ""; o = o[2:] {
		r.options = append(r.options, option{strings.ToLower(o[0]), o[1]})
	}
	return r, nil
}

// terms are what client and server agree on.
type terms struct {
	block   int // bytes
	window  int // blocks sent before an acknowledgement is awaited
	timeout int // seconds, 0 when not agreed
	agreed  []option
}

// negotiate takes what the client asks for, within limits. Options that are not
// known or make no sense are left out, which is how they are refused.
func (r request) negotiate(size int64) terms {
	t := terms{block: defaultBlock, window: 1}
	value := func(o option, low, high int) (int, bool) {
		v, err := strconv.Atoi(o.value)
		if err != nil || v < low || v > high {
			return 0, false
		}
		return v, true
	}
	seen := map[string]bool{}
	for _, o := range r.options {
		if seen[o.name] {
			continue
		}
		seen[o.name] = true
		ok := true
		switch o.name {
		case "blksize":
			var v int
			if v, ok = value(o, minBlock, 1<<31-1); ok {
				t.block = min(v, maxBlock)
			}
		case "windowsize":
			var v int
			if v, ok = value(o, 1, 65535); ok {
				t.window = min(v, maxWindow)
			}
		case "timeout":
			t.timeout, ok = value(o, 1, 255)
		case "tsize":
		default:
			ok = false
		}
		if ok {
			t.agreed = append(t.agreed, o)
		}
	}
	t.window = max(1, min(t.window, windowBytes/t.block))
	for i, o := range t.agreed {
		switch o.name {
		case "blksize":
			t.agreed[i].value = strconv.Itoa(t.block)
		case "windowsize":
			t.agreed[i].value = strconv.Itoa(t.window)
		case "tsize":
			t.agreed[i].value = strconv.FormatInt(size, 10)
		}
	}
	return t
}

func oackPacket(agreed []option) []byte {
	b := binary.BigEndian.AppendUint16(nil, opOack)
	for _, o := range agreed {
		b = append(append(b, o.name...), 0)
		b = append(append(b, o.value...), 0)
	}
	return b
}

func errorPacket(code uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16(nil, opError)
	b = binary.BigEndian.AppendUint16(b, code)
	return append(append(b, text...), 0)
}

// clientError is a transfer that the client ended.
type clientError struct {
	code uint16
	text string
}

func (e clientError) Error() string {
	return fmt.Sprintf("the client ended the transfer: %s (code %d)", e.text, e.code)
}

// parseReply reads what a client sends during a transfer: the block that it
// acknowledges, or the error by which it ends the transfer. ok is false for
// anything else.
func parseReply(b []byte) (block uint16, err error, ok bool) {
	if len(b) < 4 {
		return 0, nil, false
	}
	n := binary.BigEndian.Uint16(b[2:])
	switch binary.BigEndian.Uint16(b) {
	case opAck:
		return n, nil, true
	case opError:
		text, _, _ := bytes.Cut(b[4:], []byte{0})
		return 0, clientError{n, strings.ToValidUTF8(string(text), "?")}, true
	}
	return 0, nil, false
}
