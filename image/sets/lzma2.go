package sets

import (
	"errors"
	"io"
)

// LZMA2 as the xz file format 1.1.0 has it in filter 0x21: chunks of LZMA (Igor
// Pavlov's lzma-specification.txt) or of plain bytes, of at most 2 MiB decoded and 64 KiB
// encoded. Sets are decoded by this and not by a library because decoding is half
// of a cold build and this takes three quarters of the library's time. Names follow
// the specification.
//
//	chunk    control, …: 0 end; 1, 2 plain bytes, with and without a new dictionary;
//	         0x80 and up LZMA, bits 5 and 6 what is reset, bits 0 to 4 the size's high bits
//	plain    control, size - 1 (16 bit big endian), bytes
//	LZMA     control, size - 1, encoded size - 1 (16 bit), [properties,] encoded bytes
const (
	lzma2MaxChunk = 2 << 20
	lzma2MaxIn    = 64 << 10
	lzmaLookahead = 64 // more bytes than one symbol can take
)

// Offsets in lzma2.probs.
const (
	posStates  = 16
	states     = 12
	probMatch  = 0
	probRep    = probMatch + states*posStates
	probRepG0  = probRep + states
	probRepG1  = probRepG0 + states
	probRepG2  = probRepG1 + states
	probRep0   = probRepG2 + states // long
	probSlot   = probRep0 + states*posStates
	probSpec   = probSlot + 4*64
	probAlign  = probSpec + 128
	probLen    = probAlign + 16
	probRepLen = probLen + lenProbs
	probLit    = probRepLen + lenProbs
	lenProbs   = 2 + 2*8*posStates + 256
	probCount  = 1 << 14 // at least probLit + 0x300<<4
	probMask   = probCount - 1
	probInit   = 1 << 10
	inCount    = 1 << 17 // at least lzma2MaxIn + lzmaLookahead
	inMask     = inCount - 1
	rangeTop   = 1 << 24
)

var errLZMA = errors.New("xz: data is corrupt")

// lzma2 decodes one stream after another. Its memory is the dictionary and 4 MiB.
type lzma2 struct {
	win   []byte // the dictionary and what is being decoded
	dict  int    // bytes
	pos   int    // end of what is decoded in win
	begin int    // where the dictionary began; negative when win has moved on

	lc, lp, pb uint
	state      uint32
	rep        [4]uint32
	probs      [probCount]uint16
	in         [inCount]byte
	haveProps  bool // since the dictionary began, and with them a state
	haveDict   bool
}

// decode reads a stream from r, of at most max bytes decoded, and passes each
// chunk to emit.
func (d *lzma2) decode(r io.Reader, dict int, max int64, emit func([]byte) error) error {
	room := int(min(int64(dict), max)) + 2*lzma2MaxChunk
	if len(d.win) < room {
		d.win = make([]byte, room)
	}
	d.dict, d.pos, d.begin = dict, 0, 0
	d.haveProps, d.haveDict = false, false
	for {
		if _, err := io.ReadFull(r, d.in[:1]); err != nil {
			return noEOF(err)
		}
		control := d.in[0]
		if control == 0 {
			return nil
		}
		start, err := d.chunk(r, control, max)
		if err != nil {
			return err
		}
		max -= int64(d.pos - start)
		if err := emit(d.win[start:d.pos]); err != nil {
			return err
		}
	}
}

// chunk decodes one chunk to win[start:d.pos].
func (d *lzma2) chunk(r io.Reader, control byte, max int64) (start int, err error) {
	head := d.in[:2]
	if control >= 0x80 {
		head = d.in[:4]
	} else if control > 2 {
		return 0, errLZMA
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, noEOF(err)
	}
	size := int(head[0])<<8 + int(head[1]) + 1
	if control >= 0x80 {
		size += int(control&0x1f) << 16
	}
	if int64(size) > max {
		return 0, errLZMA
	}
	if d.pos+size > len(d.win) {
		from := (d.pos - d.dict) &^ (posStates - 1)
		copy(d.win, d.win[from:d.pos])
		d.pos, d.begin = d.pos-from, d.begin-from
	}
	if control == 1 || control >= 0xe0 {
		d.begin, d.haveDict, d.haveProps = d.pos, true, false
	}
	if !d.haveDict {
		return 0, errLZMA
	}
	start = d.pos
	if control < 0x80 {
		_, err = io.ReadFull(r, d.win[d.pos:d.pos+size])
		d.pos += size
		return start, noEOF(err)
	}
	n := int(head[2])<<8 + int(head[3]) + 1
	if control >= 0xc0 {
		if _, err := io.ReadFull(r, d.in[:1]); err != nil {
			return 0, noEOF(err)
		}
		if err := d.properties(d.in[0]); err != nil {
			return 0, err
		}
	}
	if control >= 0xa0 {
		d.reset()
	}
	if !d.haveProps {
		return 0, errLZMA
	}
	if _, err := io.ReadFull(r, d.in[:n]); err != nil {
		return 0, noEOF(err)
	}
	clear(d.in[n : n+lzmaLookahead])
	return start, d.lzma(n, d.pos+size)
}

