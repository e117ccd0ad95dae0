# shellcheck shell=bash
# What the bridges of setup/network.sh do to packets: hand them to queues, lose some, and worse. To be sourced by that
# script alone.

# What the cables do to packets, in per cent of those that go to a host: lose them, let them be overtaken, double them,
# change an octet.
declare -A WIRE=([loss]=0 [reorder]=0 [duplicate]=0 [corrupt]=0)

# steer_to HOST: has the bridges hand HOST's packets to the queues of the description, and do to them what WIRE says.
# What happens on the way back happens at the other host's port.
steer_to() {
    local segment port shift=0
    # The port has a queue more than the host for it; in driver mode there must not be more than the host has.
    [ "$NET_XDP" = driver ] || shift=1
    for segment in 0 1; do
        port=$1$segment
        if [ "${WIRE[reorder]}" != 0 ]; then make_detour "$port"; fi
        on net ethtool -L "$port" tx $((NET_QUEUES + shift)) >/dev/null
        # shellcheck disable=SC2086 # words
        steering_program "$port" "$shift" ${QUEUES[seg0]} | load_at "$port" egress
    done
}
# Where a program is kept while it is loaded.
NET_PROGRAM=

# load_at DEVICE egress|ingress: the program from standard input; what was there before is replaced without a gap.
load_at() {
    assemble "$NET_PROGRAM"
    # An error if there is one already.
    on net tc qdisc add dev "$1" clsact 2>/dev/null || true
    on net tc filter replace dev "$1" "$2" protocol all prio 1 handle 1 \
        bpf direct-action object-file "$NET_PROGRAM" section tc
}

# make_detour PORT: a slow cable by which a packet goes around, so that those behind it overtake it. It takes as long as
# the packet's length at this rate: 150 µs for 1,500 octets.
make_detour() {
    on net ip link show "$1d" >/dev/null 2>&1 || {
        ip -n "$NET-net" link add "$1d" mtu "$NET_MTU" type veth peer name "$1e" mtu "$NET_MTU"
        on net tc qdisc add dev "$1d" root tbf rate 80mbit burst $((NET_MTU + ETHERNET)) limit 1000000
        ip -n "$NET-net" link set "$1d" addrgenmode none up
        ip -n "$NET-net" link set "$1e" addrgenmode none up
        back_from_detour "$1" | load_at "$1e" ingress
    }
}

# index_of DEVICE: the kernel's number of it.
index_of() { on net cat "/sys/class/net/$1/ifindex"; }

# assemble FILE: the program from standard input. The assembler comes with the compiler of the AF_XDP build.
assemble() {
    if command -v llvm-mc >/dev/null; then
        llvm-mc -triple bpf -filetype obj -o "$1"
    else
        clang --target=bpf -c -x assembler -o "$1" -
    fi
}

has_assembler() { command -v llvm-mc >/dev/null || command -v clang >/dev/null; }

# steering_program PORT SHIFT QUEUE:CORE:BLOCK,…  …: what stands in for a card's rules, in the kernel's instructions: it
# looks at TCP's destination port and names the queue, counted from 1, in the packet's queue_mapping, by which the
# cable chooses; SHIFT is added to it. Before that it does what WIRE says, to packets that it has not seen before: those that
# were doubled or went around have a mark.
steering_program() {
    local port=$1 shift=$2 word queue block
    shift 2
    begin_program
    cat <<END
    r6 = r1
    r1 = *(u32 *)(r6 + $SKB_MARK)
    if r1 == $SEEN goto steering
END
    drop_some
    double_some "$port"
    change_some
    send_some_around "$port"
    cat <<END
steering:
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
    *(u32 *)(r6 + $SKB_QUEUE_MAPPING) = r7
    r0 = $ACT_OK
    exit
END
    end_program
}

