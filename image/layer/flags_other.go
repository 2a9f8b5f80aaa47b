//go:build !freebsd

package layer

import "syscall"

// Flags and ACLs are FreeBSD's; other systems keep none.
func setFlags(fd int, name string, flags uint32) error { return nil }
func clearFlags(fd int, name string) error             { return nil }
func flagsOf(*syscall.Stat_t) uint32                   { return 0 }
func copyACL(src, dst string) error                    { return nil }
