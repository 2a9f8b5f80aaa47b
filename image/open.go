package image

import (
	"fmt"
	"io"
	"os"
	"time"

	"rig/image/gpt"
	"rig/image/ufs"
	"rig/internal/diag"
	"rig/layer"
	"rig/manifest"
	"rig/tree"
)

// Opened is an image that is open for reading. Its trees are readable until Close.
type Opened struct {
	Path       string
	Size       int64
	Partitions []PartitionReport
	Manifest   *manifest.Manifest
	ESP, Rig   *tree.Tree

	f      *os.File
	part   *io.SectionReader // the rig partition
	layers map[string]*tree.Tree
}

// Open reads table, file systems and manifest of an image. Hashes are not checked;
// Inspect does that.
func Open(path string) (*Opened, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, diag.Input(err)
	}
	o := &Opened{Path: path, f: f, layers: map[string]*tree.Tree{}}
	if err := o.read(); err != nil {
		f.Close()
		return nil, err
	}
	return o, nil
}

func (o *Opened) read() error {
	st, err := o.f.Stat()
	if err != nil {
		return err
	}
	o.Size = st.Size()
	table, err := gpt.Read(o.f, o.Size, 512)
	if err != nil {
		return diag.Hint(diag.Input(fmt.Errorf("inspect %s: %w", o.Path, err)), "it is not a disk image rigimage made, or it was cut short")
	}
	for _, p := range table.Partitions {
		pr := PartitionReport{Label: p.Label, Type: p.Type.String(), Start: p.Start, Size: p.Size}
		part := io.NewSectionReader(o.f, p.Start, p.Size)
		t, err := partitionTree(part, p)
		if err != nil {
			return diag.Input(fmt.Errorf("inspect %s: partition %s: %w", o.Path, p.Label, err))
		}
		if t != nil {
			pr.Files, pr.Used = t.Len(), t.Size()
		}
		switch p.Type {
		case gpt.EFI:
			o.ESP = t
		case gpt.FreeBSDUFS:
			o.Rig, o.part = t, part
		}
		o.Partitions = append(o.Partitions, pr)
	}
	if o.Rig == nil || o.ESP == nil {
		return diag.Inputf("inspect %s: there is no rig partition or no ESP", o.Path)
	}
	if o.Manifest, err = ReadManifest(o.Rig); err != nil {
		return diag.Input(fmt.Errorf("inspect %s: %w", o.Path, err))
	}
	return nil
}

// Close closes the image's file.
func (o *Opened) Close() error { return o.f.Close() }

// Time is the time of everything rigimage made in the image.
func (o *Opened) Time() time.Time {
	e, _ := o.Rig.Lookup(manifest.File) // read before
	return e.ModTime.UTC()
}

// Layer opens a layer of the bundle. Content is decoded when an entry is opened.
func (o *Opened) Layer(l manifest.Layer) (*tree.Tree, error) {
	if t, ok := o.layers[l.SHA256]; ok {
		return t, nil
	}
	fail := func(err error) (*tree.Tree, error) {
		return nil, diag.Input(fmt.Errorf("inspect %s: layer %s: %w", o.Path, layerName(l), err))
	}
	fsys, err := ufs.Open(o.part, o.part.Size())
	if err != nil {
		return fail(err)
	}
	list, err := fsys.Ranges(l.Path())
	if err != nil {
		return fail(err)
	}
	t, err := layer.Tree(pieces{o.part, list}, l.Size)
	if err != nil {
		return fail(err)
	}
	o.layers[l.SHA256] = t
	return t, nil
}

// layer is the image's layer of a role and jail, nil without one.
func (o *Opened) layer(role manifest.LayerRole, jail string) *manifest.Layer {
	for i, l := range o.Manifest.Layers {
		if l.Role == role && l.Jail == jail {
			return &o.Manifest.Layers[i]
		}
	}
	return nil
}

// layerName is how messages call a layer: "base", "jail pg_j".
func layerName(l manifest.Layer) string {
	if l.Jail != "" {
		return string(l.Role) + " " + l.Jail
	}
	return string(l.Role)
}

// pieces reads a file that lies in several runs of a partition.
type pieces struct {
	r    io.ReaderAt
	list []ufs.Range
}

func (p pieces) ReadAt(b []byte, off int64) (int, error) {
	n := 0
	for _, x := range p.list {
		if off >= x.Len {
			off -= x.Len
			continue
		}
		k := int(min(int64(len(b)-n), x.Len-off))
		m, err := p.r.ReadAt(b[n:n+k], x.Off+off)
		if n += m; m < k {
			return n, err
		}
		if n == len(b) {
			return n, nil
		}
		off = 0
	}
	return n, io.EOF
}
