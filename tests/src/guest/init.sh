#!/bin/busybox sh
# First process of a throwaway guest. Configured by words of the kernel command line:
#   sharectl.name=HOST             host name, also sent in DHCP requests
#   sharectl.load=MODULE,MODULE    kernel modules to load
#   sharectl.mount=TAG:PATH[:OPTIONS]   a virtiofs device (the word may come several times)
#   sharectl.share=NAME:PATH            a share of the one device that has them all (the same)
#   sharectl.net=dhcp|none         whether eth0 asks for an address (default dhcp)
#   sharectl.root=DEVICE           a disk with a system of its own, which takes over once the modules are loaded
# Then: a web server on port 80, a shell on the first serial port, and on the second one a channel
# that takes lines `ID SECONDS BASE64` and answers `ID STATUS BASE64-STDOUT BASE64-STDERR`.

/bin/busybox mount -t proc proc /proc
/bin/busybox --install -s /bin
export PATH=/bin HOME=/root TERM=linux
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run

say() { echo "guest: $(cut -d ' ' -f 1 /proc/uptime) $*"; }

values() {
    for word in $(cat /proc/cmdline); do
        case $word in sharectl.$1=*) echo "${word#*=}" ;; esac
    done
}

load() {
    [ -f "/modules/$1.order" ] || return 0 # built into the kernel
    while read -r part; do
        [ -d "/sys/module/$part" ] || insmod "/modules/$part.ko"
    done < "/modules/$1.order"
}

name=$(values name)
hostname "${name:-guest}"
ip link set lo up
for module in $(values load | tr , ' '); do load "$module"; done
say "modules loaded"

root=$(values root)
if [ -n "$root" ]; then
    mkdir /disk
    mount -t ext4 "$root" /disk
    for part in proc sys dev run; do mount -o move "/$part" "/disk/$part"; done
    exec switch_root /disk /sbin/init
fi

for word in $(values mount); do
    tag=${word%%:*} rest=${word#*:}
    path=${rest%%:*} options=${rest#"$path"}
    mkdir -p "$path"
    if mount -t virtiofs ${options:+-o "${options#:}"} "$tag" "$path"; then
        say "share $tag is at $path"
    else
        say "share $tag cannot be mounted at $path"
    fi
done

for word in $(values share); do
    name=${word%%:*} path=${word#*:}
    if [ ! -d /run/sharectl ]; then
        mkdir /run/sharectl
        mount -t virtiofs sharectl /run/sharectl || say "there is no device of shares"
    fi
    mkdir -p "$path"
    if mount --bind "/run/sharectl/$name" "$path"; then
        say "share $name is at $path"
    else
        say "share $name cannot be mounted at $path"
    fi
done

echo "Hello from $(hostname)" > /www/index.html
httpd -p 80 -h /www
if [ "$(values net)" != none ] && [ -d /sys/class/net/eth0 ]; then
    ip link set eth0 up
    udhcpc -i eth0 -f -S -t 30 -T 1 -A 1 -p /run/udhcpc.pid -O mtu -O search \
        ${name:+-x "hostname:$name"} -s /etc/udhcpc.sh > /run/udhcpc.log 2>&1 &
fi
/etc/channel.sh &
say "ready"

# busybox's shell ends at end of file and at "exit"; a new one takes its place.
while true; do
    setsid cttyhack sh -l < /dev/ttyS0 > /dev/ttyS0 2>&1
done
