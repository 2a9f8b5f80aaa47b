//go:build !linux && !freebsd

package vm

import "syscall"

// dieWithParent cannot be had here: a killed rig leaves its machine running.
func dieWithParent() *syscall.SysProcAttr { return nil }
