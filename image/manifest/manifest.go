// Package manifest is the only thing rigimage and riginstall share about an
// image: what is in it, and what is to be made of a machine from it. It is the
// file rig/manifest.json, schema 1, on every medium and every installed disk.
//
// Decode is strict and complete: what it returns has been validated. Encode is
// canonical: equal manifests are equal bytes. testdata/manifest-v1.json is
// frozen; a change that breaks it is a new schema. Sizes are bytes.
package manifest

import (
	"slices"

	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// Schema is the newest manifest this program reads, and the one it writes.
const Schema = 1

// Manifest describes an image.
type Manifest struct {
	Schema  int     `json:"schema"`
	Name    string  `json:"name"`  // profile: "webrig"
	Image   string  `json:"image"` // image id: "webrig-15.1-1a2b3c4d5e6f"; a dataset name
	FreeBSD FreeBSD `json:"freebsd"`
	Layers  []Layer `json:"layers"`

	// Pool.Name may have PoolID in it, see PoolName.
	Pool zfs.Pool `json:"pool"`
	// Datasets is every dataset the profile asks for, those of jails too
	// ("data/db_j/files"), parents first. ROOT and rig, with the roots of host and jails,
	// are the installer's and not listed.
	Datasets []zfs.Dataset `json:"datasets,omitempty"`

	Host  Host   `json:"host"`
	Users []User `json:"users,omitempty"` // the host's
	Jails []Jail `json:"jails,omitempty"`

	Boot Boot `json:"boot"`
	// Questions are the profile's; answers.Builtin adds to them.
	Questions []answers.Question `json:"questions,omitempty"`
	// Files is everything on the boot partitions outside layers, sorted by
	// partition and path. This manifest, its signature, answers and the switch
	// are not in it.
	Files []BootFile `json:"files,omitempty"`

	Networks []Network `json:"networks,omitempty"` // that each server is on
	Checks   []Check   `json:"checks,omitempty"`   // who gets through to it
}

// FreeBSD is the release the image was made from.
type FreeBSD struct {
	Version string `json:"version"` // "15.1-RELEASE"
	Arch    string `json:"arch"`    // "amd64"
	// Host and Jail are the packages of the base system (pkgbase) that the host's
	// root and the jails' are made of; both empty when layers carry it.
	Host []string `json:"host,omitempty"`
	Jail []string `json:"jail,omitempty"`
}

// Pkgbase reports whether the base system is packages rather than layers.
func (f FreeBSD) Pkgbase() bool { return len(f.Host) > 0 }

// Repository reports whether the bundle has a repository of packages.
func (m *Manifest) Repository() bool {
	return slices.ContainsFunc(m.Files, func(f BootFile) bool { return f.Part == RoleRig && f.Path == PkgStatic })
}

// LayerRole says what a layer is unpacked over.
type LayerRole string

const (
	LayerBase   LayerRole = "base"   // the base system of all roots
	LayerKernel LayerRole = "kernel" // the host's /boot
	LayerHost   LayerRole = "host"   // overlay of the host's root
	LayerJail   LayerRole = "jail"   // overlay of one jail's root
)

// Layer is one tar.zst, unpacked in the order of Manifest.Layers.
type Layer struct {
	Role        LayerRole `json:"role"`
	Jail        string    `json:"jail,omitempty"` // LayerJail: whose
	SHA256      string    `json:"sha256"`         // of the compressed file, lower-case hex
	Size        int64     `json:"size"`           // of the compressed file
	ContentSize int64     `json:"content_size"`   // sum of its regular files
	Entries     int       `json:"entries"`
	Templates   []string  `json:"templates,omitempty"` // its paths that end in .tmpl, sorted: "etc/hosts.tmpl"
}

// Path is where the layer lies on a medium and on a rig partition.
func (l Layer) Path() string { return LayerDir + "/" + l.SHA256 + ".tar.zst" }

// Name is how messages call the layer: "base", "jail pg_j".
func (l Layer) Name() string {
	if l.Jail != "" {
		return string(l.Role) + " " + l.Jail
	}
	return string(l.Role)
}

// Pinned lists every file of the boot partitions whose content the manifest says:
// layers first, as they are unpacked first, each once.
func (m *Manifest) Pinned() []BootFile {
	var out []BootFile
	seen := map[string]bool{}
	for _, l := range m.Layers {
		if !seen[l.SHA256] {
			seen[l.SHA256] = true
			out = append(out, BootFile{Part: RoleRig, Path: l.Path(), Size: l.Size, SHA256: l.SHA256})
		}
	}
	return append(out, m.Files...)
}

// Host is what the host's root gets beyond its layers.
type Host struct {
	Packages []string `json:"packages,omitempty"` // names to install from the repository of the bundle
	Services []string `json:"services,omitempty"` // rc.d services that verification expects to run
	Run      []string `json:"run,omitempty"`      // sh lines, run by chroot in the root at install, in order
	Keep     []string `json:"keep,omitempty"`     // local state, see Keeps
}

// Jail is one jail. Its root is mounted at /jails/<name>, a dataset of the unit; its
// other datasets are in Manifest.Datasets, below data/<name>.
type Jail struct {
	Name       string   `json:"name"`                 // "db_j"
	Interfaces []string `json:"interfaces,omitempty"` // its ends of epairs
	Users      []User   `json:"users,omitempty"`
	Packages   []string `json:"packages,omitempty"`
	Services   []string `json:"services,omitempty"`
	Run        []string `json:"run,omitempty"`
	Keep       []string `json:"keep,omitempty"`
}

// User is an account to create.
type User struct {
	Name         string   `json:"name"`
	UID          int      `json:"uid"`
	Groups       []string `json:"groups,omitempty"` // beyond the one of its own name
	Shell        string   `json:"shell,omitempty"`
	Home         string   `json:"home,omitempty"`
	Comment      string   `json:"comment,omitempty"`
	Keys         string   `json:"keys,omitempty"`          // key of an ssh_key list question: authorized_keys
	PasswordHash string   `json:"password_hash,omitempty"` // key of a password_hash question; "" locks the password
}

// Console says which consoles the system talks to.
type Console string

const (
	ConsoleBoth   Console = "both" // boot_multicons; also ""
	ConsoleVideo  Console = "video"
	ConsoleSerial Console = "serial"
)

// Boot is the layout and manner of the boot partitions.
type Boot struct {
	ESPSize   int64   `json:"esp_size"`          // bytes
	RigSize   int64   `json:"rig_size"`          // bytes
	Swap      int64   `json:"swap"`              // default of the answer disks.swap, 0 for none
	Console   Console `json:"console,omitempty"` // "" is ConsoleBoth
	Speed     int     `json:"speed,omitempty"`   // of serial consoles in bit/s, 0 is 115200
	MenuDelay int     `json:"menu_delay"`        // seconds the loader waits
}

// BootFile is one file on a boot partition.
type BootFile struct {
	Part   Role   `json:"part"` // RoleESP or RoleRig
	Path   string `json:"path"` // relative, clean: "boot/kernel/kernel"
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}
