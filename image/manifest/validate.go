package manifest

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// The names a manifest may hold. All of them end up in commands or paths.
var (
	imageID     = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,59}$`)
	profileName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)
	jailName    = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{0,30}$`)
	accountName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`) // pw(8), MAXLOGNAME 33
	ifaceName   = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.-]{0,14}$`)
	serviceName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}$`)
	packageName = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.+-]{0,127}$`)
	sha256Hex   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	release     = regexp.MustCompile(`^[0-9]+\.[0-9]+(-[A-Z0-9.-]+)?$`)
	archName    = regexp.MustCompile(`^[a-z0-9]+$`)
	poolName    = regexp.MustCompile(`^[a-z][a-z0-9_.-]{0,54}(\{id\}[a-z0-9_.-]{0,8})?$`)
	datasetPart = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	propName    = regexp.MustCompile(`^[a-z0-9][a-z0-9_@:.-]*$`)
	ownerText   = regexp.MustCompile(`^[0-9]{1,10}:[0-9]{1,10}$`)
	modeText    = regexp.MustCompile(`^[0-7]{3,4}$`)
)

// checker gathers problems.
type checker struct{ ps diag.Problems }

// add reports a problem; key is the place in the manifest: "jails.db_j.name".
func (c *checker) add(key, format string, args ...any) {
	c.ps.Add(diag.Problem{Key: key, Msg: fmt.Sprintf(format, args...)})
}

// match reports s when re does not match it.
func (c *checker) match(key, s string, re *regexp.Regexp, expected string) bool {
	if !re.MatchString(s) {
		c.add(key, "%q; expected %s", s, expected)
		return false
	}
	return true
}

// each checks a list of names for form and repetition.
func (c *checker) each(key string, names []string, re *regexp.Regexp, expected string) {
	for i, n := range names {
		if c.match(key, n, re, expected) && slices.Contains(names[:i], n) {
			c.add(key, "%q is there twice", n)
		}
	}
}

// line reports text that is more than one line.
func (c *checker) line(key, text string) {
	if !oneLine(text) {
		c.add(key, "more than one line")
	}
}

func oneLine(text string) bool { return !strings.ContainsAny(text, "\n\r\x00") }

// Validate reports everything wrong with m, as [diag.Problems] without a file.
func (m *Manifest) Validate() error {
	c := &checker{}
	if m.Schema != Schema {
		c.add("schema", "%d; expected %d", m.Schema, Schema)
	}
	c.match("name", m.Name, profileName, "a profile's name of lower-case letters, digits, - and _, at most 40")
	c.match("image", m.Image, imageID, "an image id of lower-case letters, digits, . and -, at most 60")
	c.match("freebsd.version", m.FreeBSD.Version, release, "a release, as 15.1-RELEASE")
	c.match("freebsd.arch", m.FreeBSD.Arch, archName, "an architecture, as amd64")
	m.checkLayers(c)
	m.checkPackages(c)
	m.checkPool(c)
	m.checkDatasets(c)
	c.root("host", m.Host.Packages, m.Host.Services, m.Host.Run, m.Host.Keep)
	m.checkUsers(c, "users", m.Users)
	m.checkJails(c)
	m.Boot.check(c)
	m.checkQuestions(c)
	m.checkFiles(c)
	m.Reach().Validate(m.Questions, func(table string, i int, key, msg string) { c.add(fmt.Sprintf("%ss[%d].%s", table, i, key), "%s", msg) })
	return c.ps.Err()
}

func (m *Manifest) checkQuestions(c *checker) {
	err := answers.ValidateQuestions(m.Questions)
	var ps *diag.Problems
	if errors.As(err, &ps) {
		for _, p := range ps.List {
			p.Key = "questions." + p.Key
			c.ps.Add(p)
		}
	}
}

func (m *Manifest) jail(name string) bool {
	return slices.ContainsFunc(m.Jails, func(j Jail) bool { return j.Name == name })
}

