#!/bin/busybox sh
# The whole system of the small guest: drivers, then a shell on the serial line for whoever tests.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root NO_COLOR=1 LANLINE_STATE=/root/state
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /root/state /tmp /run /dev/net
chmod 700 /root/state
for m in $(cat /modules/list); do
    insmod "/modules/$m" || echo "guest: module $m did not load"
done
[ -e /dev/net/tun ] || mknod /dev/net/tun c 10 200
ip link set lo up
hostname guest
# Without a udev the agent's port has the kernel's name, whose number is that of the device; it may come a moment later.
agent() {
    until set -- /dev/vport*p1 && [ -e "$1" ]; do sleep 1; done
    exec qemu-ga -r -m virtio-serial -p "$1" -t /run -f /run/qga.pid -l /run/qga.log
}
[ -x /bin/qemu-ga ] && agent &
# A line that the shell cannot read ends it; the next one is as good.
while :; do
    setsid sh -c 'stty -echo < /dev/ttyS0; exec < /dev/ttyS0 > /dev/ttyS0 2>&1; echo "guest: ready"; exec sh'
done
