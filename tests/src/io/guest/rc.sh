#!/bin/sh
# Brings the guest up once; init then runs the DHCP client and the web server and starts them anew if they end.
export PATH=/bin
mount -t tmpfs run /run
mkdir -p /run/www
ln -s /srv/www /run/www/disk
echo "starting" > /run/www/index.html
hostname demo
ip link set lo up
ip link set eth0 up || echo "demo: no network card"
echo "demo: up, asking for an address"
