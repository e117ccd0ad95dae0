#!/usr/bin/env bash
# The lab: its hosts reach each other, packets come by the queue that the description names, as many are lost as
# were asked for, the kernel does not reset what it does not know, and nothing stays, however `up` ends. Needs root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../network.sh
. "$ROOT/setup/network.sh"

LAB=hkt$$
# What the last command said.
SAID=

main() {
    local tool
    for tool in ip tc ethtool nft ping python3; do
        command -v "$tool" >/dev/null || skip "there is no $tool"
    done
    has_assembler || skip "there is neither llvm-mc nor clang"
    can_have_namespaces || skip "network namespaces need root"
    begin
    trap 'tidy' EXIT
    surroundings >"$SCRATCH/before"
    refuses_what_it_does_not_understand
    refuses_names_that_others_have
    nothing_stays_of_an_interrupted_lab
    nothing_stays_of_a_script_that_fails
    hosts_reach_each_other
    packets_come_by_their_queues
    programs_see_their_queues
    the_kernel_resets_nothing
    as_much_is_lost_as_was_asked_for
    packets_are_doubled_and_altered_and_overtaken
    nothing_stays
}

tidy() {
    local status=$?
    set +e
    ip netns del "$LAB-kvs1" 2>/dev/null
    lab down >/dev/null 2>&1
    finish "$status"
}

lab() {
    local command=$1
    shift
    case $command in
    run) "$ROOT/setup/lab.sh" run --name "$LAB" "$@" ;;
    *) "$ROOT/setup/lab.sh" "$command" "$@" --name "$LAB" ;;
    esac
}

# What a lab might change outside of itself.
surroundings() {
    # Other labs may come and go beside this one.
    ip netns list | grep "^$LAB" || true
    ls -d "/run/hikyaku/lab/$LAB" 2>/dev/null || true
    ip -o link show | sed 's/^[0-9]*: //' | grep -e "$LAB" -e seg -e br || true
    nft list ruleset
    tc qdisc show
    cat /proc/sys/net/ipv4/ip_local_reserved_ports /proc/sys/vm/nr_hugepages
}

nothing_stays() {
    lab down || die "the lab does not come down"
    check_nothing_stays
    lab down >"$SCRATCH/said"
    grep -q 'there is no lab' "$SCRATCH/said" || die "nothing is said of a lab that is not there"
}

check_nothing_stays() {
    surroundings >"$SCRATCH/after"
    diff "$SCRATCH/before" "$SCRATCH/after" || die "something stays of the lab"
}

refuses_what_it_does_not_understand() {
    assert_refused 'no lab' lab status
    assert_refused 'no lab' lab run gw true
    assert_refused 'per cent' lab up --loss 51
    assert_refused 'per cent' lab up --loss much
    assert_refused 'per cent' lab up --corrupt 0.0000001
    assert_refused 'driver, or generic' lab up --xdp best
    assert_refused 'wants bytes' lab up --mtu 90000
    assert_refused 'no name for a host' lab up --hosts 'gw net'
    assert_refused 'two hosts' lab up --hosts 'gw gw'
    assert_refused 'cannot be read' lab up --description "$SCRATCH/none"
    printf 'interface seg0\n channels 2\n queue 1 ports 7001/1\n' >"$SCRATCH/half.conf"
    assert_refused 'does not describe seg1' lab up --description "$SCRATCH/half.conf"
    printf 'interface seg0\n channels 3\n queue 1 ports 7001/3\n queues 2\n' >"$SCRATCH/bad.conf"
    assert_refused 'bad.conf:3: block 7001/3' lab up --description "$SCRATCH/bad.conf"
    assert_refused "bad.conf:4: 'queues' is none of" lab up --description "$SCRATCH/bad.conf"
    check_nothing_stays
}

refuses_names_that_others_have() {
    ip netns add "$LAB-kvs1"
    assert_refused 'not ours' lab up
    [ -e "/run/netns/$LAB-kvs1" ] || die "somebody else's namespace is gone"
    ip netns del "$LAB-kvs1"
    check_nothing_stays
}

nothing_stays_of_an_interrupted_lab() {
    local hosts
    for hosts in 2 5; do
        interrupt TERM "$hosts"
        check_nothing_stays
        interrupt KILL "$hosts"
        assert_refused 'left half-made' lab up
        assert_refused 'half-made' lab run gw true
        lab down || die "what was left half-made does not go"
        check_nothing_stays
    done
}

