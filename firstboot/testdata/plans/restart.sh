#!/bin/sh -e

# 1/36 prepare: modules, host identity
kldload -n zfs
sysctl kern.hostuuid=9b2e1f00-1111-4222-8333-444455556666
sysctl kern.hostid=0x6e530198

# 2/36 wipe-vtbd0: wipe vtbd0 (serial S1, 8G, an interrupted install of this image)
riginstall do zero vtbd0 20480 524288
riginstall do zero vtbd0 1048576 1048576
riginstall do zero vtbd0 272629760 1048576
riginstall do zero vtbd0 273678336 1048576
riginstall do zero vtbd0 2420113408 1048576
riginstall do zero vtbd0 2421161984 1048576
riginstall do zero vtbd0 4567597056 1048576
riginstall do zero vtbd0 4568645632 1048576
riginstall do zero vtbd0 8580497408 1048576
gpart destroy -F vtbd0
riginstall do zero vtbd0 0 1048576
riginstall do zero vtbd0 8588886016 1048576

# 3/36 partition-vtbd0: partition vtbd0 (serial S1, 8G, an interrupted install of this image)
gpart create -s gpt vtbd0
gpart add -i 1 -b 40 -s 1024 -t '!72696773-7461-6765-8000-726967696e73' -l boot-S1 vtbd0
gpart add -i 2 -b 2048 -s 532480 -t '!72696773-7461-6765-8000-726967696e73' -l efi-S1 vtbd0
gpart add -i 3 -b 534528 -s 4194304 -t '!72696773-7461-6765-8000-726967696e73' -l installing-S1 vtbd0
gpart add -i 4 -b 4728832 -s 4194304 -t freebsd-swap -l swap-S1 vtbd0
gpart add -i 5 -b 8923136 -s 7837696 -t freebsd-zfs -l zfs-S1 vtbd0

# 4/36 wipe-vtbd1: wipe vtbd1 (serial S2, 8G, an interrupted install of this image)
riginstall do zero vtbd1 20480 524288
riginstall do zero vtbd1 1048576 1048576
riginstall do zero vtbd1 272629760 1048576
riginstall do zero vtbd1 273678336 1048576
riginstall do zero vtbd1 2420113408 1048576
riginstall do zero vtbd1 2421161984 1048576
riginstall do zero vtbd1 4567597056 1048576
riginstall do zero vtbd1 4568645632 1048576
riginstall do zero vtbd1 8580497408 1048576
gpart destroy -F vtbd1
riginstall do zero vtbd1 0 1048576
riginstall do zero vtbd1 8588886016 1048576

# 5/36 partition-vtbd1: partition vtbd1 (serial S2, 8G, an interrupted install of this image)
gpart create -s gpt vtbd1
gpart add -i 1 -b 40 -s 1024 -t '!72696773-7461-6765-8000-726967696e73' -l boot-S2 vtbd1
gpart add -i 2 -b 2048 -s 532480 -t '!72696773-7461-6765-8000-726967696e73' -l efi-S2 vtbd1
gpart add -i 3 -b 534528 -s 4194304 -t '!72696773-7461-6765-8000-726967696e73' -l installing-S2 vtbd1
gpart add -i 4 -b 4728832 -s 4194304 -t freebsd-swap -l swap-S2 vtbd1
gpart add -i 5 -b 8923136 -s 7837696 -t freebsd-zfs -l zfs-S2 vtbd1

# 6/36 wipe-vtbd2: wipe vtbd2 (serial S3, 8G, an interrupted install of this image)
riginstall do zero vtbd2 20480 524288
riginstall do zero vtbd2 1048576 1048576
riginstall do zero vtbd2 272629760 1048576
riginstall do zero vtbd2 273678336 1048576
riginstall do zero vtbd2 2420113408 1048576
gpart destroy -F vtbd2
riginstall do zero vtbd2 0 1048576
riginstall do zero vtbd2 8588886016 1048576

# 7/36 partition-vtbd2: partition vtbd2 (serial S3, 8G, an interrupted install of this image)
gpart create -s gpt vtbd2
gpart add -i 1 -b 40 -s 1024 -t '!72696773-7461-6765-8000-726967696e73' -l boot-S3 vtbd2
gpart add -i 2 -b 2048 -s 532480 -t '!72696773-7461-6765-8000-726967696e73' -l efi-S3 vtbd2
gpart add -i 3 -b 534528 -s 4194304 -t '!72696773-7461-6765-8000-726967696e73' -l installing-S3 vtbd2
gpart add -i 4 -b 4728832 -s 4194304 -t freebsd-swap -l swap-S3 vtbd2
gpart add -i 5 -b 8923136 -s 7837696 -t freebsd-zfs -l zfs-S3 vtbd2

