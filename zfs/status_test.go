package zfs

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rig-freebsd/rig/internal/run"
)

const statusLine = "zpool status -j --json-int zroot"

func readTestdata(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func status(t *testing.T, file string) *PoolStatus {
	t.Helper()
	s, err := Status(t.Context(), run.NewScript(t, run.Expect{Line: statusLine, Stdout: readTestdata(t, file)}), "zroot")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStatusHealthy(t *testing.T) {
	s := status(t, "status-healthy.json")
	if got := s.Problems(2, 2); got != nil {
		t.Errorf("Problems: %q", got)
	}
	var order []string // the pool's, which is not the alphabet's
	for _, v := range append(s.Vdevs[0].Children, s.Spares...) {
		order = append(order, v.Path)
	}
	if want := []string{"/dev/gpt/zfs-S2", "/dev/gpt/zfs-S1", "/dev/gpt/zfs-S3", "/dev/gpt/zfs-S4"}; !slices.Equal(order, want) {
		t.Errorf("members and spares %q, want %q", order, want)
	}
	if s.GUID != 18302628748042517211 || s.TXG != 4127 || s.Scan != nil || s.Resilvering() {
		t.Errorf("GUID %d, TXG %d, scan %v", s.GUID, s.TXG, s.Scan)
	}
	wantProblems := []string{"mirror-0 has 2 members, not 3", "pool zroot has 2 spares, not 0"}
	if got := s.Problems(3, 0); !slices.Equal(got, wantProblems) {
		t.Errorf("Problems(3, 0)\n got %q\nwant %q", got, wantProblems)
	}
}

func TestStatusSpareInUse(t *testing.T) {
	s := status(t, "status-spare.json")
	want := []string{
		"pool zroot is DEGRADED",
		"mirror-0 is DEGRADED",
		"spare-1 is DEGRADED",
		"spare-1: a device is being replaced by /dev/gpt/zfs-S3",
		"/dev/gpt/zfs-S1 is CANT_OPEN",
		"/dev/gpt/zfs-S1 has 3 read, 0 write and 0 checksum errors",
		"spare /dev/gpt/zfs-S3 is INUSE",
		"pool zroot resilvers",
	}
	if got := s.Problems(2, 2); !slices.Equal(got, want) {
		t.Errorf("Problems\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
	if want := "Replace the device using 'zpool replace'."; s.Action != want {
		t.Errorf("Action %q", s.Action)
	}
}

func TestStatusShapes(t *testing.T) {
	tests := []struct {
		name   string
		pool   PoolStatus
		mirror int
		spares int
		want   []string
	}{
		{"plain device", PoolStatus{Name: "p", State: "ONLINE", Vdevs: []Vdev{{Name: "ada0", Type: "disk", State: "ONLINE"}}}, 1, 0, nil},
		{"plain device, mirror wanted", PoolStatus{Name: "p", State: "ONLINE", Vdevs: []Vdev{{Name: "ada0", Type: "disk", State: "ONLINE"}}}, 2, 0,
			[]string{"ada0 is a disk, not a mirror"}},
		{"stripe", PoolStatus{Name: "p", State: "ONLINE", Errors: 4, Vdevs: []Vdev{
			{Name: "ada0", Type: "disk", State: "ONLINE"}, {Name: "ada1", Type: "disk", State: "ONLINE"}}}, 2, 0,
			[]string{"pool p has 2 top-level vdevs, not one mirror", "pool p has 4 data errors"}},
		{"shared spare and log", PoolStatus{Name: "p", State: "ONLINE", Vdevs: []Vdev{{Name: "ada0", Type: "disk", State: "ONLINE"}},
			Spares: []Vdev{{Name: "ada2", State: "INUSE", Aux: "SPARED", UsedBy: "q"}, {Name: "ada3", State: "CANT_OPEN", Aux: "OPEN_FAILED"}},
			Logs:   []Vdev{{Name: "ada4", State: "ONLINE"}}}, 1, 2,
			[]string{"spare ada2 is INUSE by pool q", "spare ada3 is CANT_OPEN (OPEN_FAILED)", "pool p has 1 log, cache or special vdevs"}},
		{"spare vdev without children", PoolStatus{Name: "p", State: "ONLINE", Vdevs: []Vdev{{Name: "spare-0", Type: "spare", State: "ONLINE"}}}, 1, 0,
			[]string{"spare-0: a device is being replaced by "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.pool.Problems(tt.mirror, tt.spares); !slices.Equal(got, tt.want) {
				t.Errorf("Problems\n got %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestParseStatusErrors(t *testing.T) {
	good := readTestdata(t, "status-healthy.json")
	change := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in the recorded status", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	tests := []struct{ name, in, want string }{
		{"empty", "", "decode the output of zpool status: unexpected end of JSON input"},
		{"other command", change("zpool status", "zpool list"), "not the output of zpool status -j in version 0"},
		{"newer version", change(`"vers_major": 0`, `"vers_major": 1`), "not the output of zpool status -j in version 0"},
		{"no version", `{"pools":{}}`, "not the output of zpool status -j in version 0"},
		{"other pool", change(`"zroot": {`, `"tank": {`), "the output of zpool status has no such pool"},
		{"no state", change(`"state": "ONLINE",`, ``), "the output of zpool status lacks the pool's name or state"},
		{"no vdevs", change(`"vdevs": {`, `"other": {`), "the output of zpool status has no root vdev"},
		{"no error count", change(`"error_count"`, `"errors"`), "the output of zpool status lacks error_count"},
		{"numbers as text", change(`"txg": 4127`, `"txg": "4127"`), "decode the output of zpool status: json: cannot unmarshal string into Go struct field jsonPool.pools.txg of type uint64"},
		{"vdev without name", change(`"name": "mirror-0"`, `"name": ""`), "decode the output of zpool status: vdev zroot: vdev mirror-0: no name"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseStatus([]byte(tt.in), "zroot")
			if err == nil || err.Error() != tt.want {
				t.Errorf("\n got %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestStatusNoPool(t *testing.T) {
	_, err := Status(t.Context(), run.NewScript(t, run.Expect{Line: statusLine, Status: 1, Stderr: "cannot open 'zroot': no such pool\n"}), "zroot")
	const want = "status of pool zroot: zpool status -j --json-int zroot: exit status 1: cannot open 'zroot': no such pool"
	if err == nil || err.Error() != want {
		t.Errorf("\n got %v\nwant %s", err, want)
	}
}

func FuzzParseStatus(f *testing.F) {
	f.Add([]byte(readTestdata(f, "status-healthy.json")))
	f.Add([]byte(readTestdata(f, "status-spare.json")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := ParseStatus(b, "zroot"); err == nil {
			s.Problems(2, 2)
		}
	})
}