func (m *Manifest) checkLayers(c *checker) {
	seen := map[string]bool{}
	for i, l := range m.Layers {
		key := fmt.Sprintf("layers[%d]", i)
		id := string(l.Role)
		switch l.Role {
		case LayerBase, LayerKernel, LayerHost:
			if l.Jail != "" {
				c.add(key+".jail", "%q; a %s layer belongs to no jail", l.Jail, l.Role)
			}
		case LayerJail:
			if id += " " + l.Jail; !m.jail(l.Jail) {
				c.add(key+".jail", "there is no jail %q", l.Jail)
			}
		default:
			c.add(key+".role", "%q; expected base, kernel, host or jail", l.Role)
		}
		if seen[id] {
			c.add(key, "a second %s layer", id)
		}
		seen[id] = true
		c.match(key+".sha256", l.SHA256, sha256Hex, "64 lower-case hexadecimal digits")
		if l.Size <= 0 || l.ContentSize < 0 || l.Entries < 0 {
			c.add(key, "size %d, content_size %d, entries %d; expected a size above 0 and none below", l.Size, l.ContentSize, l.Entries)
		}
		for j, t := range l.Templates {
			c.relative(key+".templates", t)
			if !strings.HasSuffix(t, ".tmpl") {
				c.add(key+".templates", "%q does not end in .tmpl", t)
			}
			if j > 0 && l.Templates[j-1] >= t {
				c.add(key+".templates", "%q is not in order", t)
			}
		}
	}
	for _, r := range []LayerRole{LayerBase, LayerKernel, LayerHost} {
		switch packaged := m.FreeBSD.Pkgbase() && r != LayerHost; {
		case packaged && seen[string(r)]:
			c.add("layers", "there is a %s layer, and the base system is packages", r)
		case !packaged && !seen[string(r)]:
			c.add("layers", "there is no %s layer", r)
		}
	}
}

// checkPackages checks what the base system is made of.
func (m *Manifest) checkPackages(c *checker) {
	c.each("freebsd.host", m.FreeBSD.Host, packageName, "a package's name")
	c.each("freebsd.jail", m.FreeBSD.Jail, packageName, "a package's name")
	if m.FreeBSD.Pkgbase() != (len(m.FreeBSD.Jail) > 0) {
		c.add("freebsd", "packages of the base system for host or jails only; expected both or none")
	}
}

// relative checks a path inside a tree.
func (c *checker) relative(key, p string) bool {
	if p == "" || p == "." || path.Clean(p) != p || path.IsAbs(p) || p == ".." || strings.HasPrefix(p, "../") ||
		strings.ContainsAny(p, "\x00\n\\") {
		c.add(key, "%q; expected a clean relative path", p)
		return false
	}
	return true
}

func (m *Manifest) checkPool(c *checker) {
	p := m.Pool
	if c.match("pool.name", p.Name, poolName, "a pool's name, as zroot-{id}") {
		for _, word := range []string{"mirror", "raidz", "draid", "spare", "log"} {
			if p.Name == word || strings.HasPrefix(p.Name, word) && word != "spare" && word != "log" {
				c.add("pool.name", "%q; zpool(8) reserves %s", p.Name, word)
			}
		}
	}
	if p.Ashift < 9 || p.Ashift > 16 {
		c.add("pool.ashift", "%d; expected 9 to 16", p.Ashift)
	}
	c.props("pool.props", p.Props, "ashift", "altroot", "cachefile")
	c.props("pool.root", p.Root, "mountpoint")
}

// props checks properties; own are those that rig sets itself.
func (c *checker) props(key string, props map[string]string, own ...string) {
	for _, name := range slices.Sorted(maps.Keys(props)) {
		val := props[name]
		at := key + "." + name
		c.match(at, name, propName, "a property's name")
		if val == "" || strings.ContainsAny(val, "\n\r\x00") {
			c.add(at, "%q; expected a value of one line", val)
		}
		if slices.Contains(own, name) {
			c.add(at, "rig sets this property itself")
		}
	}
}

func (m *Manifest) checkDatasets(c *checker) {
	mounts := map[string]string{}
	for i, d := range m.Datasets {
		key := "datasets." + d.Name
		for part := range strings.SplitSeq(d.Name, "/") {
			if !datasetPart.MatchString(part) {
				c.add(key, "%q; expected a dataset's name below the pool, as data/db_j/files", d.Name)
				break
			}
		}
		for _, other := range m.Datasets[:i] {
			if other.Name == d.Name {
				c.add(key, "the dataset is there twice")
			}
			if strings.HasPrefix(other.Name, d.Name+"/") {
				c.add(key, "the dataset comes after %s, which is below it", other.Name)
			}
		}
		m.checkOwned(c, key, d)
		c.props(key, d.Props, "mountpoint")
		if d.Owner != "" {
			c.match(key+".owner", d.Owner, ownerText, "numeric uid:gid, as 770:770")
		}
		if d.Mode != "" {
			c.match(key+".mode", d.Mode, modeText, "an octal mode, as 0750")
		}
		if other, dup := mounts[d.Mountpoint]; dup && path.IsAbs(d.Mountpoint) {
			c.add(key+".mountpoint", "%s is also that of %s", d.Mountpoint, other)
		}
		mounts[d.Mountpoint] = d.Name
	}
}

