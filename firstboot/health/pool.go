package health

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/rig-freebsd/rig/firstboot/disk"
	"github.com/rig-freebsd/rig/firstboot/place"
	"github.com/rig-freebsd/rig/image/manifest"
	"github.com/rig-freebsd/rig/internal/text"
	"github.com/rig-freebsd/rig/overlay/answers"
	"github.com/rig-freebsd/rig/zfs"
)

// scrubAge is how old the last scrub may be: periodic(8) starts one every 35 days.
const scrubAge = 40 * 24 * time.Hour

// checkPool looks at the pool, its disks and its spares.
func (v *verifier) checkPool(ctx context.Context) []Check {
	r := &rows{area: "pool"}
	unit, err := disk.RunningUnit(ctx, v.Run)
	if err != nil {
		r.fail("root", err)
		return r.list
	}
	st, err := zfs.Status(ctx, v.Run, unit.Pool)
	if err != nil {
		r.fail(unit.Pool, err)
		return r.list
	}
	v.status = st
	mirror, spares, err := v.poolWish()
	if err != nil {
		r.fail("mirror", err)
		mirror, spares = len(st.Vdevs), -1
	} else {
		r.judge("mirror", mirrorProblems(st, mirror), fmt.Sprintf("%s is one mirror of %d", st.Name, mirror),
			"zpool status "+st.Name+" says what is known; docs/operations.md says how a disk is replaced")
	}
	checkMembers(r, st)
	checkSpares(r, st, spares)
	v.checkEncryption(ctx, r)
	checkData(r, st)
	checkScrub(r, st.Scan, v.res.Finished, v.Now)
	return r.list
}

// poolWish is how many mirror members and spares were asked for; spares is -1
// when a rule took as many as there were.
func (v *verifier) poolWish() (mirror, spares int, err error) {
	var w answers.DiskWish
	b, err := json.Marshal(v.res.Answers[answers.KeyDisks])
	if err == nil {
		err = json.Unmarshal(b, &w)
	}
	switch {
	case err != nil:
		return 0, 0, fmt.Errorf("%s/result.json: disks: %w", place.ResultDir, err)
	case w.Rule != "":
		return 2, -1, nil
	case len(w.Mirror) == 0:
		return 0, 0, fmt.Errorf("%s/result.json does not say which disks were asked for", place.ResultDir)
	}
	return len(w.Mirror), len(w.Spares), nil
}

// mirrorProblems compares the shape of the pool with one mirror of so many
// members. What each member is doing is not looked at.
func mirrorProblems(st *zfs.PoolStatus, members int) []string {
	var out []string
	switch {
	case len(st.Vdevs) != 1:
		out = append(out, fmt.Sprintf("pool %s has %d top-level vdevs, not one mirror", st.Name, len(st.Vdevs)))
	case st.Vdevs[0].Type != "mirror":
		out = append(out, fmt.Sprintf("%s is a %s, not a mirror", st.Vdevs[0].Name, st.Vdevs[0].Type))
	case len(st.Vdevs[0].Children) != members:
		out = append(out, fmt.Sprintf("%s has %d members, not %d", st.Vdevs[0].Name, len(st.Vdevs[0].Children), members))
	}
	if st.State != "ONLINE" && st.State != "DEGRADED" {
		out = append(out, fmt.Sprintf("pool %s is %s", st.Name, st.State))
	}
	if n := len(st.Logs) + len(st.Cache) + len(st.Other); n > 0 {
		out = append(out, fmt.Sprintf("pool %s has %d log, cache or special vdevs", st.Name, n))
	}
	return out
}

// checkMembers adds a row for each disk of the mirror, or for the spare that
// stands in for it.
func checkMembers(r *rows, st *zfs.PoolStatus) {
	for _, top := range st.Vdevs {
		members := top.Children
		if len(members) == 0 {
			members = []zfs.Vdev{top}
		}
		for _, m := range members {
			if m.Type == "spare" || m.Type == "replacing" {
				checkReplaced(r, st, m)
				continue
			}
			checkMember(r, st, m)
		}
	}
}

func checkMember(r *rows, st *zfs.PoolStatus, m zfs.Vdev) {
	name := deviceName(m)
	switch n := m.ReadErrors + m.WriteErrors + m.ChecksumErrors; {
	case m.State != "ONLINE":
		r.add(name, Failed, "it is "+deviceState(m)+" and no spare stands in",
			fmt.Sprintf("put the disk back, or replace it: zpool replace %s %s NEW-PARTITION", st.Name, name))
	case n > 0:
		r.add(name, Warning, fmt.Sprintf("%d read, %d write and %d checksum errors", m.ReadErrors, m.WriteErrors, m.ChecksumErrors),
			fmt.Sprintf("look at the cable and the disk's SMART values, then: zpool clear %s %s", st.Name, name))
	default:
		r.ok(name, "ONLINE, no errors")
	}
}

