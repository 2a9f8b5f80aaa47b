package main

import (
	"os"
	"os/exec"
	"path/filepath"
)

// cold builds with an empty cache, beside xz decoding the sets: what cannot be left
// out; and beside all that three programs take for what is in a build: decoding,
// compressing and hashing the same bytes, one after the other, each on all cores it
// uses.
func (b *bench) cold() error {
	var programs []string
	for _, name := range []string{"xz", "zstd", "sha256sum"} {
		path, err := exec.LookPath(name)
		if err != nil {
			return b.skip("cold build", err)
		}
		programs = append(programs, path)
	}
	tar := filepath.Join(b.dir, "sets.tar")
	if err := b.decode(programs[0], tar); err != nil {
		return err
	}
	defer os.Remove(tar)
	var xz result // of this turn
	return b.turns(func() (result, error) {
		cache := filepath.Join(b.dir, "cold")
		if err := os.RemoveAll(cache); err != nil {
			return result{}, err
		}
		return b.build("--cache", cache)
	}, peer{"cold build / xz -T0 -dc of the sets", 1.5, 0, func() (r result, err error) {
		xz, err = timed(nil, programs[0], append([]string{"-T0", "-dc"}, b.setFiles()...)...)
		return xz, err
	}}, peer{"cold build / xz -T0 -dc + zstd -3 -T0 + sha256sum", 1.25, 0, func() (result, error) {
		zstd, err := timed(nil, programs[1], "-q", "-3", "-T0", "-c", tar)
		if err != nil {
			return zstd, err
		}
		sum, err := timed(nil, programs[2], tar)
		return result{wall: xz.wall + zstd.wall + sum.wall, cpu: xz.cpu + zstd.cpu + sum.cpu}, err
	}})
}

func (b *bench) setFiles() []string {
	return []string{filepath.Join(b.sets, "base.txz"), filepath.Join(b.sets, "kernel.txz")}
}

// decode writes what is in the sets into one file.
func (b *bench) decode(xz, to string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command(xz, append([]string{"-T0", "-dc"}, b.setFiles()...)...)
	cmd.Stdout, cmd.Stderr = f, os.Stderr
	return cmd.Run()
}
