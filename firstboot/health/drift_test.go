package health

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rig-freebsd/rig/image/tree"
)

func TestVerifyDrift(t *testing.T) {
	uid, gid := uint32(os.Getuid()), uint32(os.Getgid())
	entry := func(p string, kind tree.Kind, perm uint16, content string) tree.Entry {
		e := tree.Entry{Path: p, Kind: kind, Perm: perm, UID: uid, GID: gid}
		switch kind {
		case tree.File:
			e.Size, e.Open = int64(len(content)), tree.Bytes([]byte(content))
		case tree.Symlink:
			e.Link = content
		}
		return e
	}
	lay, err := tree.New([]tree.Entry{
		entry("etc/rc.conf", tree.File, 0o644, "one\n"), entry("etc/key.tmpl", tree.File, 0o600, "{{.key}}"),
		entry("etc/mac", tree.Dir, 0o755, ""), entry("etc/link", tree.Symlink, 0o755, "rc.conf"), entry("tmp", tree.Dir, 0o1777, ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(dir string) error
		want   []string
	}{
		{"as laid", func(string) error { return nil }, []string{"ok host: 5 entries with the owners and modes of the image"}},
		{"changed", func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/etc/rc.conf", []byte("two\n"), 0o644), os.WriteFile(dir+"/etc/key", []byte("another"), 0o600))
		}, []string{"ok host: 5 entries with the owners and modes of the image",
			"warning host: changed since the install: etc/rc.conf -> carry a change that is to stay into the profile, so that the next image has it"}},
		{"missing", func(dir string) error { return errors.Join(os.Remove(dir+"/etc/key"), os.Remove(dir+"/etc/mac")) },
			[]string{"error host: missing: etc/key, etc/mac -> put back what is missing from the profile; chmod and chown mend the rest"}},
		{"too open", func(dir string) error { return os.Chmod(dir+"/etc/key", 0o644) },
			[]string{"error host: etc/key is 0644 U, not 0600 U -> put back what is missing from the profile; chmod and chown mend the rest"}},
		{"not sticky", func(dir string) error { return os.Chmod(dir+"/tmp", 0o777) },
			[]string{"error host: tmp is 0777 U, not 1777 U -> put back what is missing from the profile; chmod and chown mend the rest"}},
		{"other kinds", func(dir string) error {
			return errors.Join(os.Remove(dir+"/etc/mac"), os.WriteFile(dir+"/etc/mac", nil, 0o600), os.Remove(dir+"/etc/rc.conf"), syscall.Mkfifo(dir+"/etc/rc.conf", 0o644))
		}, []string{"error host: etc/mac is not a dir, etc/rc.conf is not a file -> put back what is missing from the profile; chmod and chown mend the rest"}},
		{"another link", func(dir string) error {
			return errors.Join(os.Remove(dir+"/etc/link"), os.Symlink("/etc/passwd", dir+"/etc/link"))
		}, []string{"ok host: 5 entries with the owners and modes of the image",
			"warning host: changed since the install: etc/link -> carry a change that is to stay into the profile, so that the next image has it"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := errors.Join(os.MkdirAll(dir+"/etc/mac", 0o755), os.Mkdir(dir+"/tmp", 0o755), os.Chmod(dir+"/tmp", 0o777|os.ModeSticky),
				os.WriteFile(dir+"/etc/rc.conf", []byte("one\n"), 0o644), os.WriteFile(dir+"/etc/key", []byte("secret"), 0o600),
				os.Symlink("rc.conf", dir+"/etc/link"), tt.change(dir)); err != nil {
				t.Fatal(err)
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			d, err := compareRoot(root, lay)
			if err != nil {
				t.Fatal(err)
			}
			r := &rows{}
			d.judge(r, "host")
			wantRows(t, r.list, owners(tt.want)...)
		})
	}
	// A jail cannot make its host read files outside of it.
	dir := t.TempDir()
	if err := os.Symlink("/etc", filepath.Join(dir, "etc")); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if d, err := compareRoot(root, lay); err == nil && len(d.kind) == 0 {
		t.Errorf("a link out of the root was followed: %+v", d)
	}
}

// owners puts this user in for U.
func owners(rows []string) []string {
	me := fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	out := make([]string, len(rows))
	for i, r := range rows {
		out[i] = strings.NewReplacer(" U,", " "+me+",", " U ", " "+me+" ").Replace(r)
	}
	return out
}
