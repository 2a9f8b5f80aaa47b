package manifest

import (
	"errors"
	"path"
	"strings"
)

// DataDir holds, below the pool, the data of jails: data/<jail>/<name>. It is in no
// unit, so neither an upgrade nor a rollback touches it.
const DataDir = "data"

// PoolID, in the name of a pool, stands for the first 8 digits of the server's host
// UUID. The kernel finds the pool of its root by name and takes the first that it sees
// (OpenZFS 2.4 vdev_geom.c, process_vdev_config): with names of their own, a disk of
// another server cannot stand in for it.
const PoolID = "{id}"

// PoolName is the name of the pool on the server with this host UUID.
func (m *Manifest) PoolName(hostUUID string) string {
	id, _, _ := strings.Cut(hostUUID, "-")
	return strings.Replace(m.Pool.Name, PoolID, id, 1)
}

// NamesPool reports whether a pool of this name could be one that the image made.
func (m *Manifest) NamesPool(name string) bool {
	before, after, unique := strings.Cut(m.Pool.Name, PoolID)
	if !unique {
		return name == m.Pool.Name
	}
	rest, ok := strings.CutPrefix(name, before)
	id, ok2 := strings.CutSuffix(rest, after)
	return ok && ok2 && len(id) == 8 && strings.Trim(id, "0123456789abcdef") == ""
}

// Unit is one boot environment: the root of a host and those of its jails, made of one
// image. bectl(8) creates, activates and destroys it as one.
type Unit struct {
	Pool string // "zroot-1a2b3c4d"
	Name string // "webrig-15.1-1a2b3c4d5e6f", or what bectl created
}

// ParseUnit takes the name of a root's dataset apart: "zroot/ROOT/default".
func ParseUnit(dataset string) (Unit, bool) {
	pool, name, ok := strings.Cut(dataset, "/ROOT/")
	return Unit{pool, name}, ok && pool != "" && name != "" && !strings.ContainsRune(pool+name, '/')
}

// Root is the dataset of the host's root.
func (u Unit) Root() string { return u.Pool + "/ROOT/" + u.Name }

// Jails is the dataset that those of the jails' roots are below of.
func (u Unit) Jails() string { return u.Root() + "/jails" }

// Jail is the dataset of a jail's root.
func (u Unit) Jail(name string) string { return u.Jails() + "/" + name }

// Base is the dataset with the base system that an image's units were filled from.
func (u Unit) Base(image string) string { return u.Pool + "/rig/base/" + image }

// ownKeep is local state of every root.
func ownKeep() []string {
	return []string{"/etc/hostid", "/etc/machine-id", "/etc/ssh/ssh_host_*", "/var/db/rig"}
}

// Keeps reports whether a path below a root, "etc/hostid", is local state: what a server
// has that its image has not, and that goes along when it gets another image. keep is
// the list of the root in the profile: absolute paths of files or directories, in which
// * and ? stand for part of a name, as in path.Match.
func Keeps(keep []string, p string) bool {
	for _, list := range [][]string{ownKeep(), keep} {
		for _, pattern := range list {
			for at := "/" + p; at != "/"; at = path.Dir(at) {
				if ok, _ := path.Match(pattern, at); ok { // CheckKeep found the pattern good
					return true
				}
			}
		}
	}
	return false
}

// CheckKeep says what is wrong with an element of a keep list.
func CheckKeep(p string) error {
	if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsAny(p, "\x00\n") {
		return errors.New("expected a clean absolute path below the root, as /usr/local/etc/nginx/tls")
	}
	if _, err := path.Match(p, ""); err != nil {
		return errors.New("a [ is not closed")
	}
	return nil
}
