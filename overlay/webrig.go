package overlay

import (
	"embed"
	"io/fs"
)

//go:embed all:webrig
var webrig embed.FS

// Webrig is the default profile: rig.toml at its root, the directory host and one
// directory a jail under jails, each with the mtree file of its owners beside it.
func Webrig() fs.FS {
	sub, err := fs.Sub(webrig, "webrig")
	if err != nil {
		panic(err) // only for an invalid path
	}
	return sub
}
