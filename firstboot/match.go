package firstboot

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"rig/answers"
	"rig/internal/diag"
	"rig/manifest"
)

// findNIC returns the interface a match names. "auto" takes the only one with a
// link that is not taken, by MAC, for something else.
func findNIC(f *Facts, want answers.NICMatch, taken map[string]string) (NIC, error) {
	var found []NIC
	for _, n := range f.NICs {
		_, other := taken[n.MAC]
		switch {
		case want.MAC != "" && strings.EqualFold(n.MAC, want.MAC),
			want.MAC == "" && want.Device != "" && n.Device == want.Device,
			want.MAC == "" && want.Device == "" && n.Link && !other:
			found = append(found, n)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	var present []string
	for _, n := range f.NICs {
		present = append(present, n.Device+" "+n.MAC)
	}
	if len(present) == 0 {
		return NIC{}, fmt.Errorf("no network interface is present")
	}
	what := "no interface matches " + want.String()
	if len(found) > 1 {
		what = fmt.Sprintf("%d interfaces match %s", len(found), want)
	}
	return NIC{}, fmt.Errorf("%s; present are %s", what, strings.Join(present, ", "))
}

// resolveNICs replaces every answered NIC match by the MAC and device it stands
// for on this machine; two questions must not get the same one. Those that name
// an interface come first, "auto" takes of what is left.
func resolveNICs(f *Facts, m *manifest.Manifest, set *answers.Set) error {
	var named, auto []string
	for _, q := range m.Questions {
		if _, given := set.Get(q.Key); q.Type != answers.NIC || !given {
			continue
		}
		if n := set.NIC(q.Key); n.MAC == "" && n.Device == "" {
			auto = append(auto, q.Key)
		} else {
			named = append(named, q.Key)
		}
	}
	var ps diag.Problems
	taken := map[string]string{}
	for _, key := range append(named, auto...) {
		n, err := findNIC(f, set.NIC(key), taken)
		if other, dup := taken[n.MAC]; err == nil && dup {
			err = fmt.Errorf("%s %s is %s already", n.Device, n.MAC, other)
		}
		if err == nil {
			taken[n.MAC] = key
			err = set.SetFrom(key, answers.NICMatch{MAC: n.MAC, Device: n.Device}, set.Origin(key))
		}
		if err != nil {
			ps.Add(diag.Problem{File: set.Origin(key), Key: key, Msg: err.Error()})
		}
	}
	return ps.Err()
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
