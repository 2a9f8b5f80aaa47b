package pkgs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strconv"
	"strings"

	"golang.org/x/crypto/blake2b"
	"golang.org/x/crypto/blake2s"
)

// sumType is pkg_checksum_type_t (pkg.h), the number before the $ of a sum.
type sumType int

const (
	sumSHA256Base32 sumType = iota
	sumSHA256Hex
	sumBlake2Base32
	sumSHA256Raw
	sumBlake2Raw
	sumBlake2sBase32
	sumBlake2sRaw
	sumTypes
)

func (t sumType) hash() string {
	switch t {
	case sumBlake2Base32, sumBlake2Raw:
		return "blake2b"
	case sumBlake2sBase32, sumBlake2sRaw:
		return "blake2s"
	}
	return "sha256"
}

func (t sumType) size() int {
	if t.hash() == "blake2b" {
		return blake2b.Size
	}
	return sha256.Size
}

// Sum is a checksum as pkg writes it. The zero value matches nothing.
type Sum struct {
	typ    sumType
	digest string
}

// ParseSum reads "type$value", or a bare sha256 in hex (pkg_checksum.c).
func ParseSum(s string) (Sum, error) {
	number, value, typed := strings.Cut(s, "$")
	typ := sumSHA256Hex
	if !typed {
		value = s
	} else if n, err := strconv.ParseUint(number, 10, 8); err != nil || sumType(n) >= sumTypes {
		return Sum{}, fmt.Errorf("sum %q: unknown type", s)
	} else {
		typ = sumType(n)
	}
	var digest []byte
	var err error
	switch typ {
	case sumSHA256Hex:
		digest, err = hex.DecodeString(value)
	case sumSHA256Base32, sumBlake2Base32, sumBlake2sBase32:
		digest, err = decodeBase32(value)
	default:
		digest = []byte(value)
	}
	if err != nil {
		return Sum{}, fmt.Errorf("sum %q: %w", s, err)
	}
	if len(digest) != typ.size() {
		return Sum{}, fmt.Errorf("sum %q: %d bytes are not a %s", s, len(digest), typ.hash())
	}
	return Sum{typ, string(digest)}, nil
}

// New returns the sum's hash function.
func (s Sum) New() hash.Hash {
	var h hash.Hash
	switch s.typ.hash() { // New512 and New256 fail for keys only
	case "blake2b":
		h, _ = blake2b.New512(nil)
	case "blake2s":
		h, _ = blake2s.New256(nil)
	default:
		h = sha256.New()
	}
	return h
}

// Check compares the sum with what its hash function came to.
func (s Sum) Check(h hash.Hash) error {
	if got := h.Sum(nil); !bytes.Equal(got, []byte(s.digest)) {
		return fmt.Errorf("its %s is %x, the catalogue says %x", s.typ.hash(), got, s.digest)
	}
	return nil
}

// base32 is the alphabet of z-base-32. Unlike there, pkg packs bits from the low end
// of each byte (pkg_checksum_encode_base32).
const base32 = "ybndrfg8ejkmcpqxot1uwisza345h769"

func decodeBase32(s string) ([]byte, error) {
	out := make([]byte, 0, len(s)*5/8)
	acc, bits := uint(0), 0
	for i := range len(s) {
		v := strings.IndexByte(base32, s[i])
		if v < 0 {
			return nil, fmt.Errorf("%q is not of base 32", s[i])
		}
		acc |= uint(v) << bits
		if bits += 5; bits >= 8 {
			out = append(out, byte(acc))
			acc, bits = acc>>8, bits-8
		}
	}
	if bits >= 5 || acc != 0 {
		return nil, fmt.Errorf("stray bits at the end of base 32")
	}
	return out, nil
}
