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
    for segment in 0 1; do
        ip -n "$NET-net" link add "br$segment" type bridge mcast_snooping 0
        ip -n "$NET-net" link set "br$segment" mtu "$NET_MTU" up
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

# steer_to HOST LOSS: has the bridges hand HOST's packets to the queues of the description, and lose LOSS per cent of
# them. What is lost on the way back is lost at the other host's port.
steer_to() {
    local segment program=$NET_PROGRAM shift=0
    # The port has a queue more than the host for it; in driver mode there must not be more than the host has.
    [ "$NET_XDP" = driver ] || shift=1
    # shellcheck disable=SC2086 # words
    steering_program "$2" "$shift" ${QUEUES[seg0]} | assemble "$program"
    for segment in 0 1; do
        on net ethtool -L "$1$segment" tx $((NET_QUEUES + shift)) >/dev/null
        # No error if there is one; what was loaded before is replaced without a gap.
        on net tc qdisc add dev "$1$segment" clsact 2>/dev/null || true
        on net tc filter replace dev "$1$segment" egress protocol all prio 1 handle 1 \
            bpf direct-action object-file "$program" section tc
    done
}
# Where the program is kept while it is loaded.
NET_PROGRAM=

# assemble FILE: the program from standard input. The assembler comes with the compiler of the AF_XDP build.
assemble() {
    if command -v llvm-mc >/dev/null; then
        llvm-mc -triple bpf -filetype obj -o "$1"
    else
        clang --target=bpf -c -x assembler -o "$1" -
    fi
}

has_assembler() { command -v llvm-mc >/dev/null || command -v clang >/dev/null; }

# steering_program LOSS SHIFT QUEUE:CORE:BLOCK,…  …: what stands in for a card's rules, in the kernel's instructions: it
# looks at TCP's destination port and names the queue, counted from 1, in the packet's queue_mapping, by which the
# cable chooses; SHIFT is added to it. It fits LOSS (per cent) in as well: numbers below a threshold, of 31 random bits, are dropped.
steering_program() {
    local loss=$1 shift=$2 word queue block threshold
    shift 2
    threshold=$(awk -v loss="$loss" 'BEGIN { printf "%d", loss / 100 * 2147483647 }')
    cat <<END
    .section tc, "ax", @progbits
    .globl steer
    .type steer, @function
steer:
    r6 = r1
    call 7                      # bpf_get_prandom_u32
    r0 <<= 32
    r0 >>= 33
    if r0 < $threshold goto lost
    r7 = 1                      # the kernel's queue, for all that follows
    r0 = *(u16 *)skb[12]        # Ethernet: the type
    if r0 != 0x0800 goto out
    r0 = *(u8 *)skb[23]         # IPv4: the protocol
    if r0 != 6 goto out
    r0 = *(u16 *)skb[20]        # IPv4: only the first fragment has ports
    r0 &= 0x1fff
    if r0 != 0 goto out
    r0 = *(u8 *)skb[14]         # IPv4: the header's length in words
    r0 &= 15
    r0 <<= 2
    r8 = r0
    r8 += 16
    r0 = *(u16 *)skb[r8]        # TCP: the destination port
END
    for word; do
        queue=${word%%:*}
        say "    r7 = $((queue + 1 + shift))"
        for block in $(tr , ' ' <<<"${word##*:}"); do
            printf '    r1 = r0\n    r1 &= %d\n' $((65536 - ${block#*/}))
            say "    if r1 == ${block%%/*} goto out"
        done
    done
    cat <<END
    r7 = 1
out:
    *(u32 *)(r6 + 12) = r7      # queue_mapping
    r0 = 0                      # go on
    exit
lost:
    r0 = 2                      # drop
    exit
    .size steer, .-steer
    .section license, "aw", @progbits
    .asciz "Dual MIT/GPL"
END
}
