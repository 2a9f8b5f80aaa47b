package pkgtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"testing"
)

// Key signs catalogues as a signing command of `pkg repo` does.
type Key struct {
	Type   string // rsa, ecdsa, eddsa
	Public []byte // as in a catalogue's .pub
	sign   func(message []byte) ([]byte, error)
}

// NewKey makes a key of type rsa, ecdsa (secp384r1) or eddsa.
func NewKey(t testing.TB, typ string) *Key {
	t.Helper()
	k := &Key{Type: typ}
	var err error
	switch typ {
	case "rsa":
		err = k.rsa()
	case "ecdsa":
		err = k.ecdsa()
	case "eddsa":
		err = k.eddsa()
	default:
		t.Fatalf("pkgtest: unknown type of key %q", typ)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Fingerprint is what a repository's configuration trusts.
func (k *Key) Fingerprint() string {
	sum := sha256.Sum256(k.Public)
	return hex.EncodeToString(sum[:])
}

// Members are NAME.sig and NAME.pub for content.
func (k *Key) Members(t testing.TB, name string, content []byte) []Member {
	t.Helper()
	sum := sha256.Sum256(content)
	sig, err := k.sign([]byte(hex.EncodeToString(sum[:])))
	if err != nil {
		t.Fatal(err)
	}
	var head []byte
	if k.Type != "rsa" {
		head = fmt.Appendf(nil, "$PKGSIGN:%s$", k.Type)
	}
	return []Member{{Name: name + ".sig", Content: slices.Concat(head, sig)}, {Name: name + ".pub", Content: slices.Concat(head, k.Public)}}
}

func (k *Key) rsa() error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	k.Public = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	k.sign = func(message []byte) ([]byte, error) {
		sum := sha256.Sum256(message)
		return rsa.SignPKCS1v15(rand.Reader, key, crypto.SHA256, sum[:])
	}
	return nil
}

func (k *Key) ecdsa() error {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	k.sign = func(message []byte) ([]byte, error) {
		sum := sha256.Sum256(message)
		return ecdsa.SignASN1(rand.Reader, key, sum[:])
	}
	k.Public, err = x509.MarshalPKIXPublicKey(&key.PublicKey)
	return err
}

func (k *Key) eddsa() error {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	k.sign = func(message []byte) ([]byte, error) {
		sig := ed25519.Sign(key, message)
		return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])})
	}
	point := weierstrass(pub)
	k.Public, err = asn1.Marshal(struct {
		Application string `asn1:"utf8"`
		Version     int
		Signer      string `asn1:"utf8"`
		KeyType     string `asn1:"utf8"`
		Public      asn1.RawValue
		Key         asn1.BitString
	}{"pkg", 1, "ecc", "WEI25519", asn1.RawValue{Tag: asn1.TagBoolean, Bytes: []byte{1}}, asn1.BitString{Bytes: point, BitLength: 8 * len(point)}})
	return err
}

// weierstrass is an Ed25519 key as 4, x, y of libecc's WEI25519.
func weierstrass(pub ed25519.PublicKey) []byte {
	p := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	mod := func(n *big.Int) *big.Int { return n.Mod(n, p) }
	mul := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Mul(a, b)) }
	div := func(a, b *big.Int) *big.Int { return mul(a, new(big.Int).ModInverse(b, p)) }
	num := func(n int64) *big.Int { return mod(big.NewInt(n)) }
	add := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Add(a, b)) }
	sub := func(a, b *big.Int) *big.Int { return mod(new(big.Int).Sub(a, b)) }

	b := slices.Clone(pub)
	sign := uint(b[31] >> 7)
	b[31] &= 0x7f
	slices.Reverse(b)
	y := new(big.Int).SetBytes(b)
	d := div(num(-121665), num(121666))
	x := new(big.Int).ModSqrt(div(sub(mul(y, y), num(1)), add(mul(d, mul(y, y)), num(1))), p)
	if x.Bit(0) != sign {
		x = sub(num(0), x)
	}
	u := div(add(num(1), y), sub(num(1), y))
	// libecc's alpha is the odd root.
	root := new(big.Int).ModSqrt(num(-486664), p)
	if root.Bit(0) != 1 {
		root = sub(num(0), root)
	}
	v := div(mul(root, u), x)
	out := append([]byte{4}, add(u, div(num(486662), num(3))).FillBytes(make([]byte, 32))...)
	return append(out, v.FillBytes(make([]byte, 32))...)
}
