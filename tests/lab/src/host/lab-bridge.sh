#!/bin/sh
# lab-bridge BRIDGE CARD TAP...: joins CARD and new TAPs into BRIDGE, which takes over the card's addresses. The frames
# of a guest on a TAP are then on CARD's cable, and the host stays reachable.
set -e
[ $# -ge 3 ] || { echo "usage: lab-bridge BRIDGE CARD TAP..." >&2; exit 2; }
bridge=$1 card=$2
shift 2
addresses=$(ip -4 -o addr show dev "$card" | sed -n 's/.* inet \([^ ]*\).*/\1/p')
brctl addbr "$bridge"
# No spanning tree here, so nothing to wait for before forwarding.
echo 0 > "/sys/class/net/$bridge/bridge/forward_delay"
# A bridge takes the lowest address of its ports, so a guest that starts would change it; fixed, it stays the card's.
ip link set "$bridge" address "$(cat "/sys/class/net/$card/address")"
# The group filter would drop a guest's multicasts until its first report.
echo 0 > "/sys/class/net/$bridge/bridge/multicast_snooping"
brctl addif "$bridge" "$card"
for tap in "$@"; do
    tunctl -t "$tap" > /dev/null
    brctl addif "$bridge" "$tap"
    ip link set "$tap" up
done
ip addr flush dev "$card"
ip link set "$card" up
ip link set "$bridge" up
for address in $addresses; do
    ip addr add "$address" dev "$bridge"
done
