package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// LoaderConf is loader.conf(5) of the rig partition, which names the image.
const LoaderConf = "boot/loader.conf"

// maxConf is more bytes than a loader.conf has.
const maxConf = 1 << 20

// IDError says that a manifest is not the one that its image id was made of.
type IDError struct{ Image, Computed string }

func (e *IDError) Error() string {
	return fmt.Sprintf("manifest: it was changed: the image is %s, what it says gives %s", e.Image, e.Computed)
}

// ID computes the image id: from everything the manifest says, without the id itself
// and without what names it, and from the text of LoaderConf without the id. So the
// id does not depend on the version of the program that computes it.
func (m *Manifest) ID(loaderConf []byte) (string, error) {
	c := *m
	c.Image = m.Name + "-0" // any valid id
	c.Files = slices.Clone(m.Files)
	for i, f := range c.Files {
		if f.Part == RoleRig && f.Path == LoaderConf {
			c.Files[i].Size, c.Files[i].SHA256 = 0, hex.EncodeToString(make([]byte, sha256.Size))
		}
	}
	text, err := c.Encode()
	if err != nil {
		return "", err
	}
	named, plain := fmt.Appendf(nil, "%s=%q\n", EnvImage, m.Image), fmt.Appendf(nil, "%s=%q\n", EnvImage, "")
	sum := sha256.Sum256(append(text, bytes.Replace(loaderConf, named, plain, 1)...))
	release, _, _ := strings.Cut(m.FreeBSD.Version, "-")
	return fmt.Sprintf("%s-%s-%x", m.Name, release, sum[:6]), nil
}

// Read reads the manifest of a bundle and compares it with its image id. read
// returns a file of the rig partition, which has at most limit bytes.
func Read(read func(name string, limit int64) ([]byte, error)) (*Manifest, error) {
	conf, err := read(LoaderConf, maxConf)
	if err != nil {
		return nil, err
	}
	text, err := read(File, maxSize)
	if err != nil {
		return nil, err
	}
	m, err := Decode(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	id, err := m.ID(conf)
	if err != nil {
		return nil, err
	}
	if id != m.Image {
		return nil, &IDError{m.Image, id}
	}
	again, err := m.Encode()
	if err == nil && !bytes.Equal(again, text) { // blanks, which are not in the id
		err = fmt.Errorf("manifest: it was changed: it has %d bytes, and what it says is written in %d others", len(text), len(again))
	}
	return m, err
}
