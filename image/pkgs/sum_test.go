package pkgs

import (
	"io"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/pkgtest"
)

// verify compares what r has with a sum.
func verify(s Sum, r io.Reader) error {
	h := s.New()
	if _, err := io.Copy(h, r); err != nil {
		return err
	}
	return s.Check(h)
}

func TestSum(t *testing.T) {
	content := "any content\n"
	for typ := -1; typ <= 6; typ++ {
		text := pkgtest.Sum(typ, []byte(content))
		s, err := ParseSum(text)
		if err != nil {
			t.Errorf("type %d: %v", typ, err)
			continue
		}
		if err := verify(s, strings.NewReader(content)); err != nil {
			t.Errorf("type %d: %v", typ, err)
		}
		if err := verify(s, strings.NewReader("other")); err == nil || !strings.Contains(err.Error(), ", the catalogue says ") {
			t.Errorf("type %d: got %v", typ, err)
		}
	}
	// What pkg 2.8.99.1 wrote of the file "hello\n".
	s, err := ParseSum("2$s8deqbshcsr113zutmcnuabi3g7ic7hoos365fbr649mmwrdkj7n98jgtuadhw4b7e39uucmp4tgjzm6i9a7twsbcta5jzyjhopgwxb")
	if err != nil || verify(s, strings.NewReader("hello\n")) != nil {
		t.Errorf("a sum of pkg's: %v", err)
	}
}

func TestSumWrong(t *testing.T) {
	hex64 := strings.Repeat("0f", 32)
	for _, c := range []struct{ sum, want string }{
		{"", `sum "": 0 bytes are not a sha256`},
		{"1$", "0 bytes are not a sha256"},
		{hex64 + "0", "odd length hex string"},
		{hex64[2:], "31 bytes are not a sha256"},
		{"7$" + hex64, "unknown type"},
		{"-1$" + hex64, "unknown type"},
		{"x$" + hex64, "unknown type"},
		{"2$" + hex64, "'0' is not of base 32"},
		{"0$" + strings.Repeat("y", 50), "31 bytes are not a sha256"},
		{"0$" + strings.Repeat("y", 51), "stray bits"},
		{"0$" + strings.Repeat("y", 51) + "9", "stray bits"},
		{"0$" + strings.Repeat("y", 53), "33 bytes are not a sha256"},
		{"2$" + strings.Repeat("y", 52), "32 bytes are not a blake2b"},
		{"5$" + strings.Repeat("y", 103), "64 bytes are not a blake2s"},
	} {
		if _, err := ParseSum(c.sum); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %s", c.sum, err, c.want)
		}
	}
	if verify(Sum{}, strings.NewReader("")) == nil {
		t.Error("the zero sum matches")
	}
}
