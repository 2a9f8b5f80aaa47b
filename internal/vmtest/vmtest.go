// Package vmtest is the harness of the boot tests: FreeBSD in QEMU, spoken to on
// its serial console. A package of boot tests has
//
//	func TestMain(m *testing.M) { os.Exit(vmtest.Main(m)) }
//
// and begins each test with t.Parallel() and vmtest.Need(t). Two run at the same
// time; go test's -parallel changes that.
//
// Environment:
//
//	RIG_SETS      directory with MANIFEST, base.txz, kernel.txz; else the user
//	              cache's rig/sets/15.1-RELEASE-amd64
//	RIG_TOOLS     directory with pkg-static, spiped and spipe for FreeBSD; else the
//	              user cache's rig/tools/15.1-RELEASE-amd64
//	RIG_REQUIRE   a list with "freebsd" in it: what would be skipped fails
//	RIG_VM_DIR    where disks are made (else the system's directory for
//	              temporary files); a real disk with some 20 GiB
//	RIG_VM_LOGS   where the consoles' logs go (else with the test's other files)
//	RIG_VM_KEEP   not empty: disks of failed tests are left behind
//	RIG_VM_PAIR   an existing directory: the two servers of TestPair are installed
//	              there once, for several runs
//	RIG_VM_REPOSITORY  a repository that these tests made before, to be used again
//	RIG_VM_FULL   not empty: the scenarios that only make matrix runs too
//	RIG_VM_SLOW   factor for all time limits
//	RIG_MATRIX    file that Main writes the table of recorded results to
//	RIG_MATRIX_OF what the table says was tested
//	RIG_ACCEL     as in package vm
package vmtest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/vm"
)

// Release is the FreeBSD the tests are for.
const Release = "15.1-RELEASE-amd64"

// Limits of what a FreeBSD does, for two cores under emulation beside a build.
// Slow is applied where they are used.
const (
	BootLimit    = 6 * time.Minute // power-on to login
	InstallLimit = 15 * time.Minute
	CommandLimit = 2 * time.Minute
)

// state is what the tests of one process share.
var state struct {
	sync.Mutex
	skipped map[string]int // tests by reason
	rows    []Row
	shared  map[string]*shared
	dir     string // of shared disks
}

// Main runs the tests of a package, says what was skipped, writes the table
// RIG_MATRIX asks for, and returns the exit status.
func Main(m *testing.M) int {
	flag.Parse()
	if !isSet("test.parallel") {
		flag.Set("test.parallel", fmt.Sprint(min(machines, runtime.NumCPU())))
	}
	status := m.Run()
	state.Lock()
	defer state.Unlock()
	if state.dir != "" {
		os.RemoveAll(state.dir)
	}
	for _, why := range sortedKeys(state.skipped) {
		fmt.Printf("SKIP-VM: %d boot tests skipped: %s\n", state.skipped[why], why)
	}
	if err := writeMatrix(); err != nil {
		fmt.Println(err)
		return max(status, 1)
	}
	return status
}

// machines is how many tests have a machine at the same time, unless -parallel says
// otherwise: each takes up to 2 GiB of memory. Together they have the host's
// processors, two at most for each.
const machines = 2

func isSet(name string) (set bool) {
	flag.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// parallel is the number of tests at the same time.
func parallel() int {
	n, err := strconv.Atoi(flag.Lookup("test.parallel").Value.String())
	if err != nil || n < 1 {
		return 1
	}
	return n
}

// Env is what a boot test needs from its host.
type Env struct {
	Sets string // directory of the release sets
	QEMU string
}

// Need is the host's Env. Without one the test is skipped, or fails if
// RIG_REQUIRE asks for freebsd.
func Need(t testing.TB) Env {
	t.Helper()
	sets, err := FindSets()
	if err != nil && os.Getenv("RIG_SETS") != "" {
		t.Fatalf("RIG_SETS: %v", err)
	}
	if err != nil {
		skip(t, "freebsd", err.Error())
	}
	return Env{Sets: sets, QEMU: NeedQEMU(t)}
}

// NeedQEMU is Need for tests that boot something else; RIG_REQUIRE's word is qemu
// (or freebsd, which implies it).
func NeedQEMU(t testing.TB) string {
	t.Helper()
	qemu, err := vm.FindQEMU()
	if err != nil {
		skip(t, "qemu", err.Error())
	}
	return qemu
}

func skip(t testing.TB, what, why string) {
	t.Helper()
	for _, r := range strings.Split(os.Getenv("RIG_REQUIRE"), ",") {
		if r == what || r == "freebsd" {
			t.Fatalf("RIG_REQUIRE=%s: %s", os.Getenv("RIG_REQUIRE"), why)
		}
	}
	state.Lock()
	if state.skipped == nil {
		state.skipped = map[string]int{}
	}
	state.skipped[why]++
	state.Unlock()
	t.Skip("SKIP-VM: " + why)
}

// FindSets is the directory of the release sets. RIG_SETS, if set, is the only
// place looked at.
func FindSets() (string, error) {
	dir := os.Getenv("RIG_SETS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("no FreeBSD sets: %w", err)
		}
		dir = filepath.Join(cache, "rig", "sets", Release)
	}
	for _, name := range []string{"MANIFEST", "base.txz", "kernel.txz"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("no FreeBSD sets: %w", err)
		}
	}
	return dir, nil
}

// Slow is d times RIG_VM_SLOW.
func Slow(d time.Duration) time.Duration {
	f, err := strconv.ParseFloat(os.Getenv("RIG_VM_SLOW"), 64)
	if err != nil || f <= 0 {
		return d
	}
	return time.Duration(float64(d) * f)
}

// Dir makes a directory for disks that goes when the test ends.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(os.Getenv("RIG_VM_DIR"), "rig-vmtest-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("RIG_VM_KEEP") != "" {
			t.Logf("disks are kept in %s", dir)
			return
		}
		os.RemoveAll(dir)
	})
	return dir
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// logPath is a new file for the console of a machine of the test.
func logPath(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("RIG_VM_LOGS")
	if dir == "" {
		dir = t.TempDir()
	} else if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	base := notInNames.ReplaceAllString(t.Name()+"-"+name, "_")
	for n := 1; ; n++ {
		path := filepath.Join(dir, fmt.Sprintf("%s-%d.log", base, n))
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if os.IsExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		return path
	}
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
