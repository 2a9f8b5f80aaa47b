#!/bin/sh -e

# 1/37 prepare: modules, host identity
kldload -n zfs
sysctl kern.hostuuid=9b2e1f00-1111-4222-8333-444455556666
sysctl kern.hostid=0x6e530198

# 2/37 wipe-ada0: wipe ada0 (serial WD-OLD0, 16G, GPT: 512K freebsd-boot, 15G freebsd-zfs; pool zroot of old.example.org)
riginstall do zero ada0 20480 524288
riginstall do zero ada0 1048576 1048576
riginstall do zero ada0 16106127360 1048576
gpart destroy -F ada0
riginstall do zero ada0 0 1048576
riginstall do zero ada0 17178820608 1048576

# 3/37 partition-ada0: partition ada0 (serial WD-OLD0, 16G, GPT: 512K freebsd-boot, 15G freebsd-zfs; pool zroot of old.example.org)
gpart create -s gpt ada0
gpart add -i 1 -b 40 -s 1024 -t '!72696773-7461-6765-8000-726967696e73' -l boot-WD-OLD0 ada0
gpart add -i 2 -b 2048 -s 532480 -t '!72696773-7461-6765-8000-726967696e73' -l efi-WD-OLD0 ada0
gpart add -i 3 -b 534528 -s 4194304 -t '!72696773-7461-6765-8000-726967696e73' -l installing-WD-OLD0 ada0
gpart add -i 4 -b 4728832 -s 2097152 -t freebsd-swap -l swap-WD-OLD0 ada0
gpart add -i 5 -b 6825984 -s 26712064 -t freebsd-zfs -l zfs-WD-OLD0 ada0

# 4/37 wipe-ada1: wipe ada1 (serial WD-OLD1, 16G, GPT: 512K freebsd-boot, 15G freebsd-zfs; pool zroot of old.example.org)
riginstall do zero ada1 20480 524288
riginstall do zero ada1 1048576 1048576
riginstall do zero ada1 16106127360 1048576
gpart destroy -F ada1
riginstall do zero ada1 0 1048576
riginstall do zero ada1 17178820608 1048576

# 5/37 partition-ada1: partition ada1 (serial WD-OLD1, 16G, GPT: 512K freebsd-boot, 15G freebsd-zfs; pool zroot of old.example.org)
gpart create -s gpt ada1
gpart add -i 1 -b 40 -s 1024 -t '!72696773-7461-6765-8000-726967696e73' -l boot-WD-OLD1 ada1
gpart add -i 2 -b 2048 -s 532480 -t '!72696773-7461-6765-8000-726967696e73' -l efi-WD-OLD1 ada1
gpart add -i 3 -b 534528 -s 4194304 -t '!72696773-7461-6765-8000-726967696e73' -l installing-WD-OLD1 ada1
gpart add -i 4 -b 4728832 -s 2097152 -t freebsd-swap -l swap-WD-OLD1 ada1
gpart add -i 5 -b 6825984 -s 26712064 -t freebsd-zfs -l zfs-WD-OLD1 ada1

# 6/37 wipe-ada2: wipe ada2 (serial WD-OLD2, 16G, MBR: 1M !7 (ntfs))
riginstall do zero ada2 32256 1048576
gpart destroy -F ada2
riginstall do zero ada2 0 1048576
riginstall do zero ada2 17178820608 1048576

# 7/37 partition-ada2: partition ada2 (serial WD-OLD2, 16G, MBR: 1M !7 (ntfs))
gpart create -s gpt ada2
gpart add -i 1 -b 40 -s 1024 -t '!72696773-7461-6765-8000-726967696e73' -l boot-WD-OLD2 ada2
gpart add -i 2 -b 2048 -s 532480 -t '!72696773-7461-6765-8000-726967696e73' -l efi-WD-OLD2 ada2
gpart add -i 3 -b 534528 -s 4194304 -t '!72696773-7461-6765-8000-726967696e73' -l installing-WD-OLD2 ada2
gpart add -i 4 -b 4728832 -s 2097152 -t freebsd-swap -l swap-WD-OLD2 ada2
gpart add -i 5 -b 6825984 -s 26712064 -t freebsd-zfs -l zfs-WD-OLD2 ada2

