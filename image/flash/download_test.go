package flash

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDownload(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 8192)
	sum := fmt.Sprintf("%x", sha256.Sum256(body))
	published, broken := "SHA256 (rig.img) = "+sum+"\n", 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/rig.img":
			if r.Method == http.MethodGet && broken > 0 && r.Header.Get("Range") == "" {
				broken--
				w.Header().Set("Content-Length", fmt.Sprint(len(body)))
				w.Write(body[:1000])
				panic(http.ErrAbortHandler) // the line breaks
			}
			w.Header().Set("ETag", `"1"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
		case "/rig.img.sha256":
			if published != "" {
				fmt.Fprint(w, published)
				return
			}
			http.NotFound(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	o := DownloadOptions{URL: srv.URL + "/rig.img", Dir: t.TempDir()}
	get := func() (*Image, error) {
		im, part, err := Download(context.Background(), o)
		if err == nil {
			if b, err := os.ReadFile(part); err != nil || !bytes.Equal(b, body) {
				t.Errorf("downloaded %d bytes, %v", len(b), err)
			}
			os.Remove(part)
		}
		return im, err
	}
	broken = 1
	if im, err := get(); err != nil || !im.Checked {
		t.Errorf("after a broken line: %+v, %v", im, err)
	}
	published = sum + "  rig.img\n"
	if im, err := get(); err != nil || !im.Checked {
		t.Errorf("sha256sum's form: %+v, %v", im, err)
	}
	published = ""
	if im, err := get(); err != nil || im.Checked {
		t.Errorf("without a checksum: %+v, %v", im, err)
	}
	published = fmt.Sprintf("%064x", 7)
	_, err := get()
	wantError(t, err, "rig.img.sha256 says 0000")
	published = "<html>"
	_, err = get()
	wantError(t, err, "it holds no SHA-256")
	o.URL = srv.URL + "/nothing"
	_, err = get()
	wantError(t, err, "404")
	o.URL = "ftp://host/rig.img"
	_, err = get()
	wantError(t, err, "expected a URL that begins with http:// or https://")
	if left, _ := filepath.Glob(filepath.Join(o.Dir, "*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}
