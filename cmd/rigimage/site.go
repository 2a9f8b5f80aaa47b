package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/internal/cli"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/overlay/answers/site"
)

const answersUsage = `usage: rigimage answers SITE.toml [-o DIR] [--profile PROFILE] [--seal]
       rigimage answers [PROFILE] --template

Writes the answers files of both servers of a site file, NAME.toml for each. What
is missing and can be generated is: secrets, as a key of tunnels, and passwords,
which are shown once. Secrets and the passwords' hashes are kept in
SITE.secrets.toml beside the site file, so the next run writes the same answers.

  -o DIR             where the answers go (default: beside the site file)
  --profile PROFILE  whose questions they answer (default: the directory of the
                     site file when it has a rig.toml, else the built-in profile)
  --seal             do not show passwords: encrypt them with age to the SSH keys of
                     the host's users, as NAME.password.age
  --template         print a commented answers file with every question of a profile

example: rigimage answers site.toml && rigimage build --answers rega.toml -o rega.img
`

func answersSite(_ context.Context, args []string, std cli.Stdio) error {
	fl := std.Flags(answersUsage)
	template := fl.Bool("template", false, "")
	out := fl.String("o", "", "")
	prof := fl.String("profile", "", "")
	seal := fl.Bool("seal", false, "")
	rest, err := cli.Parse(fl, args, 1)
	switch {
	case err != nil:
		return err
	case *template:
		return printTemplate(rest, std)
	case len(rest) == 0:
		return diag.Hint(diag.Inputf("no site file given"), "rigimage answers SITE.toml, or rigimage answers --template")
	}
	s, cfg, err := openSite(rest[0], *prof)
	if err != nil {
		return err
	}
	dir := *out
	if dir == "" {
		dir = filepath.Dir(rest[0])
	}
	warnExampleKeys(s, std)
	return writeSite(s, cfg, siteFiles{dir: dir, secrets: secretsFile(rest[0]), seal: *seal}, std)
}

// exampleKey is the comment of the SSH key in the example; its private half is
// nobody's.
const exampleKey = " replace-with-yours"

func warnExampleKeys(s *site.Site, std cli.Stdio) {
	for _, srv := range s.Servers {
		for _, q := range srv.Set.Questions() {
			if q.Type == answers.SSHKey && q.List && slices.ContainsFunc(srv.Set.Strings(q.Key), func(k string) bool { return strings.HasSuffix(k, exampleKey) }) {
				fmt.Fprintf(std.Err, "rigimage: warning: %s: %s is the example's key: nobody can log in with it\n", srv.Name, q.Key)
			}
		}
	}
}

func printTemplate(rest []string, std cli.Stdio) error {
	fsys, name, err := profile(rest)
	if err != nil {
		return err
	}
	cfg, err := image.LoadConfig(fsys, filepath.Join(name, image.ConfigFile))
	if err != nil {
		return err
	}
	return answers.Template(cfg.Questions, std.Out)
}

// openSite reads a site file, its secrets file, and the profile in directory dir;
// "" is the site file's directory when that is a profile, else the built-in one.
func openSite(file, dir string) (*site.Site, *image.Config, error) {
	fsys, name, err := siteProfile(file, dir)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := image.LoadConfig(fsys, filepath.Join(name, image.ConfigFile))
	if err != nil {
		return nil, nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, diag.Hint(diag.Input(err), "\"rigimage init DIR\" makes an example, DIR/site.toml")
	}
	secrets := site.File{Name: secretsFile(file)}
	if secrets.Text, err = readPrivate(secrets.Name); err != nil {
		return nil, nil, err
	}
	s, err := site.Load(site.File{Name: file, Text: text}, secrets, cfg.Questions)
	return s, cfg, err
}

// siteProfile opens the profile of a site file, see openSite.
func siteProfile(file, dir string) (fs.FS, string, error) {
	var args []string
	beside := filepath.Dir(file)
	if dir != "" {
		args = []string{dir}
	} else if _, err := os.Stat(filepath.Join(beside, image.ConfigFile)); err == nil {
		args = []string{beside}
	}
	return profile(args)
}

// secretsFile is where what is generated for a site file is kept.
func secretsFile(file string) string { return strings.TrimSuffix(file, ".toml") + ".secrets.toml" }

// readPrivate reads a file that nobody but its owner may read. One that is not
// there is empty.
func readPrivate(name string) ([]byte, error) {
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := st.Mode().Perm(); mode&0o077 != 0 {
		return nil, diag.Hint(diag.Inputf("%s: it holds secrets, and others than its owner may use it (mode %04o)", name, mode), "chmod 600 %s", name)
	}
	return io.ReadAll(f)
}

// siteFiles says where the output of writeSite goes.
type siteFiles struct {
	dir     string
	secrets string // path of the secrets file
	seal    bool
}

// output is one file to write. Its content is secret.
type output struct {
	path, what string
	data       []byte
}

