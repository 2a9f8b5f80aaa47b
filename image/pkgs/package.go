package pkgs

// Package is what a catalogue says of one package: the keys of a manifest that
// choosing, fetching and describing it need (pkg_manifest.c of pkg 2.8). Sizes are
// bytes.
type Package struct {
	Name     string `json:"name"` // "nginx-full"
	Version  string `json:"version"`
	Origin   string `json:"origin"` // "www/nginx-full"
	Comment  string `json:"comment"`
	WWW      string `json:"www"`
	ABI      string `json:"abi"`      // "FreeBSD:15:amd64", "FreeBSD:15:*"
	Prefix   string `json:"prefix"`   // "/usr/local", "/" for the base system's
	Sum      string `json:"sum"`      // see ParseSum
	Path     string `json:"path"`     // below the repository's URL; repopath when there is no path
	RepoPath string `json:"repopath"` //
	Size     int64  `json:"pkgsize"`  // of the archive
	FlatSize int64  `json:"flatsize"` // of the installed files

	LicenseLogic string   `json:"licenselogic"` // single, and, or
	Licenses     []string `json:"licenses"`
	Categories   []string `json:"categories"`
	Users        []string `json:"users"`
	Groups       []string `json:"groups"`

	Deps           map[string]Dep    `json:"deps"` // by name
	ShlibsRequired []string          `json:"shlibs_required"`
	ShlibsProvided []string          `json:"shlibs_provided"`
	Requires       []string          `json:"requires"`
	Provides       []string          `json:"provides"`
	Conflicts      []string          `json:"conflicts"` // names, shell patterns
	Annotations    map[string]string `json:"annotations"`
	Vital          bool              `json:"vital"`
}

// Dep is one entry of Package.Deps.
type Dep struct {
	Origin  string `json:"origin"`
	Version string `json:"version"`
}

// ID is "name-version", which is how pkg(8) calls a package.
func (p *Package) ID() string { return p.Name + "-" + p.Version }