// checkReplaced is about a "spare" or "replacing" vdev: the disk that went, and
// what stands in for it.
func checkReplaced(r *rows, st *zfs.PoolStatus, m zfs.Vdev) {
	if len(m.Children) < 2 {
		r.add(m.Name, Failed, fmt.Sprintf("a %s vdev of %d devices", m.Type, len(m.Children)), "")
		return
	}
	old, name := m.Children[0], deviceName(m.Children[0])
	var in []string
	for _, c := range m.Children[1:] {
		if c.State == "ONLINE" {
			in = append(in, deviceName(c))
		}
	}
	switch {
	case len(in) == 0 && old.State != "ONLINE":
		r.add(name, Failed, fmt.Sprintf("it is %s, and so is what stands in for it", deviceState(old)), "replace both disks")
	case m.Type == "replacing":
		r.add(name, Warning, fmt.Sprintf("being replaced by %s%s", strings.Join(in, ", "), resilver(st)), "wait until the resilver is done")
	case len(in) == 0:
		r.add(name, Failed, "its spare "+deviceName(m.Children[1])+" is "+deviceState(m.Children[1]), "zpool status "+st.Name)
	default:
		then := fmt.Sprintf("replace the disk with serial %s, partition the new one like the others, then: zpool replace %s %s /dev/gpt/zfs-NEWSERIAL",
			serialOf(name), st.Name, poolName(old))
		if strings.HasSuffix(name, ".eli") { // a name that moves, and a new disk to be encrypted first
			then = "replace the disk that is missing as docs/operations.md says"
		}
		r.add(name, Warning, fmt.Sprintf("it is %s; spare %s stands in for it%s", deviceState(old), strings.Join(in, ", "), resilver(st)),
			fmt.Sprintf("%s (or keep the spare as the member: zpool detach %s %s)", then, st.Name, poolName(old)))
	}
}

// checkSpares adds a row for the number of spares and one for each that is not
// available. want is -1 when any number will do.
func checkSpares(r *rows, st *zfs.PoolStatus, want int) {
	free, used := 0, 0
	for _, s := range st.Spares {
		switch s.State {
		case "AVAIL":
			free++
		case "INUSE":
			used++
		default:
			r.add(deviceName(s), Failed, "the spare is "+deviceState(s),
				fmt.Sprintf("put the disk back, or: zpool remove %s %s and add another", st.Name, poolName(s)))
		}
	}
	switch {
	case want < 0 && len(st.Spares) == 0, want == 0 && len(st.Spares) == 0:
		r.skip("spares", "none were asked for")
	case want >= 0 && len(st.Spares) < want:
		r.add("spares", Failed, fmt.Sprintf("%d in the pool, not %d", len(st.Spares), want),
			fmt.Sprintf("partition a disk like the others, then: zpool add %s spare /dev/gpt/zfs-SERIAL", st.Name))
	case free == 0:
		r.add("spares", Warning, "none is left: the next disk that fails has no replacement", "replace the failed disks named above")
	case used > 0:
		r.add("spares", Warning, fmt.Sprintf("%d AVAIL, %d in use", free, used), "see the disk it stands in for")
	default:
		r.ok("spares", "%d AVAIL", free)
	}
}

func checkData(r *rows, st *zfs.PoolStatus) {
	switch {
	case st.Errors > 0:
		r.add("data", Failed, fmt.Sprintf("%d errors that could not be repaired", st.Errors),
			fmt.Sprintf("zpool status -v %s names the files; restore them from a backup", st.Name))
	case st.Resilvering():
		r.add("data", Warning, "no data errors"+resilver(st), "wait until the resilver is done")
	case st.Status != "" && st.State == "ONLINE":
		r.add("data", Warning, text.OneLine(st.Status), text.OneLine(st.Action))
	default:
		r.ok("data", "no data errors")
	}
}

func resilver(st *zfs.PoolStatus) string {
	if !st.Resilvering() || st.Scan.ToExamine == 0 {
		return ""
	}
	return fmt.Sprintf("; the resilver is at %d%%", min(100, 100*st.Scan.Issued/st.Scan.ToExamine))
}

