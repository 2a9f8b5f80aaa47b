package firstboot

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/rig-freebsd/rig/firstboot/facts"
	"github.com/rig-freebsd/rig/zfs"
)

// Between the lines that say how far the look at the disks is.
const (
	firstWord = time.Second
	nextWord  = 5 * time.Second
)

// facts looks at the machine. What it looks at is said at once and then every few
// seconds, here and through the log on the other consoles: a hard disk takes about a
// minute. What Unattended has just seen is not looked at again.
func (in *Installer) facts(ctx context.Context) (*facts.Facts, error) {
	if f := in.seen; f != nil {
		in.seen = nil
		return f, nil
	}
	in.tellf("rig: looking at this machine and at what its disks hold")
	l := &looking{tell: in.tellf, percent: map[string]int64{}}
	p := in.Prober
	p.Progress = l.report
	stop := l.start()
	f, err := facts.Probe(ctx, p)
	stop()
	if err != nil {
		return nil, err
	}
	for _, d := range f.Disks {
		in.tellf("rig: %s, %s: %s", d.Name, zfs.FormatSize(d.Size), d.Content())
	}
	return f, nil
}

// tellf says something that is not part of a printed plan.
func (in *Installer) tellf(format string, args ...any) {
	if in.PlanOnly {
		in.Log.Printf(format, args...)
		return
	}
	in.sayf(format, args...)
}

// looking is a look at several disks at once.
type looking struct {
	tell func(format string, args ...any)

	mu      sync.Mutex
	disks   []string         // in the order they were begun
	percent map[string]int64 // of those that are being looked at
}

// report is Prober.Progress.
func (l *looking) report(disk string, done, total int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.percent[disk]; !ok {
		l.disks = append(l.disks, disk)
	}
	l.percent[disk] = done * 100 / max(total, 1)
}

// start says how far it is from time to time, also while a disk does not answer,
// until stop is called.
func (l *looking) start() (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for wait := firstWord; ; wait = nextWord {
			select {
			case <-done:
				return
			case <-time.After(wait):
				if s := l.String(); s != "" {
					l.tell("rig: looking at %s", s)
				}
			}
		}
	})
	return func() { close(done); wg.Wait() }
}

// String is "ada0 12%, ada1 9%", of the disks that are not done.
func (l *looking) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s []string
	for _, d := range l.disks {
		if n := l.percent[d]; n < 100 {
			s = append(s, fmt.Sprintf("%s %d%%", d, n))
		}
	}
	return strings.Join(s, ", ")
}
