#!/usr/bin/env bash
# A gateway and two KVS as hosts whose links bypass the kernel (AF_XDP), under load. A KVS is killed and comes back, a segment is
# cut, a third KVS is added while the gateway runs and takes the place of one that is killed, a KVS goes on by kernel TCP, and the
# gateway is killed: nothing that was answered 250 is lost or altered. Without privileges the gateway falls back to kernel TCP and says why. Needs root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=../hosts.sh
. "$ROOT/setup/hosts.sh"
# shellcheck source-path=SCRIPTDIR source=../wire.sh
. "$ROOT/setup/wire.sh"

RATE=500
MESSAGES=18000
# How packets get to the programs; the bridges steer for that.
MODE=${MODE:-copy}

main() {
    local tool
    for tool in ip tc ethtool nft ss jq; do
        command -v "$tool" >/dev/null || skip "there is no $tool"
    done
    require_namespaces
    has_assembler || skip "there is neither llvm-mc nor clang"
    build_release
    begin
    NET_PROGRAM=$SCRATCH/steering.o
    [ "$MODE" != generic ] || NET_XDP=generic
    describe_network "$ROOT/setup/examples/nic-queues.conf"
    begin_network gw a b c
    steer_all
    prepare_hosts a b
    set_key gateway status_socket "\"$SCRATCH/gateway.sock\""
    # With one copy lost it goes on with the other.
    set_key gateway min_sync 1
    set_queues 4
    go_by gateway afxdp
    go_by kvs-a afxdp
    go_by kvs-b afxdp

    start_kvs_on a
    start_kvs_on b
    start_sink_on_gw
    start_gateway_on_gw
    await 10 has_paths 4 || die "not all paths are ready after 10 s"
    start_load_on_host
    await 30 sink_has 1000 || die "no mail is delivered"
    links_bypass_the_kernel
    a_kvs_is_killed
    a_segment_is_cut
    a_kvs_is_added
    a_kvs_goes_by_the_kernel
    the_gateway_is_killed
    await_load || die "not all mail was accepted"
    await 60 sink_has "$MESSAGES" || warn "the sink does not have all mail after 60 s"
    status_json
    counters >"$SCRATCH/counters"
    stop gateway
    judge "${MARKS[@]}"
    without_privileges
    say "clean over AF_XDP, mode $MODE"
    cat "$SCRATCH/counters"
}
# For the ledger: when the gateway was started again.
MARKS=()

steer_all() {
    local host segment
    for host in gw a b c; do
        steer_to "$host"
        for segment in 0 1; do silence_rules "seg$segment" | on "$host" nft -f -; done
    done
}

# go_by FILE TRANSPORT: the way that links take, in a generated configuration.
go_by() {
    local file=$SCRATCH/$1.toml number segment extra
    sed -i '/^\[\[interface\]\]/,/^$/d; /^\[links\]/,/^$/d' "$file"
    number=$(number_of "${1#kvs-}")
    [ "$1" != gateway ] || number=1
    printf '\n[links]\ntransport = "%s"\nmode = "%s"\n' "$2" "$MODE" >>"$file"
    for segment in 0 1; do
        extra="peers = [\"10.77.$segment.1\"]"
        [ "$1" != gateway ] || extra="ports = 61440"
        printf '\n[[interface]]\nname = "seg%s"\naddress = "10.77.%s.%s"\nnic_queues = "1"\n%s\n' \
            "$segment" "$segment" "$number" "$extra" >>"$file"
    done
}

start_load_on_host() {
    start_on gw load "$BIN/loadgen" smtp --to "$GATEWAY" --rate "$RATE" --messages "$MESSAGES" \
        --sessions 20 --domains 4 --ledger "$SCRATCH/client.ledger"
}

# has_paths N: whether so many paths of the first queue carry requests or stand by.
has_paths() {
    status_json
    [ "$(jq '[.queues[0].copies[] | (.path, .standby_path) | select(. == "run" or . == "ready")] | length' \
        "$SCRATCH/status.json" 2>/dev/null)" = "$1" ]
}

# has_copies N: whether every queue is in service with so many copies that follow.
has_copies() {
    status_json
    jq -e --argjson copies "$1" '(.queues | length) == 4 and all(.queues[];
        ([.copies[] | select(.is_recorded and .state == "sync")] | length) == $copies)' \
        "$SCRATCH/status.json" >/dev/null 2>&1
}

# What the gateway's NIC queues have counted.
counters() {
    jq -r '.counters[].nic_queues[]? | "\(.interface) NIC queue \(.nic_queue): \(.counters | to_entries
        | map(select(.value > 0) | "\(.key) \(.value)") | join(", "))"' "$SCRATCH/status.json"
}

# counted NAME: what all NIC queues of the gateway have counted by that name.
counted() {
    status_json
    jq --arg name "$1" '[.counters[].nic_queues[]? | .counters[$name]] | add // 0' "$SCRATCH/status.json"
}

# received SEGMENT: how many packets came to the gateway past the kernel.
received() {
    status_json
    jq --arg segment "seg$1" '[.counters[].nic_queues[]? | select(.interface == $segment)
        | .counters.received] | add // 0' "$SCRATCH/status.json"
}

