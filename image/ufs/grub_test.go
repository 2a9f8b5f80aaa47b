package ufs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
)

// grub skips the test, or fails it under RIG_REQUIRE, when the referee is missing.
func grub(t *testing.T) {
	t.Helper()
	need(t, "grub-fstest")
}

func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if slices.Contains(strings.Split(os.Getenv("RIG_REQUIRE"), ","), program) {
		t.Fatalf("RIG_REQUIRE names %s, which is not installed", program)
	}
	t.Skipf("SKIPPED: %s is not installed: nobody else has read this image", program)
}

// grubRead reads part of a file as grub's UFS2 driver sees it.
func grubRead(t *testing.T, img, name string, off, n int64) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	cmd := exec.Command("grub-fstest", img, "cp", "(loop0)/"+name, out, "-s", fmt.Sprint(off), "-n", fmt.Sprint(n))
	if msg, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("grub-fstest cp %s: %v: %s", name, err, msg)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// grubCompare has grub read every file (the largest many of them).
func grubCompare(t *testing.T, img string, tr *tree.Tree, most int) {
	t.Helper()
	grub(t)
	var files []*tree.Entry
	for e := range tr.All() {
		if e.Kind == tree.File || e.Kind == tree.HardLink {
			files = append(files, e)
		}
	}
	slices.SortStableFunc(files, func(a, b *tree.Entry) int { return int(b.Size - a.Size) })
	files = files[:min(most, len(files))]
	for _, e := range files {
		want, err := tr.ReadFile(e.Path, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		host := filepath.Join(t.TempDir(), "host")
		if err := os.WriteFile(host, want, 0o644); err != nil {
			t.Fatal(err)
		}
		msg, err := exec.Command("grub-fstest", img, "cmp", "(loop0)/"+e.Path, host).CombinedOutput()
		if err != nil || len(msg) > 0 {
			t.Errorf("grub-fstest cmp %s: %v: %s", e.Path, err, msg)
		}
	}
}

func TestGrub(t *testing.T) {
	grub(t)
	var es []tree.Entry
	for e := range sample(t).All() {
		if !strings.HasPrefix(e.Path, "many/") {
			es = append(es, *e)
		}
	}
	tr := mktree(t, es...)
	_, f := image(t, tr, Options{Label: "GRUB"}) // written over garbage
	grubCompare(t, f.Name(), tr, 1000)
	out, err := exec.Command("grub-fstest", f.Name(), "ls", "(loop0)").CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("GRUB")) {
		t.Errorf("grub-fstest ls: %v: %s", err, out)
	}
}

func TestGrubDirectory(t *testing.T) {
	grub(t)
	tr := sample(t)
	_, f := image(t, tr, Options{})
	out, err := exec.Command("grub-fstest", f.Name(), "ls", "(loop0)/many/").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got := strings.Fields(string(out))
	var want []string
	for e := range tr.All() {
		if name, ok := strings.CutPrefix(e.Path, "many/"); ok {
			want = append(want, name)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	got = slices.DeleteFunc(got, func(s string) bool { return s == "./" || s == "../" })
	if !slices.Equal(got, want) {
		t.Errorf("grub lists %d names, %d are there", len(got), len(want))
	}
}

// FreeBSD's own fsck_ffs, where there is one, must have nothing to say.
func fsck(t *testing.T, img string) {
	t.Helper()
	need(t, "fsck_ffs")
	cmd := exec.Command("fsck_ffs", "-n", "-f", img)
	out, err := cmd.CombinedOutput()
	text := strings.ReplaceAll(string(out), img+" IS NOT A DISK DEVICE\n\nCONTINUE? yes\n", "")
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if line != "" && !strings.HasPrefix(line, "** ") && !strings.Contains(line, "% fragmentation)") {
			t.Errorf("fsck_ffs: %s", line)
		}
	}
	if err != nil {
		t.Errorf("fsck_ffs: %v", err)
	}
}

func TestFsck(t *testing.T) {
	need(t, "fsck_ffs")
	tr := sample(t)
	for _, o := range []Options{{}, {Label: "a-b", SoftUpdates: true, Free: 20 << 20, FreeInodes: 1000},
		{Size: 2 << 30, FreeInodes: 60000}, {Size: 37<<20 + 5*4096}, {Size: 400 << 20, FreeInodes: 700000}} {
		_, f := image(t, tr, o)
		fsck(t, f.Name())
	}
	_, f := image(t, mktree(t), Options{})
	fsck(t, f.Name())
	_, f = image(t, indirectTree(t), Options{})
	fsck(t, f.Name())
}
