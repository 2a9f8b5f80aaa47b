package disks

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// sysfs reads what Linux says of its disks (Documentation/ABI/stable/sysfs-block),
// below root in tests.
type sysfs struct{ root string }

func (s sysfs) path(parts ...string) string {
	return filepath.Join(append([]string{s.root}, parts...)...)
}

// text is a small file without what surrounds its text, "" when it is not there.
func (s sysfs) text(parts ...string) string {
	b, err := os.ReadFile(s.path(parts...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(bytes.Trim(b, "\x00")))
}

// notDisks are devices that are made of others, or of memory.
var notDisks = []string{"loop", "ram", "zram", "sr", "fd", "md", "dm-", "nbd", "mtdblock"}

func (s sysfs) list() ([]Disk, error) {
	names, err := os.ReadDir(s.path("sys/block"))
	if err != nil {
		return nil, err
	}
	var out []Disk
	for _, n := range names {
		if slices.ContainsFunc(notDisks, func(p string) bool { return strings.HasPrefix(n.Name(), p) }) || s.text("sys/block", n.Name(), "size") == "0" {
			continue
		}
		d, err := s.disk(n.Name())
		if err != nil {
			return nil, err
		}
		out = append(out, *d)
	}
	return out, nil
}

// disk describes one disk but for its content.
func (s sysfs) disk(name string) (*Disk, error) {
	dir := s.path("sys/block", name)
	if _, err := os.Stat(dir); err != nil {
		if _, err := os.Stat(s.path("sys/class/block", name, "partition")); err == nil {
			return nil, diag.Hint(diag.Inputf("disk /dev/%s: it is a partition", name), "name the whole disk; \"rigimage flash --list\" shows them")
		}
		return nil, diag.Inputf("disk /dev/%s: the kernel does not know it as a disk", name)
	}
	if strings.HasPrefix(name, "dm-") || strings.HasPrefix(name, "md") {
		return nil, diag.Hint(diag.Inputf("disk /dev/%s: it is made of other disks", name), "name the disk below it; the image needs whole disks")
	}
	d := &Disk{Path: "/dev/" + name, Serial: s.serial(name), Model: s.text("sys/block", name, "device/model"),
		ReadOnly: s.text("sys/block", name, "ro") == "1", Removable: s.text("sys/block", name, "removable") == "1"}
	sectors, err := strconv.ParseInt(s.text("sys/block", name, "size"), 10, 64) // of 512 bytes, always
	if err != nil || sectors <= 0 || sectors > 1<<53 {
		return nil, fmt.Errorf("disk %s: size %q in sysfs", d.Path, s.text("sys/block", name, "size"))
	}
	d.Size = sectors * 512
	if d.SectorSize, err = strconv.Atoi(s.text("sys/block", name, "queue/logical_block_size")); err != nil {
		return nil, fmt.Errorf("disk %s: sector size in sysfs: %w", d.Path, err)
	}
	if v := s.text("sys/block", name, "device/vendor"); v != "" && !strings.HasPrefix(v, "0x") && v != "ATA" {
		d.Model = strings.TrimSpace(v + " " + d.Model)
	}
	return d, s.uses(d, name)
}

// serial asks where the drivers put it: NVMe and MMC, virtio, SCSI's page 0x80 (4
// bytes, then text), udev.
func (s sysfs) serial(name string) string {
	for _, p := range []string{"device/serial", "serial"} {
		if t := s.text("sys/block", name, p); t != "" {
			return t
		}
	}
	if b, err := os.ReadFile(s.path("sys/block", name, "device/vpd_pg80")); err == nil && len(b) > 4 {
		if t := strings.TrimSpace(string(bytes.Trim(b[4:], "\x00"))); t != "" {
			return t
		}
	}
	udev := s.text("run/udev/data", "b"+s.text("sys/block", name, "dev"))
	for _, key := range []string{"E:ID_SCSI_SERIAL=", "E:ID_SERIAL_SHORT="} {
		for line := range strings.Lines(udev) {
			if v, ok := strings.CutPrefix(strings.TrimSpace(line), key); ok {
				return v
			}
		}
	}
	return ""
}

// uses lists the mounts, swap areas and devices above the disk and its partitions.
func (s sysfs) uses(d *Disk, name string) error {
	blocks := []string{""} // directories below the disk's
	entries, err := os.ReadDir(s.path("sys/block", name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if s.text("sys/block", name, e.Name(), "partition") != "" {
			blocks = append(blocks, e.Name())
		}
	}
	mounts, err := s.mounts()
	if err != nil {
		return err
	}
	swaps := s.text("proc/swaps")
	arrays := s.text("proc/mdstat")
	for _, b := range blocks {
		dev := name
		if b != "" {
			dev = b
		}
		number := s.text("sys/block", name, b, "dev")
		for _, m := range mounts {
			if m.number == number || m.source == "/dev/"+dev {
				d.InUse = append(d.InUse, dev+" is mounted on "+m.on)
			}
		}
		for line := range strings.Lines(swaps) {
			if f := strings.Fields(line); len(f) > 0 && f[0] == "/dev/"+dev {
				d.InUse = append(d.InUse, dev+" is swap")
			}
		}
		holders, err := os.ReadDir(s.path("sys/block", name, b, "holders"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, h := range holders {
			d.InUse = append(d.InUse, dev+" is part of "+s.above(h.Name()))
		}
		if len(holders) == 0 {
			if md := arrayOf(arrays, dev); md != "" {
				d.Member = append(d.Member, dev+" is part of "+md)
			}
		}
	}
	return nil
}

// above names a device that is made of others.
func (s sysfs) above(name string) string {
	text := name
	if n := s.text("sys/block", name, "dm/name"); n != "" {
		text += " (" + n + ")"
	}
	if n := s.text("sys/block", name, "md/level"); n != "" {
		text += " (" + n + ")"
	}
	return text
}

// arrayOf finds an array of /proc/mdstat that a device is in, started or not:
// "md127 : inactive sdb1[0](S)".
func arrayOf(mdstat, dev string) string {
	for line := range strings.Lines(mdstat) {
		f := strings.Fields(line)
		if len(f) < 3 || f[1] != ":" {
			continue
		}
		for _, w := range f[2:] {
			if n, _, ok := strings.Cut(w, "["); ok && n == dev {
				return f[0]
			}
		}
	}
	return ""
}

type mount struct{ number, on, source string }

// mounts reads /proc/self/mountinfo (Documentation/filesystems/proc.rst §3.5):
// "36 35 8:1 / /mnt rw - ext4 /dev/sda1 rw".
func (s sysfs) mounts() ([]mount, error) {
	b, err := os.ReadFile(s.path("proc/self/mountinfo"))
	if err != nil {
		return nil, err
	}
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var out []mount
	for line := range strings.Lines(string(b)) {
		before, after, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(g) < 2 {
			continue
		}
		out = append(out, mount{f[2], unescape.Replace(f[4]), unescape.Replace(g[1])})
	}
	return out, nil
}
