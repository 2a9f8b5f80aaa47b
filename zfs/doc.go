// Package zfs is what rig knows about pools: the wish for one, the disks that can
// fulfil it, the commands that do, the state zpool reports, the labels on disks.
//
// Match is pure and decides which disks become the mirror and its spares. The
// functions named …Cmd return commands and run nothing. Status reads the JSON of
// zpool status as OpenZFS 2.4 prints it. ReadLabel reads vdev labels from a
// device or a file without any program. Datasets are read with go-zfs, which runs
// zfs itself.
//
// There are no layouts but one mirror with hot spares. Sizes are in bytes.
package zfs
