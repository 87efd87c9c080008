#!/bin/sh
# Process 1 of an emulated host: mounts, modules, addresses, then the agent, whose greeting tells the lab that
# everything above it is done. What the lab decides per host is in /etc/lab.
export PATH=/usr/local/bin:/bin:/sbin:/usr/bin:/usr/sbin HOME=/root TERM=linux
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root /etc /mnt
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=0666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
load() {
    for module in $(cat "/etc/lab/$1"); do
        insmod "/lib/modules/$module" || echo "lab: cannot load $module"
    done
}
# kvm takes a second of emulated time and nothing waits for it but the agent's greeting.
load modules.kvm &
load modules
hostname -F /etc/hostname
ip link set lo up
. /etc/lab/network
# A second source of interrupts, 64 a second: until a distant alarm, Linux looks at the clock so often (HPET_EMULATE_RTC).
# QEMU's emulation of SVM changes the word of pending interrupts without a lock at each world switch (`svm_helper.c`), so
# after millions of them the timer's interrupt is lost, and a host that is idle sleeps until another one comes.
echo +80000 > /sys/class/rtc/rtc0/wakealarm || echo "lab: no second source of interrupts"
wait
# The kernel booted on one processor, which is quicker; see the lab's kernel parameters.
for online in /sys/devices/system/cpu/cpu[1-9]*/online; do
    [ -e "$online" ] && echo 1 > "$online"
done
cd /root
while true; do
    antipode-lab-agent
    sleep 1
done
