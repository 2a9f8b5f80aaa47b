package firstboot

import (
	"context"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/fakebsd"
)

// slowReader answers late: a stick that hangs.
type slowReader struct {
	io.ReaderAt
	by   time.Duration
	once *sync.Once
}

func (s slowReader) ReadAt(p []byte, off int64) (int, error) {
	s.once.Do(func() { time.Sleep(s.by) })
	return s.ReaderAt.ReadAt(p, off)
}

// Somebody at a console sees at once what the installer does, how far it is while a
// disk does not answer, and in the end what was found.
func TestLookingIsSaid(t *testing.T) {
	f := fakebsd.New(t, true)
	in, out := installerOn(f)
	var log strings.Builder
	in.Log = NewJournal(&log)
	open := in.Prober.OpenDisk
	var early string
	in.Prober.OpenDisk = func(name string) (io.ReaderAt, io.Closer, error) {
		r, c, err := open(name)
		if name == "vtbd1" {
			early = out.String()
			r = slowReader{r, firstWord + firstWord/2, &sync.Once{}}
		}
		return r, c, err
	}
	if ok, err := in.Unattended(context.Background()); err != nil || !ok {
		t.Fatal(ok, err)
	}
	if want := "rig: looking at this machine and at what its disks hold\n"; early != want {
		t.Errorf("before the first disk was opened it said %q", early)
	}
	for _, want := range []string{"rig: looking at ", "vtbd1 0%", "rig: vtbd1, 4G: blank (first and last 64 MiB and 4096 samples read as zeros)\n"} {
		if !strings.Contains(out.String(), want) || !strings.Contains(log.String(), want) {
			t.Errorf("%q is not in what it said\n%s\nlog\n%s", want, out, log.String())
		}
	}

	// The install that follows does not look once more.
	in.Prober.OpenDisk = func(name string) (io.ReaderAt, io.Closer, error) {
		t.Error(name + " is opened again")
		return open(name)
	}
	in.PlanOnly = true
	if _, err := in.Install(context.Background()); err != nil {
		t.Fatal(err)
	}
}
