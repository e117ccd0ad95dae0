#!/usr/bin/env bash
# A gateway and two KVS as three hosts (network namespaces) on two network segments (bridges). Under
# load one segment is cut, as a whole or in one direction only, and mended, one segment after the
# other. No KVS is ever isolated, and no mail is lost or altered; says how long mail stood still. With `--transport afxdp` the links go
# past the kernel. Needs root.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=../hosts.sh
. "$ROOT/setup/hosts.sh"

# Mails a second, and how long they come.
RATE=500
SECONDS_OF_LOAD=20

usage() { say "Usage: setup/scenarios/paths.sh [--transport kernel|afxdp]"; }

main() {
    read_options "--transport TRANSPORT kernel,afxdp" -- "$@"
    require_namespaces
    build_release
    begin
    begin_network gw a b
    prepare_hosts a b
    # Ports of two workers, so that paths have lanes.
    add_key kvs-a workers 2
    add_key kvs-b workers 2
    # With one copy lost a gateway that may go on with the other would isolate it after a second.
    set_key gateway min_sync 1
    set_queues 4
    start_hosts
    start_load_on_host
    sleep 2
    cut_in_turn
    await_load || die "not all mail was accepted"
    end_load
    report
}

start_hosts() {
    start_kvs_on a
    start_kvs_on b
    start_sink_on_gw
    start_gateway_on_gw
    # Both paths to both KVS, from each worker.
    await 10 ready_paths 4 || die "not all paths are ready after 10 s"
}

ready_paths() { has_logged 'path ready' "$1"; }

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
    began=$(now_us)
    "cut_$kind" "$segment" a b
    await 5 switched_over $((switched + 2)) || die "no switch-over although segment $segment is cut ($kind)"
    took=$((($(now_us) - began) / 1000))
    sleep 0.5
    "mend_$kind" "$segment" a b
    await 10 ready_paths $((ready + 2)) || die "the paths of segment $segment do not come back"
    # A path that was lost takes over again when it has been there for so long.
    sleep 1.2
    CUTS+=("$segment $kind $took $began $(now_us)")
}
# Of each cut: segment, kind, milliseconds to the switch-over, beginning and end in microseconds since
# 1970.
CUTS=()

switched_over() { has_logged 'takes over' "$1"; }

end_load() {
    local sent
    sent=$(grep -c '^A ' "$SCRATCH/client.ledger" || true)
    await 60 sink_has "$sent" || warn "the sink does not have all of $sent mails after 60 s"
    stop gateway
    judge --order 200
}

report() {
    local cut segment kind took began ended longest
    if logged 'copies are isolated'; then
        die "a KVS was isolated although a path reached it"
    fi
    say "longest time without an acknowledged mail, at $RATE mails a second:"
    for cut in "${CUTS[@]}"; do
        read -r segment kind took began ended <<<"$cut"
        longest=$(longest_pause "$began" "$ended")
        say "  segment $segment cut ($kind): $longest ms; switch-over after $took ms"
    done
    grep -o 'links=\[.*' "$SCRATCH/gateway.log" | tail -n 1
}

main "$@"