# 8/37 wipe-ada3: wipe ada3 (serial WD-OLD3, 16G, ext4)
riginstall do zero ada3 0 1048576
riginstall do zero ada3 17178820608 1048576

# 9/37 partition-ada3: partition ada3 (serial WD-OLD3, 16G, ext4)
gpart create -s gpt ada3
gpart add -i 1 -b 40 -s 1024 -t '!72696773-7461-6765-8000-726967696e73' -l boot-WD-OLD3 ada3
gpart add -i 2 -b 2048 -s 532480 -t '!72696773-7461-6765-8000-726967696e73' -l efi-WD-OLD3 ada3
gpart add -i 3 -b 534528 -s 4194304 -t '!72696773-7461-6765-8000-726967696e73' -l installing-WD-OLD3 ada3
gpart add -i 4 -b 4728832 -s 2097152 -t freebsd-swap -l swap-WD-OLD3 ada3
gpart add -i 5 -b 6825984 -s 26712064 -t freebsd-zfs -l zfs-WD-OLD3 ada3

# 10/37 boot-ada0: copy the boot partitions to ada0
riginstall do copy-rig /dev/da0p3 /dev/ada0p3
riginstall do write-esp /dev/da0p3 /dev/ada0p2
gpart bootcode -p /rig/boot/gptboot -i 1 ada0
gpart modify -i 1 -t freebsd-boot ada0
gpart modify -i 2 -t efi ada0
gpart modify -i 3 -t freebsd-ufs ada0
gpart bootcode -b /rig/boot/pmbr ada0

# 11/37 boot-ada1: copy the boot partitions to ada1
riginstall do copy-rig /dev/da0p3 /dev/ada1p3
riginstall do write-esp /dev/da0p3 /dev/ada1p2
gpart bootcode -p /rig/boot/gptboot -i 1 ada1
gpart modify -i 1 -t freebsd-boot ada1
gpart modify -i 2 -t efi ada1
gpart modify -i 3 -t freebsd-ufs ada1
gpart bootcode -b /rig/boot/pmbr ada1

# 12/37 boot-ada2: copy the boot partitions to ada2
riginstall do copy-rig /dev/da0p3 /dev/ada2p3
riginstall do write-esp /dev/da0p3 /dev/ada2p2
gpart bootcode -p /rig/boot/gptboot -i 1 ada2
gpart modify -i 1 -t freebsd-boot ada2
gpart modify -i 2 -t efi ada2
gpart modify -i 3 -t freebsd-ufs ada2
gpart bootcode -b /rig/boot/pmbr ada2

# 13/37 boot-ada3: copy the boot partitions to ada3
riginstall do copy-rig /dev/da0p3 /dev/ada3p3
riginstall do write-esp /dev/da0p3 /dev/ada3p2
gpart bootcode -p /rig/boot/gptboot -i 1 ada3
gpart modify -i 1 -t freebsd-boot ada3
gpart modify -i 2 -t efi ada3
gpart modify -i 3 -t freebsd-ufs ada3
gpart bootcode -b /rig/boot/pmbr ada3

# 14/37 pool: create pool zroot-9b2e1f00: mirror of 2, 2 spare
zpool create -f -R /mnt -o ashift=12 -o autotrim=off -O atime=off -O compression=on -m none zroot-9b2e1f00 mirror /dev/gpt/zfs-WD-OLD0 /dev/gpt/zfs-WD-OLD1 spare /dev/gpt/zfs-WD-OLD2 /dev/gpt/zfs-WD-OLD3

# 15/37 datasets: create the datasets that carry others
zfs create -p -o mountpoint=none zroot-9b2e1f00/ROOT
zfs create -p -o mountpoint=none zroot-9b2e1f00/rig/base/webrig-15.1-1a2b3c4d5e6f
riginstall do mkdir /var/run/rig/base 0:0 0755
mount -t zfs zroot-9b2e1f00/rig/base/webrig-15.1-1a2b3c4d5e6f /var/run/rig/base

