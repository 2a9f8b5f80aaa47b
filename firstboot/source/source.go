// Package source is where a server is installed from: the medium that was booted, or a
// web server. It finds it, checks it, and reads this server's answers there.
package source

// Source is what an installer takes everything from: a RigPartition, an ISO or a Web.
type Source interface {
	String() string // as plans print it
	sealed()
}

// RigPartition is the rig partition of a medium, or of a disk of an earlier install.
type RigPartition struct {
	Disk string // "vtbd0"
	Name string // "vtbd0p3"
}

// ISO is an ISO 9660 volume, in a drive or written to a stick.
type ISO struct {
	Label string // "RIG_1A2B3C4D5E6F"
}

// Web is a directory on a web server.
type Web struct {
	URL string // "http://10.9.0.1", without a slash at its end
}

func (s RigPartition) String() string { return s.Name }
func (s ISO) String() string          { return "iso9660/" + s.Label } // where GEOM shows it, below /dev
func (s Web) String() string          { return s.URL }

func (RigPartition) sealed() {}
func (ISO) sealed()          {}
func (Web) sealed()          {}
