//go:build !linux

package flash

import (
	"errors"
	"os"
)

const (
	openDirect = 0
	openAlone  = 0
	busyHint   = "unmount what is on it (macOS: diskutil unmountDisk DISK; FreeBSD: umount, zpool export, swapoff)"
)

func stopDirect(*os.File) error { return errors.ErrUnsupported }

func zeroOut(*os.File, bool, int64, int64) error { return errors.ErrUnsupported }

func forget(*os.File) {}

func rereadTable(*os.File) {}