func (d *lzma2) properties(b byte) error {
	if b >= 9*5*5 {
		return errLZMA
	}
	d.lc, d.lp, d.pb = uint(b%9), uint(b/9%5), uint(b/45)
	if d.lc+d.lp > 4 {
		return errLZMA
	}
	d.haveProps = true
	return nil
}

func (d *lzma2) reset() {
	d.state, d.rep = 0, [4]uint32{}
	for i := range d.probs {
		d.probs[i] = probInit
	}
}

// lzma decodes n bytes of input up to position end of win. The range decoder's
// range and code, and the input's position, are kept in local variables: they are
// touched for every bit.
func (d *lzma2) lzma(n, end int) error {
	if n < 5 || d.in[0] != 0 {
		return errLZMA
	}
	in := 5
	code := uint32(d.in[1])<<24 | uint32(d.in[2])<<16 | uint32(d.in[3])<<8 | uint32(d.in[4])
	rng := ^uint32(0)
	win, pos, state := d.win, d.pos, d.state
	var bit, length uint32
	for pos < end {
		ps := uint32(pos-d.begin) & (1<<d.pb - 1)
		if bit, in, rng, code = d.bit(probMatch+state*posStates+ps, in, rng, code); bit == 0 {
			win[pos], in, rng, code = d.literal(pos, state, in, rng, code)
			pos++
			state = afterLiteral(state)
			continue
		}
		if bit, in, rng, code = d.bit(probRep+state, in, rng, code); bit == 0 {
			d.rep[3], d.rep[2], d.rep[1] = d.rep[2], d.rep[1], d.rep[0]
			length, in, rng, code = d.length(probLen, ps, in, rng, code)
			d.rep[0], in, rng, code = d.distance(length, in, rng, code)
			state = choose(state, 7, 10)
		} else {
			var short bool
			if short, in, rng, code = d.repeated(state, ps, in, rng, code); short {
				length, state = 1, choose(state, 9, 11)
			} else {
				length, in, rng, code = d.length(probRepLen, ps, in, rng, code)
				state = choose(state, 8, 11)
			}
		}
		dist := int(d.rep[0]) + 1
		if dist > min(pos-d.begin, d.dict) || int(length) > end-pos || in > n {
			return errLZMA
		}
		to := win[pos : pos+int(length)]
		pos += int(length)
		if from := win[pos-len(to)-dist:]; dist >= len(to) {
			copy(to, from)
		} else {
			for i := range to {
				to[i] = from[i]
			}
		}
	}
	if rng < rangeTop { // as the encoder leaves it
		code = code<<8 | uint32(d.in[in&inMask])
		in++
	}
	if in != n || code != 0 {
		return errLZMA
	}
	d.pos, d.state = pos, state
	return nil
}

func choose(state, literal, other uint32) uint32 {
	if state < 7 {
		return literal
	}
	return other
}

func afterLiteral(state uint32) uint32 {
	switch {
	case state < 4:
		return 0
	case state < 10:
		return state - 3
	}
	return state - 6
}

// bit decodes one bit.
func (d *lzma2) bit(i uint32, in int, rng, code uint32) (uint32, int, uint32, uint32) {
	if rng < rangeTop {
		rng, code, in = rng<<8, code<<8|uint32(d.in[in&inMask]), in+1
	}
	p := &d.probs[i&probMask]
	bound := rng >> 11 * uint32(*p)
	if code < bound {
		*p += (1<<11 - *p) >> 5
		return 0, in, bound, code
	}
	*p -= *p >> 5
	return 1, in, rng - bound, code - bound
}

// tree decodes an unsigned number of some bits, the highest first. There is no
// branch on a bit: nothing could predict it.
func (d *lzma2) tree(base, bits uint32, in int, rng, code uint32) (uint32, int, uint32, uint32) {
	m := uint32(1)
	for range bits {
		if rng < rangeTop {
			rng, code, in = rng<<8, code<<8|uint32(d.in[in&inMask]), in+1
		}
		p := &d.probs[(base+m)&probMask]
		v := uint32(*p)
		bound := rng >> 11 * v
		zero := uint32((uint64(code) - uint64(bound)) >> 32) // all ones for a bit of 0
		rng = bound&zero | (rng-bound)&^zero
		code -= bound &^ zero
		*p = uint16(v - uint32(int32(v-zero&(1<<11-31))>>5))
		m = m<<1 + 1 + zero
	}
	return m - 1<<bits, in, rng, code
}

