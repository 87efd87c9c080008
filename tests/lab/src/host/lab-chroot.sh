#!/bin/sh
# lab-chroot DISK COMMAND…: runs COMMAND in the system on DISK (ext4 or squashfs, such as QEMU unpacked from Debian's
# packages), with this host's devices, /tmp and /root in it. The disk is mounted once, on /opt/<its name>.
set -e
[ $# -ge 2 ] || { echo "usage: lab-chroot DISK COMMAND..." >&2; exit 2; }
disk=$1
shift
root=/opt/$(basename "$disk")
if ! grep -q " $root " /proc/mounts; then
    mkdir -p "$root"
    mount -o ro "$disk" "$root"
    for directory in proc sys dev dev/pts dev/shm tmp root; do
        mount --bind "/$directory" "$root/$directory"
    done
fi
exec chroot "$root" "$@"