// checkOwned keeps datasets off those the installer makes, and jails' datasets
// below their jail.
func (m *Manifest) checkOwned(c *checker, key string, d zfs.Dataset) {
	switch mp := d.Mountpoint; {
	case mp == "" || mp == "none" || mp == "legacy":
	case mp == "/" || path.Clean(mp) != mp || !path.IsAbs(mp) || strings.ContainsAny(mp, "\x00\n"):
		c.add(key+".mountpoint", "%q; expected a clean absolute path below /", mp)
	}
	if top, _, _ := strings.Cut(d.Name, "/"); top == "ROOT" || top == "rig" {
		c.add(key, "%s and datasets below it are the installer's", top)
	}
	rest, ok := strings.CutPrefix(d.Name, DataDir+"/")
	if !ok {
		if strings.HasPrefix(d.Mountpoint+"/", "/jails/") {
			c.add(key+".mountpoint", "%s is a jail's, and the dataset is not below %s/", d.Mountpoint, DataDir)
		}
		return
	}
	jail, below, _ := strings.Cut(rest, "/")
	switch {
	case !m.jail(jail):
		c.add(key, "there is no jail %q", jail)
	case below == "":
		c.add(key, "%s/%s is the installer's; expected one below it", DataDir, jail)
	case path.IsAbs(d.Mountpoint) && !strings.HasPrefix(d.Mountpoint, "/jails/"+jail+"/"):
		c.add(key+".mountpoint", "%s; expected a path below /jails/%s", d.Mountpoint, jail)
	}
}

// root checks what host and jails have in common.
func (c *checker) root(key string, packages, services, lines, keep []string) {
	c.each(key+".packages", packages, packageName, "a package's name")
	c.each(key+".services", services, serviceName, "an rc.d service's name")
	for _, l := range lines {
		if strings.TrimSpace(l) == "" || strings.ContainsRune(l, 0) {
			c.add(key+".run", "%q; expected shell commands", l)
		}
	}
	for i, p := range keep {
		if err := CheckKeep(p); err != nil {
			c.add(key+".keep", "%q; %v", p, err)
		} else if slices.Contains(keep[:i], p) {
			c.add(key+".keep", "%q is there twice", p)
		}
	}
}

func (m *Manifest) checkJails(c *checker) {
	ifaces := map[string]string{}
	for i, j := range m.Jails {
		key := "jails." + j.Name
		c.match(key+".name", j.Name, jailName, "a jail's name of letters, digits, _ and -, at most 31")
		for _, other := range m.Jails[:i] {
			if other.Name == j.Name {
				c.add(key, "the jail is there twice")
			}
		}
		for _, n := range j.Interfaces {
			c.match(key+".interfaces", n, ifaceName, "an interface's name, at most 15 characters")
			if other, dup := ifaces[n]; dup {
				c.add(key+".interfaces", "%s is also in jail %s", n, other)
			}
			ifaces[n] = j.Name
		}
		c.root(key, j.Packages, j.Services, j.Run, j.Keep)
		m.checkUsers(c, key+".users", j.Users)
		m.checkRootHash(c, key, j)
	}
}

