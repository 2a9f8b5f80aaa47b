package zfs

import (
	"maps"
	"slices"
	"strconv"

	"rig/internal/run"
)

// Vdevs are the devices of a pool as zpool(8) is given them:
// "/dev/gpt/zfs-S1". One mirror and its hot spares; a mirror of one is a plain
// device.
type Vdevs struct {
	Mirror []string `json:"mirror"`
	Spares []string `json:"spares"`
}

// CreateOptions are the ways of zpool create that do not belong to the wish.
type CreateOptions struct {
	Altroot  string // -R: mount below this directory, write no cache file
	TempName string // -t: the name until the pool is exported
	Force    bool   // -f: overwrite stale labels, accept members of different size
}

// CreateCmd creates the pool p on v. Its root dataset has no mount point.
func CreateCmd(p Pool, v Vdevs, o CreateOptions) run.Cmd {
	argv := []string{"zpool", "create"}
	if o.Force {
		argv = append(argv, "-f")
	}
	if o.Altroot != "" {
		argv = append(argv, "-R", o.Altroot)
	}
	if o.TempName != "" {
		argv = append(argv, "-t", o.TempName)
	}
	argv = append(argv, propArgs("-o", p.poolProps())...)
	argv = append(argv, propArgs("-O", p.Root)...)
	argv = append(argv, "-m", "none", p.Name)
	if len(v.Mirror) > 1 {
		argv = append(argv, "mirror")
	}
	argv = append(argv, v.Mirror...)
	if len(v.Spares) > 0 {
		argv = append(append(argv, "spare"), v.Spares...)
	}
	return run.New(argv...)
}

// poolProps are p's pool properties, ashift among them.
func (p Pool) poolProps() map[string]string {
	props := maps.Clone(p.Props)
	if p.Ashift != 0 {
		if props == nil {
			props = map[string]string{}
		}
		props["ashift"] = strconv.Itoa(p.Ashift)
	}
	return props
}

// DatasetCmd creates the file system d in pool with its missing parents.
func DatasetCmd(pool string, d Dataset) run.Cmd {
	argv := append([]string{"zfs", "create", "-p"}, propArgs("-o", d.props())...)
	return run.New(append(argv, pool+"/"+d.Name)...)
}

// CloneCmd clones snapshot, "zroot/rig/base@image", as the file system d in pool
// with its missing parents.
func CloneCmd(pool, snapshot string, d Dataset) run.Cmd {
	argv := append([]string{"zfs", "clone", "-p"}, propArgs("-o", d.props())...)
	return run.New(append(argv, snapshot, pool+"/"+d.Name)...)
}

// props are d's properties, mountpoint among them.
func (d Dataset) props() map[string]string {
	props := map[string]string{"mountpoint": "none"}
	if d.Mountpoint != "" {
		props["mountpoint"] = d.Mountpoint
	}
	maps.Copy(props, d.Props)
	return props
}

// SetCmd sets properties of a dataset, all in one call. props is not empty.
func SetCmd(dataset string, props map[string]string) run.Cmd {
	argv := append([]string{"zfs", "set"}, assignments(props)...)
	return run.New(append(argv, dataset)...)
}

// PoolSetCmd sets one property of a pool.
func PoolSetCmd(pool, name, value string) run.Cmd {
	return run.New("zpool", "set", name+"="+value, pool)
}

// SnapshotCmd takes dataset@name.
func SnapshotCmd(dataset, name string) run.Cmd {
	return run.New("zfs", "snapshot", dataset+"@"+name)
}

// MountCmd mounts a dataset, for those with canmount=noauto.
func MountCmd(dataset string) run.Cmd { return run.New("zfs", "mount", dataset) }

// DestroyCmd destroys a dataset with its snapshots and children, not with clones.
func DestroyCmd(dataset string) run.Cmd { return run.New("zfs", "destroy", "-r", dataset) }

// ImportOptions are the ways of zpool import.
type ImportOptions struct {
	Altroot string // -R
	NoMount bool   // -N
	Force   bool   // -f: also when another host used it last
	Dir     string // -d: where to look for devices, "/dev/gpt"
}

// ImportCmd imports a pool by name or by GUID in decimal.
func ImportCmd(pool string, o ImportOptions) run.Cmd {
	argv := []string{"zpool", "import"}
	if o.Force {
		argv = append(argv, "-f")
	}
	if o.NoMount {
		argv = append(argv, "-N")
	}
	if o.Altroot != "" {
		argv = append(argv, "-R", o.Altroot)
	}
	if o.Dir != "" {
		argv = append(argv, "-d", o.Dir)
	}
	return run.New(append(argv, pool)...)
}

// ExportCmd exports a pool.
func ExportCmd(pool string) run.Cmd { return run.New("zpool", "export", pool) }

// PoolDestroyCmd destroys a pool.
func PoolDestroyCmd(pool string) run.Cmd { return run.New("zpool", "destroy", pool) }

// SyncCmd writes everything a pool has in memory.
func SyncCmd(pool string) run.Cmd { return run.New("zpool", "sync", pool) }

// LabelClearCmd removes the labels of a former pool from a device. zpool fails
// when there are none.
func LabelClearCmd(device string) run.Cmd { return run.New("zpool", "labelclear", "-f", device) }

// AddSparesCmd adds hot spares to a pool.
func AddSparesCmd(pool string, devices ...string) run.Cmd {
	return run.New(append([]string{"zpool", "add", "-f", pool, "spare"}, devices...)...)
}

// AttachCmd makes new a mirror of the present member old.
func AttachCmd(pool, old, new string) run.Cmd {
	return run.New("zpool", "attach", "-f", pool, old, new)
}

// ReplaceCmd puts new in the place of old, which is a device or a vdev GUID.
func ReplaceCmd(pool, old, new string) run.Cmd {
	return run.New("zpool", "replace", "-f", pool, old, new)
}

// DetachCmd takes a member out of its mirror, or a used spare back.
func DetachCmd(pool, device string) run.Cmd { return run.New("zpool", "detach", pool, device) }

// RemoveCmd removes a spare that is not in use.
func RemoveCmd(pool, device string) run.Cmd { return run.New("zpool", "remove", pool, device) }

// propArgs is flag name=value for each property, by name.
func propArgs(flag string, props map[string]string) []string {
	var args []string
	for _, a := range assignments(props) {
		args = append(args, flag, a)
	}
	return args
}

func assignments(props map[string]string) []string {
	args := make([]string, 0, len(props))
	for _, k := range slices.Sorted(maps.Keys(props)) {
		args = append(args, k+"="+props[k])
	}
	return args
}
