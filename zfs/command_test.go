package zfs

import (
	"testing"

	"github.com/rig-freebsd/rig/internal/run"
)

func TestCommands(t *testing.T) {
	pool := Pool{
		Name: "zroot", Ashift: 12,
		Props: map[string]string{"feature@edonr": "disabled", "autotrim": "on"},
		Root:  map[string]string{"compression": "on", "atime": "off"},
	}
	four := Vdevs{
		Mirror: []string{"/dev/gpt/zfs-S1", "/dev/gpt/zfs-S2"},
		Spares: []string{"/dev/gpt/zfs-S3", "/dev/gpt/zfs-S4"},
	}
	db := Dataset{Name: "data/pg_j/db", Mountpoint: "/jails/pg_j/var/db/postgres",
		Props: map[string]string{"recordsize": "16K", "atime": "off"}}
	tests := []struct {
		cmd  run.Cmd
		want string
	}{
		{CreateCmd(pool, four, CreateOptions{Altroot: "/mnt", Force: true}),
			"zpool create -f -R /mnt -o ashift=12 -o autotrim=on -o feature@edonr=disabled -O atime=off -O compression=on" +
				" -m none zroot mirror /dev/gpt/zfs-S1 /dev/gpt/zfs-S2 spare /dev/gpt/zfs-S3 /dev/gpt/zfs-S4"},
		{CreateCmd(Pool{Name: "p"}, Vdevs{Mirror: []string{"/dev/ada0"}}, CreateOptions{}), "zpool create -m none p /dev/ada0"},
		{DatasetCmd("zroot", db),
			"zfs create -p -o atime=off -o mountpoint=/jails/pg_j/var/db/postgres -o recordsize=16K zroot/data/pg_j/db"},
		{DatasetCmd("zroot", Dataset{Name: "ROOT"}), "zfs create -p -o mountpoint=none zroot/ROOT"},
		{CreateDatasetCmd("zroot/ROOT/img1", map[string]string{"mountpoint": "/", "canmount": "noauto"}),
			"zfs create -p -o canmount=noauto -o mountpoint=/ zroot/ROOT/img1"},
		{SetCmd("zroot/ROOT/img1", map[string]string{"mountpoint": "/", "canmount": "noauto"}),
			"zfs set canmount=noauto mountpoint=/ zroot/ROOT/img1"},
		{PoolSetCmd("zroot", "bootfs", "zroot/ROOT/img1"), "zpool set bootfs=zroot/ROOT/img1 zroot"},
		{MountCmd("zroot/ROOT/img1"), "zfs mount zroot/ROOT/img1"},
		{DestroyCmd("zroot/rig/base"), "zfs destroy -r zroot/rig/base"},
		{ImportReadOnlyCmd(18302628748042517211, "/mnt"), "zpool import -f -N -o readonly=on -R /mnt 18302628748042517211"},
		{ExportCmd("zroot"), "zpool export zroot"},
		{SyncCmd("zroot"), "zpool sync zroot"},
	}
	for _, tt := range tests {
		if got := tt.cmd.String(); got != tt.want {
			t.Errorf("\n got %s\nwant %s", got, tt.want)
		}
	}
	if len(pool.Props) != 2 {
		t.Error("CreateCmd changed the wish")
	}
}

func TestValidate(t *testing.T) {
	db := Dataset{Name: "jails/pg_j/db", Mountpoint: "/db", Owner: "770:770", Mode: "0700", Props: map[string]string{"recordsize": "16K", "rig:role": "db"}}
	tests := []struct {
		err  error
		want string
	}{
		{Pool{Name: "zroot", Ashift: 12, Props: map[string]string{"feature@edonr": "disabled"}}.Validate(), ""},
		{Pool{Name: "0pool", Ashift: 8, Props: map[string]string{"ashift": "12", "bootfs": "x", "Bad Name": "y"},
			Root: map[string]string{"mountpoint": "/", "atime": ""}}.Validate(),
			`pool name "0pool": a letter, then letters, digits, '_', '.', '-'; at most 200
ashift 8 is not between 9 and 16
pool property ashift is set by the field ashift
pool property bootfs is set by the installer
property mountpoint: the root dataset is never mounted
pool property "Bad Name": not a property's name
property atime: "" is not a value`},
		{Pool{Name: "mirrored"}.Validate(), `pool name "mirrored" is reserved`},
		{Pool{Name: "log"}.Validate(), `pool name "log" is reserved`},
		{db.Validate("zroot"), ""},
		{Dataset{Name: "ROOT"}.Validate("zroot"), ""},
		{Dataset{Name: "/a@b", Mountpoint: "/x/../y", Owner: "root:wheel", Mode: "rwx", Props: map[string]string{"mountpoint": "/z"}}.Validate("zroot"),
			`dataset /a@b: "" is no part of a dataset's name
dataset /a@b: "a@b" is no part of a dataset's name
dataset /a@b: mountpoint "/x/../y" is not a clean absolute path
dataset /a@b: property mountpoint is set by the field mountpoint
dataset /a@b: owner "root:wheel" is not numeric uid:gid
dataset /a@b: mode "rwx" is not octal, at most 7777`},
		{Dataset{Name: "a", Mode: "10000"}.Validate("p"), `dataset a: mode "10000" is not octal, at most 7777
dataset a: owner and mode need a mountpoint`},
	}
	for _, tt := range tests {
		got := ""
		if tt.err != nil {
			got = tt.err.Error()
		}
		if got != tt.want {
			t.Errorf("\n got %s\nwant %s", got, tt.want)
		}
	}
	uid, gid, err := db.OwnerIDs()
	mode, errMode := db.ModeBits()
	if uid != 770 || gid != 770 || mode != 0o700 || err != nil || errMode != nil {
		t.Errorf("owner %d:%d, mode %o, %v, %v", uid, gid, mode, err, errMode)
	}
}