func (m *Manifest) checkUsers(c *checker, where string, users []User) {
	for i, u := range users {
		key := where + "." + u.Name
		c.match(key+".name", u.Name, accountName, "an account's name of lower-case letters, digits, _ and -, at most 32")
		if (u.Name == "root") != (u.UID == 0) || u.UID < 0 || u.UID > 65533 {
			c.add(key+".uid", "%d; expected 0 for root, 1 to 65533 for others", u.UID)
		}
		for _, other := range users[:i] {
			if other.Name == u.Name {
				c.add(key, "the user is there twice")
			} else if other.UID == u.UID {
				c.add(key+".uid", "%d is also that of %s", u.UID, other.Name)
			}
		}
		c.each(key+".groups", u.Groups, accountName, "a group's name")
		for _, p := range []struct{ name, val string }{{"shell", u.Shell}, {"home", u.Home}} {
			if p.val != "" && (!path.IsAbs(p.val) || path.Clean(p.val) != p.val || strings.ContainsAny(p.val, ":\n\x00")) {
				c.add(key+"."+p.name, "%q; expected a clean absolute path", p.val)
			}
		}
		c.line(key+".comment", u.Comment)
		if strings.ContainsRune(u.Comment, ':') {
			c.add(key+".comment", "a colon, which separates the fields of passwd(5)")
		}
		m.checkRef(c, key+".keys", u.Keys, answers.SSHKey, true)
		m.checkRef(c, key+".password_hash", u.PasswordHash, answers.PasswordHash, false)
	}
}

// checkRootHash keeps the password of the host's root out of jails: who reads one of
// these reads a hash that opens everything.
func (m *Manifest) checkRootHash(c *checker, key string, j Jail) {
	for _, u := range j.Users {
		for _, host := range m.Users {
			if u.PasswordHash != "" && u.PasswordHash == host.PasswordHash {
				c.add(key+".users."+u.Name+".password_hash", "%s is the password of %s of the host; a jail has passwords of its own, or none", u.PasswordHash, host.Name)
			}
		}
	}
}

// checkRef checks the key of a question with the given type.
func (m *Manifest) checkRef(c *checker, key, question string, typ answers.Type, list bool) {
	if question == "" {
		return
	}
	i := slices.IndexFunc(m.Questions, func(q answers.Question) bool { return q.Key == question })
	kind := string(typ)
	if list {
		kind += " list"
	}
	switch {
	case i < 0:
		c.add(key, "there is no question %q", question)
	case m.Questions[i].Type != typ || m.Questions[i].List != list:
		c.add(key, "question %s is not of type %s", question, kind)
	}
}

func (b Boot) check(c *checker) {
	whole := func(key string, n, least, most int64) {
		if n < least || n > most || n%mib != 0 {
			c.add(key, "%d bytes; expected whole MiB, %d to %d of them", n, least/mib, most/mib)
		}
	}
	whole("boot.esp_size", b.ESPSize, mib, 4<<30)
	whole("boot.rig_size", b.RigSize, mib, 1<<40)
	whole("boot.swap", b.Swap, 0, 1<<40)
	switch b.Console {
	case "", ConsoleBoth, ConsoleVideo, ConsoleSerial:
	default:
		c.add("boot.console", "%q; expected both, video or serial", b.Console)
	}
	speeds := []int{0, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 921600}
	if !slices.Contains(speeds, b.Speed) {
		c.add("boot.speed", "%d; expected a serial speed, as 115200", b.Speed)
	}
	if b.MenuDelay < 0 || b.MenuDelay > 3600 {
		c.add("boot.menu_delay", "%d; expected 0 to 3600 seconds", b.MenuDelay)
	}
}

// compareFiles is the order of Manifest.Files.
func compareFiles(a, b BootFile) int {
	return cmp.Or(cmp.Compare(a.Part, b.Part), cmp.Compare(a.Path, b.Path))
}

func (m *Manifest) checkFiles(c *checker) {
	all := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		all[string(f.Part)+"/"+f.Path] = true
	}
	for i, f := range m.Files {
		key := "files[" + strconv.Itoa(i) + "]"
		if f.Part != RoleESP && f.Part != RoleRig {
			c.add(key+".part", "%q; expected %s or %s", f.Part, RoleESP, RoleRig)
		}
		if c.relative(key+".path", f.Path) {
			if f.Path == File || f.Path == File+".minisig" || f.Path == AnswersFile || f.Path == SwitchFile || strings.HasPrefix(f.Path, LayerDir+"/") {
				c.add(key+".path", "%s is not listed among the files", f.Path)
			}
			for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
				if all[string(f.Part)+"/"+dir] {
					c.add(key+".path", "%s is below %s, which is a file", f.Path, dir)
				}
			}
		}
		if f.Size < 0 {
			c.add(key+".size", "%d is below 0", f.Size)
		}
		c.match(key+".sha256", f.SHA256, sha256Hex, "64 lower-case hexadecimal digits")
		if i > 0 && compareFiles(m.Files[i-1], f) >= 0 {
			c.add(key+".path", "%s is not in order, or there twice", f.Path)
		}
	}
}
