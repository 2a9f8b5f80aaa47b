package live

import (
	"slices"
	"strings"
)

// Programs returns the programs of base the installer root has by default: what
// riginstall runs, and what a person at a shell needs to look at a server's
// disks, pools and network and to mend them.
func Programs() []string {
	return slices.Concat(
		in("/bin/", "[ cat chflags chmod cp date dd df echo expr hostname kenv kill ln ls mkdir mv pgrep pkill ps "+
			"pwd realpath rm rmdir sh sleep stty sync test timeout uuidgen freebsd-version"),
		in("/sbin/", "bectl camcontrol devfs dhclient dhclient-script dmesg dumpon fsck fsck_ffs fsck_msdosfs fsck_ufs geli geom glabel gmirror "+
			"gpart graid growfs halt ifconfig init kldload kldstat kldunload ldconfig md5 mdconfig mount "+
			"mount_cd9660 mount_msdosfs mount_nullfs newfs newfs_msdos nvmecontrol pfctl ping poweroff "+
			"reboot route sha256 shutdown swapctl swapoff swapon sysctl tunefs umount zfs zpool"),
		in("/usr/bin/", "awk basename cap_mkdb chgrp cmp cut diff dirname du egrep env false fetch fgrep find fstat grep "+
			"gunzip gzip head hexdump id install jot killall less logger mkfifo mktemp more nc netstat "+
			"od printf readlink reset resizewin scp sed seq sort split ssh stat tail tar tee top touch tput tr true "+
			"truncate tset tty uname uniq unxz vi vmstat wc which whoami xargs xz zcat zstd zstdcat"),
		in("/usr/sbin/", "arp chown chroot diskinfo efibootmgr efivar fstyp gstat iostat jail jexec jls kldxref mtree "+
			"pciconf pw pwd_mkdb services_mkdb usbconfig zdb"),
	)
}

// Modules returns the kernel modules the installer root has by default, those
// they depend on included: the pool, and what the checks of the installed
// system load. tmpfs, msdosfs, cd9660 and nearly all drivers are in GENERIC;
// geom_uzip is the loader's, which takes it from the medium.
func Modules() []string {
	return []string{"zfs", "xdr", "pf", "pflog", "nullfs", "if_bridge", "bridgestp", "if_epair", "geom_eli"}
}

func in(dir, names string) []string {
	var out []string
	for n := range strings.FieldsSeq(names) {
		out = append(out, dir+n)
	}
	return out
}
