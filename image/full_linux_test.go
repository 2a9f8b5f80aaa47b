package image

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rig-freebsd/rig/internal/diag"
)

// A full disk: nothing of the image stays.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("rig", dir, "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("SKIPPED: no small file system can be mounted here: %v", err)
	}
	defer syscall.Unmount(dir, 0)
	o := options(t, t.TempDir())
	o.Output = filepath.Join(dir, "rig.img")
	_, err := Build(context.Background(), o)
	if !errors.Is(err, syscall.ENOSPC) || !strings.HasPrefix(err.Error(), "write "+o.Output+": ") || diag.ExitCode(err) != 1 {
		t.Errorf("%v, exit status %d", err, diag.ExitCode(err))
	}
	if got := files(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}

	o = options(t, t.TempDir()) // the cache is what is full
	o.Cache = dir
	if _, err := Build(context.Background(), o); err == nil {
		t.Error("built with a full cache")
	}
	if got := files(t, filepath.Dir(o.Output)); got != "" {
		t.Errorf("left behind: %s", got)
	}
}
