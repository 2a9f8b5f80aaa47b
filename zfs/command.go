package zfs

import (
	"maps"
	"slices"
	"strconv"

	"github.com/rig-freebsd/rig/internal/run"
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
	Altroot string // -R: mount below this directory, write no cache file
	Force   bool   // -f: overwrite stale labels, accept members of different size
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

// CreateDatasetCmd creates a file system with its missing parents. With canmount=noauto
// or mountpoint=none it is not mounted.
func CreateDatasetCmd(name string, props map[string]string) run.Cmd {
	argv := append([]string{"zfs", "create", "-p"}, propArgs("-o", props)...)
	return run.New(append(argv, name)...)
}

// DatasetCmd creates the file system d in pool with its missing parents.
func DatasetCmd(pool string, d Dataset) run.Cmd { return CreateDatasetCmd(pool+"/"+d.Name, d.props()) }

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

// MountCmd mounts a dataset, for those with canmount=noauto.
func MountCmd(dataset string) run.Cmd { return run.New("zfs", "mount", dataset) }

// DestroyCmd destroys a dataset with its snapshots and children, not with clones.
func DestroyCmd(dataset string) run.Cmd { return run.New("zfs", "destroy", "-r", dataset) }

// ImportReadOnlyCmd imports the pool with this GUID below altroot to look at it: nothing
// is mounted or written, also when another host used it last.
func ImportReadOnlyCmd(guid uint64, altroot string) run.Cmd {
	return run.New("zpool", "import", "-f", "-N", "-o", "readonly=on", "-R", altroot, strconv.FormatUint(guid, 10))
}

// ExportCmd exports a pool.
func ExportCmd(pool string) run.Cmd { return run.New("zpool", "export", pool) }

// SyncCmd writes everything a pool has in memory.
func SyncCmd(pool string) run.Cmd { return run.New("zpool", "sync", pool) }

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
