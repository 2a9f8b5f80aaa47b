package unpack

import (
	"bytes"
	"compress/gzip"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/rig-freebsd/rig/internal/referee"
)

const text = "what is packed\n"

// Everything reads as what was packed, several times: decoders are used again.
func TestOpen(t *testing.T) {
	var gz bytes.Buffer
	zw := gzip.NewWriter(&gz)
	io.WriteString(zw, text)
	zw.Close()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for what, packed := range map[string]string{"nothing": text, "gzip": gz.String(), "zstd": string(enc.EncodeAll([]byte(text), nil))} {
		for _, workers := range []int{1, 1, 3} {
			check(t, what, packed, workers)
		}
	}
	for _, program := range []string{"xz", "bzip2"} {
		t.Run(program, func(t *testing.T) {
			cmd := exec.Command(referee.Need(t, program), "-c")
			cmd.Stdin = strings.NewReader(text)
			packed, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			check(t, program, string(packed), 1)
		})
	}
}

func check(t *testing.T, what, packed string, workers int) {
	t.Helper()
	r, done, err := Open(strings.NewReader(packed), workers)
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	defer done()
	if got, err := io.ReadAll(r); err != nil || string(got) != text {
		t.Errorf("%s: %q, %v", what, got, err)
	}
}

func TestDamaged(t *testing.T) {
	for magic, want := range map[string]string{"\x28\xb5\x2f\xfd\xff\xff\xff\xff": "reserved bit set", "\x1f\x8b\x00\x00\x00\x00\x00\x00\x00\x00\x00": "gzip: invalid header"} {
		r, done, err := Open(strings.NewReader(magic), 1)
		if err == nil {
			_, err = io.ReadAll(r)
			done()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", magic[:4], err, want)
		}
	}
}
