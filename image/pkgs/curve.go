package pkgs

import (
	"crypto/ed25519"
	"errors"
	"math/big"
	"slices"
)

// Two curves of libecc that Go has not. Verifying needs no constant time.

func hexInt(s string) *big.Int {
	n, ok := new(big.Int).SetString(s, 16)
	if !ok {
		panic("pkgs: constant " + s)
	}
	return n
}

// edwards25519 turns a public key of libecc's WEI25519, Curve25519 in Weierstrass
// form as 4, x, y (libecc ec_params_wei25519.h, aff_pt_montgomery.c,
// aff_pt_edwards.c), into one of RFC 8032.
func edwards25519(key []byte) (ed25519.PublicKey, error) {
	const size = 32
	if len(key) != 1+2*size || key[0] != 4 {
		return nil, errors.New("not an uncompressed point")
	}
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	thirdA := hexInt("2aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaad2451") // 486662/3
	alpha := hexInt("70d9120b9f5ff9442d84f723fc03b0813a5e2c2eb482e57d3391fb5500ba81e7")  // √-486664
	one := big.NewInt(1)

	u := new(big.Int).SetBytes(key[1 : 1+size])
	u.Mod(u.Sub(u, thirdA), p)
	v := new(big.Int).SetBytes(key[1+size:])
	v.ModInverse(v, p)
	below := new(big.Int).Add(u, one)
	if v.Sign() == 0 || below.ModInverse(below, p) == nil {
		return nil, errors.New("not a point of the curve")
	}
	x := new(big.Int).Mul(alpha, u)
	x.Mod(x.Mul(x, v), p)
	y := new(big.Int).Sub(u, one)
	y.Mod(y.Mul(y, below), p)

	out := y.FillBytes(make([]byte, size))
	slices.Reverse(out)
	out[size-1] |= byte(x.Bit(0) << 7)
	return out, nil
}

// point is an affine point, nil the one at infinity.
type point struct{ x, y *big.Int }

// secp256k1 is y² = x³ + 7 modulo p (SEC 2 version 2.0, 2.4.1).
type secp256k1 struct {
	p, n *big.Int
	g    *point
}

func newSecp256k1() secp256k1 {
	return secp256k1{
		p: hexInt("fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f"),
		n: hexInt("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141"),
		g: &point{hexInt("79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"),
			hexInt("483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8")},
	}
}

func (c *secp256k1) add(a, b *point) *point {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	var above, below *big.Int // of the slope
	if a.x.Cmp(b.x) != 0 {
		above, below = new(big.Int).Sub(b.y, a.y), new(big.Int).Sub(b.x, a.x)
	} else if a.y.Cmp(b.y) == 0 && a.y.Sign() != 0 {
		above, below = new(big.Int).Mul(a.x, a.x), new(big.Int).Lsh(a.y, 1)
		above.Mul(above, big.NewInt(3))
	} else {
		return nil
	}
	below.ModInverse(below.Mod(below, c.p), c.p)
	slope := above.Mod(above.Mul(above, below), c.p)
	x := new(big.Int).Mul(slope, slope)
	x.Mod(x.Sub(x.Sub(x, a.x), b.x), c.p)
	y := new(big.Int).Sub(a.x, x)
	y.Mod(y.Sub(y.Mul(y, slope), a.y), c.p)
	return &point{x, y}
}

func (c *secp256k1) mul(a *point, k *big.Int) *point {
	var sum *point
	for i := k.BitLen() - 1; i >= 0; i-- {
		sum = c.add(sum, sum)
		if k.Bit(i) == 1 {
			sum = c.add(sum, a)
		}
	}
	return sum
}

func (c *secp256k1) on(a *point) bool {
	if a.x.Cmp(c.p) >= 0 || a.y.Cmp(c.p) >= 0 {
		return false
	}
	left, right := new(big.Int).Mul(a.y, a.y), new(big.Int).Exp(a.x, big.NewInt(3), c.p)
	right.Add(right, big.NewInt(7))
	return left.Mod(left.Sub(left, right), c.p).Sign() == 0
}

// verifySecp256k1 verifies an ECDSA signature of a 32 byte digest (SEC 1 version
// 2.0, 4.1.4). The key is 4, x, y.
func verifySecp256k1(key, digest []byte, r, s *big.Int) bool {
	c := newSecp256k1()
	if len(key) != 65 || key[0] != 4 || r.Sign() <= 0 || s.Sign() <= 0 || r.Cmp(c.n) >= 0 || s.Cmp(c.n) >= 0 {
		return false
	}
	q := &point{new(big.Int).SetBytes(key[1:33]), new(big.Int).SetBytes(key[33:])}
	if !c.on(q) {
		return false
	}
	w := new(big.Int).ModInverse(s, c.n)
	u1 := new(big.Int).SetBytes(digest)
	u1.Mod(u1.Mul(u1, w), c.n)
	u2 := new(big.Int).Mul(r, w)
	u2.Mod(u2, c.n)
	sum := c.add(c.mul(c.g, u1), c.mul(q, u2))
	return sum != nil && new(big.Int).Mod(sum.x, c.n).Cmp(r) == 0
}
