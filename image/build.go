// Package image turns a profile, release sets and overlays into a bootable disk
// image: inputs → layers → bundle → media. Each stage is a function that takes what
// the one before gave: job, inputs, parts, bundle, the files themselves. The last stage
// is package media's.
//
// The image is a GPT disk of three partitions: freebsd-boot (gptboot), an EFI
// system partition (FAT32) and "rig" (UFS2), which holds loader, kernel, the
// installer's memory root and the bundle. Equal inputs give equal bytes on every
// machine. Nothing large is held in memory; what is expensive to make is cached by
// content. Sizes are bytes.
package image

import (
	"context"
	"io/fs"
	"path/filepath"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/image/media"
	"github.com/rig-freebsd/rig/internal/diag"
)

// Options of Build.
type Options struct {
	Profile     fs.FS
	ProfileName string   // how messages call the profile: a directory, or "webrig"
	Output      string   // path of the image, whose ending says what it is, see media.Options
	Also        []string // more media of the same bundle
	Appliance   media.Appliance
	Network     media.Network
	Servers     []media.Server // one for each of Output and Also, or one for all, instead of Answers and Appliance
	Sets        string         // directory with release sets, "" = look for them
	Cache       string         // "" = the user's cache directory
	Packages    string         // repository to use instead of the profile's: URL or directory; NoPackages
	Unlocked    bool           // pass over the profile's lock
	Demo        bool           // synthetic sets, no FreeBSD and no packages inside
	Answers     []byte         // for the ESP, nil for none
	AnswersName string
	// Riginstall returns the path of riginstall for freebsd/amd64.
	Riginstall func(ctx context.Context) (string, error)
	Progress   func(what string, done, total int64) // called by several goroutines
	Logf       func(format string, args ...any)
}

// Result is what Build made.
type Result struct {
	Path     string             `json:"path"`
	Size     int64              `json:"size"` // of the image; the file is sparse
	Bundle   int64              `json:"bundle"`
	Media    []media.Medium     `json:"media"`
	Manifest *manifest.Manifest `json:"manifest"`
}

// job is what was asked for, read and checked. Nothing changes it.
type job struct {
	Options
	cfg   *Config
	lock  *Lock // nil when the profile has none
	cache cache
}

// Build makes the image. Output appears complete or not at all.
func Build(ctx context.Context, o Options) (*Result, error) {
	if err := o.CheckOutputs(); err != nil {
		return nil, err
	}
	j, err := newJob(o)
	if err != nil {
		return nil, err
	}
	in, err := j.inputs(ctx)
	if err != nil {
		return nil, err
	}
	defer in.release.Close()
	p, err := j.parts(ctx, in)
	if err != nil {
		return nil, err
	}
	b, err := j.bundle(in, p)
	if err != nil {
		return nil, err
	}
	made, err := media.Write(ctx, b, j.media())
	if err != nil {
		return nil, err
	}
	return &Result{Path: j.Output, Size: b.Manifest.Boot.ImageSize(), Bundle: b.Rig.Size(), Media: made, Manifest: b.Manifest}, nil
}

// newJob reads and checks what the user wrote.
func newJob(o Options) (*job, error) {
	j := &job{Options: o}
	if j.Progress == nil {
		j.Progress = func(string, int64, int64) {}
	}
	if j.Logf == nil {
		j.Logf = func(string, ...any) {}
	}
	dir, err := cacheDir(o.Cache)
	if err != nil {
		return nil, err
	}
	j.cache = cache{dir}
	if j.cfg, err = LoadConfig(o.Profile, filepath.Join(o.ProfileName, ConfigFile)); err != nil {
		return nil, err
	}
	if err := j.checkAnswers(); err != nil {
		return nil, err
	}
	if j.Demo && j.cfg.pkgbase() {
		return nil, diag.Inputf("%s: a demo has no packages, and %s asks for a base system of packages", j.ProfileName, ConfigFile)
	}
	if !j.Demo && !j.Unlocked {
		if j.lock, err = ReadLock(o.Profile, o.ProfileName); err != nil {
			return nil, err
		}
	}
	return j, nil
}