// writeSite generates what is missing, writes all files, and shows the passwords.
// Everything is known to be right before the first file is written. The secrets file
// comes last: an interrupted run leaves no hash of a password that nobody saw.
func writeSite(s *site.Site, cfg *image.Config, to siteFiles, std cli.Stdio) error {
	if err := s.CheckUnattended(); err != nil {
		return err
	}
	passwords, err := s.Generate()
	if err != nil {
		return err
	}
	files, err := answersFiles(s, to.dir)
	if err != nil {
		return err
	}
	if to.seal {
		sealed, err := sealedFiles(s, passwords, cfg, to.dir)
		if err != nil {
			return err
		}
		files = append(files, sealed...)
	}
	if text := s.Secrets(); text != nil {
		files = append(files, output{to.secrets, "secrets that were made; keep it", text})
	}
	if err := os.MkdirAll(to.dir, 0o700); err != nil {
		return fmt.Errorf("write answers: %w", err)
	}
	for _, f := range files {
		if err := writePrivate(f.path, f.data); err != nil {
			return fmt.Errorf("write answers: %w", err)
		}
	}
	for _, f := range files {
		fmt.Fprintf(std.Out, "%s: %s\n", f.path, f.what)
	}
	for _, g := range s.Gaps() {
		fmt.Fprintf(std.Out, "%s: the installer will ask for %s\n", g.Server.Name, g.Question.Key)
	}
	if to.seal {
		if len(passwords) == 0 {
			fmt.Fprintln(std.Out, "no password was made this time, so none is sealed")
		}
		return nil
	}
	return showPasswords(std.Out, passwords, cfg, to.secrets)
}

// showPasswords prints what was generated, the only time; secrets is the file with
// the hashes.
func showPasswords(w io.Writer, passwords []site.Password, cfg *image.Config, secrets string) error {
	for _, p := range passwords {
		if _, err := fmt.Fprintf(w, "%s: %s, shown only now: %s\n", p.Server.Name, passwordOf(cfg, p.Key), p.Text.Reveal()); err != nil {
			return diag.Hint(fmt.Errorf("show the passwords: %w", err), "remove %s to have new ones made", secrets)
		}
	}
	return nil
}

// answersFiles are the servers' answers files. It refuses to replace what is
// something else.
func answersFiles(s *site.Site, dir string) ([]output, error) {
	var files []output
	for i := range s.Servers {
		v := &s.Servers[i]
		var b bytes.Buffer
		if err := s.WriteAnswers(&b, v); err != nil {
			return nil, err
		}
		path := filepath.Join(dir, v.Name+".toml")
		old, err := os.ReadFile(path)
		switch {
		case err == nil && !site.Written(old):
			return nil, diag.Hint(diag.Inputf("write %s: the file is there and was not made by this command", path), "move it, or choose another directory with -o")
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return nil, fmt.Errorf("write answers: %w", err)
		}
		files = append(files, output{path, fmt.Sprintf("answers of %s, with its secrets", v.Name), b.Bytes()})
	}
	return files, nil
}

// sealedFiles are the passwords, encrypted to the keys of the host's users.
func sealedFiles(s *site.Site, passwords []site.Password, cfg *image.Config, dir string) ([]output, error) {
	var files []output
	keys := hostKeys(cfg)
	names := cmp.Or(strings.Join(keys, ", "), "[host] of rig.toml")
	for i := range s.Servers {
		v := &s.Servers[i]
		var text strings.Builder
		for _, p := range passwords {
			if p.Server == v {
				fmt.Fprintf(&text, "%s: %s: %s\n", v.Name, passwordOf(cfg, p.Key), p.Text.Reveal())
			}
		}
		if text.Len() == 0 {
			continue
		}
		var to []string
		for _, key := range keys {
			to = append(to, v.Set.Strings(key)...)
		}
		sealed, err := sealTo(names, to, text.String())
		if err != nil {
			return nil, diag.Hint(diag.Input(fmt.Errorf("seal the password of %s: %w", v.Name, err)),
				"age takes ssh-ed25519 and ssh-rsa keys; leave out --seal to be shown the passwords")
		}
		files = append(files, output{filepath.Join(dir, v.Name+".password.age"),
			"password of " + v.Name + ", sealed; age -d -i KEY shows it to who has a key of " + names, sealed})
	}
	return files, nil
}

// hostKeys are the questions whose SSH keys let somebody into the host.
func hostKeys(cfg *image.Config) (keys []string) {
	for _, u := range cfg.Host.Users {
		if u.Keys != "" && !slices.Contains(keys, u.Keys) {
			keys = append(keys, u.Keys)
		}
	}
	return keys
}

// sealTo encrypts data to those of the SSH public keys that age can encrypt to. names
// says where they are from.
func sealTo(names string, keys []string, text string) ([]byte, error) {
	var to []age.Recipient
	for _, k := range keys {
		if r, err := agessh.ParseRecipient(k); err == nil {
			to = append(to, r)
		}
	}
	if len(to) == 0 {
		return nil, fmt.Errorf("%s has no key that it can be encrypted to", names)
	}
	var b bytes.Buffer
	a := armor.NewWriter(&b)
	w, err := age.Encrypt(a, to...)
	if err != nil {
		return nil, err
	}
	_, err = io.WriteString(w, text)
	err = errors.Join(err, w.Close(), a.Close())
	return b.Bytes(), err
}

// passwordOf says whose password a question's hash is: "root password".
func passwordOf(cfg *image.Config, key string) string {
	var names []string
	for _, root := range append([]image.RootConfig{cfg.Host}, cfg.Jails...) {
		for _, u := range root.Users {
			if u.PasswordHash == key && !slices.Contains(names, u.Name) {
				names = append(names, u.Name)
			}
		}
	}
	if len(names) == 0 {
		return "password for " + key
	}
	return strings.Join(names, ", ") + " password"
}

// writePrivate replaces a file with one that only its owner may read.
func writePrivate(name string, data []byte) error {
	return replaceFile(name, 0o600, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// replaceFile puts a file in the place of name in one step, or leaves what was there.
func replaceFile(name string, mode fs.FileMode, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*") // mode 0600
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
