package pkgs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/pkgtest"
)

var ctx = context.Background()

func ids(list []*Package) string {
	var out []string
	for _, p := range list {
		out = append(out, p.ID())
	}
	return strings.Join(out, " ")
}

func TestOpen(t *testing.T) {
	key := pkgtest.NewKey(t, "rsa")
	list := append(demo(), pkgtest.Pkg{Name: "hello", Version: "1.10"}, pkgtest.Pkg{Name: "hello", Version: "1.9"})
	for i, r := range []pkgtest.Repo{
		{}, {Packing: "xz"}, {Packing: "gz"}, {Packing: "tar"}, {NoData: true}, {NoLines: true}, {Meta: "-"}, {Meta: "version = 1", NoData: true, SumType: 1},
		{SumType: 2}, {SumType: 5}, {SumType: -1}, {Keys: []*pkgtest.Key{key}}, {Keys: []*pkgtest.Key{key}, NoData: true},
	} {
		dir := t.TempDir()
		r.Pkgs = list
		r.Write(t, dir)
		repo := Repo{Name: "demo", URL: dir, Unsigned: r.Keys == nil, Fingerprints: []string{key.Fingerprint()}}
		if i%2 == 1 {
			repo.URL = "pkg+file://" + dir + "/"
		}
		c, err := Open(ctx, repo, Options{ABI: abi15, OSVersion: 1500000})
		if err != nil {
			t.Errorf("%+v: %v", r, err)
			continue
		}
		if got := ids(c.Packages()); got != "hello-1.9 hello-1.10 hello-1.2_1,3 libhi-0.9 pkg-2.8.0" {
			t.Errorf("packages %s", got)
		}
		p := c.Packages()[2]
		if p.Origin != "test/hello" || p.Path != "All/hello-1.2_1,3.pkg" || fmt.Sprint(p.Deps) != "map[libhi:{test/libhi 0.9}]" ||
			p.Comment != "Says \"hello\" <&> \u00e4" || p.LicenseLogic != "and" || fmt.Sprint(p.Users, p.ShlibsRequired) != "[www] [libhi.so.1]" {
			t.Errorf("%+v", p)
		}
	}
}

func TestFits(t *testing.T) {
	built := map[string]string{"FreeBSD_version": "1500068"}
	for _, c := range []struct {
		p         Package
		abi       string
		osVersion int
		want      string
	}{
		{Package{ABI: abi15}, abi15, 0, ""},
		{Package{ABI: "freebsd:15:AMD64"}, abi15, 0, ""},
		{Package{ABI: "FreeBSD:15:*"}, abi15, 0, ""},
		{Package{ABI: "FreeBSD:*"}, abi15, 0, ""},
		{Package{ABI: "FreeBSD:15"}, abi15, 0, ""},
		{Package{ABI: "FreeBSD"}, abi15, 0, ""},
		{Package{ABI: "any"}, "", 0, ""},
		{Package{ABI: "FreeBSD:1"}, abi15, 0, `it is for ABI "FreeBSD:1", not for FreeBSD:15:amd64`},
		{Package{ABI: "FreeBSD:14:amd64"}, abi15, 0, `it is for ABI "FreeBSD:14:amd64", not for FreeBSD:15:amd64`},
		{Package{ABI: "FreeBSD:14:*"}, abi15, 0, `it is for ABI "FreeBSD:14:*", not for FreeBSD:15:amd64`},
		{Package{}, abi15, 0, `it is for ABI "", not for FreeBSD:15:amd64`},
		{Package{ABI: "["}, abi15, 0, `it is for ABI "[", not for FreeBSD:15:amd64`},
		{Package{ABI: abi15, Annotations: built}, abi15, 1500068, ""},
		{Package{ABI: abi15, Annotations: built}, abi15, 1501000, ""},
		{Package{ABI: abi15, Annotations: built}, abi15, 1500000, "it was built on FreeBSD 1500068, which is newer than 1500000"},
		{Package{Annotations: map[string]string{"FreeBSD_version": "x"}}, "", 1, `FreeBSD_version "x" is not a number`},
	} {
		if err := c.p.Fits(c.abi, c.osVersion); err == nil && c.want != "" || err != nil && err.Error() != c.want {
			t.Errorf("%+v: got %v, want %s", c.p, err, c.want)
		}
	}
}

// entry is a line of a catalogue with keys replaced.
func entry(with string) []byte {
	text := `{"name":"a","version":"1","abi":"` + abi15 + `","sum":"` + strings.Repeat("0", 64) + `","path":"All/a-1.pkg","pkgsize":1}`
	return []byte(strings.TrimSuffix(text, "}") + with + "}")
}

