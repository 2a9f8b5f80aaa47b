package manifest

import (
	"bytes"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
)

// LockAccounts returns a master.passwd(5) in which no account has an empty
// password: "*" takes its place. base.txz ships root with one.
func LockAccounts(masterPasswd []byte) []byte {
	lines := bytes.SplitAfter(masterPasswd, []byte("\n"))
	for i, line := range lines {
		f := strings.SplitN(string(line), ":", 3)
		if len(f) == 3 && f[0] != "" && f[0][0] != '#' && f[1] == "" {
			lines[i] = []byte(f[0] + ":*:" + f[2])
		}
	}
	return bytes.Join(lines, nil)
}

const espReadme = `This is the EFI system partition of a disk made by rig.

EFI/BOOT/BOOTX64.EFI   FreeBSD's loader; it boots the partition "rig" of this disk
rig/answers.toml       answers for an unattended install, if you put them here;
                       "rigimage answers --template" prints a commented example

Leave the rest alone: "riginstall bootsync" keeps it in step on all disks.
`

// ESP returns what the EFI system partition of the image and of every installed
// disk holds. loader is /boot/loader.efi of the rig partition; answers may be nil.
func ESP(loader tree.Entry, answers []byte, at time.Time) (*tree.Tree, error) {
	loader.Path, loader.Flags = "EFI/BOOT/BOOTX64.EFI", 0
	entries := []tree.Entry{
		loader,
		tree.FileEntry("README.TXT", []byte(strings.ReplaceAll(espReadme, "\n", "\r\n"))),
		{Path: "rig", Kind: tree.Dir, Perm: 0o755},
	}
	if answers != nil {
		entries = append(entries, tree.FileEntry(AnswersFile, answers))
	}
	for i := range entries {
		entries[i].ModTime = at
	}
	return tree.New(entries)
}

// FSID is the UFS fs_id of a file system that rig makes: of the rig partitions of
// an image, or of its memory root.
func FSID(what string) (id [8]byte) {
	sum := sha256.Sum256([]byte("rig/" + what))
	copy(id[:], sum[:])
	return id
}