links_bypass_the_kernel() {
    local before
    status_json
    [ "$(jq -r '.gateway.links.transport' "$SCRATCH/status.json")" = afxdp ] ||
        die "the status does not say that the links bypass the kernel"
    before=$(($(received 0) + $(received 1)))
    await 10 has_received $((before + 500)) || die "the links' packets do not come past the kernel"
    kernel_has_no_links
    "$BIN/gateway" status --config "$SCRATCH/gateway.toml" | has "links bypass the kernel on seg0" ||
        die "the table does not say that the links bypass the kernel"
}

kernel_has_no_links() {
    local sockets
    sockets=$(on gw ss -Htn state all dport = :7001)
    [ -z "$sockets" ] || die "the kernel has connections of the links: $sockets"
}

has_received() { [ $(($(received 0) + $(received 1))) -ge "$1" ]; }

has_program() { ip -n "$NET-$1" -details link show seg0 | has 'prog/xdp'; }

a_kvs_is_killed() {
    local killed_at said
    require_load
    has_program a || die "there is no XDP program while the KVS runs"
    killed_at=$(date +%s%3N)
    kill_hard kvs-a
    ! has_program a || die "the XDP program has outlived the KVS"
    await 10 logged 'copies are isolated' || die "the killed KVS is not isolated"
    said=$(grep -m 1 'copies are isolated' "$SCRATCH/gateway.log")
    say "a killed KVS is isolated after $(($(date -d "${said%% *}" +%s%3N) - killed_at)) ms"
    # Its kernel has refused a new connection, and is silent of those that there were.
    [ "$(counted knocks)" -gt 0 ] || die "the gateway has not knocked at a KVS that is gone"
    start_kvs_on a
    await 30 has_copies 2 || die "the KVS that was started again has no copies"
}

# A segment by which links carry their requests: who was started again may go by either.
a_segment_is_cut() {
    local switched segment=0 running
    require_load
    await 20 has_paths 4 || die "not all paths are ready"
    running=$(links_running_on 0)
    if [ "$running" -eq 0 ]; then
        segment=1
        running=$(links_running_on 1)
    fi
    switched=$(count_logged 'takes over')
    cut_link "$segment"
    await 10 has_logged 'takes over' $((switched + running)) || die "no switch-over although segment $segment is cut"
    mend_link "$segment"
    await 10 has_paths 4 || die "the paths of segment $segment do not come back"
}

# A server that a reload brings is reached past the kernel as the others are.
a_kvs_is_added() {
    local times
    require_load
    sed "s/^listen = .*/listen = [\"10.77.0.$(number_of c):7001\", \"10.77.1.$(number_of c):7001\"]/" \
        "$ROOT/setup/examples/kvs.toml" >"$SCRATCH/kvs-c.toml"
    go_by kvs-c afxdp
    start_kvs_on c
    add_host_kvs c
    sed -i 's/^kvs = .*/kvs = ["a", "b", "c"]/' "$SCRATCH/gateway.toml"
    times=$(count_logged 'configuration is in force')
    kill -HUP "$(pid_of gateway)"
    await 20 has_logged 'configuration is in force' $((${times:-0} + 1)) || die "the gateway does not take a third KVS"
    kill_hard kvs-b
    await 30 copies_on c || die "the third KVS does not take the place of one that is gone"
    kernel_has_no_links
    start_kvs_on b
}

# copies_on KVS: whether that one has a copy of every queue.
copies_on() {
    status_json
    jq -e --arg kvs "$1" '(.queues | length) == 4 and all(.queues[];
        any(.copies[]; .kvs == $kvs and .is_recorded and .state == "sync"))' "$SCRATCH/status.json" >/dev/null 2>&1
}

a_kvs_goes_by_the_kernel() {
    require_load
    stop kvs-b
    go_by kvs-b kernel
    start_kvs_on b
    await 30 goes_by_the_kernel || die "the KVS does not go by kernel TCP"
    # Nobody else is there to have the second copy.
    kill_hard kvs-c
    await 30 copies_on b || die "a KVS over kernel TCP has no copies"
}

goes_by_the_kernel() { on b ss -Htn state established sport = :7001 | has 10.77; }

the_gateway_is_killed() {
    require_load
    MARKS+=(--restart-at "$(date +%s%3N)")
    kill_hard gateway
    ! has_program gw || die "the XDP program has outlived the gateway"
    start_gateway_on_gw
    await 30 has_copies 2 || die "the gateway has not all copies after it was killed"
}

without_privileges() {
    go_by gateway auto
    # Its files are root's, so it stays that, without root's privileges.
    start_on gw gateway setpriv --bounding-set=-all --inh-caps=-all "$BIN/gateway" --config "$SCRATCH/gateway.toml"
    await 30 has_copies 2 || die "a gateway without privileges has no copies"
    status_json
    jq -e '.gateway.links | .transport == "kernel" and (.why_not | length) > 20' "$SCRATCH/status.json" >/dev/null ||
        die "the status does not say why the links go by the kernel"
    jq -r '"without privileges: \(.gateway.links.why_not)"' "$SCRATCH/status.json"
    stop gateway
    go_by gateway afxdp
    ! on gw setpriv --bounding-set=-all --inh-caps=-all "$BIN/gateway" --config "$SCRATCH/gateway.toml" \
        2>"$SCRATCH/refused.txt" || die "the gateway starts without the bypass that it is to have"
    grep -q 'transport' "$SCRATCH/refused.txt" || die "it does not say why it does not start"
}

main "$@"
