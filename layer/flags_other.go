//go:build !freebsd

package layer

// Flags are FreeBSD's; other systems keep none.
func setFlags(fd int, name string, flags uint32) error { return nil }
func clearFlags(fd int, name string) error             { return nil }
