//go:build !freebsd

package blockdev

// SectorSize is 512: riginstall works on devices on FreeBSD only.
func SectorSize(string) (int, error) { return 512, nil }
