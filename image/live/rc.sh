#!/bin/sh
# The installer's whole startup, run by init(8). The root is read only and stays
# so: /tmp and /var are memory. Nothing here may stop the boot; a console comes
# up in any case.

PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin
export PATH
trap : 2 3
umask 022

mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /var
mkdir -p /var/cache /var/db /var/empty /var/log /var/run/etc /var/run/rig /var/spool/lock
mkdir -m 1777 /var/tmp
dmesg >/var/run/dmesg.boot

# Nobody's seed is in the image; what differs between machines and boots is here.
(kenv; cat /var/run/dmesg.boot; ps -axww; date) >/dev/random 2>/dev/null

# getpwnam(3) knows only databases. pwd_mkdb renames what it is given.
cp /etc/master.passwd /var/run/etc/new
pwd_mkdb -p -d /var/run/etc /var/run/etc/new

hostname rig
sysctl -q kern.coredump=0 >/dev/null
ifconfig lo0 inet 127.0.0.1/8 up
[ -e /boot/kernel/zfs.ko ] && kldload -nq zfs
echo "rig installer, image $(kenv -q rig.image)"
exit 0
