package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// FindQEMU is the path of qemu-system-x86_64: $RIG_QEMU, $PATH, then where
// package managers put it.
func FindQEMU() (string, error) {
	names := []string{os.Getenv("RIG_QEMU"), defaultQEMU, "/opt/homebrew/bin/" + defaultQEMU,
		"/usr/local/bin/" + defaultQEMU, "/usr/libexec/qemu-kvm"}
	for _, name := range names {
		if name == "" {
			continue
		}
		path, err := exec.LookPath(name)
		if err == nil {
			return path, nil
		}
		if name == os.Getenv("RIG_QEMU") {
			return "", fmt.Errorf("find qemu in $RIG_QEMU: %w", err)
		}
	}
	return "", diag.Hint(errors.New("find qemu-system-x86_64: not installed"), "%s", hint("qemu-system-x86", "qemu"))
}

// ovmfPairs are code and variables of OVMF in the order tried. Secure Boot
// builds are left out.
var ovmfPairs = [][2]string{
	// Debian, Ubuntu
	{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
	// Fedora, RHEL
	{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	// Arch
	{"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"},
	{"/usr/share/edk2-ovmf/x64/OVMF_CODE.fd", "/usr/share/edk2-ovmf/x64/OVMF_VARS.fd"},
	// openSUSE
	{"/usr/share/qemu/ovmf-x86_64-4m-code.bin", "/usr/share/qemu/ovmf-x86_64-4m-vars.bin"},
	{"/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"},
	// FreeBSD: edk2-qemu-x64, then QEMU's own
	{"/usr/local/share/edk2-qemu/QEMU_UEFI_CODE-x86_64.fd", "/usr/local/share/edk2-qemu/QEMU_UEFI_VARS-x86_64.fd"},
	// QEMU's own: FreeBSD and Homebrew on Intel, Homebrew on ARM, MacPorts, from source
	{"/usr/local/share/qemu/edk2-x86_64-code.fd", "/usr/local/share/qemu/edk2-i386-vars.fd"},
	{"/opt/homebrew/share/qemu/edk2-x86_64-code.fd", "/opt/homebrew/share/qemu/edk2-i386-vars.fd"},
	{"/opt/local/share/qemu/edk2-x86_64-code.fd", "/opt/local/share/qemu/edk2-i386-vars.fd"},
	{"/usr/share/qemu/edk2-x86_64-code.fd", "/usr/share/qemu/edk2-i386-vars.fd"},
}

// FindOVMF is the UEFI firmware: its code, which machines share, and the
// template of its variables, of which each machine has a copy. $RIG_OVMF
// ("CODE:VARS") goes first.
func FindOVMF() (code, vars string, err error) {
	if env := os.Getenv("RIG_OVMF"); env != "" {
		code, vars, ok := strings.Cut(env, ":")
		if !ok || !isFile(code) || !isFile(vars) {
			return "", "", diag.Inputf("find OVMF: RIG_OVMF=%s is not CODE:VARS, two files", env)
		}
		return code, vars, nil
	}
	for _, p := range ovmfPairs {
		if isFile(p[0]) && isFile(p[1]) {
			return p[0], p[1], nil
		}
	}
	if qemu, err := FindQEMU(); err == nil { // a QEMU elsewhere brings its own
		dir := filepath.Join(filepath.Dir(qemu), "..", "share", "qemu")
		code, vars := filepath.Join(dir, "edk2-x86_64-code.fd"), filepath.Join(dir, "edk2-i386-vars.fd")
		if isFile(code) && isFile(vars) {
			return code, vars, nil
		}
	}
	return "", "", diag.Hint(errors.New("find OVMF, the UEFI firmware for QEMU: not installed"),
		"%s, or boot by BIOS", hint("ovmf", "edk2-qemu-x64"))
}

// hint names the package to install on this host.
func hint(debian, freebsd string) string {
	switch runtime.GOOS {
	case "darwin":
		return "brew install qemu"
	case "freebsd":
		return "pkg install " + freebsd
	}
	return "apt install " + debian + " (or your distribution's package of it)"
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode().IsRegular()
}
