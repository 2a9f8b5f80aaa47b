package probe

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/blockdev"
	"github.com/rig-freebsd/rig/internal/referee"
)

// tool makes content by the program that is its own.
type tool struct {
	name    string
	program string
	args    []string // IMG is the file
	device  bool     // wants a block device: IMG is a loop device then
	stdin   string
	want    string // the beginning of one of the things that are found
}

var tools = []tool{
	{"LUKS1", "cryptsetup", []string{"-q", "luksFormat", "--type", "luks1", "--pbkdf-force-iterations", "1000", "IMG"}, false, "secret-word", "LUKS1"},
	{"LUKS2", "cryptsetup", []string{"-q", "luksFormat", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "IMG"}, false, "secret-word", "LUKS2"},
	{"LVM2", "pvcreate", []string{"--config", `devices { scan = ["/dev"] use_devicesfile = 0 }`, "-ff", "-y", "IMG"}, true, "", "LVM2 physical volume"},
	{"LVM2 in sector 3", "pvcreate", []string{"--config", `devices { scan = ["/dev"] use_devicesfile = 0 }`, "-ff", "-y", "--labelsector", "3", "IMG"}, true, "", "LVM2 physical volume"},
	{"swap", "mkswap", []string{"IMG"}, false, "", "Linux swap"},
	{"swap of 64 KiB pages", "mkswap", []string{"-p", "65536", "IMG"}, false, "", "Linux swap"},
	{"ext2", "mke2fs", []string{"-q", "-F", "-t", "ext2", "IMG"}, false, "", "ext2"},
	{"ext3", "mke2fs", []string{"-q", "-F", "-t", "ext3", "IMG"}, false, "", "ext3"},
	{"ext4", "mke2fs", []string{"-q", "-F", "-t", "ext4", "IMG"}, false, "", "ext4"},
	{"XFS", "mkfs.xfs", []string{"-q", "-f", "IMG"}, false, "", "XFS"},
	{"btrfs", "mkfs.btrfs", []string{"-q", "-f", "IMG"}, false, "", "btrfs"},
	{"F2FS", "mkfs.f2fs", []string{"-q", "-f", "IMG"}, false, "", "F2FS"},
	{"NTFS", "mkfs.ntfs", []string{"-q", "-Q", "-F", "IMG"}, false, "", "NTFS"},
	{"exFAT", "mkfs.exfat", []string{"IMG"}, false, "", "exFAT"},
	{"FAT12", "mkfs.fat", []string{"-F", "12", "-S", "4096", "-s", "64", "IMG"}, false, "", "FAT12"},
	{"FAT16", "mkfs.fat", []string{"-F", "16", "-s", "32", "IMG"}, false, "", "FAT16"},
	{"FAT32", "mkfs.fat", []string{"-F", "32", "IMG"}, false, "", "FAT32"},
	{"FAT32 with a table", "mkfs.fat", []string{"-F", "32", "--mbr=y", "IMG"}, false, "", "FAT32"},
	{"UDF", "mkudffs", []string{"IMG"}, false, "", "UDF"},
	{"UDF of blocks of 512", "mkudffs", []string{"-b", "512", "IMG"}, false, "", "UDF"},
	{"squashfs", "mksquashfs", []string{".", "IMG", "-noappend", "-quiet", "-no-progress"}, false, "", "squashfs"},
	{"EROFS", "mkfs.erofs", []string{"IMG", "."}, false, "", "EROFS"},
	{"ISO", "xorriso", []string{"-as", "mkisofs", "-quiet", "-o", "IMG", "."}, false, "", "ISO 9660"},
	{"hybrid ISO", "xorriso", []string{"-as", "mkisofs", "-quiet", "-partition_offset", "16", "-append_partition", "2", "0xef", "content", "-o", "IMG", "."}, false, "", "ISO 9660"},
	{"bcache", "make-bcache", []string{"-B", "IMG"}, true, "", "bcache"},
	{"NILFS2", "mkfs.nilfs2", []string{"-q", "-f", "IMG"}, true, "", "NILFS2"},
	{"JFS", "jfs_mkfs", []string{"-q", "IMG"}, true, "", "JFS"},
	{"ReiserFS", "mkreiserfs", []string{"-q", "-ff", "IMG"}, false, "", "ReiserFS"},
	{"Reiser4", "mkfs.reiser4", []string{"-ffy", "IMG"}, false, "", "Reiser4"},
	{"OCFS2", "mkfs.ocfs2", []string{"-q", "-F", "-x", "-M", "local", "IMG"}, false, "yes\n", "OCFS2"},
	{"GFS2", "mkfs.gfs2", []string{"-q", "-O", "-p", "lock_nolock", "-J", "8", "IMG"}, true, "", "GFS2"},
	{"minix", "mkfs.minix", []string{"IMG"}, false, "", "minix 1"},
	{"minix 3", "mkfs.minix", []string{"-3", "IMG"}, false, "", "minix 3"},
	{"cramfs", "mkfs.cramfs", []string{".", "IMG"}, false, "", "cramfs"},
	{"UFS1", "makefs", []string{"-t", "ffs", "-o", "version=1", "-s", "64m", "IMG", "."}, false, "", "UFS1"},
	{"UFS2", "makefs", []string{"-t", "ffs", "-o", "version=2", "-s", "64m", "IMG", "."}, false, "", "UFS2"},
	{"HFS+", "mkfs.hfsplus", []string{"IMG"}, false, "", "HFS+"},
	{"DRBD", "drbdmeta", []string{"--force", "0", "v08", "IMG", "internal", "create-md"}, true, "", "DRBD"},
	{"GPT", "sgdisk", []string{"-n", "1:2048:+10M", "IMG"}, false, "", "GPT with 1 partition"},
	{"GPT of 1024 entries", "sgdisk", []string{"-S", "1024", "-n", "1024:0:+10M", "IMG"}, false, "", "GPT with 1 partition"},
	{"MBR", "sfdisk", []string{"-q", "IMG"}, false, "label: dos\n2048,20480\n", "MBR with 1 partition"},
	{"MBR with logical ones", "sfdisk", []string{"-q", "IMG"}, false, "label: dos\n2048,20480\n,,E\n,20480,L\n,20480,L\n", "MBR with 3 partitions"},
	{"SGI", "sfdisk", []string{"-q", "IMG"}, false, "label: sgi\n", "SGI disk label"},
	{"Sun", "sfdisk", []string{"-q", "IMG"}, false, "label: sun\n", "Sun disk label"},
}