# 16/37 base: unpack the base system
riginstall do unpack base /var/run/rig/base
pwd_mkdb -p -d /var/run/rig/base/etc /var/run/rig/base/etc/master.passwd
zpool sync zroot-9b2e1f00
zfs set readonly=on zroot-9b2e1f00/rig/base/webrig-15.1-1a2b3c4d5e6f

# 17/37 root: copy it to the host's root zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
zfs create -p -o canmount=noauto -o mountpoint=/ zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
zfs mount zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
zpool set bootfs=zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f zroot-9b2e1f00
riginstall do copy-tree /var/run/rig/base /mnt

# 18/37 host-datasets: create the host's datasets
zfs create -p -o mountpoint=/home zroot-9b2e1f00/home
zfs create -p -o canmount=off -o mountpoint=/var zroot-9b2e1f00/var
zfs create -p -o mountpoint=/var/tmp zroot-9b2e1f00/var/tmp
chmod 1777 /mnt/var/tmp

# 19/37 kernel: unpack the kernel
riginstall do unpack kernel /mnt

# 20/37 host: lay the host's overlay
riginstall do unpack host /mnt

# 21/37 jails: a place for the jails' roots
riginstall do mkdir /mnt/jails 0:0 0700
zfs create -p -o canmount=off -o mountpoint=/jails zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails

# 22/37 jail-pg_j: make and fill jail pg_j
zfs create -p -o canmount=noauto zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails/pg_j
zfs mount zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails/pg_j
riginstall do copy-tree /var/run/rig/base /mnt/jails/pg_j
zfs create -p -o mountpoint=/jails/pg_j/var/db/postgres -o recordsize=16k zroot-9b2e1f00/data/pg_j/db
chown 770:770 /mnt/jails/pg_j/var/db/postgres
chmod 0750 /mnt/jails/pg_j/var/db/postgres
riginstall do unpack jail:pg_j /mnt/jails/pg_j

# 23/37 jail-bare: make and fill jail bare
zfs create -p -o canmount=noauto zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails/bare
zfs mount zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails/bare
riginstall do copy-tree /var/run/rig/base /mnt/jails/bare

# 24/37 configure-host: accounts, values and identity of host
pw -R /mnt usermod -n root -H 0 < SECRET # 99 bytes, not shown
pw -R /mnt groupadd -n admin -g 1001
pw -R /mnt useradd -n admin -u 1001 -g admin -c 'Ann & co' -d /home/admin -s /bin/sh -h - -G wheel,operator
riginstall do mkdir /mnt/home/admin 1001:1001 0755
riginstall do mkdir /mnt/home/admin/.ssh 1001:1001 0700
riginstall do put /mnt/home/admin/.ssh/authorized_keys 1001:1001 0600 << 'EOF'
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0mYJ2kxpA0Z9hqXy3zXo8nY0p5aXvK4mJb7cQ1w2e3 admin@example.org
EOF
riginstall do render /mnt
riginstall do put /mnt/etc/hostid 0:0 0644 << 'EOF'
9b2e1f00-1111-4222-8333-444455556666
EOF
riginstall do put /mnt/etc/machine-id 0:0 0444 << 'EOF'
9b2e1f00111142228333444455556666
EOF
sh -c 'umask 077; dd if=/dev/random of=/mnt/entropy bs=4096 count=1 2>/dev/null'
sh -c 'umask 077; dd if=/dev/random of=/mnt/boot/entropy bs=4096 count=1 2>/dev/null'
mount -t devfs devfs /mnt/dev
chroot /mnt /bin/sh -ec 'sysrc -R / foo="it'\''s"'
umount /mnt/dev

# 25/37 configure-pg_j: accounts, values and identity of pg_j
pw -R /mnt/jails/pg_j groupadd -n deployer -g 1001
pw -R /mnt/jails/pg_j useradd -n deployer -u 1001 -g deployer -c '' -d /srv -s /bin/csh -h -
riginstall do mkdir /mnt/jails/pg_j/srv 1001:1001 0755
riginstall do render /mnt/jails/pg_j pg_j
riginstall do put /mnt/jails/pg_j/etc/hostid 0:0 0644 << 'EOF'
39401b7b-b4ba-364e-8511-c2e09a9400c3
EOF
riginstall do put /mnt/jails/pg_j/etc/machine-id 0:0 0444 << 'EOF'
39401b7bb4ba364e8511c2e09a9400c3
EOF

