package ipv4

import "testing"

func TestMaskBits(t *testing.T) {
	for mask, want := range map[string]int{"0x0": 0, "0x80000000": 1, "0xffffff00": 24, "0xffffffff": 32, "255.255.255.248": 29, "0.0.0.0": 0} {
		if got, err := MaskBits(mask); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", mask, got, err, want)
		}
	}
	for mask, want := range map[string]error{"": ErrSyntax, "24": ErrSyntax, "0x": ErrSyntax, "0xfffffffff": ErrSyntax, "255.255": ErrSyntax, "ffff::": ErrSyntax,
		"0xff00ff00": ErrHoles, "255.0.255.0": ErrHoles} {
		if _, err := MaskBits(mask); err != want {
			t.Errorf("%q: %v, want %v", mask, err, want)
		}
	}
}
