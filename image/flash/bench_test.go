package flash

import (
	"context"
	"hash/maphash"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/image/flash/disks"
	"github.com/rig-freebsd/rig/internal/referee"
)

// BenchmarkFlash measures rig beside dd bs=4M conv=fsync, in turns, and reports the
// medians of five: "data" is 512 MiB without zeros, the write alone; "image" is a
// whole image with all that flash does, check, write, read back, compare.
func BenchmarkFlash(b *testing.B) {
	dd := referee.Need(b, "dd")
	b.Run("data", func(b *testing.B) {
		const size = 512 << 20
		from := filepath.Join(b.TempDir(), "data")
		f, err := os.Create(from)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
			b.Fatal(err)
		}
		f.Close()
		to := blankFile(b, size, false)
		compareDD(b, dd, from, to, func() {
			r, err := (&Image{Name: from, file: from}).open()
			if err != nil {
				b.Fatal(err)
			}
			defer r.Close()
			d := &disks.Disk{Path: to, Size: size, SectorSize: 512, File: true}
			dev, err := openDevice(d)
			if err != nil {
				b.Fatal(err)
			}
			defer dev.Close()
			c := &copier{dev: dev, disk: d, seed: maphash.MakeSeed(), report: func(string, int64, int64) {}, place: func(int64) string { return "" }}
			if err := c.write(context.Background(), 0, size, r.next); err != nil {
				b.Fatal(err)
			}
			if err := dev.Sync(); err != nil {
				b.Fatal(err)
			}
		})
	})
	b.Run("image", func(b *testing.B) {
		img := demoImage(b)
		to := blankFile(b, 80<<20, false)
		compareDD(b, dd, img, to, func() { flashed(b, Options{Disk: disk(b, to), Image: file(b, img)}) })
	})
}

func compareDD(b *testing.B, dd, from, to string, ours func()) {
	const rounds = 5
	for b.Loop() {
		var t [2][]float64
		for range rounds {
			start := time.Now()
			if out, err := exec.Command(dd, "if="+from, "of="+to, "bs=4M", "conv=fsync,notrunc").CombinedOutput(); err != nil {
				b.Fatalf("dd: %v\n%s", err, out)
			}
			t[0] = append(t[0], time.Since(start).Seconds())
			start = time.Now()
			ours()
			t[1] = append(t[1], time.Since(start).Seconds())
		}
		for i, name := range []string{"dd-s", "flash-s"} {
			slices.Sort(t[i])
			b.ReportMetric(t[i][rounds/2], name)
		}
		b.ReportMetric(t[1][rounds/2]/t[0][rounds/2], "flash/dd")
	}
}
