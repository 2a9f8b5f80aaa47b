package image

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// ConfigFile is the profile's description, in the profile's directory.
const ConfigFile = "rig.toml"

// Config is rig.toml, schema 1.
type Config struct {
	Schema    int64              `toml:"schema"`
	Name      string             `toml:"name"`
	FreeBSD   FreeBSDConfig      `toml:"freebsd"`
	Pool      zfs.Pool           `toml:"pool"`
	Datasets  []zfs.Dataset      `toml:"dataset"`
	Boot      BootConfig         `toml:"boot"`
	Host      RootConfig         `toml:"host"`
	Jails     []RootConfig       `toml:"jail"`
	Repos     []RepoConfig       `toml:"repository"`
	Questions []answers.Question `toml:"question"`
	Networks  []manifest.Network `toml:"network"`
	Checks    []manifest.Check   `toml:"check"`
	Asks      []AskConfig        `toml:"ask"`
	Live      LiveConfig         `toml:"live"`
}

// Reach is what the profile says of its networks and of who gets through in them.
func (c *Config) Reach() manifest.Reach {
	return manifest.Reach{Networks: c.Networks, Checks: c.Checks}
}

// FreeBSDConfig names the release the image is made from.
type FreeBSDConfig struct {
	Version string `toml:"version"` // "15.1-RELEASE"
	Arch    string `toml:"arch"`    // "amd64"
	From    string `toml:"from"`    // "sets", also "", or "pkgbase"
	// Of pkgbase: what the host's root and every jail's are made of.
	HostPackages []string `toml:"host_packages"`
	JailPackages []string `toml:"jail_packages"`
}

// RepoConfig is a repository of packages. "${ABI}", "${VERSION_MAJOR}" and
// "${VERSION_MINOR}" in its URL stand for the release's own, as in pkg.conf(5).
type RepoConfig struct {
	Name         string   `toml:"name"`
	URL          string   `toml:"url"`          // http(s)://, file://, or a directory
	Signature    string   `toml:"signature"`    // "fingerprints", also "", or "none"
	Fingerprints []string `toml:"fingerprints"` // SHA-256 of trusted keys, hex; none: FreeBSD's own
	Revoked      []string `toml:"revoked"`
	Base         bool     `toml:"base"` // it is the base system's, for from = "pkgbase"
}

// Size is a number of bytes, written as an integer or as "512m", "2g".
type Size int64

// BootConfig is about the boot partitions. Zero sizes are the defaults.
type BootConfig struct {
	ESPSize   Size   `toml:"esp_size"`
	RigSize   Size   `toml:"rig_size"`
	Swap      Size   `toml:"swap"`
	Console   string `toml:"console"`    // both, video, serial
	Speed     int64  `toml:"speed"`      // bit/s of serial consoles
	MenuDelay int64  `toml:"menu_delay"` // seconds
}

// RootConfig is one root: the host, or a jail.
type RootConfig struct {
	Name       string        `toml:"name"`
	Overlay    string        `toml:"overlay"` // directory below the profile; "" = host, jails/NAME
	Interfaces []string      `toml:"interfaces"`
	Datasets   []zfs.Dataset `toml:"dataset"` // names relative to data/NAME
	Packages   []string      `toml:"packages"`
	Users      []UserConfig  `toml:"users"`
	Services   []string      `toml:"services"`
	Run        []string      `toml:"run"`
	Keep       []string      `toml:"keep"` // local state, see manifest.Keeps
}

// UserConfig is an account.
type UserConfig struct {
	Name         string   `toml:"name"`
	UID          int64    `toml:"uid"`
	Groups       []string `toml:"groups"`
	Shell        string   `toml:"shell"`
	Home         string   `toml:"home"`
	Comment      string   `toml:"comment"`
	Keys         string   `toml:"keys"`          // question with the authorized keys
	PasswordHash string   `toml:"password_hash"` // question with the hash
}

// LiveConfig is about the installer environment.
type LiveConfig struct {
	Programs []string `toml:"programs"` // more programs than the default list
}

