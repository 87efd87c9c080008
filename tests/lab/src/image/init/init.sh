#!/usr/bin/busybox sh
# The guest's first process. It brings up the machine, runs one service, and stops both in order.
#
#   boot -> service -> "service NAME ready" -> stop (power button, `poweroff`, `reboot`, or the service's end)
#
# /etc/antipode/modules   kernel modules in load order, one path a line
# /etc/antipode/service   a script that sets `service`, `ready_line` (what the service prints when it accepts
#                         connections) and `disk` (required|optional), and defines service_run and service_stop
# Kernel command line:    antipode.address=10.9.0.10/24 antipode.gateway=10.9.0.1 (both may be absent)
#
# Debian's busybox runs its own programs before those in PATH, so a service that means Debian's names them by path.
#
# Signals are those of busybox's own init, so that its `poweroff` and `reboot` work: USR1, USR2 power off, TERM reboots.

export PATH=/usr/sbin:/usr/bin HOME=/root TERM=vt100

say() {
    echo "antipode-guest: $*"
}

fail() {
    say "failed: $*"
    sync
    poweroff -f
}

mount_kernel_file_systems() {
    mount -t proc proc /proc
    mount -t devtmpfs devtmpfs /dev
    mkdir /dev/pts /dev/shm
    mount -a
}

load_modules() {
    while read -r module; do
        insmod "$module" || say "module $module does not load"
    done < /etc/antipode/modules
}

read_command_line() {
    address= gateway=
    read -r command_line < /proc/cmdline
    for word in $command_line; do
        case "$word" in
            antipode.address=*) address=${word#*=} ;;
            antipode.gateway=*) gateway=${word#*=} ;;
        esac
    done
}

configure_network() {
    ip link set lo up
    [ -n "$address" ] || return 0
    if [ ! -e /sys/class/net/eth0 ]; then
        say "no network card for $address"
        return 0
    fi
    ip address add "$address" dev eth0
    ip link set eth0 up
    [ -z "$gateway" ] || ip route add default via "$gateway"
}

mount_data() {
    if [ -b /dev/vda ]; then
        mount -t ext4 -o noatime /dev/vda /data || fail "cannot mount /dev/vda on /data as ext4"
    elif [ "$disk" = required ]; then
        fail "service $service needs a disk, and there is no /dev/vda"
    else
        say "no disk, /data is in memory"
    fi
}

# The power button is an input device; acpid runs /etc/acpi/PWRF/00000080 when it is pressed.
watch_power_button() {
    [ ! -e /dev/input/event0 ] || acpid -l /dev/null -p /run/acpid.pid
}

# Runs the service and watches what it prints: no polling, so an idle guest is idle.
supervise() {
    service_run 2>&1 < /dev/null | while read -r line; do
        echo "$line" >> /run/service.log
        case "$line" in
            *"$ready_line"*) say "service $service ready" ;;
        esac
    done
    [ ! -e /run/stopping ] || return
    say "service $service ended; its last lines were:"
    tail -n 20 /run/service.log
}

# Sends a signal to every process of this name and waits at most 10 s for its end.
stop_process() {
    tries=100
    killall "-$2" "$1" 2> /dev/null || return 0
    while [ $tries -gt 0 ] && killall -0 "$1" 2> /dev/null; do
        usleep 100000
        tries=$((tries - 1))
    done
}

# stop poweroff|reboot
stop() {
    trap '' TERM USR1 USR2
    : > /run/stopping
    say "stopping service $service"
    service_stop
    kill -KILL -1
    cd /
    sync
    ! grep -q ' /data ' /proc/mounts || umount /data || mount -o remount,ro /data
    say "$1"
    "$1" -f
}

. /etc/antipode/service
mount_kernel_file_systems
read -r _ _ release _ < /proc/version
say "Debian kernel $release, service $service"
trap 'stop poweroff' USR1 USR2
trap 'stop reboot' TERM
load_modules
read_command_line
hostname guest
configure_network
mount_data
watch_power_button
read -r seconds _ < /proc/uptime
say "up after $seconds s, address ${address:-none}"
supervise &
wait $!
stop poweroff
