#!/bin/sh
# lab-chroot DISK COMMAND…: runs COMMAND in the system on DISK (ext4 or squashfs, such as QEMU unpacked from Debian's
# packages), with this host's devices, /tmp and /root in it. The disk is mounted once, read only, on /opt/<its name>,
# under a layer in memory: trees unpacked from packages lack the directories that a base system would make.
set -e
[ $# -ge 2 ] || { echo "usage: lab-chroot DISK COMMAND..." >&2; exit 2; }
disk=$1
shift
root=/opt/$(basename "$disk")
if ! grep -q " $root " /proc/mounts; then
    for module in overlay squashfs; do
        grep -q "^$module " /proc/modules || insmod "/lib/modules/$module.ko"
    done
    mkdir -p "$root" "$root.disk" "$root.layer"
    mount -o ro "$disk" "$root.disk"
    mount -t tmpfs layer "$root.layer"
    mkdir "$root.layer/upper" "$root.layer/work"
    mount -t overlay -o "lowerdir=$root.disk,upperdir=$root.layer/upper,workdir=$root.layer/work" overlay "$root"
    for directory in proc sys dev dev/pts dev/shm tmp root; do
        mkdir -p "$root/$directory"
        mount --bind "/$directory" "$root/$directory"
    done
fi
exec chroot "$root" "$@"
