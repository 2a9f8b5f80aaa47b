package iso

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/referee"
)

// libarchive has bsdtar list an image as mtree(5) with digests and compares all of
// it: owners, modes, times, targets, links and the content of every file.
func libarchive(t testing.TB, tr *tree.Tree, img string) {
	t.Helper()
	out := referee.Run(t, "bsdtar", "-cf", "-", "--format=mtree", "--options=!all,type,mode,uid,gid,time,size,link,nlink,sha256", "@"+img)
	got := map[string]map[string]string{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 0 || f[0][0] == '#' {
			continue
		}
		kv := map[string]string{}
		for _, s := range f[1:] {
			k, v, _ := strings.Cut(s, "=")
			kv[k] = unvis(t, v)
		}
		got[strings.TrimPrefix(unvis(t, f[0]), "./")] = kv
	}
	if len(got) != tr.Len() {
		t.Errorf("bsdtar lists %d names, want %d", len(got), tr.Len())
	}
	links := map[string]int{}
	for e := range tr.All() {
		if e.Kind == tree.HardLink {
			links[e.Link]++
			links[e.Path] = 0
		}
	}
	content := map[string]bool{} // Files whose content was seen under one of their names
	for e := range tr.All() {
		kv := got[e.Path]
		if kv == nil {
			t.Errorf("bsdtar does not list %q", e.Path)
			continue
		}
		want := map[string]string{"type": "file", "mode": strconv.FormatUint(uint64(e.Perm), 8),
			"uid": fmt.Sprint(e.UID), "gid": fmt.Sprint(e.GID)}
		if !e.ModTime.IsZero() {
			want["time"] = fmt.Sprintf("%d.0", e.ModTime.Unix())
		} else {
			want["time"] = fmt.Sprintf("%d.0", options.Time.Unix())
		}
		file := e
		switch e.Kind {
		case tree.Dir:
			want["type"] = "dir"
		case tree.Symlink:
			want["type"], want["link"] = "link", e.Link
		case tree.HardLink:
			file, _ = tr.Lookup(e.Link)
		}
		if e.Kind == tree.File || e.Kind == tree.HardLink {
			if n := links[file.Path]; n > 0 && file.Size > 0 { // bsdtar knows the names of a file by its extent
				want["nlink"] = fmt.Sprint(n + 1)
			}
			sum, err := file.Digest()
			if err != nil {
				t.Fatal(err)
			}
			if kv["size"] == fmt.Sprint(file.Size) && kv["sha256digest"] == sum {
				content[file.Path] = true
			} else if links[file.Path] == 0 || kv["size"] != "0" { // bsdtar writes the content of one name only
				t.Errorf("bsdtar: %q has %s bytes, digest %s; want %d, %s", e.Path, kv["size"], kv["sha256digest"], file.Size, sum)
			}
		}
		for _, k := range slices.Sorted(maps.Keys(want)) {
			if kv[k] != want[k] {
				t.Errorf("bsdtar: %q has %s %q, want %q", e.Path, k, kv[k], want[k])
			}
		}
	}
	for e := range tr.All() {
		if e.Kind == tree.File && !content[e.Path] {
			t.Errorf("bsdtar: the content of %q is not there", e.Path)
		}
	}
}

var octal = regexp.MustCompile(`\\[0-7]{3}`)

// unvis undoes libarchive's escapes.
func unvis(t testing.TB, s string) string {
	return octal.ReplaceAllStringFunc(s, func(e string) string {
		n, err := strconv.ParseUint(e[1:], 8, 8)
		if err != nil {
			t.Fatal(err)
		}
		return string([]byte{byte(n)})
	})
}

func TestLibarchive(t *testing.T) {
	referee.Need(t, "bsdtar")
	for _, o := range []Options{options, bootOptions()} {
		_, m := roundTrip(t, sample(t), o)
		libarchive(t, sample(t), save(t, m))
	}
}

var isoinfoLine = regexp.MustCompile(`^([-dl])([-rwx]{9}) +(\d+) +([0-7]+) +([0-7]+) +(\d+) .{11} \[ *(\d+) 0[02]\]  (.*?)(?: -> (.*)| )$`)

