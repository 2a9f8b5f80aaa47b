package pkgs

import (
	"context"
	"io"
)

// CatalogueFile is the catalogue that ReadCatalogue reads, in a repository that
// LocalRepo wrote.
const CatalogueFile = "packagesite.pkg"

// ReadCatalogue reads a CatalogueFile, in its order: by name and then version. It
// takes what Open takes of an unsigned repository.
func ReadCatalogue(ctx context.Context, r io.Reader) ([]*Package, error) {
	var list []*Package
	s := source{Archive: CatalogueFile, Member: defaultMeta().manifests, Lines: true}
	_, err := readCatalogue(ctx, r, s, func(r io.Reader) (err error) {
		list, err = decodePackages(r, s.Lines, func(p *Package) error { return p.check("") })
		return err
	})
	return list, err
}