// reverse decodes an unsigned number of some bits, the lowest first.
func (d *lzma2) reverse(base, bits uint32, in int, rng, code uint32) (uint32, int, uint32, uint32) {
	m, n := uint32(1), uint32(0)
	var b uint32
	for i := range bits {
		b, in, rng, code = d.bit(base+m, in, rng, code)
		m = m<<1 + b
		n |= b << i
	}
	return n, in, rng, code
}

// literal decodes the byte at pos of win. After a match, the byte that the match
// would go on with is the context: as long as it agrees.
func (d *lzma2) literal(pos int, state uint32, in int, rng, code uint32) (byte, int, uint32, uint32) {
	at, prev := uint32(pos-d.begin), uint32(0)
	if at > 0 {
		prev = uint32(d.win[pos-1])
	}
	base := probLit + 0x300*((at&(1<<d.lp-1))<<d.lc+prev>>(8-d.lc))
	if state < 7 {
		var n uint32
		n, in, rng, code = d.tree(base, 8, in, rng, code)
		return byte(n), in, rng, code
	}
	match := uint32(d.win[pos-int(d.rep[0])-1])
	m, agree := uint32(1), uint32(0x100)
	for range 8 {
		if rng < rangeTop {
			rng, code, in = rng<<8, code<<8|uint32(d.in[in&inMask]), in+1
		}
		match <<= 1
		want := match & agree
		p := &d.probs[(base+agree+want+m)&probMask]
		v := uint32(*p)
		bound := rng >> 11 * v
		zero := uint32((uint64(code) - uint64(bound)) >> 32)
		rng = bound&zero | (rng-bound)&^zero
		code -= bound &^ zero
		*p = uint16(v - uint32(int32(v-zero&(1<<11-31))>>5))
		m = m<<1 + 1 + zero
		agree = want&^zero | (agree&^want)&zero
	}
	return byte(m), in, rng, code
}

// length decodes a match's length.
func (d *lzma2) length(base, ps uint32, in int, rng, code uint32) (n uint32, _ int, _, _ uint32) {
	var b uint32
	if b, in, rng, code = d.bit(base, in, rng, code); b == 0 {
		n, in, rng, code = d.tree(base+2+ps*8, 3, in, rng, code)
		return 2 + n, in, rng, code
	}
	if b, in, rng, code = d.bit(base+1, in, rng, code); b == 0 {
		n, in, rng, code = d.tree(base+2+8*posStates+ps*8, 3, in, rng, code)
		return 10 + n, in, rng, code
	}
	n, in, rng, code = d.tree(base+2+2*8*posStates, 8, in, rng, code)
	return 18 + n, in, rng, code
}

// distance decodes a match's distance, less 1.
func (d *lzma2) distance(length uint32, in int, rng, code uint32) (n uint32, _ int, _, _ uint32) {
	var slot uint32
	slot, in, rng, code = d.tree(probSlot+min(length-2, 3)*64, 6, in, rng, code)
	if slot < 4 {
		return slot, in, rng, code
	}
	low := slot/2 - 1
	dist := (2 | slot&1) << low
	if slot < 14 {
		n, in, rng, code = d.reverse(probSpec+dist-slot, low, in, rng, code)
		return dist + n, in, rng, code
	}
	direct := uint32(0)
	for range low - 4 {
		if rng < rangeTop {
			rng, code, in = rng<<8, code<<8|uint32(d.in[in&inMask]), in+1
		}
		rng >>= 1
		code -= rng
		zero := -(code >> 31)
		code += rng & zero
		direct = direct<<1 + 1 + zero
	}
	n, in, rng, code = d.reverse(probAlign, 4, in, rng, code)
	return dist + direct<<4 + n, in, rng, code
}

// repeated decodes which of the last four distances is used again, and makes it
// the first. A short one is a single byte at the first distance.
func (d *lzma2) repeated(state, ps uint32, in int, rng, code uint32) (short bool, _ int, _, _ uint32) {
	var b uint32
	if b, in, rng, code = d.bit(probRepG0+state, in, rng, code); b == 0 {
		b, in, rng, code = d.bit(probRep0+state*posStates+ps, in, rng, code)
		return b == 0, in, rng, code
	}
	if b, in, rng, code = d.bit(probRepG1+state, in, rng, code); b == 0 {
		d.rep[0], d.rep[1] = d.rep[1], d.rep[0]
		return false, in, rng, code
	}
	if b, in, rng, code = d.bit(probRepG2+state, in, rng, code); b == 0 {
		d.rep[0], d.rep[1], d.rep[2] = d.rep[2], d.rep[0], d.rep[1]
		return false, in, rng, code
	}
	d.rep = [4]uint32{d.rep[3], d.rep[0], d.rep[1], d.rep[2]}
	return false, in, rng, code
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