# Its hosts and its directory go, and it says what its programs said last.
nothing_stays_of_a_script_that_fails() {
    local wire
    for wire in begin_lab "begin_cables 1500"; do
        ! bash -c '
            set -euo pipefail
            . "$1/setup/lib.sh"
            . "$1/setup/network.sh"
            . "$1/setup/lab-system.sh"
            . "$1/setup/cable.sh"
            begin
            echo "$SCRATCH" >"$2"
            echo "a last word" >"$SCRATCH/program.log"
            '"$wire"'
            echo "$NET" >>"$2"
            false' fails "$ROOT" "$SCRATCH/made" >"$SCRATCH/said" 2>&1 || die "$wire: a failure is no failure"
        [ "$(wc -l <"$SCRATCH/made")" -eq 2 ] || die "$wire fails: $(<"$SCRATCH/said")"
        grep -q 'a last word' "$SCRATCH/said" || die "$wire: it does not say why"
        [ ! -e "$(head -n 1 "$SCRATCH/made")" ] || die "$wire: its directory stays"
        ! ip netns list | grep "^$(tail -n 1 "$SCRATCH/made")" || die "$wire: its hosts stay"
    done
}

# interrupt SIGNAL HOSTS: `up`, when it has begun to make so many hosts.
interrupt() {
    start up "$ROOT/setup/lab.sh" up --name "$LAB"
    await 10 has_begun "$2" || die "the lab is not made"
    # With the command that it runs just now, as from a terminal.
    kill -"$1" -- "-$(pid_of up)"
    wait "$(pid_of up)" 2>/dev/null || true
    forget "$(pid_of up)"
    await 10 no_process_left "$(pid_of up)" || die "what 'up' ran goes on after SIG$1"
}

has_begun() { [ "$(sed -n '$=' "/run/hikyaku/lab/$LAB/hosts" 2>/dev/null)" -ge "$1" ] 2>/dev/null; }

no_process_left() { ! kill -0 -- "-$1" 2>/dev/null; }

hosts_reach_each_other() {
    local number segment
    lab up --hosts 'gw kvs1 kvs2' >"$SCRATCH/up" || die "the lab does not come up"
    for number in 2 3; do
        for segment in 0 1; do
            lab run gw ping -q -c 1 -W 2 "10.77.$segment.$number" >"$SCRATCH/ping" ||
                die "gw does not reach host $number on segment $segment"
        done
    done
    assert_refused 'not ours\|is up' lab up
    assert_refused 'no host nobody' lab run nobody true
}

# One packet after another, each with a port of its own; how many came by each queue is counted by the driver.
packets_come_by_their_queues() {
    local port
    # Only then does a virtual interface that runs no XDP count by queues.
    lab run kvs1 ethtool -K seg0 gro on
    lab run kvs1 ethtool -K seg1 gro on
    for port in 7001 61440 61503; do comes_by "$port" 1 || die "a packet for port $port: $SAID"; done
    for port in 7002 61504 61567; do comes_by "$port" 2 || die "a packet for port $port: $SAID"; done
    for port in 25 7000 7003 61439 61568; do comes_by "$port" 0 || die "a packet for port $port: $SAID"; done
    # This looks at what it should.
    ! comes_by 7001 2 || die "the check of queues finds nothing"
    ! comes_by 25 1 || die "the check of queues finds nothing"
}

# comes_by PORT QUEUE: whether a connection to that port of kvs1 is asked for by that queue, on both segments.
comes_by() {
    local segment queue before after
    for segment in 0 1; do
        mapfile -t before < <(by_queue "$segment")
        # Nobody listens there.
        ! lab run gw bash -c "exec 3<>/dev/tcp/10.77.$segment.2/$1" 2>/dev/null || die "somebody listens"
        mapfile -t after < <(by_queue "$segment")
        SAID="before ${before[*]}, after ${after[*]}, by queue"
        # What the kernel sends by itself is in queue 0.
        for queue in 1 2; do
            [ $((after[queue] - before[queue])) -eq $(($2 == queue)) ] || return 1
        done
        [ $((after[0] - before[0])) -ge $(($2 == 0)) ] || return 1
    done
}

by_queue() { lab run kvs1 ethtool -S "seg$1" | sed -n 's/^ *rx_queue_[0-9]*_xdp_packets: //p'; }

# What XDP takes for the queue is what the description says, in the driver and generic: a program drops what comes by
# queue 1.
programs_see_their_queues() {
    local mode flag
    lab run kvs1 ethtool -K seg0 gro off
    assemble "$SCRATCH/drop.o" <<'END'
    .section xdp, "ax", @progbits
    .globl drop_queue
    .type drop_queue, @function
drop_queue:
    r0 = 2                      # XDP_PASS
    r2 = *(u32 *)(r1 + 16)      # rx_queue_index
    if r2 != 1 goto out
    r0 = 1                      # XDP_DROP
out:
    exit
    .size drop_queue, .-drop_queue
END
    for mode in generic driver; do
        flag=xdpgeneric
        [ "$mode" = generic ] || flag=xdpdrv
        lab xdp "$mode"
        lab run kvs1 ip link set seg0 "$flag" object "$SCRATCH/drop.o" section xdp
        is_dropped 7001 || die "$mode: a packet for port 7001 comes by another queue than 1"
        is_dropped 61503 || die "$mode: a packet for port 61503 comes by another queue than 1"
        ! is_dropped 7002 || die "$mode: a packet for port 7002 comes by queue 1"
        ! is_dropped 25 || die "$mode: a packet for port 25 comes by queue 1"
        lab run kvs1 ip link set seg0 "$flag" off
    done
}

