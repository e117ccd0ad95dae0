# shellcheck shell=bash
# Several hosts on this machine: network namespaces on two network segments, a bridge each. To be sourced
# after lib.sh. Needs root.
#
# Everything lives in namespaces called $NET-HOST, and the bridges in $NET-net: when those go, all of it goes. Interface
# seg0 or seg1 of a host is one end of a virtual cable; its other end, a port of the bridge, is HOST0 or HOST1.

# shellcheck source-path=SCRIPTDIR source=queues.sh
. "$ROOT/setup/queues.sh"

# What the names begin with.
NET=hk$$

# What the cables are like: queues at either end, bytes, and whether checksums are made by software, as XDP wants
# them. A network for the bypass has a description: see describe_network.
NET_QUEUES=1
NET_MTU=1500
NET_BARE=no
# Which XDP the hosts use: what an interface takes for a packet's queue is one less in generic mode, but for queue 0.
NET_XDP=driver

# The hosts in the order of their numbers: HOST is 10.77.0.N and 10.77.1.N.
HOSTS=()

# Whether namespaces can be made. The name that is tried is not one of a network.
can_have_namespaces() {
    [ "$(id -u)" -eq 0 ] && ip netns add "hk-try-$$" 2>/dev/null && ip netns del "hk-try-$$"
}

# describe_network FILE: a network for the bypass, with queues and steering as the description has them for seg0 and
# seg1. Both have to be the same: a worker has a queue on either.
describe_network() {
    read_description "$1"
    local segment
    for segment in seg0 seg1; do
        [ -n "${QUEUES[$segment]:-}" ] || die "$1 does not describe $segment"
    done
    [ "${QUEUES[seg0]} ${CHANNELS[seg0]}" = "${QUEUES[seg1]} ${CHANNELS[seg1]}" ] ||
        die "$1: seg0 and seg1 are to have the same channels and queues"
    NET_QUEUES=${CHANNELS[seg0]}
    NET_MTU=${MTU[seg0]:-$NET_MTU}
    NET_BARE=yes
}

# make_segments: the bridges, in a namespace of their own.
make_segments() {
    local segment
    ip netns add "$NET-net"
    spare_wire_the_firewall
    for segment in 0 1; do
        ip -n "$NET-net" link add "br$segment" type bridge mcast_snooping 0
        ip -n "$NET-net" link set "br$segment" mtu "$NET_MTU" up
    done
}

# spare_wire_the_firewall: kernels with a firewall for bridges (br_netfilter) show it each packet, which takes longer than all
# else that the bridge does. A cable has none.
spare_wire_the_firewall() {
    local family
    for family in ip ip6 arp; do
        on net bash -c "echo 0 >/proc/sys/net/bridge/bridge-nf-call-${family}tables" 2>/dev/null || true
    done
}

# make_host HOST NUMBER: the host, and its cables.
make_host() {
    local host=$1 number=$2 segment spare=0
    # For generic XDP, see steer_to.
    [ "$NET_BARE" = no ] || spare=1
    ip netns add "$NET-$host"
    ip -n "$NET-$host" link set lo up
    for segment in 0 1; do
        ip -n "$NET-net" link add "$host$segment" mtu "$NET_MTU" \
            numtxqueues "$((NET_QUEUES + spare))" numrxqueues "$NET_QUEUES" type veth \
            peer name "seg$segment" netns "$NET-$host" mtu "$NET_MTU" \
            numtxqueues "$NET_QUEUES" numrxqueues "$NET_QUEUES"
        if [ "$NET_BARE" = yes ]; then bare_cable "$host" "$segment"; fi
        ip -n "$NET-net" link set "$host$segment" master "br$segment" up
        ip -n "$NET-$host" address add "10.77.$segment.$number/24" dev "seg$segment"
        ip -n "$NET-$host" link set "seg$segment" up
    done
}

# bare_cable HOST SEGMENT: what goes into it has its checksums and is cut into packets, as on a real one: whoever gets it
# by XDP gets just what was sent.
bare_cable() {
    ip netns exec "$NET-$1" ethtool -K "seg$2" tx off gro off >/dev/null
    ip netns exec "$NET-net" ethtool -K "$1$2" tx off gro off >/dev/null
}

# remove_host HOST: the namespace with all that is in it. Processes that still run there keep their links no longer.
remove_host() {
    [ -e "/run/netns/$NET-$1" ] || return 0
    # The cables first: a namespace stays as long as anything runs in it, but nothing goes in and out any more.
    for segment in 0 1; do ip -n "$NET-net" link del "$1$segment" 2>/dev/null || true; done
    ip netns del "$NET-$1"
}

remove_segments() { [ ! -e "/run/netns/$NET-net" ] || ip netns del "$NET-net"; }

# number_of HOST: its number.
number_of() {
    local index
    for index in "${!HOSTS[@]}"; do
        [ "${HOSTS[index]}" != "$1" ] || say $((index + 1))
    done
}

# on HOST COMMAND…: runs it there.
on() {
    local host=$1
    shift
    ip netns exec "$NET-$host" "$@"
}

# shellcheck source-path=SCRIPTDIR source=wire.sh
. "$ROOT/setup/wire.sh"