# 8/36 partition-vtbd3: partition vtbd3 (serial S4, 8G, blank)
gpart create -s gpt vtbd3
gpart add -i 1 -b 40 -s 1024 -t '!72696773-7461-6765-8000-726967696e73' -l boot-S4 vtbd3
gpart add -i 2 -b 2048 -s 532480 -t '!72696773-7461-6765-8000-726967696e73' -l efi-S4 vtbd3
gpart add -i 3 -b 534528 -s 4194304 -t '!72696773-7461-6765-8000-726967696e73' -l installing-S4 vtbd3
gpart add -i 4 -b 4728832 -s 4194304 -t freebsd-swap -l swap-S4 vtbd3
gpart add -i 5 -b 8923136 -s 7837696 -t freebsd-zfs -l zfs-S4 vtbd3

# 9/36 boot-vtbd0: copy the boot partitions to vtbd0
riginstall do copy-rig /dev/da0p3 /dev/vtbd0p3
riginstall do write-esp /dev/da0p3 /dev/vtbd0p2
gpart bootcode -p /rig/boot/gptboot -i 1 vtbd0
gpart modify -i 1 -t freebsd-boot vtbd0
gpart modify -i 2 -t efi vtbd0
gpart modify -i 3 -t freebsd-ufs vtbd0
gpart bootcode -b /rig/boot/pmbr vtbd0

# 10/36 boot-vtbd1: copy the boot partitions to vtbd1
riginstall do copy-rig /dev/da0p3 /dev/vtbd1p3
riginstall do write-esp /dev/da0p3 /dev/vtbd1p2
gpart bootcode -p /rig/boot/gptboot -i 1 vtbd1
gpart modify -i 1 -t freebsd-boot vtbd1
gpart modify -i 2 -t efi vtbd1
gpart modify -i 3 -t freebsd-ufs vtbd1
gpart bootcode -b /rig/boot/pmbr vtbd1

# 11/36 boot-vtbd2: copy the boot partitions to vtbd2
riginstall do copy-rig /dev/da0p3 /dev/vtbd2p3
riginstall do write-esp /dev/da0p3 /dev/vtbd2p2
gpart bootcode -p /rig/boot/gptboot -i 1 vtbd2
gpart modify -i 1 -t freebsd-boot vtbd2
gpart modify -i 2 -t efi vtbd2
gpart modify -i 3 -t freebsd-ufs vtbd2
gpart bootcode -b /rig/boot/pmbr vtbd2

# 12/36 boot-vtbd3: copy the boot partitions to vtbd3
riginstall do copy-rig /dev/da0p3 /dev/vtbd3p3
riginstall do write-esp /dev/da0p3 /dev/vtbd3p2
gpart bootcode -p /rig/boot/gptboot -i 1 vtbd3
gpart modify -i 1 -t freebsd-boot vtbd3
gpart modify -i 2 -t efi vtbd3
gpart modify -i 3 -t freebsd-ufs vtbd3
gpart bootcode -b /rig/boot/pmbr vtbd3

# 13/36 pool: create pool zroot-9b2e1f00: mirror of 2, 2 spare
zpool create -f -R /mnt -o ashift=12 -o autotrim=off -O atime=off -O compression=on -m none zroot-9b2e1f00 mirror /dev/gpt/zfs-S1 /dev/gpt/zfs-S2 spare /dev/gpt/zfs-S3 /dev/gpt/zfs-S4

# 14/36 datasets: create the datasets that carry others
zfs create -p -o mountpoint=none zroot-9b2e1f00/ROOT
zfs create -p -o mountpoint=none zroot-9b2e1f00/rig/base/webrig-15.1-1a2b3c4d5e6f
riginstall do mkdir /var/run/rig/base 0:0 0755
mount -t zfs zroot-9b2e1f00/rig/base/webrig-15.1-1a2b3c4d5e6f /var/run/rig/base

# 15/36 base: unpack the base system
riginstall do unpack base /var/run/rig/base
pwd_mkdb -p -d /var/run/rig/base/etc /var/run/rig/base/etc/master.passwd
zpool sync zroot-9b2e1f00
zfs set readonly=on zroot-9b2e1f00/rig/base/webrig-15.1-1a2b3c4d5e6f

