package pkgs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/pkgtest"
)

// Members of data.pkg by `pkg repo` of pkg 2.8.99.1 with keys of `pkg key --create`.
const (
	pkgDigest   = "ba922073392db6de4d70b87f1aa8cb8c98c01e63a83d799a8ab062c4a14a3b09"
	pkgECDSASig = "24504b475349474e3a6563647361243045022100a942c7ab2b13dccae6258842547b20e3f8da5e6d14481893c8802b5d229b745b02202e28b55eecf59e78173fc0f5f3119459c7ca0e23c7d6e87cd8f4925f311a3050"
	pkgECDSAPub = "24504b475349474e3a6563647361243056301006072a8648ce3d020106052b8104000a03420004ed43ad41524ee51e91c2ec4c27b803b406c01921d681b0c6ab762b99a6b240423b785c094202d07342d9b728da0311f8111571e8db83efed6155698da660cbae"
	pkgEdDSASig = "24504b475349474e3a656464736124304502202d0c69102925cc98ae6098fe42829b03544c5c1bb3019132a2775344d1811019022100ac1acb722cb1aece275d7090311c09a91ad8b0f2c4c5db0fba22ba528984400f"
	pkgEdDSAPub = "24504b475349474e3a656464736124305e0c03706b670201010c036563630c0857454932353531390101ff034200047a6c947aaadfb3dadd18882c40daa6e625e73f4e74eeeb396750a3cfb1da65714b1a802bdb593ead9fb5499941676ab0ad0f8489b4cf580799bde8169ed432f7"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// signed returns signatures of members, NAME.sig and NAME.pub in turn.
func signed(t *testing.T, members ...pkgtest.Member) signatures {
	t.Helper()
	var s signatures
	for _, m := range members {
		if err := s.add(m.Name, m.Content); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func fingerprint(pub []byte) string {
	sum := sha256.Sum256(pub)
	return hex.EncodeToString(sum[:])
}

func TestSignaturesOfPkg(t *testing.T) {
	for _, c := range []struct{ sig, pub string }{{pkgECDSASig, pkgECDSAPub}, {pkgEdDSASig, pkgEdDSAPub}} {
		s := signed(t, pkgtest.Member{Name: "data.sig", Content: unhex(t, c.sig)}, pkgtest.Member{Name: "data.pub", Content: unhex(t, c.pub)})
		trusted := []string{strings.ToUpper(fingerprint(s[0].pub))}
		digest := [32]byte(unhex(t, pkgDigest))
		if err := s.verify(digest, trusted, nil); err != nil {
			t.Errorf("%s: %v", s[0].typ, err)
		}
		digest[31] ^= 1
		if err := s.verify(digest, trusted, nil); err == nil || err.Error() != "signature data: it does not match the content" {
			t.Errorf("%s, other content: got %v", s[0].typ, err)
		}
		digest[31] ^= 1
		for i := range s[0].sig {
			s[0].sig[i] ^= 0x40
			if s.verify(digest, trusted, nil) == nil {
				t.Errorf("%s: byte %d of the signature does not matter", s[0].typ, i)
			}
			s[0].sig[i] ^= 0x40
		}
	}
}

func TestSignatures(t *testing.T) {
	content := []byte("any content")
	digest := sha256.Sum256(content)
	for _, typ := range []string{"rsa", "ecdsa", "eddsa"} {
		a, b := pkgtest.NewKey(t, typ), pkgtest.NewKey(t, "rsa")
		fa, fb := a.Fingerprint(), b.Fingerprint()
		both := append(b.Members(t, "data", content), a.Members(t, "x.y", content)...)
		wrong := a.Members(t, "data", []byte("other content"))
		for _, c := range []struct {
			what             string
			members          []pkgtest.Member
			trusted, revoked []string
			want             string
		}{
			{"good", a.Members(t, "data", content), []string{fb, fa}, nil, ""},
			{"of two", both, []string{fa}, nil, ""},
			{"of two", both, []string{fb}, nil, ""},
			{"one wrong", append(wrong, b.Members(t, "z", content)...), []string{fa, fb}, nil, ""},
			{"wrong", wrong, []string{fa}, nil, "signature data: it does not match the content"},
			{"only the other is right", append(wrong, b.Members(t, "z", content)...), []string{fa}, nil, "signature data: it does not match the content"},
			{"revoked", a.Members(t, "data", content), []string{fa}, []string{fa}, "signature data is by a revoked key, " + fa},
			{"one revoked", both, []string{fa}, []string{fb}, "signature data is by a revoked key, " + fb},
			{"untrusted", a.Members(t, "data", content), []string{fb}, nil, "it is signed by " + fa + ", and trusted are " + fb},
			{"none", nil, []string{fb}, nil, "it is not signed"},
			{"half", both[:3], []string{fb}, nil, "signature x.y has no .sig or no .pub"},
		} {
			err := signed(t, c.members...).verify(digest, c.trusted, c.revoked)
			if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
				t.Errorf("%s, %s: got %v, want %s", typ, c.what, err, c.want)
			}
		}
	}
}

func TestSignatureForms(t *testing.T) {
	content := []byte("any content")
	key := pkgtest.NewKey(t, "ecdsa")
	m := key.Members(t, "data", content)
	replace := func(b []byte, from, to string) []byte { return bytes.Replace(b, []byte(from), []byte(to), 1) }
	for _, c := range []struct {
		sig, pub []byte
		want     string
	}{
		{replace(m[0].Content, "ecdsa", "dsa"), m[1].Content, `signature data: unknown type "dsa"`},
		{replace(m[0].Content, "ecdsa", "rsa"), m[1].Content, "signature data: its key is not PEM"},
		{replace(m[0].Content, "ecdsa", "eddsa"), m[1].Content, "signature data: its key: asn1: structure error"},
		{replace(m[0].Content, "$PKGSIGN:ecdsa$", ""), m[1].Content, "signature data: its key is not PEM"},
		{m[0].Content, replace(m[1].Content, "\x2b\x81\x04\x00\x22", "\x2b\x81\x04\x00\x21"), "signature data: its key is of curve 1.3.132.0.33, which is not supported"},
		{append(bytes.Clone(m[0].Content), 0), m[1].Content, "bytes behind the end"},
	} {
		s := signed(t, pkgtest.Member{Name: "data.sig", Content: c.sig}, pkgtest.Member{Name: "data.pub", Content: c.pub})
		err := s.verify(sha256.Sum256(content), []string{fingerprint(s[0].pub)}, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	var s signatures
	for _, c := range []struct{ name, content, want string }{
		{"data.sig", "", "data.sig is empty"},
		{"data.sig", "$PKGSIGN:rsa$", "data.sig is empty"},
		{"data.sig", "x", ""},
		{"data.pub", "x", ""},
		{"data.sig", "y", "data.sig is there twice"},
	} {
		if err := s.add(c.name, []byte(c.content)); err == nil && c.want != "" || err != nil && err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, k := range append(PortsKeys(), BaseKeys(15)...) {
		if len(unhex(t, k)) != sha256.Size {
			t.Error(k)
		}
	}
	if len(BaseKeys(15)) != 2 || BaseKeys(99) != nil {
		t.Error(BaseKeys(15), BaseKeys(99))
	}
}
