package pkgs

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/tree"
	"github.com/rig-freebsd/rig/internal/pkgtest"
)

// What LocalRepo wrote is read without a directory.
func TestReadCatalogue(t *testing.T) {
	dir := t.TempDir()
	pkgtest.Repo{Pkgs: demo(), SumType: 2}.Write(t, dir)
	files := fetchAll(t, Repo{URL: dir, Unsigned: true}, t.TempDir())
	list, err := LocalRepo(files, time.Unix(1700000000, 0))
	if err != nil {
		t.Fatal(err)
	}
	tr, err := tree.New(list)
	if err != nil {
		t.Fatal(err)
	}
	text, err := tr.ReadFile(CatalogueFile, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadCatalogue(t.Context(), bytes.NewReader(text))
	if err != nil || len(got) != len(files) {
		t.Fatalf("%d packages of %d, %v", len(got), len(files), err)
	}
	for i, p := range got {
		if p.ID() != files[i].ID() || p.Sum != files[i].SHA256 || p.Size != files[i].Size || len(p.Deps) != len(files[i].Deps) {
			t.Errorf("%+v differs from %+v", p, files[i].Package)
		}
	}
	if _, err := ReadCatalogue(t.Context(), bytes.NewReader(text[:len(text)/2])); err == nil || !strings.Contains(err.Error(), "packagesite.pkg: ") {
		t.Errorf("half a catalogue: got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ReadCatalogue(ctx, bytes.NewReader(text)); err == nil || !strings.Contains(err.Error(), "canceled") {
		t.Errorf("cancelled: got %v", err)
	}
}