# 16/36 root: copy it to the host's root zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
zfs create -p -o canmount=noauto -o mountpoint=/ zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
zfs mount zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
zpool set bootfs=zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f zroot-9b2e1f00
riginstall do copy-tree /var/run/rig/base /mnt

# 17/36 host-datasets: create the host's datasets
zfs create -p -o mountpoint=/home zroot-9b2e1f00/home
zfs create -p -o canmount=off -o mountpoint=/var zroot-9b2e1f00/var
zfs create -p -o mountpoint=/var/tmp zroot-9b2e1f00/var/tmp
chmod 1777 /mnt/var/tmp

# 18/36 kernel: unpack the kernel
riginstall do unpack kernel /mnt

# 19/36 host: lay the host's overlay
riginstall do unpack host /mnt

# 20/36 jails: a place for the jails' roots
riginstall do mkdir /mnt/jails 0:0 0700
zfs create -p -o canmount=off -o mountpoint=/jails zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails

# 21/36 jail-pg_j: make and fill jail pg_j
zfs create -p -o canmount=noauto zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails/pg_j
zfs mount zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails/pg_j
riginstall do copy-tree /var/run/rig/base /mnt/jails/pg_j
zfs create -p -o mountpoint=/jails/pg_j/var/db/postgres -o recordsize=16k zroot-9b2e1f00/data/pg_j/db
chown 770:770 /mnt/jails/pg_j/var/db/postgres
chmod 0750 /mnt/jails/pg_j/var/db/postgres
riginstall do unpack jail:pg_j /mnt/jails/pg_j

# 22/36 jail-bare: make and fill jail bare
zfs create -p -o canmount=noauto zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails/bare
zfs mount zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f/jails/bare
riginstall do copy-tree /var/run/rig/base /mnt/jails/bare

# 23/36 configure-host: accounts, values and identity of host
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

# 24/36 configure-pg_j: accounts, values and identity of pg_j
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

# 25/36 configure-bare: accounts, values and identity of bare
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

# 26/36 fstab: swap and the record of this image
riginstall do put /mnt/etc/fstab 0:0 0644 << 'EOF'
# Device	Mountpoint	FStype	Options	Dump	Pass#
/dev/gpt/swap-S1.eli	none	swap	sw	0	0
/dev/gpt/swap-S2.eli	none	swap	sw	0	0
EOF
riginstall do mkdir /mnt/var/db/rig 0:0 0700
cp /rig/rig/manifest.json /mnt/var/db/rig/manifest.json
riginstall do answers /mnt/var/db/rig/answers.toml
riginstall do mkdir /mnt/usr/local/sbin 0:0 0755
cp /usr/local/sbin/riginstall /mnt/usr/local/sbin/riginstall

# 27/36 check: try pf.conf, jail.conf and every rc.conf
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

# 28/36 verify: verify pool, datasets and boot partitions
riginstall do verify-pool zroot-9b2e1f00 2 2
riginstall do verify-roots zroot-9b2e1f00
riginstall do verify-boot vtbd0 vtbd1 vtbd2 vtbd3

# 29/36 result: write result.json and the log into the new system
riginstall do result /mnt/var/db/rig

# 30/36 complete: declare the pool complete
zfs set rig:complete=webrig-15.1-1a2b3c4d5e6f zroot-9b2e1f00

# 31/36 export: export the pool
umount /var/run/rig/base
zpool export zroot-9b2e1f00

# 32/36 unmount: let go of the medium
riginstall do umount /rig

# 33/36 switch-vtbd0: boot zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f from vtbd0
riginstall do forget-answers /dev/vtbd0p2
riginstall do switch /dev/vtbd0p3 zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
gpart modify -i 3 -l rig-S1 vtbd0

# 34/36 switch-vtbd1: boot zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f from vtbd1
riginstall do forget-answers /dev/vtbd1p2
riginstall do switch /dev/vtbd1p3 zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
gpart modify -i 3 -l rig-S2 vtbd1

# 35/36 switch-vtbd2: boot zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f from vtbd2
riginstall do forget-answers /dev/vtbd2p2
riginstall do switch /dev/vtbd2p3 zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
gpart modify -i 3 -l rig-S3 vtbd2

# 36/36 switch-vtbd3: boot zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f from vtbd3
riginstall do forget-answers /dev/vtbd3p2
riginstall do switch /dev/vtbd3p3 zroot-9b2e1f00/ROOT/webrig-15.1-1a2b3c4d5e6f
gpart modify -i 3 -l rig-S4 vtbd3
