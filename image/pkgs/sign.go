package pkgs

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
)

// Trusted keys that FreeBSD ships in share/keys: sha256 of the public key.
const (
	fingerprintPorts      = "b0170035af3acc5f3f3ae1859dc717101b4e6c1d0a794ad554928ca0cbb2f438" // pkg/trusted/pkg.freebsd.org.2013102301
	fingerprintBase15     = "1d7b45d20fa8d6ed26f9b4a13ac81a6b5df860b9fe644d07b87e92298ba72595" // pkgbase-15/trusted/awskms-15
	fingerprintBaseBack15 = "56a77bdcb6c3cf7984729c6138bd5617c24aa0d466b3b604c96205b2c5629f3c" // pkgbase-15/trusted/backup-signing-15
)

// PortsKeys are the fingerprints of the FreeBSD-ports repositories, and of the base
// system's packages of STABLE and CURRENT.
func PortsKeys() []string { return []string{fingerprintPorts} }

// BaseKeys are the fingerprints of a release's FreeBSD-base repository, none when
// they are not known here.
func BaseKeys(major int) []string {
	if major == 15 {
		return []string{fingerprintBase15, fingerprintBaseBack15}
	}
	return nil
}

const (
	signHead      = "$PKGSIGN:" // then the type and $
	maxSignatures = 8           // members NAME.sig and NAME.pub of an archive
	maxSignature  = 1 << 20     // bytes of one
)

// signature is NAME.sig and NAME.pub of a catalogue's archive.
type signature struct {
	name, typ string
	sig, pub  []byte
}

type signatures []*signature

// add takes a member NAME.sig or NAME.pub.
func (s *signatures) add(member string, content []byte) error {
	name := member[:len(member)-len(".sig")]
	i := slices.IndexFunc(*s, func(x *signature) bool { return x.name == name })
	if i < 0 {
		i = len(*s)
		*s = append(*s, &signature{name: name, typ: "rsa"})
	}
	x, typ := (*s)[i], ""
	if rest, ok := bytes.CutPrefix(content, []byte(signHead)); ok {
		if t, body, ok := bytes.Cut(rest, []byte("$")); ok {
			typ, content = string(t), body
		}
	}
	to := &x.pub
	if strings.HasSuffix(member, ".sig") {
		to = &x.sig
		if typ != "" {
			x.typ = typ
		}
	}
	if *to != nil {
		return fmt.Errorf("%s is there twice", member)
	}
	if len(content) == 0 {
		return fmt.Errorf("%s is empty", member)
	}
	*to = content
	return nil
}

// verify says whether one of the trusted keys signed the digest. As in pkg, a
// revoked key beside it spoils it all (pkg_repo_check_fingerprint).
func (s signatures) verify(digest [sha256.Size]byte, trusted, revoked []string) error {
	if len(s) == 0 {
		return errors.New("it is not signed")
	}
	var good []*signature
	var seen []string
	for _, x := range s {
		if x.sig == nil || x.pub == nil {
			return fmt.Errorf("signature %s has no .sig or no .pub", x.name)
		}
		sum := sha256.Sum256(x.pub)
		print := hex.EncodeToString(sum[:])
		if containsFold(revoked, print) {
			return fmt.Errorf("signature %s is by a revoked key, %s", x.name, print)
		}
		if containsFold(trusted, print) {
			good = append(good, x)
		}
		seen = append(seen, print)
	}
	if len(good) == 0 {
		return fmt.Errorf("it is signed by %s, and trusted are %s", strings.Join(seen, " "), strings.Join(trusted, " "))
	}
	var errs []error
	message := []byte(hex.EncodeToString(digest[:]))
	for _, x := range good {
		err := x.check(message)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("signature %s: %w", x.name, err))
	}
	return errors.Join(errs...)
}

func containsFold(list []string, s string) bool {
	return slices.ContainsFunc(list, func(x string) bool { return strings.EqualFold(x, s) })
}

var errSignature = errors.New("it does not match the content")

