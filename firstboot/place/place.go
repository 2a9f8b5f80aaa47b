// Package place says where things are on a machine of rig: the directories of an
// install, what an installed system records of itself, and partitions by their role.
package place

import (
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
)

// Places on the machine during an install.
const (
	Target      = "/mnt"                      // the new system, the pool's altroot
	BundleDir   = "/rig"                      // the source's rig partition, mounted read only
	PkgMount    = "/media"                    // where a root sees the bundle's repository
	StateDir    = "/var/run/rig"              // install.log, the answers of this run
	BaseDir     = StateDir + "/base"          // the base system that roots are filled from, mounted
	NetManifest = StateDir + "/manifest.json" // of an image that comes over the network, until the bundle is there
	Dev         = "/dev/"
	GPT         = Dev + "gpt/" // partitions by their labels
)

// Places inside an installed system.
const (
	ResultDir = "/var/db/rig"               // result.json, install.log, the manifest
	AnswersAt = ResultDir + "/answers.toml" // this server's answers
	// NetDir holds the last settings of the network on trial that worked, as copies of
	// its files, and why others are in use instead (NetFallback).
	NetDir      = ResultDir + "/net"
	NetFallback = NetDir + "/fallback"
)

// PropDone is the pool's user property that holds the id of its image. It is set when
// everything was verified.
const PropDone = "rig:complete"

// Self is the name riginstall goes by in printed plans.
const Self = "riginstall"

// PartName is the name of a disk's partition with this index in its GPT: "vtbd0p3".
func PartName(disk string, index int) string { return disk + "p" + strconv.Itoa(index) }

// Labelled is the device of the partition that has this role on the disk with this
// serial: "/dev/gpt/rig-S3X1". It exists once the disk was partitioned.
func Labelled(role manifest.Role, serial string) string { return GPT + manifest.Label(role, serial) }

// ImageLabel is the label of the rig partition in an image; installed disks have
// their serial in it.
const ImageLabel = string(manifest.RoleRig)

// Rank is what a rig partition is by its label.
type Rank int

const (
	NoRig      Rank = iota // it is none
	Image                  // of an image that nobody installed from or onto
	Unfinished             // of a disk whose installation began
	Installed              // of a disk that boots its pool
)

// RankOf reads the label of a partition.
func RankOf(label string) Rank {
	switch {
	case label == ImageLabel:
		return Image
	case strings.HasPrefix(label, string(manifest.Installing)+"-"):
		return Unfinished
	case strings.HasPrefix(label, string(manifest.RoleRig)+"-"):
		return Installed
	}
	return NoRig
}

// SplitUnit splits "vtbd10" into "vtbd" and 10; the unit of a name without one
// is -1.
func SplitUnit(name string) (stem string, unit int) {
	stem = strings.TrimRight(name, "0123456789")
	unit, err := strconv.Atoi(name[len(stem):])
	if err != nil {
		unit = -1
	}
	return stem, unit
}