// LoadConfig reads and checks rig.toml of a profile. name is how messages call
// the file. All problems are reported at once.
func LoadConfig(profile fs.FS, name string) (*Config, error) {
	text, err := fs.ReadFile(profile, ConfigFile)
	if err != nil {
		return nil, diag.Hint(diag.Input(fmt.Errorf("read profile: %w", err)), "a profile is a directory with a %s; \"rigimage init DIR\" makes one", ConfigFile)
	}
	var c Config
	d := newDecoder(name, text)
	d.decode(&c)
	if len(d.problems.List) == 0 {
		c.validate(d)
	}
	if err := d.problems.Err(); err != nil {
		return nil, err
	}
	return &c, nil
}

var (
	nameRE    = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)
	rootRE    = regexp.MustCompile(`^[a-z][a-z0-9_]{0,30}$`)
	versionRE = regexp.MustCompile(`^\d+\.\d+-[A-Z0-9]+$`)
)

func (c *Config) validate(d *decoder) {
	d.require(c.Schema == 1, "must be 1", "schema")
	d.require(nameRE.MatchString(c.Name), "expected a short name of a-z, 0-9 and -", "name")
	d.require(versionRE.MatchString(c.FreeBSD.Version), "expected a release such as \"15.1-RELEASE\"", "freebsd", "version")
	d.require(c.FreeBSD.Arch == "amd64", "only amd64 is supported", "freebsd", "arch")
	d.require(slices.Contains([]string{"", "sets", "pkgbase"}, c.FreeBSD.From), "expected sets or pkgbase", "freebsd", "from")
	c.validateRepos(d)
	d.require(c.Pool.Name != "", "is missing", "pool", "name")
	d.require(c.Pool.Ashift >= 9 && c.Pool.Ashift <= 16, "expected 9 to 16 (12 for disks of today)", "pool", "ashift")
	d.require(slices.Contains([]string{"", "both", "video", "serial"}, c.Boot.Console), "expected both, video or serial", "boot", "console")
	for _, s := range []struct {
		key string
		n   Size
	}{{"esp_size", c.Boot.ESPSize}, {"rig_size", c.Boot.RigSize}, {"swap", c.Boot.Swap}} {
		d.require(s.n >= 0 && s.n%(1<<20) == 0, "expected whole MiB, as \"512m\" or \"2g\"", "boot", s.key)
	}
	seen := map[string]bool{}
	for i, j := range c.Jails {
		at := []string{"jail", answers.Index(i), "name"}
		d.require(rootRE.MatchString(j.Name), "expected a name of a-z, 0-9 and _", at...)
		d.require(!seen[j.Name], "two jails have this name", at...)
		seen[j.Name] = true
		d.users(j.Users, c.Questions, "jail", answers.Index(i))
		for k, u := range j.Users {
			shared := u.PasswordHash != "" && slices.ContainsFunc(c.Host.Users, func(h UserConfig) bool { return h.PasswordHash == u.PasswordHash })
			d.require(!shared, "it is also a password of the host; a jail has passwords of its own, or none", "jail", answers.Index(i), "users", answers.Index(k), "password_hash")
		}
		d.packages(j.Packages, "jail", answers.Index(i), "packages")
		d.keep(j.Keep, "jail", answers.Index(i), "keep")
	}
	d.users(c.Host.Users, c.Questions, "host")
	d.packages(c.Host.Packages, "host", "packages")
	d.keep(c.Host.Keep, "host", "keep")
	if err := answers.ValidateQuestions(answers.All(c.Questions)); err != nil {
		d.add(err.Error(), "question")
	}
	c.Reach().Validate(c.Questions, func(table string, i int, key, msg string) {
		d.add(msg, append([]string{table, answers.Index(i)}, strings.Split(key, ".")...)...)
	})
	c.validateAsks(d)
}

var (
	packageRE     = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.+-]*(\*[a-zA-Z0-9_.+-]*)?$`)
	fingerprintRE = regexp.MustCompile(`^[0-9a-f]{64}$`)
	repoRE        = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,30}$`)
)

// packages checks names as a profile writes them, see solve.Select.
func (d *decoder) packages(names []string, at ...string) {
	for i, n := range names {
		here := append(slices.Clone(at), answers.Index(i))
		d.require(packageRE.MatchString(n), "expected a package's name, with a * where a version's number is: \"postgresql*-server\"", here...)
		d.require(!slices.Contains(names[:i], n), "the package is there twice", here...)
	}
}

