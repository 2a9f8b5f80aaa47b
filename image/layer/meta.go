package layer

import (
	"time"

	"golang.org/x/sys/unix"
)

// setTime sets access and modification time of name in the directory fd, not
// following a symlink.
func setTime(fd int, name string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	return unix.UtimesNanoAt(fd, name, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}
