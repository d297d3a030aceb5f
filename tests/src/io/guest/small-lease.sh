#!/bin/busybox sh
# udhcpc calls this with what the DHCP server said.
case "$1" in
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/$mask" dev "$interface"
    ip route replace default via "$router" dev "$interface"
    echo "$ip" > /run/address
    ;;
esac
exit 0