// checkScrub is about the last time everything was read. zpool remembers the last
// scrub or resilver, whichever was later. installed is when the pool was made.
func checkScrub(r *rows, s *zfs.Scan, installed, now time.Time) {
	const remedy = "zpool scrub, and see that daily_scrub_zfs_enable is set in periodic.conf"
	age := func(t time.Time) string { return counted(max(0, int(now.Sub(t)/(24*time.Hour))), "day") + " ago" }
	if s == nil {
		if now.Sub(installed) > scrubAge {
			r.add("scrub", Warning, "never; installed "+age(installed), remedy)
		} else {
			r.ok("scrub", "none yet; installed %s", age(installed))
		}
		return
	}
	what, end := strings.ToLower(s.Function), time.Unix(s.End, 0)
	switch {
	case s.State == "SCANNING":
		r.ok("scrub", "a %s is running since %s", what, time.Unix(s.Start, 0).UTC().Format(time.DateTime))
	case s.Errors > 0:
		r.add("scrub", Failed, fmt.Sprintf("the last %s found %d errors it could not repair", what, s.Errors), "zpool status -v names the files")
	case s.State != "FINISHED" && s.State != "CANCELED":
		r.add("scrub", Failed, fmt.Sprintf("the state %q of a %s is unknown", s.State, what), "")
	case now.Sub(end) > scrubAge:
		r.add("scrub", Warning, fmt.Sprintf("the last %s ended %s", what, age(end)), remedy)
	case s.State == "CANCELED":
		r.add("scrub", Warning, fmt.Sprintf("the last %s was cancelled %s", what, age(end)), remedy)
	default:
		r.ok("scrub", "the last %s ended %s without errors", what, age(end))
	}
}

// deviceName is a vdev as a person knows it: "gpt/zfs-S1", also when it is missing
// and zpool goes by its GUID.
func deviceName(d zfs.Vdev) string {
	for _, s := range []string{d.Path, d.Was} {
		if s != "" {
			return text.Printable(strings.TrimPrefix(s, place.Dev))
		}
	}
	return text.Printable(d.Name)
}

// poolName is what zpool(8) takes for a vdev: a GUID when the device is missing.
func poolName(d zfs.Vdev) string { return text.Printable(d.Name) }

func deviceState(d zfs.Vdev) string {
	if d.Aux != "" && d.Aux != "SPARED" {
		return d.State + " (" + d.Aux + ")"
	}
	return d.State
}

// serialOf is what follows the role in a label: "gpt/zfs-S1" → "S1".
func serialOf(device string) string {
	return strings.TrimPrefix(path.Base(device), string(manifest.RoleZFS)+"-")
}

// checkSwap compares the swap in use with fstab, and wants all of it encrypted.
func (v *verifier) checkSwap(ctx context.Context) []Check {
	r := &rows{area: "swap"}
	tab, err := os.ReadFile(v.path("etc/fstab"))
	if err != nil {
		r.fail("swap", err)
		return r.list
	}
	out, err := v.output(ctx, "swapinfo", "-k")
	if err != nil {
		r.fail("swap", err)
		return r.list
	}
	have, err := parseSwapinfo(out)
	if err != nil {
		r.fail("swap", err)
		return r.list
	}
	compareSwap(r, swapLines(string(tab)), have)
	return r.list
}

// swapLines are the swap devices of fstab(5).
func swapLines(tab string) []string {
	var out []string
	for line := range strings.Lines(tab) {
		text, _, _ := strings.Cut(line, "#")
		if f := strings.Fields(text); len(f) >= 3 && f[2] == "swap" {
			out = append(out, f[0])
		}
	}
	return out
}

// parseSwapinfo lists the devices of swapinfo -k.
func parseSwapinfo(text string) ([]string, error) {
	head, rest, _ := strings.Cut(text, "\n")
	if !strings.HasPrefix(head, "Device") {
		return nil, fmt.Errorf("output of swapinfo: %q is not its heading", head)
	}
	var out []string
	for line := range strings.Lines(rest) {
		f := strings.Fields(line)
		if len(f) != 5 || !strings.HasSuffix(f[4], "%") {
			return nil, fmt.Errorf("output of swapinfo: %q is not a device", strings.TrimSpace(line))
		}
		if f[0] != "Total" {
			out = append(out, f[0])
		}
	}
	return out, nil
}

func compareSwap(r *rows, want, have []string) {
	if len(want)+len(have) == 0 {
		r.skip("swap", "none was asked for")
	}
	for _, dev := range have {
		if !strings.HasSuffix(dev, ".eli") {
			r.add(dev, Failed, "swap is in use and not encrypted", "swapoff "+dev+", and name "+dev+".eli in /etc/fstab")
		} else if slices.Contains(want, dev) {
			r.ok(dev, "in use, encrypted")
		} else {
			r.add(dev, Warning, "in use, encrypted, and not in /etc/fstab", "")
		}
	}
	for _, dev := range without(want, have) {
		r.add(dev, Warning, "in /etc/fstab and not in use", "when its disk is there: swapon "+dev)
	}
}