// What programs make today is recognised, on the disk and behind a table.
func TestTools(t *testing.T) {
	for _, tt := range tools {
		t.Run(tt.name, func(t *testing.T) {
			path := referee.Need(t, tt.program)
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "content"), make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			img := filepath.Join(t.TempDir(), "img")
			f, err := os.Create(img)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if err := f.Truncate(320 << 20); err != nil {
				t.Fatal(err)
			}
			target := img
			if tt.device {
				target = loopDevice(t, img)
			}
			cmd := exec.Command(path)
			for _, a := range tt.args {
				cmd.Args = append(cmd.Args, strings.ReplaceAll(a, "IMG", target))
			}
			cmd.Dir, cmd.Stdin = dir, strings.NewReader(tt.stdin)
			out, err := cmd.CombinedOutput()
			if err != nil {
				if tt.device {
					t.Skipf("REFEREE CANNOT: %s works on no device here: %v\n%s", tt.program, err, out)
				}
				t.Fatalf("%s: %v\n%s", tt.program, err, out)
			}
			if tt.device {
				if err := exec.Command("blockdev", "--flushbufs", target).Run(); err != nil {
					t.Log(err)
				}
			}
			st, err := os.Stat(img)
			if err != nil {
				t.Fatal(err)
			}
			check(t, img, st.Size(), tt.want)
		})
	}
}

func check(t *testing.T, img string, size int64, want string) {
	t.Helper()
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	v, err := Disk(context.Background(), blockdev.NewReader(f, img, 512, size), Options{Size: size})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range v.Found {
		if strings.HasPrefix(f.Name, want) {
			return
		}
	}
	t.Errorf("%s, %q, want %q", v.Kind, v, want)
}

// loopDevice attaches a file.
func loopDevice(t *testing.T, img string) string {
	t.Helper()
	setup, ok := referee.Find("losetup")
	if !ok || os.Geteuid() != 0 {
		t.Skip("LOOP DEVICE MISSING: only root with losetup can attach one; nothing was made by this program")
	}
	out, err := exec.Command(setup, "-f", "--show", img).CombinedOutput()
	if err != nil {
		t.Skipf("LOOP DEVICE MISSING: %v: %s", err, out)
	}
	dev := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command(setup, "-d", dev).Run() })
	return dev
}

// FreeBSD's own images for fstyp(8), usr.sbin/fstyp/tests of its source tree, where
// RIG_FSTYP names that directory.
func TestFstypImages(t *testing.T) {
	images := map[string]string{"befs": "BeFS", "dfr-01-xfat": "exFAT", "ext2": "ext2", "ext3": "ext2" /* it has no journal */, "ext4": "ext4", "ext4_with_label": "ext4",
		"ntfs": "NTFS", "ntfs_with_label": "NTFS"}
	dir := os.Getenv("RIG_FSTYP")
	if dir == "" {
		t.Skipf("REFEREE MISSING: RIG_FSTYP does not name usr.sbin/fstyp/tests of FreeBSD's source; %d images were not looked at", len(images))
	}
	for name, want := range images {
		t.Run(name, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "img")
			script := fmt.Sprintf("%s -dc %s > %s", referee.Need(t, "bzip2"), filepath.Join(dir, name+".img.bz2"), img)
			if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			st, err := os.Stat(img)
			if err != nil {
				t.Fatal(err)
			}
			check(t, img, st.Size(), want)
		})
	}
}
