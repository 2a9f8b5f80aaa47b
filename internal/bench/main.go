// Bench measures rigimage beside programs that do comparable work, in turns, and
// prints the ratios. It runs whole processes: what is measured is what a person
// waits for.
//
//	bench -rigimage bin/rigimage [-runs 5] [-only media]
//
// The sets are those rigimage finds: $RIG_SETS or the user's cache. Without them it
// says so and measures nothing.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/rig-freebsd/rig/image"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/cli"
)

func main() {
	if child := children[at(os.Args, 1)]; child != nil && len(os.Args) == 4 {
		if err := child(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	b := &bench{}
	flag.StringVar(&b.rigimage, "rigimage", "bin/rigimage", "the program to measure, with riginstall embedded")
	flag.IntVar(&b.runs, "runs", 5, "how often each program runs")
	flag.StringVar(&b.only, "only", "", "measure only this: cold, rebuild, overlay, media, ufs or memory")
	flag.Parse()
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// children are what this program does by itself beside another one, as a process: from
// one path to another.
var children = map[string]func(from, to string) error{"ufs": writeUFS, "vmdk": writeVMDK}

func at(args []string, i int) string {
	if i < len(args) {
		return args[i]
	}
	return ""
}

type bench struct {
	rigimage  string
	runs      int
	only      string
	sets, dir string
	memory    int64 // the most any build took, in bytes
	image     image.Result
}

const line = "%-48s %-22s %-22s %-18s %-18s %-14s %s\n"

func (b *bench) run() (err error) {
	if b.sets, err = findSets(); err != nil {
		fmt.Printf("SKIP: nothing was measured: %v\n", err)
		return nil
	}
	if b.rigimage, err = filepath.Abs(b.rigimage); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "rig-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	fmt.Printf("%s, %d cores, sets in %s, %d runs each, in turns: median (least–most)\n\n", time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), b.sets, b.runs)
	fmt.Printf(line, "what", "rig", "peer", "ratio", "of CPU time", "target", "")
	for _, step := range []struct {
		name string
		run  func() error
	}{{"cold", b.cold}, {"rebuild", b.rebuild}, {"overlay", b.overlay}, {"media", b.media}, {"media", b.vmdk}, {"ufs", b.ufsImage}, {"memory", b.manyCores}} {
		if b.only != "" && b.only != step.name {
			continue
		}
		if err := step.run(); err != nil {
			return err
		}
	}
	if b.image.Manifest == nil {
		return nil
	}
	b.row("peak memory of any build", cli.MiB(b.memory)+" MiB", "", "", "", "< 256 MiB", b.memory < 256<<20)
	boot := int64(0)
	for _, f := range b.image.Manifest.Files {
		if f.Path == manifest.MFSRoot || f.Path == "boot/kernel/kernel.gz" {
			boot += f.Size
		}
	}
	b.row("compressed kernel + mfsroot", cli.MiB(boot)+" MiB", "", "", "", "≤ 40 MB", boot > 0 && boot <= 40_000_000)
	return nil
}

// rebuild builds after one line of an overlay was changed, beside cp.
func (b *bench) rebuild() error {
	cp, err := exec.LookPath("cp")
	if err != nil {
		return b.skip("rebuild", err)
	}
	profile, img := filepath.Join(b.dir, "profile"), filepath.Join(b.dir, "a.img")
	if _, err := timed(nil, b.rigimage, "init", profile); err != nil {
		return err
	}
	n := 0
	return b.pairs("rebuild after an overlay edit / cp of the image", 3, time.Second,
		func() (result, error) {
			f, err := os.OpenFile(filepath.Join(profile, "host/etc/rc.conf"), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return result{}, err
			}
			fmt.Fprintf(f, "# edit %d\n", n)
			n++
			if err := f.Close(); err != nil {
				return result{}, err
			}
			return b.build("--cache", filepath.Join(b.dir, "cold"), profile)
		}, func() (result, error) {
			to := img + ".copy"
			defer os.Remove(to)
			return timed(nil, cp, "--reflink=never", "--sparse=never", img, to)
		})
}

// ufsImage makes a UFS2 image of the unpacked base set, beside makefs.
func (b *bench) ufsImage() error {
	const what = "UFS2 image of base / makefs -t ffs"
	makefs, err := exec.LookPath("makefs")
	if err != nil {
		if makefs, err = exec.LookPath("/usr/sbin/makefs"); err != nil {
			return b.skip(what, err)
		}
	}
	tree, img := filepath.Join(b.dir, "tree"), filepath.Join(b.dir, "ufs.img")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	if _, err := timed(nil, "tar", "-xJf", filepath.Join(b.sets, "base.txz"), "-C", tree, "--no-same-owner", "--no-same-permissions"); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return b.pairs(what, 1, 0,
		func() (result, error) { defer os.Remove(img); return timed(nil, self, "ufs", tree, img) },
		func() (result, error) {
			defer os.Remove(img)
			return timed(nil, makefs, "-t", "ffs", "-o", "version=2", img, tree)
		})
}

// manyCores builds as on a machine of many cores, for its memory.
func (b *bench) manyCores() error {
	cache := filepath.Join(b.dir, "many")
	_, err := b.buildEnv([]string{"GOMAXPROCS=32"}, "--cache", cache)
	return err
}

func (b *bench) build(args ...string) (result, error) { return b.buildEnv(nil, args...) }

func (b *bench) buildEnv(env []string, args ...string) (result, error) {
	args = append([]string{"build", "--json", "--sets", b.sets, "--packages", "none", "-o", filepath.Join(b.dir, "a.img")}, args...)
	r, err := timed(env, b.rigimage, args...)
	if err != nil {
		return r, err
	}
	b.memory = max(b.memory, r.memory)
	return r, json.Unmarshal(r.out, &b.image)
}

// peer is a program to compare with.
type peer struct {
	what   string
	target float64       // of the ratio
	limit  time.Duration // of rig's own time, 0 for none
	run    func() (result, error)
}

// pairs compares with one program.
func (b *bench) pairs(what string, target float64, limit time.Duration, ours, other func() (result, error)) error {
	return b.turns(ours, peer{what, target, limit, other})
}

// turns runs ours and all peers in turns, after one run of each that is not counted,
// and prints a row for each peer. Ratios are taken turn by turn.
func (b *bench) turns(ours func() (result, error), peers ...peer) error {
	all := []func() (result, error){ours}
	for _, p := range peers {
		all = append(all, p.run)
	}
	a, other := []float64{}, make([][]float64, len(peers))
	ratio, cpu := make([][]float64, len(peers)), make([][]float64, len(peers))
	for i := range b.runs + 1 {
		r := make([]result, len(all))
		for k := range all {
			if i%2 == 1 { // ours is first in every other turn, and last in the others
				k = (k + 1) % len(all)
			}
			syscall.Sync() // nobody pays for what was written before
			var err error
			if r[k], err = all[k](); err != nil {
				return err
			}
		}
		if i == 0 {
			continue
		}
		x := r[0].wall.Seconds()
		a = append(a, x)
		for k, y := range r[1:] {
			other[k], ratio[k] = append(other[k], y.wall.Seconds()), append(ratio[k], x/y.wall.Seconds())
			cpu[k] = append(cpu[k], r[0].cpu.Seconds()/y.cpu.Seconds())
		}
	}
	for k, p := range peers {
		ok, text := median(ratio[k]) <= p.target, fmt.Sprintf("≤ %g", p.target)
		if p.limit > 0 {
			ok = ok && median(a) <= p.limit.Seconds()
			text += fmt.Sprintf(" and ≤ %g s", p.limit.Seconds())
		}
		b.row(p.what, spread(a, " s"), spread(other[k], " s"), spread(ratio[k], ""), spread(cpu[k], ""), text, ok)
	}
	return nil
}

func (b *bench) row(what, ours, peer, ratio, cpu, target string, ok bool) {
	verdict := "MISSED"
	if ok {
		verdict = "ok"
	}
	fmt.Printf(line, what, ours, peer, ratio, cpu, target, verdict)
}

func (b *bench) skip(what string, why error) error {
	fmt.Printf("%-48s SKIP: %v\n", what, why)
	return nil
}

func median(x []float64) float64 {
	s := slices.Sorted(slices.Values(x))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

func spread(x []float64, unit string) string {
	return fmt.Sprintf("%.2f%s (%.2f–%.2f)", median(x), unit, slices.Min(x), slices.Max(x))
}

// result is one run of a program.
type result struct {
	wall   time.Duration
	cpu    time.Duration // user and system; what to look at when the machine is busy
	memory int64         // largest resident set, in bytes
	out    []byte
}

// timed runs a program to its end. Standard output is kept when it is JSON, else
// dropped.
func timed(env []string, name string, args ...string) (result, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stderr = &errs
	if slices.Contains(args, "--json") {
		cmd.Stdout = &out
	}
	start := time.Now()
	err := cmd.Run()
	r := result{wall: time.Since(start), out: out.Bytes()}
	if err != nil {
		return r, fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, errs.Bytes())
	}
	r.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.memory = int64(u.Maxrss)
		if runtime.GOOS != "darwin" { // which counts bytes
			r.memory <<= 10
		}
	}
	return r, nil
}

// findSets looks where rigimage looks, but for the mirror.
func findSets() (string, error) {
	dir := os.Getenv("RIG_SETS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(cache, "rig", "sets", "15.1-RELEASE-amd64")
	}
	var errs []error
	for _, name := range []string{"MANIFEST", "base.txz", "kernel.txz"} {
		_, err := os.Stat(filepath.Join(dir, name))
		errs = append(errs, err)
	}
	return dir, errors.Join(errs...)
}
