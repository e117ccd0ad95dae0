#!/usr/bin/env bash
# A gateway and two KVS as three hosts (network namespaces) on two network segments (bridges). Under
# load one segment is cut, as a whole or in one direction only, and mended, one segment after the
# other. No KVS is ever isolated, no mail is lost or altered, and none waits long for its 250. Needs
# root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

# Mails a second, and how long they come.
RATE=500
SECONDS_OF_LOAD=20

# The longest time without an acknowledged mail in spite of a cut, in milliseconds.
PAUSE_MAX=1000

# The longest time from a cut until the other segment carries all requests, in milliseconds.
SWITCH_MAX=1000

# Names of what is made: hosts gw, a, b, and bridges 0 and 1 in a host of their own.
NET=hk$$

main() {
    if [ "$(id -u)" -ne 0 ] || ! ip netns add "$NET-try" 2>/dev/null; then
        warn "network namespaces need root"
        exit "$SKIPPED"
    fi
    ip netns del "$NET-try"
    build_release
    begin
    trap 'leave' EXIT
    begin_network
    prepare_hosts
    start_hosts
    start_load_on_host
    sleep 2
    cut_in_turn
    await_load || die "not all mail was accepted"
    end_load
    report
}

# begin_network: three hosts with an interface on each of two bridges.
begin_network() {
    local host segment number
    ip netns add "$NET-net"
    for segment in 0 1; do
        ip -n "$NET-net" link add "br$segment" type bridge
        ip -n "$NET-net" link set "br$segment" up
    done
    number=0
    for host in gw a b; do
        number=$((number + 1))
        ip netns add "$NET-$host"
        ip -n "$NET-$host" link set lo up
        for segment in 0 1; do
            ip -n "$NET-net" link add "$host$segment" type veth peer name "seg$segment" netns "$NET-$host"
            ip -n "$NET-net" link set "$host$segment" master "br$segment" up
            ip -n "$NET-$host" address add "10.77.$segment.$number/24" dev "seg$segment"
            ip -n "$NET-$host" link set "seg$segment" up
        done
    done
}

# Ends the network too, whatever the end is, and with its status.
leave() {
    local status=$? host
    for host in gw a b net; do
        ip netns del "$NET-$host" 2>/dev/null || true
    done
    set +e
    (exit "$status")
    finish
}

on_host() { ip netns exec "$NET-$1" "${@:2}"; }

# prepare_hosts: configurations for addresses on both segments.
prepare_hosts() {
    local examples=$ROOT/setup/examples name number
    number=1
    for name in a b; do
        number=$((number + 1))
        sed "s/^listen = .*/listen = [\"10.77.0.$number:7001\", \"10.77.1.$number:7001\"]/" \
            "$examples/kvs.toml" >"$SCRATCH/kvs-$name.toml"
        # Ports of two workers, so that paths have lanes.
        add_key "kvs-$name" workers 2
    done
    GATEWAY=127.0.0.1:2525
    SINK=127.0.0.1:2600
    sed -e 's/^address = "127\.0\.0\.1:7001"/address = "10.77.0.2:7001"\nstandby_address = "10.77.1.2:7001"/' \
        -e 's/^address = "127\.0\.0\.1:7002"/address = "10.77.0.3:7001"\nstandby_address = "10.77.1.3:7001"/' \
        -e 's/^standby_address = .*/&\nstandby_local = "10.77.1.1"/' \
        -e "s|^listen = .*|listen = [\"$GATEWAY\"]|" \
        -e "s|^register = .*|register = \"$SCRATCH/register\"|" \
        "$examples/gateway.toml" >"$SCRATCH/gateway.toml"
    # With one copy lost a gateway that may go on with the other would isolate it after a second.
    set_key gateway min_sync 1
    set_queues 4
}

# start_on HOST NAME COMMAND…: like start, on a host.
start_on() {
    local host=$1 name=$2
    shift 2
    start "$name" ip netns exec "$NET-$host" "$@"
}

start_hosts() {
    start_on a kvs-a "$BIN/kvs" --config "$SCRATCH/kvs-a.toml"
    start_on b kvs-b "$BIN/kvs" --config "$SCRATCH/kvs-b.toml"
    start_on gw sink "$BIN/loadgen" sink --listen "$SINK" --ledger "$SCRATCH/sink.ledger" \
        --status "$SCRATCH/sink.status"
    start_on gw gateway "$BIN/gateway" --config "$SCRATCH/gateway.toml"
    await 30 logged 'listening' || die "the gateway does not listen after 30 s"
    # Both paths to both KVS, from each worker.
    await 10 ready_paths 4 || die "not all paths are ready after 10 s"
}

