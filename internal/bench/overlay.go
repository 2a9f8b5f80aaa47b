package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// overlay builds with an overlay of 100,000 small files of 150 MB, first unchanged,
// then with one of them changed, beside tar and zstd.
func (b *bench) overlay() error {
	const what = "100,000 files"
	for _, name := range []string{"sh", "tar", "zstd"} {
		if _, err := exec.LookPath(name); err != nil {
			return b.skip(what, err)
		}
	}
	profile := filepath.Join(b.dir, "site")
	if _, err := timed(nil, b.rigimage, "init", "--no-prompt", profile); err != nil {
		return err
	}
	host := filepath.Join(profile, "host")
	page, err := writeSite(filepath.Join(host, "usr/local/www/site"))
	if err != nil {
		return err
	}
	build := func() (result, error) { return b.build("--cache", filepath.Join(b.dir, "cold"), profile) }
	tar := func() (result, error) {
		return timed(nil, "sh", "-c", "tar -C \"$0\" -cf - . | zstd -q -3 -T0 -c", host)
	}
	time.Sleep(3 * time.Second) // files that changed within 2 s are read again
	if _, err := build(); err != nil {
		return err
	}
	if err := b.pairs(what+", unchanged / tar | zstd -3 -T0", 1, time.Second, build, tar); err != nil {
		return err
	}
	n := 0
	return b.pairs(what+", one changed / tar | zstd -3 -T0", 1, 0, func() (result, error) {
		n++
		if err := os.WriteFile(page, fmt.Appendf(nil, "page %d\n", n), 0o644); err != nil {
			return result{}, err
		}
		return build()
	}, tar)
}

// writeSite writes 100,000 pages of text, always the same, and returns the name of one
// in the middle.
func writeSite(dir string) (page string, err error) {
	r := rand.New(rand.NewPCG(1, 2))
	words := make([]string, 3000)
	for i := range words {
		b := make([]byte, 2+r.IntN(8))
		for k := range b {
			b[k] = 'a' + byte(r.IntN(26))
		}
		words[i] = string(b)
	}
	var text []byte
	for d := range 1000 {
		sub := filepath.Join(dir, fmt.Sprintf("%02d", d/100), fmt.Sprintf("%02d", d%100))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return "", err
		}
		for i := range 100 {
			text = text[:0]
			for size := 200 + r.IntN(2600); len(text) < size; {
				text = append(append(text, words[r.IntN(len(words))]...), ' ')
			}
			name := filepath.Join(sub, fmt.Sprintf("page-%03d.html", i))
			if err := os.WriteFile(name, text, 0o644); err != nil {
				return "", err
			}
			if d == 500 && i == 50 {
				page = name
			}
		}
	}
	return page, nil
}
