package disks

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/run"
)

// sysTree writes files below a new directory.
func sysTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestSysfs(t *testing.T) {
	root := sysTree(t, map[string]string{
		"proc/self/mountinfo":                        "36 35 8:1 / /mnt/a\\040b rw - ext4 /dev/sda1 rw\n37 35 0:33 / /pool rw - btrfs /dev/sdc rw\n",
		"proc/swaps":                                 "Filename\tType\tSize\n/dev/sda2 partition 1 0 -2\n",
		"proc/mdstat":                                "Personalities :\nmd127 : inactive sdb1[0](S)\n      1 blocks\n",
		"sys/block/sda/size":                         "2048000\n",
		"sys/block/sda/dev":                          "8:0\n",
		"sys/block/sda/queue/logical_block_size":     "512\n",
		"sys/block/sda/device/model":                 "Samsung SSD 870 \n",
		"sys/block/sda/device/vendor":                "ATA     \n",
		"sys/block/sda/device/vpd_pg80":              "\x00\x80\x00\x14     S5Y1NG0R101234T",
		"sys/block/sda/sda1/partition":               "1\n",
		"sys/block/sda/sda1/dev":                     "8:1\n",
		"sys/block/sda/sda2/partition":               "2\n",
		"sys/block/sda/sda2/dev":                     "8:2\n",
		"sys/block/sda/sda3/partition":               "3\n",
		"sys/block/sda/sda3/dev":                     "8:3\n",
		"sys/block/sda/sda3/holders/dm-0/x":          "",
		"sys/block/dm-0/dm/name":                     "vg0-root\n",
		"sys/block/dm-0/size":                        "8\n",
		"sys/block/sdb/size":                         "4096000\n",
		"sys/block/sdb/ro":                           "1\n",
		"sys/block/sdb/dev":                          "8:16\n",
		"sys/block/sdb/queue/logical_block_size":     "4096\n",
		"sys/block/sdb/sdb1/partition":               "1\n",
		"sys/block/sdb/sdb1/dev":                     "8:17\n",
		"run/udev/data/b8:16":                        "N:sdb\nE:ID_SERIAL_SHORT=WD-1\n",
		"sys/block/sdc/size":                         "4096\n",
		"sys/block/sdc/dev":                          "8:32\n",
		"sys/block/sdc/queue/logical_block_size":     "512\n",
		"sys/block/nvme0n1/size":                     "4096\n",
		"sys/block/nvme0n1/dev":                      "259:0\n",
		"sys/block/nvme0n1/device/serial":            "S3Z9NB0K\n",
		"sys/block/nvme0n1/queue/logical_block_size": "512\n",
		"sys/block/loop0/size":                       "8\n",
		"sys/block/sr0/size":                         "8\n",
		"sys/class/block/sda1/partition":             "1\n",
		"dev/sda":                                    string(make([]byte, 8192)), "dev/sdb": "", "dev/sdc": "", "dev/nvme0n1": "",
	})
	var got []Disk
	for _, n := range []string{"nvme0n1", "sda", "sdb", "sdc"} {
		d, err := sysfs{root}.disk(n)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, *d)
	}
	want := []Disk{
		{Path: "/dev/nvme0n1", Serial: "S3Z9NB0K", Size: 4096 * 512, SectorSize: 512},
		{Path: "/dev/sda", Serial: "S5Y1NG0R101234T", Model: "Samsung SSD 870", Size: 2048000 * 512, SectorSize: 512,
			InUse: []string{"sda1 is mounted on /mnt/a b", "sda2 is swap", "sda3 is part of dm-0 (vg0-root)"}},
		{Path: "/dev/sdb", Serial: "WD-1", Size: 4096000 * 512, SectorSize: 4096, ReadOnly: true, Member: []string{"sdb1 is part of md127"}},
		{Path: "/dev/sdc", Size: 4096 * 512, SectorSize: 512, InUse: []string{"sdc is mounted on /pool"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	list, err := sysfs{root}.list()
	if err != nil || len(list) != 4 {
		t.Errorf("%d disks are listed, %v", len(list), err)
	}
	for name, want := range map[string]string{"sda1": "it is a partition", "dm-0": "it is made of other disks", "sdz": "the kernel does not know it"} {
		if _, err := (sysfs{root}).disk(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", name, err, want)
		}
	}
}

func TestContent(t *testing.T) {
	const size = 8 << 20
	at := func(off int, text string) []byte {
		b := make([]byte, size)
		copy(b[off:], text)
		return b
	}
	mbr := at(510, "\x55\xaa")
	mbr[446+4] = 0x83
	binary.LittleEndian.PutUint32(mbr[446+8:], 2048)
	binary.LittleEndian.PutUint32(mbr[446+12:], 4096)
	copy(mbr[1<<20+512:], "LABELONE")
	for _, c := range []struct {
		name          string
		b             []byte
		content       string
		holds, member []string
	}{
		{"blank", make([]byte, size), "blank", nil, nil},
		{"ext", at(1080, "\x53\xef"), "known", []string{"ext2"}, nil},
		{"md 1.2", at(4096, "\xfc\x4e\x2b\xa9"), "known", []string{"Linux md 1.2"}, []string{"a member: Linux md 1.2"}},
		{"luks", at(0, "LUKS\xba\xbe\x00\x02"), "known", []string{"LUKS2"}, nil},
		{"something", at(100, "x"), "unknown data", []string{"unknown data (data at byte 100)"}, nil},
		{"something behind zeros", at(4<<20, "x"), "unknown data", []string{"unknown data (data at byte 4194304)"}, nil},
		{"mbr", mbr, "known", []string{"MBR with 1 partition", "MBR partition 1, 2M: LVM2 physical volume"}, []string{"a member: LVM2 physical volume (partition 1)"}},
	} {
		name := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(name, c.b, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Find(t.Context(), name, nil)
		if err != nil {
			t.Fatal(err)
		}
		if d.Content != c.content || d.Blank() != (c.holds == nil) || !reflect.DeepEqual(d.Holds, c.holds) || !reflect.DeepEqual(d.Member, c.member) {
			t.Errorf("%s: %s %q %q, want %s %q %q", c.name, d.Content, d.Holds, d.Member, c.content, c.holds, c.member)
		}
	}
}

// A disk is named by its serial number, or by what tells it apart from others.
func TestID(t *testing.T) {
	for want, d := range map[string]Disk{
		"S1":                   {Path: "/dev/sdb", Serial: "S1", Size: 8 << 30, Hash: "1a2b3c4d"},
		"/dev/sdb:8G:1a2b3c4d": {Path: "/dev/sdb", Size: 8 << 30, Hash: "1a2b3c4d"},
		"disk.img":             {Path: "disk.img", Size: 8 << 30, Hash: "1a2b3c4d", File: true},
		"/dev/sdc":             {Path: "/dev/sdc", Size: 8 << 30, Holds: []string{"unreadable: input/output error"}},
	} {
		if d.ID() != want || d.Blank() {
			t.Errorf("%q, want %q; blank %v", d.ID(), want, d.Blank())
		}
	}
	if text := (&Disk{Path: "/dev/sdb", Size: 8 << 30, SectorSize: 512, Hash: "1a2b3c4d"}).String(); text != "/dev/sdb, no serial number: /dev/sdb:8G:1a2b3c4d, 8G" {
		t.Error(text)
	}
}

const confxml = `<mesh><class id="0x1"><name>DISK</name>
<geom id="0x2"><name>ada0</name><provider id="0x3"><mode>r1w1e2</mode><name>ada0</name><mediasize>1073741824</mediasize><sectorsize>512</sectorsize>
<config><descr>QEMU HARDDISK</descr><ident>RIG-D1</ident></config></provider></geom>
<geom id="0x4"><name>cd0</name><provider id="0x5"><mode>r0w0e0</mode><name>cd0</name><mediasize>10</mediasize><sectorsize>2048</sectorsize></provider></geom>
<geom id="0x6"><name>nda0</name><provider id="0x7"><mode>r0w0e0</mode><name>nda0</name><mediasize>2147483648</mediasize><sectorsize>4096</sectorsize></provider></geom>
</class><class id="0x8"><name>PART</name><geom id="0x9"><name>ada0</name><consumer id="0xa"><provider ref="0x3"/><mode>r1w1e2</mode></consumer></geom></class></mesh>`

func TestGeom(t *testing.T) {
	got, err := parseGeom([]byte(confxml + "\x00"))
	want := []Disk{
		{Path: "/dev/ada0", Serial: "RIG-D1", Model: "QEMU HARDDISK", Size: 1 << 30, SectorSize: 512, InUse: []string{"open for writing (r1w1e2) by PART ada0"}},
		{Path: "/dev/nda0", Size: 2 << 30, SectorSize: 4096},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}

func TestDiskutil(t *testing.T) {
	list := `<?xml version="1.0"?><!DOCTYPE plist><plist version="1.0"><dict><key>AllDisksAndPartitions</key><array><dict>
<key>DeviceIdentifier</key><string>disk4</string><key>Size</key><integer>64000</integer><key>Partitions</key><array><dict>
<key>Content</key><string>DOS_FAT_32</string><key>DeviceIdentifier</key><string>disk4s1</string><key>MountPoint</key><string>/Volumes/STICK</string></dict></array></dict></array></dict></plist>`
	info := `<plist><dict><key>DeviceBlockSize</key><integer>512</integer><key>MediaName</key><string>Ultra Fit</string><key>Size</key><integer>64000</integer><key>WritableMedia</key><true/><key>RemovableMediaOrExternalDevice</key><true/></dict></plist>`
	s := run.NewScript(t, run.Expect{Line: "diskutil list -plist physical", Stdout: list}, run.Expect{Line: "diskutil info -plist disk4", Stdout: info})
	got, err := diskutil(context.Background(), s)
	want := []Disk{{Path: "/dev/disk4", Model: "Ultra Fit", Size: 64000, SectorSize: 512, Removable: true, InUse: []string{"disk4s1 is mounted on /Volumes/STICK"}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
}