// TestIsoinfo compares the listings of isoinfo, which shows no set-id bits, no
// empty components of links and only 10 digits of an owner.
func TestIsoinfo(t *testing.T) {
	referee.Need(t, "isoinfo")
	tr, err := sample(t).Filter(func(e *tree.Entry) bool {
		return !strings.Contains(e.Path, "\n") && (e.Path != "far" && (e.Kind != tree.Symlink || !strings.Contains(e.Link, "//") && !strings.HasSuffix(e.Link, "/")))
	})
	if err != nil {
		t.Fatal(err)
	}
	p, m := roundTrip(t, tr, bootOptions())
	img := save(t, m)

	var names []string
	for e := range tr.All() {
		if e.Path != "." {
			names = append(names, "/"+e.Path)
		}
	}
	found := strings.Split(strings.TrimSpace(referee.Run(t, "isoinfo", "-f", "-R", "-i", img)), "\n")
	slices.Sort(names)
	slices.Sort(found)
	if !slices.Equal(names, found) {
		t.Errorf("isoinfo finds %d names, want %d:\n%q\n%q", len(found), len(names), found, names)
	}

	dir, listed := "", 0
	for line := range strings.SplitSeq(referee.Run(t, "isoinfo", "-l", "-R", "-i", img), "\n") {
		if d, ok := strings.CutPrefix(line, "Directory listing of /"); ok {
			dir = d
			continue
		}
		f := isoinfoLine.FindStringSubmatch(line)
		if f == nil || f[8] == "." || f[8] == ".." {
			if f == nil && line != "" {
				t.Errorf("isoinfo: %q", line)
			}
			continue
		}
		n := p.names[dir+f[8]]
		if n == nil {
			t.Errorf("isoinfo lists %q", dir+f[8])
			continue
		}
		listed++
		e := n.entry
		want := []string{map[tree.Kind]string{tree.Dir: "d", tree.Symlink: "l"}[e.Kind], rwx(e.Perm), fmt.Sprint(n.file.links),
			fmt.Sprintf("%o", e.UID), fmt.Sprintf("%o", e.GID), fmt.Sprint(n.file.size), fmt.Sprint(n.file.extent), filepath.Base(e.Path), e.Link}
		if want[0] == "" {
			want[0] = "-"
		}
		if e.Kind == tree.HardLink {
			want[8] = ""
		}
		if !slices.Equal(f[1:], want) {
			t.Errorf("isoinfo: %q is %q, want %q", e.Path, f[1:], want)
		}
	}
	if listed != len(names) {
		t.Errorf("isoinfo lists %d names, want %d", listed, len(names))
	}
}

func rwx(perm uint16) string {
	b := []byte("rwxrwxrwx")
	for i := range b {
		if perm&(0o400>>i) == 0 {
			b[i] = '-'
		}
	}
	return string(b)
}

// TestXorriso has xorriso report the boot equipment and extract files.
func TestXorriso(t *testing.T) {
	referee.Need(t, "xorriso")
	table, m := hybrid(t)
	img := save(t, m)
	out := referee.Run(t, "xorriso", "-indev", "stdio:"+img, "-report_el_torito", "plain", "-report_system_area", "plain")
	out = regexp.MustCompile(` +`).ReplaceAllString(out, " ")
	boot, esp := table.Partitions[0], table.Partitions[1]
	for _, want := range []string{
		"Boot record : El Torito , MBR protective-msdos-label cyl-align-off GPT",
		"Volume id : 'RIG_TEST'",
		"El Torito boot img : 1 BIOS y none 0x0000 0x00 4 ",
		fmt.Sprintf("El Torito boot img : 2 UEFI y none 0x0000 0x00 4096 %d", esp.Start/blockSize),
		"El Torito img path : 1 /boot/cdboot",
		fmt.Sprintf("ISO image size/512 : %d", table.DiskSize/512),
		fmt.Sprintf("MBR partition : 1 0x00 0xee 1 %d", table.DiskSize/512-1),
		"GPT entry array : 2 128 separated",
		fmt.Sprintf("GPT lba range : 34 %d %d", table.DiskSize/512-34, table.DiskSize/512-1),
		fmt.Sprintf("GPT start and size : 1 34 %d", boot.Size/512),
		fmt.Sprintf("GPT start and size : 2 %d 4096", esp.Start/512),
	} {
		if !strings.Contains(out, want) {
			t.Errorf("xorriso does not say %q", want)
		}
	}
	if strings.Contains(out, "GPT backup problem") || strings.Contains(out, "FAILURE") || t.Failed() {
		t.Errorf("xorriso reports:\n%s", out)
	}

	dir := t.TempDir()
	args := []string{"-report_about", "WARNING", "-osirrox", "on", "-indev", "stdio:" + img}
	some := []string{"bin", "d", "files", "h", "names", "ünïcödé"}
	for _, s := range some {
		args = append(args, "-extract", "/"+s, filepath.Join(dir, s))
	}
	referee.Run(t, "xorriso", args...)
	for e := range sample(t).All() {
		top, _, _ := strings.Cut(e.Path, "/")
		if e.Kind != tree.File && e.Kind != tree.HardLink || !slices.Contains(some, top) {
			continue
		}
		want, _ := sample(t).ReadFile(e.Path, 1<<30)
		if e.Kind == tree.HardLink {
			want, _ = sample(t).ReadFile(e.Link, 1<<30)
		}
		got, err := os.ReadFile(filepath.Join(dir, e.Path))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("xorriso extracts %q: %v", e.Path, err)
		}
	}
}