# Of linux/bpf.h: offsets in struct __sk_buff; functions of the kernel. Of linux/pkt_cls.h: what becomes of a packet.
SKB_LENGTH=0
SKB_MARK=8
SKB_QUEUE_MAPPING=12
STORE_BYTES=9
CLONE_REDIRECT=13
RANDOM_NUMBER=7
REDIRECT=23
LOAD_BYTES=26
CHANGE_TAIL=38
ACT_OK=0
ACT_SHOT=2
# Our marks. No other host sees them.
SEEN=26984
DECOY=26985
# Octets of its header.
ETHERNET=14

begin_program() {
    cat <<END
    .section tc, "ax", @progbits
    .globl steer
    .type steer, @function
steer:
END
}

end_program() {
    cat <<END
    .size steer, .-steer
    .section license, "aw", @progbits
    .asciz "Dual MIT/GPL"
END
}

# unless KIND LABEL: goes to LABEL but for so many per cent of packets: those whose 31 random bits are below a
# threshold.
unless() {
    cat <<END
    call $RANDOM_NUMBER
    r0 <<= 32
    r0 >>= 33
    if r0 >= $(awk -v share="${WIRE[$1]}" 'BEGIN { printf "%d", share / 100 * 2147483647 }') goto $2
END
}

drop_some() {
    [ "${WIRE[loss]}" != 0 ] || return 0
    unless loss kept
    cat <<END
    r0 = $ACT_SHOT
    exit
kept:
END
}

double_some() {
    [ "${WIRE[duplicate]}" != 0 ] || return 0
    unless duplicate single
    cat <<END
    r1 = $SEEN
    *(u32 *)(r6 + $SKB_MARK) = r1
    r1 = r6
    r2 = $(index_of "$1")
    r3 = 0
    call $CLONE_REDIRECT
    r1 = 0
    *(u32 *)(r6 + $SKB_MARK) = r1
single:
END
}

# Any octet behind the Ethernet header.
change_some() {
    [ "${WIRE[corrupt]}" != 0 ] || return 0
    unless corrupt sound
    cat <<END
    r7 = *(u32 *)(r6 + $SKB_LENGTH)
    if r7 <= 14 goto sound
    r7 -= 14
    call $RANDOM_NUMBER
    r0 <<= 32
    r0 >>= 32
    r0 *= r7                    # a fraction of it: assemblers that know no remainder are still about
    r0 >>= 32
    r0 += 14
    r8 = r0
    r1 = r6
    r2 = r8
    r3 = r10
    r3 += -8
    r4 = 1
    call $LOAD_BYTES
    if r0 != 0 goto sound
    r1 = *(u8 *)(r10 - 8)
    r1 ^= 0x5a
    *(u8 *)(r10 - 8) = r1
    r1 = r6
    r2 = r8
    r3 = r10
    r3 += -8
    r4 = 1
    r5 = 0
    call $STORE_BYTES
sound:
END
}

# The slow cable lets one packet of full size pass at once: a decoy goes first, which is dropped behind it.
send_some_around() {
    [ "${WIRE[reorder]}" != 0 ] || return 0
    unless reorder straight
    cat <<END
    r7 = *(u32 *)(r6 + $SKB_LENGTH)
    r1 = $DECOY
    *(u32 *)(r6 + $SKB_MARK) = r1
    r1 = r6
    r2 = $((NET_MTU + ETHERNET))
    r3 = 0
    call $CHANGE_TAIL
    if r0 != 0 goto no_decoy
    r1 = r6
    r2 = $(index_of "$1d")
    r3 = 0
    call $CLONE_REDIRECT
    r1 = r6
    r2 = r7
    r3 = 0
    call $CHANGE_TAIL
no_decoy:
    r1 = $SEEN
    *(u32 *)(r6 + $SKB_MARK) = r1
    r1 = $(index_of "$1d")
    r2 = 0
    call $REDIRECT
    exit
straight:
END
}

# back_from_detour PORT: to the port again, with the mark.
back_from_detour() {
    begin_program
    cat <<END
    r2 = *(u32 *)(r1 + $SKB_MARK)
    if r2 == $DECOY goto decoy
    r1 = $(index_of "$1")
    r2 = 0
    call $REDIRECT
    exit
decoy:
    r0 = $ACT_SHOT
    exit
END
    end_program
}
