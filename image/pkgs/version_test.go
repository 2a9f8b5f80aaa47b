package pkgs

import "testing"

// The answers are those of pkg_version_cmp of pkg 2.8 itself.
func TestCompareVersions(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		// tests/frontend/version.sh
		{"1", "2", -1},
		{"2", "1", 1},
		{"2", "2", 0},
		{"2", "1,1", -1},
		{"1.pl1", "1.alpha1", -1},
		{"1.alpha1", "1.beta1", -1},
		{"1.beta1", "1.pre1", -1},
		{"1.pre1", "1.rc1", -1},
		{"1.rc1", "1", -1},
		{"1.pl1", "1.snap1", -1},
		{"1.snap1", "1.alpha1", 1},
		{"5.20_3", "5", 1},
		{"5.20_3", "5.20", 1},
		{"5.20_3", "6", -1},
		// libpkg/pkg_version.c
		{"10", "10.0", 0},
		{"10.0", "10.0.0", 0},
		{"10..1", "10.1", 0},
		{"1.0:2003.09.16", "1.0.2003.09.16", 0},
		{"1.0.1:2003.09.16", "1.0:2003.09.16", -1},
		{"10a1b2", "10a1.b2", 0},
		{"10", "10a", -1},
		{"10a", "10b", -1},
		{"a", "0", -1},
		{"10.a", "10", -1},
		{"10alpha", "10.a", 0},
		{"10alpha", "10", -1},
		{"pl11", "alpha3", -1},
		{"alpha3", "0.1beta2", -1},
		{"0.1beta2", "0.1.b2", 0},
		{"0.1.b2", "0.1", -1},
		{"1.d2", "1.dev2", 0},
		{"1.dev2", "1.Development2", 0},
		{"2.*", "2pl1", -1},
		{"2pl1", "2alpha3", -1},
		{"2alpha3", "2.9f7", -1},
		{"2.9f7", "3.*", -1},
		// seen in ports
		{"1.0_1", "1.0", 1},
		{"1.0_9", "1.0_10", -1},
		{"1.0,1", "2.0", 1},
		{"1.0_3,1", "1.0,1", 1},
		{"2.0_1,1", "1.0,2", -1},
		{"1.0+1", "1.0", 1},
		{"1.0+2", "1.0+10", -1},
		{"1.0+20240101", "1.0.1", -1},
		{"19.b2", "19", -1},
		{"19beta1", "19.b1", 0},
		{"19.b2", "18.4", 1},
		{"9.9.p1", "9.9", -1},
		{"9.9.p1,1", "10.0.p2,1", -1},
		{"2025.a", "2025.b", -1},
		{"2025.b", "2025", -1},
		{"20240101", "1.0", 1},
		{"1.28.0,3", "1.29.0,2", 1},
		{"1.0rc1", "1.0RC2", -1},
		{"1.0.r1234", "1.0", -1},
		{"1.1.1w", "1.1.1", 1},
		{"1.1.1w", "1.1.1v", 1},
		{"3.0.16", "3.0.9", 1},
		{"8.11.0_1", "8.11.0", 1},
		{"nginx-1.28.0", "nginx-1.28.0_1", -1},
		{"99999999999999999999", "99999999999999999998", 0}, // neither fits
		{"0", "", 0},
	} {
		if got := CompareVersions(c.a, c.b); got != c.want {
			t.Errorf("CompareVersions(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
		if got := CompareVersions(c.b, c.a); got != -c.want {
			t.Errorf("CompareVersions(%q, %q) = %d, want %d", c.b, c.a, got, -c.want)
		}
	}
}

func TestIsPrerelease(t *testing.T) {
	for v, want := range map[string]bool{
		"19.b2": true, "19beta1": true, "19.beta1_1,2": true, "1.0.rc3": true, "1.0RC1": true, "1.0.r1": true, "2.0.a10": true,
		"1.0.alpha": true, "1.0pre2": true, "3.b7.p2": true,
		"18.4": false, "18.4_1": false, "10.0.p1_1,1": false, "2025.b": false, "0.r1234": false, "1.1.1w": false, "8d": false,
		"9b2": false, "1.0_1": false, "1.0.arc2": false, "1.0.prefix": false, "1.0.d1": false, "": false,
	} {
		if got := IsPrerelease(v); got != want {
			t.Errorf("IsPrerelease(%q) = %v", v, got)
		}
	}
}

func FuzzCompareVersions(f *testing.F) {
	f.Add("1.0_1,2", "1.0.b2")
	f.Add("2.*+1", "2pl1")
	f.Fuzz(func(t *testing.T, a, b string) {
		if x, y := CompareVersions(a, b), CompareVersions(b, a); x != -y {
			t.Errorf("%q, %q: %d and %d", a, b, x, y)
		}
		if CompareVersions(a, a) != 0 {
			t.Errorf("%q is not itself", a)
		}
		IsPrerelease(a)
	})
}
