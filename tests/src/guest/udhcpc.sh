#!/bin/sh
# What busybox's DHCP client calls with "deconfig", "bound", "renew", "leasefail" or "nak";
# the lease stands in the environment.
case $1 in
    deconfig)
        ip address flush dev "$interface"
        ip link set "$interface" up
        ;;
    bound | renew)
        [ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
        ip address replace "$ip/$mask" brd + dev "$interface"
        for gateway in $router; do
            ip route replace default via "$gateway" dev "$interface"
        done
        {
            [ -z "${search:-$domain}" ] || echo "search ${search:-$domain}"
            for server in $dns; do echo "nameserver $server"; done
        } > /etc/resolv.conf
        [ "$1" = renew ] || [ ! -f /init ] || echo "guest: $(cut -d ' ' -f 1 /proc/uptime) address $ip" > /dev/console
        ;;
esac
[ ! -f /init ] || EVENTS=/run/dhcp.events
[ -z "$EVENTS" ] || echo "$1" "$ip" "$serverid" "$lease" >> "$EVENTS"