# 26/37 configure-bare: accounts, values and identity of bare
riginstall do render /mnt/jails/bare bare
riginstall do put /mnt/jails/bare/etc/hostid 0:0 0644 << 'EOF'
3ccd168a-46db-35eb-9b59-60717ce12da1
EOF
riginstall do put /mnt/jails/bare/etc/machine-id 0:0 0444 << 'EOF'
3ccd168a46db35eb9b5960717ce12da1
EOF
mount -t devfs devfs /mnt/jails/bare/dev
chroot /mnt/jails/bare /bin/sh -ec true
umount /mnt/jails/bare/dev

# 27/37 fstab: swap and the record of this image
riginstall do put /mnt/etc/fstab 0:0 0644 << 'EOF'
# Device	Mountpoint	FStype	Options	Dump	Pass#
/dev/gpt/swap-WD-OLD0.eli	none	swap	sw	0	0
/dev/gpt/swap-WD-OLD1.eli	none	swap	sw	0	0
EOF
riginstall do mkdir /mnt/var/db/rig 0:0 0700
cp /rig/rig/manifest.json /mnt/var/db/rig/manifest.json
riginstall do answers /mnt/var/db/rig/answers.toml
riginstall do mkdir /mnt/usr/local/sbin 0:0 0755
cp /usr/local/sbin/riginstall /mnt/usr/local/sbin/riginstall

# 28/37 check: try pf.conf, jail.conf and every rc.conf
kldload -n pf
mount -t devfs devfs /mnt/dev
chroot /mnt /bin/sh -c 'e=$( (. /etc/defaults/rc.conf; source_rc_confs) 2>&1 >/dev/null ); [ -z "$e" ] || { echo "$e" >&2; exit 1; }'
mount -t devfs devfs /mnt/jails/pg_j/dev
chroot /mnt/jails/pg_j /bin/sh -c 'e=$( (. /etc/defaults/rc.conf; source_rc_confs) 2>&1 >/dev/null ); [ -z "$e" ] || { echo "$e" >&2; exit 1; }'
mount -t devfs devfs /mnt/jails/bare/dev
chroot /mnt/jails/bare /bin/sh -c 'e=$( (. /etc/defaults/rc.conf; source_rc_confs) 2>&1 >/dev/null ); [ -z "$e" ] || { echo "$e" >&2; exit 1; }'
riginstall do check-files /mnt
umount /mnt/dev
umount /mnt/jails/pg_j/dev
umount /mnt/jails/bare/dev

# 29/37 verify: verify pool, datasets and boot partitions
riginstall do verify-pool zroot-9b2e1f00 2 2
riginstall do verify-roots zroot-9b2e1f00
riginstall do verify-boot ada0 ada1 ada2 ada3

# 30/37 result: write result.json and the log into the new system
riginstall do result /mnt/var/db/rig

# 31/37 complete: declare the pool complete
zfs set rig:complete=webrig-15.1-1a2b3c4d5e6f zroot-9b2e1f00

# 32/37 export: export the pool
umount /var/run/rig/base
zpool export zroot-9b2e1f00

# 33/37 unmount: let go of the medium
riginstall do umount /rig

# 34/37 switch-ada0: boot zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f from ada0
riginstall do forget-answers /dev/ada0p2
riginstall do switch /dev/ada0p3 zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
gpart modify -i 3 -l rig-WD-OLD0 ada0

# 35/37 switch-ada1: boot zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f from ada1
riginstall do forget-answers /dev/ada1p2
riginstall do switch /dev/ada1p3 zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
gpart modify -i 3 -l rig-WD-OLD1 ada1

# 36/37 switch-ada2: boot zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f from ada2
riginstall do forget-answers /dev/ada2p2
riginstall do switch /dev/ada2p3 zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
gpart modify -i 3 -l rig-WD-OLD2 ada2

# 37/37 switch-ada3: boot zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f from ada3
riginstall do forget-answers /dev/ada3p2
riginstall do switch /dev/ada3p3 zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
gpart modify -i 3 -l rig-WD-OLD3 ada3
