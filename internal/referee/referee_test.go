package referee

import "testing"

func TestRequired(t *testing.T) {
	for _, c := range []struct {
		list, program string
		want          bool
	}{
		{"", "sgdisk", false},
		{"", "qemu-img", false},
		{"sgdisk", "sgdisk", true},
		{"fsck.fat, mtools", "mdir", true},
		{"fsck.fat,mtools", "fsck.fat", true},
		{"mtools", "fsck.fat", false},
		{"all", "qemu-img", true},
	} {
		if got := required(c.list, c.program); got != c.want {
			t.Errorf("required(%q, %q) = %v", c.list, c.program, got)
		}
	}
}
