//go:build !freebsd

package blockdev

import "os"

// SectorSize is 512: riginstall works on devices on FreeBSD only.
func SectorSize(string) (int, error) { return 512, nil }

// mediaSize is 0: an empty file is empty.
func mediaSize(*os.File) (int64, error) { return 0, nil }