func TestOpenWrongEntries(t *testing.T) {
	for _, c := range []struct{ with, want string }{
		{`,"name":""`, `package -1: name "" and version "1" do not name a package`},
		{`,"name":"../b"`, `name "../b" and version "1" do not name a package`},
		{`,"name":"b c"`, "do not name a package"},
		{`,"version":"1/2"`, "do not name a package"},
		{`,"version":"1\u0000"`, "do not name a package"},
		{`,"path":"../x.pkg"`, `package a-1: path "../x.pkg" does not stay in the repository`},
		{`,"path":"All/../../x.pkg"`, "does not stay in the repository"},
		{`,"path":"/etc/x"`, "does not stay in the repository"},
		{`,"path":"."`, "does not stay in the repository"},
		{`,"path":"","repopath":""`, `path "" does not stay in the repository`},
		{`,"path":"","repopath":"../x"`, `path "../x" does not stay in the repository`},
		{`,"path":"a\\..\\b"`, "does not stay in the repository"},
		{`,"sum":"x"`, `package a-1: sum "x"`},
		{`,"pkgsize":-1`, "package a-1: sizes -1 and 0"},
		{`,"pkgsize":"x"`, "cannot unmarshal string"},
		{`,"abi":"FreeBSD:14:amd64"`, `package a-1: it is for ABI "FreeBSD:14:amd64", not for FreeBSD:15:amd64`},
		{`,"deps":7`, "cannot unmarshal number"},
		{`,`, "invalid character"},
	} {
		for _, noData := range []bool{false, true} {
			dir := t.TempDir()
			pkgtest.Repo{Pkgs: demo(), Entries: [][]byte{entry(""), entry(c.with)}, NoData: noData, NoLines: !noData}.Write(t, dir)
			_, err := Open(ctx, Repo{Name: "demo", URL: dir, Unsigned: true}, Options{ABI: abi15})
			where := map[bool]string{false: "repository demo: data.pkg: data: ", true: "repository demo: packagesite.pkg: packagesite.yaml: "}[noData]
			if err == nil || !strings.HasPrefix(err.Error(), where) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: got %v, want %s…%s", c.with, err, where, c.want)
			}
		}
	}
}

func TestOpenWrong(t *testing.T) {
	key, other := pkgtest.NewKey(t, "ecdsa"), pkgtest.NewKey(t, "rsa")
	member := func(name, content string) []byte {
		return pkgtest.Tar(t, "", pkgtest.Member{Name: name, Content: []byte(content)})
	}
	put := func(file string, content []byte) func(string, []byte) []byte {
		return func(name string, b []byte) []byte {
			if name == file {
				return content
			}
			return b
		}
	}
	cut := func(name string, b []byte) []byte {
		if name == "data.pkg" {
			return b[:len(b)-8]
		}
		return b
	}
	for _, c := range []struct {
		what   string
		r      pkgtest.Repo
		change func(*Repo)
		want   string
	}{
		{"unsigned", pkgtest.Repo{}, nil, "data.pkg: it is not signed"},
		{"untrusted", pkgtest.Repo{Keys: []*pkgtest.Key{other}}, nil, "data.pkg: it is signed by " + other.Fingerprint()},
		{"revoked", pkgtest.Repo{Keys: []*pkgtest.Key{key}}, func(r *Repo) { r.Revoked = r.Fingerprints }, "by a revoked key"},
		{"no keys", pkgtest.Repo{}, func(r *Repo) { r.Fingerprints = nil }, "repository demo: no fingerprints of trusted keys"},
		{"no URL", pkgtest.Repo{}, func(r *Repo) { r.URL = "" }, "repository demo: no URL"},
		{"ssh", pkgtest.Repo{}, func(r *Repo) { r.URL = "ssh://x/y" }, "URL ssh://x/y is none of https, http, file"},
		{"no directory", pkgtest.Repo{}, func(r *Repo) { r.URL += "x" }, "neither data.pkg nor packagesite.pkg is there"},
		{"nothing", pkgtest.Repo{NoData: true, NoLines: true}, nil, "neither data.pkg nor packagesite.pkg is there"},
		{"meta", pkgtest.Repo{Meta: "version = 9"}, nil, `meta.conf: version "9" is neither 1 nor 2`},
		{"altered", pkgtest.Repo{Keys: []*pkgtest.Key{key}, Alter: func(name string, b []byte) []byte {
			return bytes.Replace(b, []byte("hello"), []byte("hullo"), 1)
		}, Packing: "tar"}, nil, "data.pkg: signature data: it does not match the content"},
		{"truncated", pkgtest.Repo{Keys: []*pkgtest.Key{key}, Alter: cut}, nil, "data.pkg: truncated"},
		{"no member", pkgtest.Repo{Alter: put("data.pkg", member("date", "{}"))}, func(r *Repo) { r.Unsigned = true }, "data.pkg: no data in it"},
		{"no object", pkgtest.Repo{Alter: put("data.pkg", member("data", "[]"))}, func(r *Repo) { r.Unsigned = true }, "data: '[' where '{' was expected"},
		{"no packages", pkgtest.Repo{Alter: put("data.pkg", member("data", `{"groups":[]}`))}, func(r *Repo) { r.Unsigned = true }, "data: no packages in it"},
		{"ends early", pkgtest.Repo{Alter: put("data.pkg", member("data", `{"packages":[`))}, func(r *Repo) { r.Unsigned = true }, "data: truncated"},
		{"behind", pkgtest.Repo{Alter: put("data.pkg", member("data", `{"packages":[]}{`))}, func(r *Repo) { r.Unsigned = true }, "data: '{' behind the end"},
		{"twice", pkgtest.Repo{Alter: put("data.pkg", member("data", `{"packages":[],"packages":[]}`))}, func(r *Repo) { r.Unsigned = true }, "packages are there twice"},
		{"no archive", pkgtest.Repo{Alter: put("data.pkg", []byte("<html>"))}, func(r *Repo) { r.Unsigned = true }, "data.pkg: truncated"},
	} {
		dir := t.TempDir()
		c.r.Pkgs = demo()
		c.r.Write(t, dir)
		repo := Repo{Name: "demo", URL: dir, Fingerprints: []string{key.Fingerprint()}}
		if c.change != nil {
			c.change(&repo)
		}
		_, err := Open(ctx, repo, Options{ABI: abi15})
		if err == nil || !strings.HasPrefix(err.Error(), "repository demo: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.what, err, c.want)
		}
	}
}

