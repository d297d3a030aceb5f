#!/bin/sh
# First program of the guest: loads the drivers, finds the disk and hands over to it.
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
for m in $(cat /modules/list); do
    insmod "/modules/$m" || echo "demo: module $m did not load"
done
# The disk appears when its driver has looked at it; a guest without one shall say so and not hang.
tries=0
while [ ! -b /dev/vda ]; do
    tries=$((tries + 1))
    [ "$tries" -gt 100 ] && echo "demo: no disk" && poweroff -f
    sleep 0.1
done
mount -t ext4 /dev/vda /newroot || { echo "demo: the disk cannot be mounted"; poweroff -f; }
echo "demo: disk mounted"
mount --move /dev /newroot/dev
mount --move /proc /newroot/proc
mount --move /sys /newroot/sys
exec switch_root /newroot /sbin/init
