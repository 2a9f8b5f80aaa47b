package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"rig/image/fat"
	"rig/image/gpt"
	"rig/image/ufs"
	"rig/internal/diag"
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
	f, err := os.Open(path)
	if err != nil {
		return nil, diag.Input(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	table, err := gpt.Read(f, st.Size(), 512)
	if err != nil {
		return nil, diag.Hint(diag.Input(fmt.Errorf("inspect %s: %w", path, err)), "it is not a disk image rigimage made, or it was cut short")
	}
	r := &Report{Path: path, Size: st.Size(), Problems: []string{}}
	trees := map[gpt.Type]*tree.Tree{}
	for _, p := range table.Partitions {
		pr := PartitionReport{Label: p.Label, Type: p.Type.String(), Start: p.Start, Size: p.Size}
		t, err := partitionTree(io.NewSectionReader(f, p.Start, p.Size), p)
		if err != nil {
			return nil, diag.Input(fmt.Errorf("inspect %s: partition %s: %w", path, p.Label, err))
		}
		if t != nil {
			trees[p.Type], pr.Files, pr.Used = t, t.Len(), t.Size()
		}
		r.Partitions = append(r.Partitions, pr)
	}
	rig, esp := trees[gpt.FreeBSDUFS], trees[gpt.EFI]
	if rig == nil || esp == nil {
		return nil, diag.Inputf("inspect %s: there is no rig partition or no ESP", path)
	}
	if r.Manifest, err = ReadManifest(rig); err != nil {
		return nil, diag.Input(fmt.Errorf("inspect %s: %w", path, err))
	}
	_, r.Answers = esp.Lookup(manifest.AnswersFile)
	return r, r.check(ctx, rig, esp, progress)
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