func TestSgdisk(t *testing.T) {
	referee.Need(t, "sgdisk")
	_, m := hybrid(t)
	out := referee.Run(t, "sgdisk", "-v", save(t, m))
	if !strings.HasPrefix(strings.TrimSpace(out), "No problems found.") {
		t.Errorf("sgdisk -v:\n%s", out)
	}
}

// TestForeign reads what others wrote.
func TestForeign(t *testing.T) {
	for _, c := range [][]string{
		{"genisoimage", "-quiet", "-R", "-V", "FOREIGN", "-o"},
		{"xorriso", "-report_about", "WARNING", "-as", "mkisofs", "-R", "-V", "FOREIGN", "-o"},
		{"xorriso", "-report_about", "WARNING", "-compliance", "clear:iso_9660_level=3:deep_paths:long_paths:long_names", "-as", "mkisofs", "-R", "-V", "FOREIGN", "-o"},
	} {
		t.Run(c[0]+c[3], func(t *testing.T) {
			referee.Need(t, c[0])
			src := t.TempDir()
			want := mktree(t, mkfile("a", 3000, 1), mkfile("b/"+strings.Repeat("n", 200), 10, 2), mkhard("b/hard", "a"),
				mklink("b/l", "../a"), mklink("long", strings.Repeat("dir/", 40)+"x"), mklink("root", "/"), mkfile("empty", 0, 0))
			for e := range want.All() {
				name := filepath.Join(src, e.Path)
				var err error
				switch e.Kind {
				case tree.Dir:
					err = os.MkdirAll(name, 0o755)
				case tree.File:
					b, _ := want.ReadFile(e.Path, 1<<20)
					err = os.WriteFile(name, b, 0o644)
				case tree.Symlink:
					err = os.Symlink(e.Link, name)
				case tree.HardLink:
					err = os.Link(filepath.Join(src, e.Link), name)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			img := filepath.Join(t.TempDir(), "foreign.iso")
			referee.Run(t, c[0], append(c[1:len(c):len(c)], img, src)...)
			b, err := os.ReadFile(img)
			if err != nil {
				t.Fatal(err)
			}
			f, err := Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			got, err := f.Tree()
			if err != nil {
				t.Fatal(err)
			}
			if f.Volume() != "FOREIGN" || got.Len() != want.Len() {
				t.Errorf("volume %q, %d entries", f.Volume(), got.Len())
			}
			for e := range want.All() {
				g, ok := got.Lookup(e.Path)
				if !ok || g.Link != e.Link || g.Size != e.Size || g.Kind != e.Kind {
					t.Errorf("read %+v, want %+v", g, e)
					continue
				}
				if e.Kind == tree.File {
					if err := compareContent(g.Open, e.Open, e.Size, [2][]byte{make([]byte, 4096), make([]byte, 4096)}); err != nil {
						t.Errorf("%s: %v", e.Path, err)
					}
				}
			}
		})
	}
}
