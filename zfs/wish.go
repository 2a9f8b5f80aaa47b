package zfs

// Pool is the wish for a pool: what must be true once it is created.
type Pool struct {
	Name   string            `toml:"name" json:"name"`
	Ashift int               `toml:"ashift" json:"ashift"`                   // log2 of the smallest write, 9 to 16
	Props  map[string]string `toml:"props,omitempty" json:"props,omitempty"` // pool properties (zpool create -o)
	Root   map[string]string `toml:"root,omitempty" json:"root,omitempty"`   // properties of the root dataset (zpool create -O)
}

// Dataset is the wish for one file system. Name is relative to the pool:
// "jails/pg_j/db".
type Dataset struct {
	Name       string            `toml:"name" json:"name"`
	Mountpoint string            `toml:"mountpoint,omitempty" json:"mountpoint,omitempty"` // "" = none
	Props      map[string]string `toml:"props,omitempty" json:"props,omitempty"`
	Owner      string            `toml:"owner,omitempty" json:"owner,omitempty"` // "770:770": numeric uid:gid of the mounted root
	Mode       string            `toml:"mode,omitempty" json:"mode,omitempty"`   // octal mode of the mounted root
}
