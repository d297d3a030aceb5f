#!/bin/sh
# udhcpc calls this with what the DHCP server said.
export PATH=/bin
case "$1" in
deconfig)
    ip addr flush dev "$interface"
    ip link set "$interface" up
    ;;
bound | renew)
    ip addr flush dev "$interface"
    ip addr add "$ip/$mask" dev "$interface"
    for r in $router; do
        ip route replace default via "$r" dev "$interface"
        break
    done
    sed -e "s/@HOST@/$(hostname)/" -e "s/@KERNEL@/$(uname -r)/" -e "s/@IP@/$ip/" -e "s/@SERVER@/$serverid/" \
        /srv/www/index.html > /run/www/index.new
    cp /run/www/index.new /run/www/index.html
    [ "$1" = bound ] && echo "demo: address $ip from $serverid, page is served"
    ;;
esac
exit 0
