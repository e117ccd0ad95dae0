# shellcheck shell=bash
# Two hosts, gw and kvs1, that are joined by two cables without anything between: seg0 and seg1 of one end at those of the
# other. For measurements of the ends: a bridge, as the lab has it, takes the kernel longer than all that they do. To be sourced
# after lib.sh and network.sh; `begin` was called.
#
# A packet comes by the queue by which it was sent, in driver mode. Generic XDP sees the queue below, and queue 0 as
# itself: so there is one only, for the kernel and the bypass.

# begin_cables MTU: makes the hosts. They go when this shell ends.
begin_cables() {
    local host segment number=0
    NET=hkcable$$
    trap 'leave_cables' EXIT
    for host in gw kvs1; do
        ip netns add "$NET-$host"
        ip -n "$NET-$host" link set lo up
    done
    for segment in 0 1; do
        ip -n "$NET-gw" link add "seg$segment" mtu "$1" type veth peer name "seg$segment" netns "$NET-kvs1" mtu "$1"
    done
    for host in gw kvs1; do
        number=$((number + 1))
        for segment in 0 1; do
            # As for `bare_cable`: what is sent has its checksums, and is cut into packets.
            on "$host" ethtool -K "seg$segment" tx off gro off >/dev/null
            ip -n "$NET-$host" address add "10.77.$segment.$number/24" dev "seg$segment"
            ip -n "$NET-$host" link set "seg$segment" up
        done
    done
}

leave_cables() {
    local status=$?
    trap - EXIT
    end_cables
    finish "$status"
}

end_cables() {
    local host
    end_processes "${STARTED[@]}"
    STARTED=()
    for host in gw kvs1; do
        [ ! -e "/run/netns/$NET-$host" ] || ip netns del "$NET-$host"
    done
}
