package image

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cacheOf writes files that were used so many days before now.
func cacheOf(t *testing.T, now time.Time, files map[string]int) string {
	t.Helper()
	dir := t.TempDir()
	for name, days := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
		at := now.Add(-time.Duration(days) * 24 * time.Hour)
		for p := p; p != dir; p = filepath.Dir(p) {
			if err := os.Chtimes(p, at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestCacheGC(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	sha := strings.Repeat("a", 64)
	old, young := strings.Repeat("b", 64), strings.Repeat("c", 64)
	all := map[string]int{
		"sets/15.1-RELEASE-amd64/base.txz":        90,
		"sets/15.1-RELEASE-amd64/kernel.txz.part": 90,
		"tars/" + old + ".tar":                    90, "tars/" + old + ".idx": 90, "tars/1.tmp": 90, "tars/2.tmp": 0,
		"layers/" + old: 90, "layers/" + old + ".json": 90, "layers/" + young: 1, "layers/.layers-1": 0,
		"boot/" + sha: 40, "boot/mine": 90,
		"pkgs/" + old + ".pkg": 90, "pkgs/" + young + ".pkg": 2, "pkgs/lock": 90,
		"catalogues/0123456789abcdef/data.pkg": 40, "catalogues/fedcba9876543210/data.pkg.1.part": 0,
		"bin/riginstall-checkout": 90, "demo-0123456789ab/MANIFEST": 40, "other/file": 90,
	}
	for _, c := range []struct {
		name string
		o    GCOptions
		want string
	}{
		{"30 days", GCOptions{Keep: 30 * 24 * time.Hour},
			"sets/15.1-RELEASE-amd64/kernel.txz.part tars/1.tmp tars/OLD layers/OLD boot/SHA pkgs/OLD.pkg catalogues/0123456789abcdef bin/riginstall-checkout demo-0123456789ab"},
		{"60 days", GCOptions{Keep: 60 * 24 * time.Hour},
			"sets/15.1-RELEASE-amd64/kernel.txz.part tars/1.tmp tars/OLD layers/OLD pkgs/OLD.pkg bin/riginstall-checkout"},
		{"all", GCOptions{All: true, Keep: 30 * 24 * time.Hour},
			"sets/15.1-RELEASE-amd64 sets/15.1-RELEASE-amd64/kernel.txz.part tars/1.tmp tars/OLD layers/OLD layers/YOUNG boot/SHA pkgs/OLD.pkg pkgs/YOUNG.pkg catalogues/0123456789abcdef bin/riginstall-checkout demo-0123456789ab"},
	} {
		dir := cacheOf(t, now, all)
		c.o.Now = now
		for _, dry := range []bool{true, false} {
			c.o.DryRun = dry
			items, err := CacheGC(t.Context(), dir, c.o)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, i := range items {
				names = append(names, i.Name)
				_, err := os.Stat(filepath.Join(dir, i.Name))
				if gone := os.IsNotExist(err); gone == dry && i.Name != "tars/"+old {
					t.Errorf("%s, dry run %v: %s is gone: %v", c.name, dry, i.Name, gone)
				}
			}
			got := strings.NewReplacer(old, "OLD", young, "YOUNG", sha, "SHA").Replace(strings.Join(names, " "))
			if got != c.want {
				t.Errorf("%s, dry run %v:\ngot  %s\nwant %s", c.name, dry, got, c.want)
			}
		}
		for _, p := range []string{"boot/mine", "pkgs/lock", "other/file", "tars/2.tmp", "layers/.layers-1", "catalogues/fedcba9876543210/data.pkg.1.part"} {
			if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		}
	}
}

func TestCacheList(t *testing.T) {
	now := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	a, b := strings.Repeat("a", 64), strings.Repeat("b", 64)
	dir := cacheOf(t, now, map[string]int{"layers/" + a: 3, "layers/" + a + ".json": 5, "layers/" + b: 1, "tars/" + a + ".tar": 2})
	kinds, err := CacheList(dir)
	if err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour
	if len(kinds) != 2 || kinds[0].Kind != "tars" || kinds[1].Kind != "layers" || kinds[1].Items != 2 ||
		!kinds[1].Oldest.Equal(now.Add(-3*day)) || !kinds[1].Newest.Equal(now.Add(-day)) {
		t.Errorf("%+v", kinds)
	}
	if kinds, err := CacheList(filepath.Join(dir, "none")); err != nil || len(kinds) != 0 {
		t.Errorf("%+v, %v", kinds, err)
	}
	if _, err := CacheList(filepath.Join(dir, "layers", a)); err == nil || !strings.Contains(err.Error(), "it is not a directory") {
		t.Errorf("got %v", err)
	}
}

// A hit in the cache is noted, and does not change what an index compares.
func TestTouch(t *testing.T) {
	p := filepath.Join(t.TempDir(), "x")
	long := time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	if err := os.WriteFile(p, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(p, long, long); err != nil {
		t.Fatal(err)
	}
	touch(p)
	i := CacheItem{Kind: "tars"}
	if err := i.measure(p); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(p)
	if err != nil || !st.ModTime().Equal(long) || time.Since(i.Used) > time.Hour {
		t.Errorf("modified %v, used %v, %v", st.ModTime(), i.Used, err)
	}
}
