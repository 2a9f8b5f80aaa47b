// Package pkgs reads repositories of FreeBSD packages, fetches packages from them
// and writes repositories of its own, without pkg(8) and on any system; which packages
// of a repository, image/pkgs/solve chooses. It follows pkg 2.8 (libpkg/pkg_repo.c, pkg_repo_meta.c, pkg_repo_create.c, pkgsign_*.c,
// pkg_checksum.c, repo/binary/update.c).
//
// A repository is a directory or a URL with meta.conf (versions 1 and 2), a catalogue
// in data.pkg or packagesite.pkg, and package archives: tar, packed with zstd, xz,
// gzip, bzip2 or not at all. A catalogue is trusted when one of the repository's
// fingerprints signed it: RSA, ECDSA (secp256k1, secp384r1, secp521r1) or EdDSA. A
// package is trusted because the catalogue has its sum.
//
// Below the cache directory: catalogues/<hash of the URL>/ holds the catalogues read
// last, pkgs/<sha256>.pkg packages, pkgs/sums their sums in catalogues. All of it is
// checked each time it is used, and may be removed at any time.
//
// Left out: SRV records and mirror lists, ssh, signature_type pubkey, keys in meta,
// the legacy meta.txz and digests, files.pkg, groups, brainpool curves, anything that
// installs. Sizes are bytes.
package pkgs
