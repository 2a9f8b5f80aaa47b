package tree

import (
	"reflect"
	"strings"
	"testing"
)

func TestHolesAreValidated(t *testing.T) {
	for _, holes := range [][]Range{{{0, 0}}, {{-1, 1}}, {{5, 6}}, {{4, 2}, {5, 1}}, {{4, 1}, {0, 1}}, {{1, 1<<63 - 1}}} {
		e := FileEntry("f", []byte("0123456789"))
		e.Holes = holes
		_, err := New([]Entry{e})
		if err == nil || !strings.Contains(err.Error(), "is out of order or outside the file") {
			t.Errorf("holes %v: %v", holes, err)
		}
	}
	_, err := New([]Entry{{Path: "d", Kind: Dir, Holes: []Range{{0, 1}}}})
	if err == nil || !strings.Contains(err.Error(), "a dir with holes") {
		t.Error(err)
	}
}

// The first name in order becomes the File, even when the source calls it a link.
func TestHardLinkBeforeItsFile(t *testing.T) {
	su := FileEntry("bin/su", []byte("x"))
	tr, err := New([]Entry{su, {Path: "bin/zu", Kind: HardLink, Link: "bin/su"}, {Path: "bin/again", Kind: HardLink, Link: "bin/su"}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for e := range tr.All() {
		got = append(got, e.Path+" "+e.Kind.String()+" "+e.Link)
	}
	want := []string{". dir ", "bin dir ", "bin/again file ", "bin/su hardlink bin/again", "bin/zu hardlink bin/again"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}
