package pkgs

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"sync"
)

// batch is a run of entries on their way to a decoder.
type batch struct {
	index int
	raw   []byte
	ends  []int // of the entries in raw
}

// decodePackages decodes a catalogue on all cores. The packages are in its order;
// the error is that of the first wrong one.
func decodePackages(r io.Reader, lines bool, check func(*Package) error) ([]*Package, error) {
	workers := runtime.GOMAXPROCS(0)
	todo, free := make(chan *batch, workers), make(chan *batch, 2*workers)
	for range 2 * workers {
		free <- &batch{}
	}
	var mu sync.Mutex
	decoded, failed := map[int][]Package{}, map[int]error{}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for b := range todo {
				out, err := b.decode(check)
				mu.Lock()
				decoded[b.index] = out
				if err != nil {
					failed[b.index] = err
				}
				mu.Unlock()
				free <- b
			}
		})
	}
	scan := scanData
	if lines {
		scan = scanLines
	}
	n := 0
	cur := <-free
	send := func() {
		cur.index = n
		n++
		todo <- cur
		cur = <-free
		cur.raw, cur.ends = cur.raw[:0], cur.ends[:0]
	}
	scanErr := scan(r, func(entry []byte) error {
		cur.raw = append(cur.raw, entry...)
		cur.ends = append(cur.ends, len(cur.raw))
		if len(cur.raw) >= batchSize {
			send()
		}
		return nil
	})
	send()
	close(todo)
	wg.Wait()
	var list []*Package
	for i := range n {
		if err := failed[i]; err != nil {
			return nil, err
		}
		for j := range decoded[i] {
			list = append(list, &decoded[i][j])
		}
	}
	return list, scanErr
}

func (b *batch) decode(check func(*Package) error) ([]Package, error) {
	out := make([]Package, len(b.ends))
	start := 0
	for i, end := range b.ends {
		p := &out[i]
		if err := json.Unmarshal(b.raw[start:end], p); err != nil {
			return nil, fmt.Errorf("entry %s: %w", clip(b.raw[start:end]), err)
		}
		if err := check(p); err != nil {
			return nil, fmt.Errorf("package %s: %w", p.ID(), err)
		}
		start = end
	}
	return out, nil
}

func clip(b []byte) string {
	const most = 60
	if len(b) > most {
		return fmt.Sprintf("%q…", b[:most])
	}
	return fmt.Sprintf("%q", b)
}
