package firstboot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/diag"
	"github.com/rig-freebsd/rig/internal/fakebsd"
)

// imageServer serves the directory for network boot of the demo image.
type imageServer struct {
	*httptest.Server
	mu     sync.Mutex
	asked  []string                                          // "GET /rig/manifest.json"
	answer func(w http.ResponseWriter, r *http.Request) bool // may answer itself
}

// newNetBSD is a machine with four blank disks that was booted from the network.
func newNetBSD(t testing.TB) (*fakebsd.Machine, *imageServer) {
	t.Helper()
	f := fakebsd.New(t, false)
	f.Check(os.Remove(f.Dev("vtbd0p1")))
	f.Check(os.Remove(f.Dev("vtbd0p2")))
	f.Check(os.Remove(f.Dev("vtbd0p3")))
	f.Disk("vtbd0").Parts = nil
	img, err := fakebsd.Image()
	f.Check(err)
	files := http.FileServer(http.Dir(filepath.Join(filepath.Dir(img.Path), "pxe")))
	s := &imageServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.Method+" "+r.URL.String())
		s.mu.Unlock()
		switch {
		case s.answer != nil && s.answer(w, r):
		case strings.HasPrefix(r.URL.Path, "/answers/"):
			if r.URL.Path != "/answers/52-54-00-72-69-01.toml" {
				http.NotFound(w, r)
				return
			}
			fmt.Fprint(w, fakebsd.Answers)
		case r.URL.Path == "/done":
		default:
			files.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(s.Close)
	f.Kenv = fmt.Sprintf("rig.url=%q\nrig.answers_url=%q\nrig.done_url=%q\nboot.netif.hwaddr=\"52:54:00:72:69:01\"\n", s.URL, s.URL+"/answers/{id}.toml", s.URL+"/done")
	return f, s
}

func TestInstallFromNet(t *testing.T) {
	f, s := newNetBSD(t)
	in, out := installerOn(f)
	after, err := in.Install(context.Background())
	if err != nil || after != "poweroff" {
		t.Fatalf("%q, %v\n%s", after, err, out)
	}
	checkInstalled(f)
	if last := s.asked[len(s.asked)-1]; last != "POST /done?mac=52%3A54%3A00%3A72%3A69%3A01" {
		t.Errorf("the last request is %s", last)
	}
	if _, err := os.Stat(filepath.Join(f.Root, "mnt/rig/bundle")); err == nil {
		t.Error("the bundle is still in the pool")
	}
	var order []string
	for _, l := range f.Lines {
		switch {
		case strings.HasPrefix(l, "gpart bootcode -b"), strings.HasPrefix(l, "zpool export"), strings.HasPrefix(l, "zfs destroy"), strings.HasPrefix(l, "chroot /mnt /usr/sbin/jail"):
			order = append(order, strings.Join(strings.Fields(l)[:2], " "))
		}
	}
	if got := strings.Join(order, ", "); got != "chroot /mnt, gpart bootcode, gpart bootcode, gpart bootcode, gpart bootcode, zfs destroy, zpool export" &&
		got != "gpart bootcode, gpart bootcode, gpart bootcode, gpart bootcode, zfs destroy, zpool export" {
		t.Errorf("order of what makes disks bootable: %s", got)
	}

	f.Reboot()
	in, _ = installerOn(f)
	if _, err = in.Install(context.Background()); !errors.Is(err, ErrInstalled) {
		t.Errorf("second run: %v", err)
	}
	checkInstalled(f)
}

// The power goes after each step in turn; the machine is booted from the network again.
func TestPowerCutNet(t *testing.T) {
	done := false
	for cut := 1; !done && !t.Failed(); cut++ {
		t.Run(fmt.Sprint(cut), func(t *testing.T) {
			f, _ := newNetBSD(t)
			in, out := installerOn(f)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			in.Out = writerFunc(func(b []byte) {
				out.Write(b)
				if bytes.HasPrefix(b, fmt.Appendf(nil, "rig: step %d/", cut)) {
					cancel()
				}
			})
			_, err := in.Install(ctx)
			if done = err == nil; done {
				return
			}
			f.Reboot()
			in, out = installerOn(f)
			if _, err := in.Install(context.Background()); err != nil && !errors.Is(err, ErrInstalled) {
				t.Fatalf("the next start fails: %v\n%s", err, out)
			}
			checkInstalled(f)
		})
	}
}

// What a server may do wrong: a clear error, and no disk boots, or is touched, because
// of it.
func TestNetRefuses(t *testing.T) {
	layer := func(f *fakebsd.Machine) string { return "/" + f.Man.Layers[0].Path() }
	for _, tt := range []struct {
		name, want string
		untouched  bool
		spoil      func(f *fakebsd.Machine, s *imageServer)
	}{
		{"no server", "get the image from the network: download ", true, func(_ *fakebsd.Machine, s *imageServer) { s.Close() }},
		{"no answers", "get this machine's answers: ", true, func(f *fakebsd.Machine, _ *imageServer) {
			f.Kenv = strings.Replace(f.Kenv, "{id}", "{mac}-{serial}", 1)
		}},
		{"answers refused", "403 Forbidden", true, func(_ *fakebsd.Machine, s *imageServer) {
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasPrefix(r.URL.Path, "/answers/") {
					w.WriteHeader(http.StatusForbidden)
				}
				return strings.HasPrefix(r.URL.Path, "/answers/")
			}
		}},
		{"half a layer", "bytes; expected", true, func(f *fakebsd.Machine, s *imageServer) {
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == layer(f) {
					fmt.Fprint(w, "half of it")
				}
				return r.URL.Path == layer(f)
			}
		}},
		{"a missing file", "404 Not Found", true, func(f *fakebsd.Machine, s *imageServer) {
			s.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == "/"+manifest.MFSRoot {
					http.NotFound(w, r)
				}
				return r.URL.Path == "/"+manifest.MFSRoot
			}
		}},
		{"a wrong byte in the base", "its sha256 is", false, func(f *fakebsd.Machine, s *imageServer) { s.answer = flipped(layer(f), f.Man.Layers[0].Size) }},
		{"a wrong byte in the loader", "its sha256 is", false, func(f *fakebsd.Machine, s *imageServer) {
			for _, b := range f.Man.Files {
				if b.Path == "boot/loader" {
					s.answer = flipped("/boot/loader", b.Size)
				}
			}
		}},
		{"another image", "this installer is of", true, func(f *fakebsd.Machine, s *imageServer) { f.Kenv += "rig.image=\"tiny-15.1-000000000000\"\n" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, s := newNetBSD(t)
			tt.spoil(f, s)
			in, out := installerOn(f)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			in.Out = writerFunc(func(b []byte) {
				out.Write(b)
				if bytes.Contains(b, []byte("trying again")) { // nobody waits in a test
					cancel()
				}
			})
			_, err := in.Install(ctx)
			if tt.name == "no server" && errors.Is(err, context.Canceled) {
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %s", err, tt.want)
			}
			if diag.HintOf(err) == "" {
				t.Error("no hint")
			}
			for _, l := range f.Lines {
				if strings.HasPrefix(l, "gpart bootcode -b") || strings.HasPrefix(l, "gpart") && tt.untouched {
					t.Errorf("ran %s", l)
				}
			}
		})
	}
}

// flipped answers for a file with other bytes of the same number.
func flipped(path string, size int64) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != path {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(size))
		if r.Method != http.MethodHead {
			w.Write(bytes.Repeat([]byte("x"), int(size)))
		}
		return true
	}
}