logged() { grep -q "$1" "$SCRATCH/gateway.log"; }

count_logged() { grep -c "$1" "$SCRATCH/gateway.log" || true; }

ready_paths() { [ "$(count_logged 'path ready')" -ge "$1" ]; }

start_load_on_host() {
    start_on gw load "$BIN/loadgen" smtp --to "$GATEWAY" --rate "$RATE" \
        --duration "$SECONDS_OF_LOAD" --sessions 50 --domains 4 --ledger "$SCRATCH/client.ledger"
}

# Cuts a segment and mends it, then the other, and so on: by its link, and by dropping what goes to or
# comes from the KVS.
cut_in_turn() {
    local segment kind
    segment=0
    for kind in link there back link; do
        require_load
        cut "$segment" "$kind"
        segment=$((1 - segment))
    done
}

cut() {
    local segment=$1 kind=$2 ready switched began took
    ready=$(count_logged 'path ready')
    switched=$(count_logged 'takes over')
    began=$(date +%s%6N)
    "cut_$kind" "$segment"
    await 5 switched_over $((switched + 2)) || die "no switch-over although segment $segment is cut ($kind)"
    took=$((($(date +%s%6N) - began) / 1000))
    [ "$took" -le "$SWITCH_MAX" ] || die "segment $segment cut ($kind): the switch-over took $took ms"
    sleep 0.5
    "mend_$kind" "$segment"
    await 10 ready_paths $((ready + 2)) || die "the paths of segment $segment do not come back"
    # A path that was lost takes over again when it has been there for so long.
    sleep 1.2
    CUTS+=("$segment $kind $took $began $(date +%s%6N)")
}
# Of each cut: segment, kind, milliseconds to the switch-over, beginning and end in microseconds since
# 1970.
CUTS=()

switched_over() { [ "$(count_logged 'takes over')" -ge "$1" ]; }

cut_link() { ip -n "$NET-net" link set "gw$1" down; }
mend_link() { ip -n "$NET-net" link set "gw$1" up; }

# What goes there is addressed to nobody, so that it is dropped without a word.
cut_there() { divert gw "$1" 2 3; }
mend_there() { undo_divert gw "$1" 2 3; }
cut_back() {
    divert a "$1" 1
    divert b "$1" 1
}
mend_back() {
    undo_divert a "$1" 1
    undo_divert b "$1" 1
}

divert() {
    local host=$1 segment=$2 number
    for number in "${@:3}"; do
        ip -n "$NET-$host" neighbour replace "10.77.$segment.$number" lladdr 02:00:00:00:00:77 \
            dev "seg$segment" nud permanent
    done
}

undo_divert() {
    local host=$1 segment=$2 number
    for number in "${@:3}"; do
        ip -n "$NET-$host" neighbour del "10.77.$segment.$number" dev "seg$segment"
    done
}

end_load() {
    local sent
    sent=$(grep -c '^A ' "$SCRATCH/client.ledger" || true)
    await 60 sink_has "$sent" || warn "the sink does not have all of $sent mails after 60 s"
    stop gateway
    judge --order 200
}

report() {
    local cut segment kind took began ended longest is_over=
    if logged 'copies are isolated'; then
        die "a KVS was isolated although a path reached it"
    fi
    say "longest time without an acknowledged mail, at $RATE mails a second:"
    for cut in "${CUTS[@]}"; do
        read -r segment kind took began ended <<<"$cut"
        longest=$(longest_pause "$began" "$ended")
        say "  segment $segment cut ($kind): $longest ms; switch-over after $took ms"
        [ "$longest" -le "$PAUSE_MAX" ] || is_over=yes
    done
    grep -o 'links=\[.*' "$SCRATCH/gateway.log" | tail -n 1
    [ -z "$is_over" ] || die "mail stood still for more than $PAUSE_MAX ms"
}

# longest_pause FROM TO: the longest time between acknowledgements in the client's ledger, in whole
# milliseconds; from and to are in microseconds since 1970.
longest_pause() {
    awk -v from="$1" -v to="$2" '$1 == "A" && $4 >= from && $4 <= to { print $4 }' \
        "$SCRATCH/client.ledger" | sort -n | awk -v last="$1" -v to="$2" '
            { if ($1 - last > most) most = $1 - last; last = $1 }
            END { if (to - last > most) most = to - last; printf "%d\n", most / 1000 }'
}

main "$@"
