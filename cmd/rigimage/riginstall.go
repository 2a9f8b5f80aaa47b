package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
)

// riginstallBinary returns the path of riginstall for freebsd/amd64: the embedded
// one, or one compiled from the checkout rigimage runs in.
func riginstallBinary(ctx context.Context, cache string) (string, error) {
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find the user's cache directory: %w", err)
		}
		cache = filepath.Join(base, "rig")
	}
	dir := filepath.Join(cache, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if embedded != nil {
		sum := sha256.Sum256(embedded)
		path := filepath.Join(dir, "riginstall-"+hex.EncodeToString(sum[:6]))
		if st, err := os.Stat(path); err == nil && st.Size() == int64(len(embedded)) {
			return path, nil
		}
		tmp := path + ".new"
		if err := os.WriteFile(tmp, embedded, 0o755); err != nil {
			return "", err
		}
		return path, os.Rename(tmp, path)
	}
	return compile(ctx, dir)
}

// modulePath is rig's, as in go.mod.
const modulePath = "github.com/rig-freebsd/rig"

func compile(ctx context.Context, dir string) (string, error) {
	hint := "run it from a checkout of rig with Go installed, or use a released rigimage, which carries riginstall"
	mod, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Path}} {{.Dir}}").Output()
	name, root, _ := strings.Cut(strings.TrimSpace(string(mod)), " ")
	if err != nil || name != modulePath {
		return "", diag.Hint(fmt.Errorf("find riginstall: this rigimage has none embedded and is not in a checkout of rig"), "%s", hint)
	}
	// The same place every time, so that go finds it up to date.
	path := filepath.Join(dir, "riginstall-checkout")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-o", path, "./cmd/riginstall")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOOS=freebsd", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", diag.Hint(fmt.Errorf("compile riginstall: %w\n%s", err, out), "%s", hint)
	}
	return path, nil
}
