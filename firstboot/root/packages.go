package root

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/run"
)

// Packages has pkg(8) install packages in a root that has a base system: their
// scripts and triggers run inside of it. The repository is mounted at PkgMount.
func (s System) Packages(ctx context.Context, dir string, names []string) error {
	return s.pkgInstall(ctx, "-c", place.PkgMount+"/"+manifest.PkgRepos, dir, names)
}

// BasePackages has pkg(8) install the base system in an empty root, in which
// nothing can run yet. The ABI is this system's own, which is the same.
func (s System) BasePackages(ctx context.Context, dir string, names []string) error {
	return s.pkgInstall(ctx, "-r", place.BundleDir+"/"+manifest.PkgDir+"/"+manifest.PkgBaseRepos, dir, names)
}

// scriptFailed is how pkg 2.8 reports a script that failed. After the files of a
// package are in place it goes on and exits with 0 (libpkg/pkg_add.c).
var scriptFailed = regexp.MustCompile(`(?m)^.*script failed.*$`)

// pkgInstall runs the bundle's pkg(8) on the root dir: offline, without questions.
// Whether the packages are too new for the base system, rigimage has checked.
func (s System) pkgInstall(ctx context.Context, how, repos, dir string, names []string) error {
	argv := append([]string{place.BundleDir + "/" + manifest.PkgStatic, how, dir, "-o", "REPOS_DIR=" + repos, "-o", "ASSUME_ALWAYS_YES=yes",
		"-o", "IGNORE_OSVERSION=yes", "-o", "SYSLOG=no", "install", "-r", manifest.PkgRepo}, names...)
	out, err := s.Run.Run(ctx, run.New("sh", "-c", run.Quote(argv)+" 2>&1"))
	text := strings.TrimSpace(string(out))
	s.Logf("%s", text)
	if err == nil {
		if line := scriptFailed.FindString(text); line != "" {
			err = errors.New(line)
		}
	}
	if err == nil {
		return nil
	}
	var failed *run.Error
	if errors.As(err, &failed) {
		err = fmt.Errorf("exit status %d", failed.Status)
	}
	return diag.Hint(fmt.Errorf("install %s in %s: %w; pkg says:\n%s", strings.Join(names, " "), dir, err, lastLines(text, 15)),
		"mend or leave out the package in the profile and build the image again")
}

// lastLines returns the last n lines of text.
func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// LockAccounts leaves no account without a password; see manifest.LockAccounts.
func (s System) LockAccounts(dir string) error {
	name := filepath.Join(s.Root, dir, "etc/master.passwd")
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return os.WriteFile(name, manifest.LockAccounts(text), 0o600)
}
