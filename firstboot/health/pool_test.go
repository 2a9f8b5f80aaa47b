package health

import (
	"testing"
	"time"

	"github.com/rig-freebsd/rig/internal/fakebsd"
	"github.com/rig-freebsd/rig/internal/run"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

func testVerifier(t *testing.T, w any, script ...run.Expect) *verifier {
	t.Helper()
	v := &verifier{VerifyInput: VerifyInput{Run: run.NewScript(t, script...), Root: t.TempDir(), Now: time.Unix(1764000000, 0)},
		m: fakebsd.Manifest(), rc: map[string]map[string]string{}, up: map[string]bool{}}
	v.res.Answers = map[string]any{answers.KeyDisks: w}
	v.res.Finished = v.Now.Add(-24 * time.Hour)
	return v
}

func TestVerifySpareInUse(t *testing.T) {
	v := testVerifier(t, map[string]any{"mirror": []string{"serial:S1", "serial:S2"}, "spares": []string{"serial:S3", "serial:S4"}},
		run.Expect{Line: "zfs list -H -o name /", Stdout: "zroot/ROOT/x\n"}, run.Expect{Line: "zpool status -j --json-int zroot", Stdout: fakebsd.ModuleFile(t, "zfs/testdata/status-spare.json")},
		run.Expect{Line: "sysctl -b kern.geom.confxml", Stdout: "<mesh></mesh>"})
	wantRows(t, v.checkPool(t.Context()),
		"ok mirror: zroot is one mirror of 2",
		"ok gpt/zfs-S2: ONLINE, no errors",
		"warning gpt/zfs-S1: it is CANT_OPEN; spare gpt/zfs-S3 stands in for it; the resilver is at 50%"+
			" -> replace the disk with serial S1, partition the new one like the others, then: zpool replace zroot 9000000000000000007 /dev/gpt/zfs-NEWSERIAL"+
			" (or keep the spare as the member: zpool detach zroot 9000000000000000007)",
		"warning spares: 1 AVAIL, 1 in use -> see the disk it stands in for",
		"skipped encryption: it was not asked for",
		"warning data: no data errors; the resilver is at 50% -> wait until the resilver is done",
		"ok scrub: a resilver is running since 2025-11-23 09:00:00")
}

func TestVerifyPoolWish(t *testing.T) {
	for _, tt := range []struct {
		wish           any
		mirror, spares int
		err            string
	}{
		{answers.DiskWish{Mirror: []string{"serial:A", "serial:B", "serial:C"}, Spares: []string{"serial:D"}}, 3, 1, ""},
		{answers.DiskWish{Rule: answers.RuleLargestEqual}, 2, -1, ""},
		{nil, 0, 0, "/var/db/rig/result.json does not say which disks were asked for"},
		{"all", 0, 0, "/var/db/rig/result.json: disks: json: cannot unmarshal string into Go value of type answers.DiskWish"},
	} {
		mirror, spares, err := testVerifier(t, tt.wish).poolWish()
		wantText(t, err, tt.err)
		if mirror != tt.mirror || spares != tt.spares {
			t.Errorf("%v: %d and %d", tt.wish, mirror, spares)
		}
	}
}

func member(name, state string, errors uint64) zfs.Vdev {
	return zfs.Vdev{Name: "gpt/zfs-" + name, Type: "disk", Path: "/dev/gpt/zfs-" + name, State: state, ReadErrors: errors}
}

func TestVerifyMembers(t *testing.T) {
	mirror := func(children ...zfs.Vdev) *zfs.PoolStatus {
		return &zfs.PoolStatus{Name: "zroot", State: "DEGRADED", Vdevs: []zfs.Vdev{{Name: "mirror-0", Type: "mirror", Children: children}}}
	}
	stand := func(typ string, children ...zfs.Vdev) zfs.Vdev {
		return zfs.Vdev{Name: typ + "-0", Type: typ, State: "DEGRADED", Children: children}
	}
	for _, tt := range []struct {
		name string
		st   *zfs.PoolStatus
		want []string
	}{
		{"one gone, no spare", mirror(member("A", "UNAVAIL", 0), member("B", "ONLINE", 2)), []string{
			"error gpt/zfs-A: it is UNAVAIL and no spare stands in -> put the disk back, or replace it: zpool replace zroot gpt/zfs-A NEW-PARTITION",
			"warning gpt/zfs-B: 2 read, 0 write and 0 checksum errors -> look at the cable and the disk's SMART values, then: zpool clear zroot gpt/zfs-B"}},
		{"its spare failed too", mirror(stand("spare", member("A", "FAULTED", 0), member("C", "UNAVAIL", 0))), []string{
			"error gpt/zfs-A: it is FAULTED, and so is what stands in for it -> replace both disks"}},
		{"only the spare failed", mirror(stand("spare", member("A", "ONLINE", 0), member("C", "UNAVAIL", 0))), []string{
			"error gpt/zfs-A: its spare gpt/zfs-C is UNAVAIL -> zpool status zroot"}},
		{"being replaced", mirror(stand("replacing", member("A", "UNAVAIL", 0), member("N", "ONLINE", 0))), []string{
			"warning gpt/zfs-A: being replaced by gpt/zfs-N -> wait until the resilver is done"}},
		{"half a vdev", mirror(stand("spare", member("A", "ONLINE", 0))), []string{"error spare-0: a spare vdev of 1 devices"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &rows{area: "pool"}
			checkMembers(r, tt.st)
			wantRows(t, r.list, tt.want...)
		})
	}
	st := mirror(member("A", "ONLINE", 0))
	st.State, st.Logs = "SUSPENDED", []zfs.Vdev{member("L", "ONLINE", 0)}
	r := &rows{}
	r.judge("mirror", mirrorProblems(st, 2), "", "")
	wantRows(t, r.list, "error mirror: mirror-0 has 1 members, not 2; pool zroot is SUSPENDED; pool zroot has 1 log, cache or special vdevs")
}

func TestVerifySpares(t *testing.T) {
	for _, tt := range []struct {
		spares []zfs.Vdev
		want   int
		rows   []string
	}{
		{nil, 0, []string{"skipped spares: none were asked for"}},
		{nil, -1, []string{"skipped spares: none were asked for"}},
		{nil, 1, []string{"error spares: 0 in the pool, not 1 -> partition a disk like the others, then: zpool add zroot spare /dev/gpt/zfs-SERIAL"}},
		{[]zfs.Vdev{member("C", "AVAIL", 0)}, -1, []string{"ok spares: 1 AVAIL"}},
		{[]zfs.Vdev{member("C", "INUSE", 0)}, 1, []string{
			"warning spares: none is left: the next disk that fails has no replacement -> replace the failed disks named above"}},
		{[]zfs.Vdev{member("C", "AVAIL", 0), {Name: "12", Was: "/dev/gpt/zfs-D", State: "UNAVAIL", Aux: "OPEN_FAILED"}}, 2, []string{
			"error gpt/zfs-D: the spare is UNAVAIL (OPEN_FAILED) -> put the disk back, or: zpool remove zroot 12 and add another",
			"ok spares: 1 AVAIL"}},
	} {
		r := &rows{}
		checkSpares(r, &zfs.PoolStatus{Name: "zroot", Spares: tt.spares}, tt.want)
		wantRows(t, r.list, tt.rows...)
	}
}

func TestVerifyScrub(t *testing.T) {
	now := time.Unix(1764000000, 0)
	ago := func(days int) int64 { return now.Add(-time.Duration(days) * 24 * time.Hour).Unix() }
	const remedy = " -> zpool scrub, and see that daily_scrub_zfs_enable is set in periodic.conf"
	for _, tt := range []struct {
		scan      *zfs.Scan
		installed int // days ago
		want      string
	}{
		{nil, 1, "ok scrub: none yet; installed 1 day ago"},
		{nil, 50, "warning scrub: never; installed 50 days ago" + remedy},
		{&zfs.Scan{Function: "SCRUB", State: "FINISHED", End: ago(7)}, 50, "ok scrub: the last scrub ended 7 days ago without errors"},
		{&zfs.Scan{Function: "SCRUB", State: "FINISHED", End: ago(41)}, 50, "warning scrub: the last scrub ended 41 days ago" + remedy},
		{&zfs.Scan{Function: "SCRUB", State: "FINISHED", End: ago(7), Errors: 2}, 50,
			"error scrub: the last scrub found 2 errors it could not repair -> zpool status -v names the files"},
		{&zfs.Scan{Function: "SCRUB", State: "CANCELED", End: ago(2)}, 50, "warning scrub: the last scrub was cancelled 2 days ago" + remedy},
		{&zfs.Scan{Function: "SCRUB", State: "PONDERING", End: ago(2)}, 50, `error scrub: the state "PONDERING" of a scrub is unknown`},
	} {
		r := &rows{}
		checkScrub(r, tt.scan, now.Add(-time.Duration(tt.installed)*24*time.Hour), now)
		wantRows(t, r.list, tt.want)
	}
}

func TestVerifyData(t *testing.T) {
	for _, tt := range []struct {
		st   zfs.PoolStatus
		want string
	}{
		{zfs.PoolStatus{Name: "zroot", State: "ONLINE"}, "ok data: no data errors"},
		{zfs.PoolStatus{Name: "zroot", State: "ONLINE", Errors: 4},
			"error data: 4 errors that could not be repaired -> zpool status -v zroot names the files; restore them from a backup"},
		{zfs.PoolStatus{Name: "zroot", State: "ONLINE", Status: "Some features are not enabled.", Action: "Enable them."},
			"warning data: Some features are not enabled. -> Enable them."},
	} {
		r := &rows{}
		checkData(r, &tt.st)
		wantRows(t, r.list, tt.want)
	}
}

func TestVerifySwap(t *testing.T) {
	r := &rows{}
	compareSwap(r, nil, nil)
	wantRows(t, r.list, "skipped swap: none was asked for")
	r = &rows{}
	compareSwap(r, nil, []string{"/dev/md0.eli"})
	wantRows(t, r.list, "warning /dev/md0.eli: in use, encrypted, and not in /etc/fstab")
	if got := swapLines("# x\n/dev/a.eli none swap sw 0 0 # y\nproc /proc procfs rw 0 0\n#/dev/b none swap sw 0 0\n"); len(got) != 1 || got[0] != "/dev/a.eli" {
		t.Errorf("%q", got)
	}
	if got, err := parseSwapinfo("Device          1K-blocks     Used    Avail Capacity\n"); err != nil || got != nil {
		t.Errorf("%q, %v", got, err)
	}
	_, err := parseSwapinfo("Device 1K-blocks Used Avail Capacity\n/dev/x 1 2\n")
	wantText(t, err, `output of swapinfo: "/dev/x 1 2" is not a device`)
}