// server serves a directory and logs what it is asked for.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	log  []string
	fail func(r *http.Request) int // status, 0 = none
}

func newServer(t *testing.T, dir string) *server {
	s := &server{fail: func(*http.Request) int { return 0 }}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.log = append(s.log, strings.TrimRight(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range"), " "))
		if status := s.fail(r); status != 0 {
			w.WriteHeader(status)
			return
		}
		http.ServeFile(w, r, filepath.Join(dir, r.URL.Path))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) requests() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := strings.Join(s.log, ", ")
	s.log = nil
	return out
}

func TestOpenRemote(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	key := pkgtest.NewKey(t, "eddsa")
	r := pkgtest.Repo{Pkgs: demo(), Keys: []*pkgtest.Key{key}}
	r.Write(t, dir)
	s := newServer(t, dir)
	repo := Repo{Name: "demo", URL: "pkg+" + s.URL + "/", Fingerprints: []string{key.Fingerprint()}}
	var shown string
	o := Options{ABI: abi15, Cache: cache, Logf: t.Logf, Progress: func(what string, done, total int64) { shown = fmt.Sprint(what, " ", done == total) }}
	offline := o
	offline.Offline = true

	_, err := Open(ctx, repo, offline)
	if err == nil || err.Error() != "repository demo: its catalogue was not downloaded before" || diag.HintOf(err) == "" {
		t.Errorf("offline: got %v, hint %q", err, diag.HintOf(err))
	}
	open := func(what string, o Options, requests, want string) {
		t.Helper()
		c, err := Open(ctx, repo, o)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		if got := s.requests(); got != requests {
			t.Errorf("%s: requests %s, want %s", what, got, requests)
		}
		if got := ids(c.Packages()); got != want {
			t.Errorf("%s: packages %s", what, got)
		}
	}
	const all, first = "hello-1.2_1,3 libhi-0.9 pkg-2.8.0", "HEAD /meta.conf, GET /meta.conf, HEAD /data.pkg, GET /data.pkg"
	open("first", o, first, all)
	if shown != "catalogue of demo true" {
		t.Errorf("progress %q", shown)
	}
	open("unchanged", o, "HEAD /data.pkg", all)
	open("offline", offline, "", all)

	r.Pkgs = r.Pkgs[:2]
	r.Write(t, dir)
	open("changed, offline", offline, "", all)
	open("changed", o, "HEAD /data.pkg, "+first, "hello-1.2_1,3 libhi-0.9")

	files, err := filepath.Glob(filepath.Join(cache, "catalogues", "*", "data.pkg"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.WriteFile(files[0], []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	open("damaged", o, "HEAD /data.pkg, "+first, "hello-1.2_1,3 libhi-0.9")

	// A server's wrong catalogue does not replace the one in the cache.
	good, err := os.ReadFile(filepath.Join(dir, "data.pkg"))
	if err != nil {
		t.Fatal(err)
	}
	bad := pkgtest.Repo{Pkgs: demo()}
	bad.Write(t, dir)
	if _, err := Open(ctx, repo, o); err == nil || !strings.Contains(err.Error(), "repository demo: data.pkg: it is not signed") {
		t.Errorf("got %v", err)
	}
	s.requests()
	open("offline", offline, "", "hello-1.2_1,3 libhi-0.9")
	if kept, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(kept, good) {
		t.Errorf("the cache has another file, %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(files[0]), "data*.part")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOpenRemoteFallsBack(t *testing.T) {
	dir := t.TempDir()
	pkgtest.Repo{Pkgs: demo(), NoData: true, Meta: "-"}.Write(t, dir)
	s := newServer(t, dir)
	repo := Repo{Name: "demo", URL: s.URL, Unsigned: true}
	o := Options{Cache: t.TempDir()}
	if _, err := Open(ctx, repo, o); err != nil {
		t.Fatal(err)
	}
	if got := s.requests(); got != "HEAD /meta.conf, HEAD /data.pkg, HEAD /data.tzst, HEAD /packagesite.pkg, GET /packagesite.pkg" {
		t.Errorf("requests %s", got)
	}
	if _, err := Open(ctx, repo, o); err != nil {
		t.Fatal(err)
	}
	if got := s.requests(); got != "HEAD /packagesite.pkg" {
		t.Errorf("requests %s", got)
	}
	s.fail = func(*http.Request) int { return http.StatusForbidden }
	_, err := Open(ctx, repo, Options{Cache: t.TempDir()})
	if err == nil || err.Error() != "repository demo: ask for "+s.URL+"/meta.conf: the server says 403 Forbidden" || !strings.Contains(diag.HintOf(err), "check the network") {
		t.Errorf("got %v, hint %q", err, diag.HintOf(err))
	}
	stopped, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := Open(stopped, repo, o); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Values are cut right wherever a read ends.
func TestScan(t *testing.T) {
	const text = `{"a\"}":[1,"]"],"packages":[{"x":"\\"}, {"y":"}{\"[" } ,[], "s" , 12,{"z":{"z":[{}]}}],"b" : -1e5,"c":null}`
	want := []string{`{"x":"\\"}`, `{"y":"}{\"[" }`, `[]`, `"s"`, `12`, `{"z":{"z":[{}]}}`}
	for _, r := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
		var got []string
		err := scanData(r, func(e []byte) error { got = append(got, string(e)); return nil })
		if err != nil || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%v, %q", err, got)
		}
	}
	long := `{"x":"` + strings.Repeat("y", 3*scanBuffer) + `"}`
	var got []string
	if err := scanLines(strings.NewReader("{}\n"+long+"\n\n{} "), func(e []byte) error { got = append(got, string(e)); return nil }); err != nil || len(got) != 3 || got[1] != long {
		t.Errorf("%v, %d entries", err, len(got))
	}
	if err := scanLines(strings.NewReader(`{"`+strings.Repeat("y", maxElement)), func([]byte) error { return nil }); err == nil || !strings.Contains(err.Error(), "an entry of more than 16777216 bytes") {
		t.Errorf("got %v", err)
	}
	if err := scanLines(strings.NewReader("---\n"), func([]byte) error { return nil }); err == nil || !strings.Contains(err.Error(), "'-' where an entry should begin") {
		t.Errorf("got %v", err)
	}
}

func FuzzCatalogue(f *testing.F) {
	f.Add([]byte(`{"groups":[],"packages":[`+string(entry(""))+`]}`), false)
	f.Add(append(entry(""), entry(`,"deps":{"b":{"origin":"x/b","version":"1"}}`)...), true)
	f.Fuzz(func(t *testing.T, text []byte, lines bool) {
		read := func(r io.Reader) (string, error) {
			list, err := decodePackages(r, lines, func(p *Package) error { return p.check("") })
			if err != nil {
				return "", err
			}
			for _, p := range list {
				if p.Name == "" || p.Path == "" || p.Path[0] == '/' || strings.Contains(p.Path, "..") && strings.Contains("/"+p.Path+"/", "/../") {
					t.Errorf("%+v", p)
				}
			}
			return ids(list), nil
		}
		a, errA := read(bytes.NewReader(text))
		b, errB := read(iotest.HalfReader(bytes.NewReader(text)))
		if a != b || (errA == nil) != (errB == nil) {
			t.Errorf("%q, %v and %q, %v", a, errA, b, errB)
		}
	})
}

func FuzzCatalogueArchive(f *testing.F) {
	key := pkgtest.NewKey(f, "ecdsa")
	content := []byte(`{"packages":[` + string(entry("")) + `]}`)
	f.Add(pkgtest.Tar(f, "tar", append(key.Members(f, "data", content), pkgtest.Member{Name: "data", Content: content})...))
	f.Fuzz(func(t *testing.T, b []byte) {
		sigs, err := readCatalogue(ctx, bytes.NewReader(b), source{"data.pkg", "data", false}, func(r io.Reader) error {
			_, err := io.Copy(io.Discard, r)
			return err
		})
		if err == nil {
			sigs.verify([32]byte{}, []string{key.Fingerprint()}, nil)
		}
	})
}
