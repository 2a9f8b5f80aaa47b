// Package referee finds the foreign programs that judge what rig's format
// writers wrote. Only tests import it.
//
// A missing program skips the test, loudly, on a laptop; it fails the test when
// the environment variable RIG_REQUIRE names it: a list separated by commas of
// program or package names, "RIG_REQUIRE=fsck.fat,sgdisk,mtools", or "all".
package referee

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// packageOf names the package of programs that come several at once.
var packageOf = map[string]string{
	"mdir": "mtools", "mcopy": "mtools", "minfo": "mtools", "mattrib": "mtools",
	"fsck.fat": "dosfstools", "mkfs.fat": "dosfstools",
	"sgdisk":      "gdisk",
	"grub-fstest": "grub-common",
	"qemu-img":    "qemu-utils",
	"isoinfo":     "genisoimage",
	"bsdtar":      "libarchive-tools",
	"cryptsetup":  "cryptsetup-bin", "pvcreate": "lvm2", "mkswap": "util-linux", "sfdisk": "fdisk", "mke2fs": "e2fsprogs",
	"mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs", "mkfs.f2fs": "f2fs-tools", "mkfs.ntfs": "ntfs-3g", "mkfs.exfat": "exfatprogs",
	"mkudffs": "udftools", "mksquashfs": "squashfs-tools", "mkfs.erofs": "erofs-utils", "make-bcache": "bcache-tools",
	"mkfs.nilfs2": "nilfs-tools", "jfs_mkfs": "jfsutils", "mkreiserfs": "reiserfsprogs", "mkfs.reiser4": "reiser4progs",
	"mkfs.ocfs2": "ocfs2-tools", "mkfs.gfs2": "gfs2-utils", "mkfs.minix": "util-linux", "mkfs.cramfs": "util-linux",
	"mkfs.hfsplus": "hfsprogs", "drbdmeta": "drbd-utils",
}

// sbin holds the directories that an ordinary user's PATH lacks.
var sbin = []string{"/usr/local/sbin", "/usr/sbin", "/sbin"}

// Find returns the path of a program, for tests that have one more judge where it
// happens to be installed.
func Find(program string) (path string, ok bool) {
	if p, err := exec.LookPath(program); err == nil {
		return p, true
	}
	for _, dir := range sbin {
		if p, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return p, true
		}
	}
	return "", false
}

// Need returns the path of a program. When there is none, the test is skipped or,
// if RIG_REQUIRE names the program or its package, fails.
func Need(t testing.TB, program string) string {
	t.Helper()
	if p, ok := Find(program); ok {
		return p
	}
	if required(os.Getenv("RIG_REQUIRE"), program) {
		t.Fatalf("referee %s is missing and RIG_REQUIRE asks for it", program)
	}
	t.Skipf("REFEREE MISSING: %s (package %s) is not installed; nothing was judged", program, pkg(program))
	return ""
}

// Run runs a referee and returns what it printed; a status other than 0 fails
// the test with that text.
func Run(t testing.TB, program string, args ...string) string {
	t.Helper()
	path := Need(t, program)
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func required(list, program string) bool {
	names := strings.Split(list, ",")
	return slices.ContainsFunc(names, func(n string) bool {
		n = strings.TrimSpace(n)
		return n == "all" || n == program || n == packageOf[program] && n != ""
	})
}

func pkg(program string) string {
	if p, ok := packageOf[program]; ok {
		return p
	}
	return program
}