# is_dropped PORT: whether a connection to that port is not even refused.
is_dropped() {
    local status=0
    lab run gw timeout 0.5 bash -c "exec 3<>/dev/tcp/10.77.0.2/$1" 2>/dev/null || status=$?
    [ "$status" -eq 124 ]
}

# A segment of a connection that is unknown is not answered on the ports of the links, and is elsewhere; a new
# connection is refused on both.
the_kernel_resets_nothing() {
    local port
    for port in 7001 61440; do
        [ "$(answer_to "$port" ACK)" = nothing ] || die "port $port resets what it does not know"
        [ "$(answer_to "$port" SYN)" = 'RST ACK' ] || die "port $port does not refuse a connection"
    done
    [ "$(answer_to 25 ACK)" = RST ] || die "the check of resets finds nothing"
}

answer_to() { lab run kvs2 python3 "$ROOT/setup/scenarios/segment.py" 10.77.0.3 10.77.0.2 "$1" "$2"; }

as_much_is_lost_as_was_asked_for() {
    loses 0 0 || die "of 1000 pings $SAID were lost without loss"
    lab loss 10
    # There or back: 19 %. Within five standard deviations.
    loses 128 252 || die "of 1000 pings $SAID were lost at 10 % in each direction"
    ! loses 0 100 || die "the check of losses finds nothing"
    lab status >"$SCRATCH/status"
    grep -q ' [1-9][0-9]* lost' "$SCRATCH/status" || die "the status does not tell what was lost"
    lab loss 0
}

packets_are_doubled_and_altered_and_overtaken() {
    local doubled altered
    lab duplicate 10
    lab run gw timeout 20 ping -q -f -c 1000 10.77.1.3 >"$SCRATCH/ping"
    # Each duplicate on the way there is answered: 10 % there, 10 % of 1.1 back.
    doubled=$(sed -n 's/.* +\([0-9]*\) duplicates.*/\1/p' "$SCRATCH/ping")
    [[ ${doubled:-0} -ge 140 && ${doubled:-0} -le 280 ]] || die "of 1000 pings ${doubled:-0} were doubled at 10 % each way"
    lab duplicate 0
    lab corrupt 10
    # What is altered is dropped by who gets it, by its checksum: UDP goes one way.
    numbered
    altered=$((1000 - $(sed -n 's/^received //p' "$SCRATCH/order")))
    [[ $altered -ge 50 && $altered -le 150 ]] || die "of 1000 packets $altered were altered at 10 %"
    lab corrupt 0
    lab reorder 10
    overtaken 20 500 || die "of 1000 packets $SAID were overtaken at 10 %"
    lab reorder 0
    ! overtaken 1 1000 || die "$SAID packets were overtaken although none should be"
    ! lab run gw timeout 20 ping -q -f -c 1000 10.77.1.3 | has duplicates || die "packets are doubled still"
}

# overtaken LEAST MOST: whether of a thousand packets so many come behind a later one.
overtaken() {
    numbered
    SAID=$(sed -n 's/^overtaken //p' "$SCRATCH/order")
    [ "$SAID" -ge "$1" ] && [ "$SAID" -le "$2" ]
}

# A thousand numbered packets, in bursts, to kvs1; what comes of them is in $SCRATCH/order.
numbered() {
    : >"$SCRATCH/order"
    lab run kvs1 timeout 20 python3 "$ROOT/setup/scenarios/order.py" receive 10.77.1.2 5000 >"$SCRATCH/order" &
    await 5 grep -q ready "$SCRATCH/order" || die "nobody receives"
    lab run gw python3 "$ROOT/setup/scenarios/order.py" send 10.77.1.2 5000
    wait "$!"
}

# loses LEAST MOST: whether of a thousand pings so many get no answer.
loses() {
    SAID=$(lab run gw timeout 20 ping -q -f -c 1000 10.77.1.3 | sed -n 's/^1000 packets transmitted, \([0-9]*\) received.*/\1/p')
    SAID=$((1000 - SAID))
    [ "$SAID" -ge "$1" ] && [ "$SAID" -le "$2" ]
}

main "$@"
