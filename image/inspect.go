package image

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"rig/image/fat"
	"rig/image/gpt"
	"rig/image/ufs"
	"rig/manifest"
	"rig/tree"
)

// Report is what Inspect found.
type Report struct {
	Path       string             `json:"path"`
	Size       int64              `json:"size"`
	Partitions []PartitionReport  `json:"partitions"`
	Manifest   *manifest.Manifest `json:"manifest"`
	Answers    bool               `json:"answers"`  // the ESP carries answers, which may hold secrets
	Problems   []string           `json:"problems"` // hashes that do not match, files that are missing
}

// PartitionReport is one partition of an image.
type PartitionReport struct {
	Label string `json:"label"`
	Type  string `json:"type"`
	Start int64  `json:"start"` // bytes
	Size  int64  `json:"size"`  // bytes
	Files int    `json:"files,omitempty"`
	Used  int64  `json:"used,omitempty"` // bytes of its files
}

// Inspect reads an image and checks every hash again. What does not match is in
// Report.Problems; an error means that there is no rig image to look at.
func Inspect(ctx context.Context, path string, progress func(what string, done, total int64)) (*Report, error) {
	o, err := Open(path)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	r := &Report{Path: path, Size: o.Size, Partitions: o.Partitions, Manifest: o.Manifest, Problems: []string{}}
	_, r.Answers = o.ESP.Lookup(manifest.AnswersFile)
	return r, r.check(ctx, o.Rig, o.ESP, progress)
}

// ReadManifest reads and checks the manifest on a rig partition.
func ReadManifest(rig *tree.Tree) (*manifest.Manifest, error) {
	text, err := rig.ReadFile(manifest.File, 16<<20)
	if err != nil {
		return nil, err
	}
	return manifest.Decode(bytes.NewReader(text))
}

func partitionTree(r *io.SectionReader, p gpt.Partition) (*tree.Tree, error) {
	switch p.Type {
	case gpt.EFI:
		fsys, err := fat.Open(r, p.Size)
		if err != nil {
			return nil, err
		}
		return fsys.Tree()
	case gpt.FreeBSDUFS:
		fsys, err := ufs.Open(r, p.Size)
		if err != nil {
			return nil, err
		}
		return fsys.Tree()
	}
	return nil, nil
}

func (r *Report) check(ctx context.Context, rig, esp *tree.Tree, progress func(string, int64, int64)) error {
	type want struct {
		t    *tree.Tree
		path string
		size int64
		sum  string
	}
	var all []want
	var total, done int64
	for _, l := range r.Manifest.Layers {
		all = append(all, want{rig, l.Path(), l.Size, l.SHA256})
	}
	for _, b := range r.Manifest.Files {
		t := rig
		if b.Part == manifest.RoleESP {
			t = esp
		}
		all = append(all, want{t, b.Path, b.Size, b.SHA256})
	}
	for _, w := range all {
		total += w.size
	}
	for _, w := range all {
		if err := ctx.Err(); err != nil {
			return err
		}
		progress("check hashes", done, total)
		if err := matches(w.t, w.path, w.size, w.sum); err != nil {
			r.Problems = append(r.Problems, err.Error())
		}
		done += w.size
	}
	return nil
}

func matches(t *tree.Tree, path string, size int64, sum string) error {
	e, ok := t.Lookup(path)
	if !ok {
		return fmt.Errorf("%s: missing", path)
	}
	if e.Size != size {
		return fmt.Errorf("%s: %d bytes, the manifest says %d", path, e.Size, size)
	}
	got, err := e.Digest()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if got != sum {
		return fmt.Errorf("%s: its hash is not the manifest's", path)
	}
	return nil
}