// check verifies the signature of message, the sha256 of the content in hex
// (pkgsign_ossl.c, pkgsign_ecc.c).
func (x *signature) check(message []byte) error {
	switch x.typ {
	case "rsa":
		return x.checkRSA(message)
	case "ecdsa":
		return x.checkECDSA(message)
	case "ecc", "eddsa":
		return x.checkEdDSA(message)
	}
	return fmt.Errorf("unknown type %q", x.typ)
}

func (x *signature) checkRSA(message []byte) error {
	block, _ := pem.Decode(x.pub)
	if block == nil {
		return errors.New("its key is not PEM")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return fmt.Errorf("its key: %w", err)
	}
	k, ok := key.(*rsa.PublicKey)
	if !ok {
		return errors.New("its key is not of RSA")
	}
	sum := sha256.Sum256(message)
	if rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], x.sig) != nil {
		return errSignature
	}
	return nil
}

// ecKey is SubjectPublicKeyInfo of RFC 5480.
type ecKey struct {
	Algorithm struct{ Algorithm, Curve asn1.ObjectIdentifier }
	Key       asn1.BitString
}

// ecSignature is Ecdsa-Sig-Value of RFC 3279; of EdDSA too, R and S as big-endian
// numbers.
type ecSignature struct{ R, S *big.Int }

func (x *signature) checkECDSA(message []byte) error {
	var key ecKey
	if err := unmarshal(x.pub, &key); err != nil {
		return fmt.Errorf("its key: %w", err)
	}
	if !key.Algorithm.Algorithm.Equal(asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}) {
		return errors.New("its key is not of an elliptic curve")
	}
	var sig ecSignature
	if err := unmarshal(x.sig, &sig); err != nil {
		return err
	}
	sum := sha256.Sum256(message)
	ok := false
	switch curve := key.Algorithm.Curve; curve.String() {
	case "1.3.132.0.10":
		ok = verifySecp256k1(key.Key.Bytes, sum[:], sig.R, sig.S)
	case "1.3.132.0.34", "1.3.132.0.35":
		c := elliptic.P384()
		if curve[3] == 35 {
			c = elliptic.P521()
		}
		k, err := ecdsa.ParseUncompressedPublicKey(c, key.Key.Bytes)
		if err != nil {
			return fmt.Errorf("its key: %w", err)
		}
		ok = ecdsa.VerifyASN1(k, sum[:], x.sig)
	default:
		return fmt.Errorf("its key is of curve %s, which is not supported", curve)
	}
	if !ok {
		return errSignature
	}
	return nil
}

// ecPkgKey is PkgPublicKeyInfo of pkgsign_ecc.c.
type ecPkgKey struct {
	Application string `asn1:"utf8"`
	Version     int
	Signer      string        `asn1:"utf8"`
	KeyType     string        `asn1:"utf8"`
	Public      asn1.RawValue // a BOOLEAN that is not DER
	Key         asn1.BitString
}

func (x *signature) checkEdDSA(message []byte) error {
	var key ecPkgKey
	if err := unmarshal(x.pub, &key); err != nil {
		return fmt.Errorf("its key: %w", err)
	}
	if key.Application != "pkg" || key.Version != 1 || key.Signer != "ecc" || key.KeyType != "WEI25519" ||
		key.Public.Tag != asn1.TagBoolean || bytes.Equal(key.Public.Bytes, []byte{0}) {
		return errors.New("its key is not a public one of WEI25519")
	}
	pub, err := edwards25519(key.Key.Bytes)
	if err != nil {
		return fmt.Errorf("its key: %w", err)
	}
	var sig ecSignature
	if err := unmarshal(x.sig, &sig); err != nil {
		return err
	}
	raw := make([]byte, ed25519.SignatureSize)
	half := len(raw) / 2
	if !fits(sig.R, half) || !fits(sig.S, half) {
		return errSignature
	}
	sig.R.FillBytes(raw[:half])
	sig.S.FillBytes(raw[half:])
	if !ed25519.Verify(pub, message, raw) {
		return errSignature
	}
	return nil
}

func fits(n *big.Int, bytes int) bool { return n.Sign() >= 0 && n.BitLen() <= 8*bytes }

func unmarshal(b []byte, v any) error {
	rest, err := asn1.Unmarshal(b, v)
	if err == nil && len(rest) > 0 {
		err = errors.New("asn1: bytes behind the end")
	}
	return err
}