// keep checks a list of local state.
func (d *decoder) keep(paths []string, at ...string) {
	for i, p := range paths {
		here := append(slices.Clone(at), answers.Index(i))
		if err := manifest.CheckKeep(p); err != nil {
			d.add(err.Error(), here...)
		}
		d.require(!slices.Contains(paths[:i], p), "the path is there twice", here...)
	}
}

func (c *Config) validateRepos(d *decoder) {
	pkgbase := c.FreeBSD.From == "pkgbase"
	for _, l := range []struct {
		key   string
		names []string
	}{{"host_packages", c.FreeBSD.HostPackages}, {"jail_packages", c.FreeBSD.JailPackages}} {
		d.require(pkgbase || len(l.names) == 0, "only with from = \"pkgbase\"", "freebsd", l.key)
		d.packages(l.names, "freebsd", l.key)
	}
	seen := map[string]bool{}
	for i, r := range c.Repos {
		at := func(key string) []string { return []string{"repository", answers.Index(i), key} }
		d.require(repoRE.MatchString(r.Name), "expected a short name of letters, digits, _ and -", at("name")...)
		d.require(!seen[r.Name], "two repositories have this name", at("name")...)
		seen[r.Name] = true
		d.require(r.URL != "", "is missing", at("url")...)
		d.require(slices.Contains([]string{"", "fingerprints", "none"}, r.Signature), "expected fingerprints or none", at("signature")...)
		d.require(r.Signature != "none" || len(r.Fingerprints) == 0, "a repository without signature has no fingerprints", at("fingerprints")...)
		for _, f := range slices.Concat(r.Fingerprints, r.Revoked) {
			d.require(fingerprintRE.MatchString(f), "expected 64 hexadecimal digits, the SHA-256 of a key", at("fingerprints")...)
		}
	}
}

func (d *decoder) users(users []UserConfig, qs []answers.Question, at ...string) {
	for i, u := range users {
		here := append(slices.Clone(at), "users", answers.Index(i))
		d.require(u.Name != "", "a user has no name", here...)
		d.require(u.Name == "root" || u.UID > 0 && u.UID < 65534, "uid must be between 1 and 65533", append(slices.Clone(here), "uid")...)
		for key, want := range map[string]answers.Type{u.Keys: answers.SSHKey, u.PasswordHash: answers.PasswordHash} {
			if key == "" {
				continue
			}
			k := slices.IndexFunc(qs, func(q answers.Question) bool { return q.Key == key })
			d.require(k >= 0 && qs[k].Type == want, fmt.Sprintf("user %s: no question %q of type %s", u.Name, key, want), here...)
		}
	}
}

// Defaults of BootConfig.
const (
	defaultESP  = 260 << 20
	defaultRig  = 2 << 30
	defaultSwap = 2 << 30
)

func (b BootConfig) manifest() manifest.Boot {
	m := manifest.Boot{ESPSize: int64(b.ESPSize), RigSize: int64(b.RigSize), Swap: int64(b.Swap),
		Console: manifest.Console(b.Console), Speed: int(b.Speed), MenuDelay: int(b.MenuDelay)}
	if m.ESPSize == 0 {
		m.ESPSize = defaultESP
	}
	if m.RigSize == 0 {
		m.RigSize = defaultRig
	}
	if m.Swap == 0 {
		m.Swap = defaultSwap
	}
	return m
}

func (u UserConfig) manifest() manifest.User {
	return manifest.User{Name: u.Name, UID: int(u.UID), Groups: u.Groups, Shell: u.Shell, Home: u.Home,
		Comment: u.Comment, Keys: u.Keys, PasswordHash: u.PasswordHash}
}

func users(in []UserConfig) (out []manifest.User) {
	for _, u := range in {
		out = append(out, u.manifest())
	}
	return out
}

// overlay is the directory of a root's overlay in the profile.
func (r RootConfig) overlay() string {
	switch {
	case r.Overlay != "":
		return path.Clean(r.Overlay)
	case r.Name == "":
		return "host"
	}
	return "jails/" + r.Name
}
