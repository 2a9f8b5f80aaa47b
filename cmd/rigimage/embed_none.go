//go:build !embed_riginstall

package main

// embedded is riginstall for freebsd/amd64 in released binaries: "make" writes
// embed_release.go, which is not committed, and builds with the tag.
var embedded []byte
