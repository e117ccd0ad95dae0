#!/usr/bin/env bash
# The ways of a link side by side: what one gateway worker's end and one KVS worker's do over each.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=network.sh
. "$ROOT/setup/network.sh"
# shellcheck source-path=SCRIPTDIR source=lab-system.sh
. "$ROOT/setup/lab-system.sh"
# shellcheck source-path=SCRIPTDIR source=cable.sh
. "$ROOT/setup/cable.sh"
# shellcheck disable=SC2034 # of lab-system.sh
LAB_HOSTS=(gw kvs1)

usage() {
    cat <<'END'
Usage: setup/links.sh [--seconds N] [--ways "WAY…"] [--sizes "SIZE…"] [--depths "N…"] [--mtus "BYTES…"] [--segments N]
                      [--wires "WIRE…"] [--with "WHAT…"] [--json FILE]

Two hosts in network namespaces, joined by a cable: a client stores and deletes messages on one KVS worker over one
connection, the client pinned to core 0 and the worker to core 1, over each way in turn. Prints for each MTU, way, wire,
size and depth: messages a second (each stored and deleted, both acknowledged) and Gbit/s of their content, how long a store
took, CPU time of either process and system calls of either for each message. Run it on a quiet machine. Needs root.

  kernel         the kernel's TCP; both ends sleep when there is nothing to do
  kernel-spin    the same; neither end ever sleeps
  generic        AF_XDP, copied by the kernel ("SKB mode"); neither end ever sleeps
  copy           AF_XDP, copied by the driver; neither end ever sleeps
  generic-sleep  AF_XDP, copied by the kernel; both ends sleep when there is nothing to do
  copy-sleep     the same, copied by the driver

  --seconds N      length of each run (2); one of a second more counts system calls
  --ways "WAY…"    (all of them)
  --sizes "SIZE…"  bytes of a message; k is 1024 ("400 1k 10k")
  --depths "N…"    requests in flight on each connection ("1 32 1024")
  --mtus "BYTES…"  3498 is the largest for native XDP on virtual interfaces ("1500 3498")
  --segments N     1, or 2: a connection on each of two cables, of the same client to the same worker (1)
  --wires "WIRE…"  cable, or bridge: the lab's, which costs more than both ends together. Or what the lab's bridge does to so many per
                   cent of the packets in each direction: loss=0.1 reorder=1 duplicate=1 corrupt=1 (cable)
  --with "WHAT…"   each of these in turn, at both ends unless it says otherwise: nothing, spin=MICROS and then sleep,
                   busy-poll=MICROS, frames=N, unverified (checksums of what comes), budget=N (packets that one
                   call sends; the client's), batch=N (descriptors taken from a ring at a time; the client's) (nothing)
  --json FILE      all figures, as JSON
  --help           this text
END
}

SECONDS_EACH=2
WAYS="kernel kernel-spin generic copy generic-sleep copy-sleep"
SIZES="400 1k 10k"
DEPTHS="1 32 1024"
MTUS="1500 3498"
SEGMENTS=1
WIRES=cable
WITH=nothing
JSON=

SECRET=only-for-this-measurement-1
# The KVS's addresses, and the client's.
KVS=(10.77.0.2 10.77.1.2)
LOCAL=(10.77.0.1 10.77.1.1)

main() {
    read_options "--seconds SECONDS_EACH number" "--ways WAYS file" "--sizes SIZES file" "--depths DEPTHS file" \
        "--mtus MTUS file" "--segments SEGMENTS number" "--wires WIRES file" "--with WITH file" "--json JSON file" -- "$@"
    [ "$SEGMENTS" -le 2 ] || die "--segments is 1 or 2"
    can_have_namespaces || die "hosts in network namespaces need root"
    perf stat -e "$CALL" true 2>/dev/null || die "perf cannot count system calls: is linux-perf there?"
    build_release
    begin
    local mtu wire way what
    printf '%-13s %5s %-14s %-14s %5s %5s %9s %7s %8s %8s %8s %9s %15s %15s\n' way mtu wire with size depth msg/s Gbit/s \
        p50/us p99/us p99.9/us max/us "cpu us cl/srv" "calls cl/srv"
    for mtu in $MTUS; do
        for wire in $WIRES; do
            for way in $WAYS; do
                for what in $WITH; do measure_way "$way" "$mtu" "$wire" "$what"; done
            done
        done
    done
    [ -z "$JSON" ] || jq -s . "$SCRATCH"/figures-*.json >"$JSON"
}

# measure_way WAY MTU WIRE WITH: all sizes and depths, on hosts of their own.
measure_way() {
    local way=$1 mtu=$2 wire=$3 what=$4 size
    begin_wire
    write_configuration
    start_server
    for size in $SIZES; do
        for depth in $DEPTHS; do
            measure_link "$size" "$depth"
        done
    done
    if [ "$wire" = cable ]; then end_cables; else end_lab; fi
}

# begin_wire: the hosts with that wire; where they have the NIC queue for the link is in NIC_QUEUE.
begin_wire() {
    local xdp=driver
    NIC_QUEUE=1
    # shellcheck disable=SC2034 # of lab-system.sh
    case $way in generic*) xdp=generic ;; esac
    # shellcheck disable=SC2034 # of lab-system.sh
    LAB_OPTIONS=(--mtu "$mtu" --xdp "$xdp")
    case $wire in
    cable)
        NIC_QUEUE=0
        begin_cables "$mtu"
        ;;
    bridge) begin_lab ;;
    loss=* | reorder=* | duplicate=* | corrupt=*)
        LAB_OPTIONS+=("--${wire%%=*}" "${wire#*=}")
        begin_lab
        ;;
    *) die "no such wire: $wire" ;;
    esac
}

# write_configuration: of the KVS; and how the client connects, in CLIENT.
write_configuration() {
    local spin="0 us" frame=2 segment listen=
    CLIENT=(--secret "$SECRET" --core 0)
    LINKS=()
    for ((segment = 0; segment < SEGMENTS; segment++)); do
        CLIENT+=(--to "${KVS[segment]}:7001")
        listen+="${listen:+, }\"${KVS[segment]}:7001\""
    done
    case $way:$what in
    kernel:* | *-sleep:* | *:spin=*) ;;
    *)
        spin="1 h"
        CLIENT+=(--spin)
        ;;
    esac
    [ "$mtu" -le 1500 ] || frame=4
    apply_what
    cat >"$SCRATCH/kvs.toml" <<END
name = "a"
listen = [$listen]
cores = "1"
spin = "$spin"
memory = "512 MiB"
[[account]]
name = "loadgen"
secret = "$SECRET"
queues = ""
END
    case $way in
    kernel*) return ;;
    generic | copy | generic-sleep | copy-sleep) ;;
    *) die "no such way: $way" ;;
    esac
    CLIENT+=(--nic-queue "$NIC_QUEUE" --mode "${way%-sleep}" --frame-size "${frame}k")
    say_lines '[links]' 'transport = "afxdp"' "mode = \"${way%-sleep}\"" "frame_size = \"$frame KiB\"" "${LINKS[@]}"
    for ((segment = 0; segment < SEGMENTS; segment++)); do
        CLIENT+=(--afxdp "seg$segment" --local "${LOCAL[segment]}")
        say_lines '[[interface]]' "name = \"seg$segment\"" "address = \"${KVS[segment]}\"" \
            "nic_queues = \"$NIC_QUEUE\"" "peers = [\"${LOCAL[segment]}\"]"
    done
}

say_lines() { printf '%s\n' "$@" >>"$SCRATCH/kvs.toml"; }

# apply_what: what is to be otherwise, of `spin`, CLIENT and LINKS, the KVS's settings.
apply_what() {
    local value=${what#*=}
    case $what in
    nothing) return ;;
    spin=*)
        spin="$value us"
        CLIENT+=(--spin-us "$value")
        return
        ;;
    esac
    # The rest is of AF_XDP alone.
    [[ $way != kernel* ]] || return 0
    case $what in
    busy-poll=*)
        LINKS=("busy_poll = \"$value us\"")
        CLIENT+=(--busy-poll "$value")
        ;;
    frames=*)
        LINKS=("frames = $value")
        CLIENT+=(--frames "$value")
        ;;
    unverified)
        LINKS=("verify_checksums = false")
        CLIENT+=(--trust-checksums)
        ;;
    budget=*) CLIENT+=(--send-budget "$value") ;;
    batch=*) CLIENT+=(--descriptors "$value") ;;
    *) die "no such thing to measure with: $what" ;;
    esac
}

start_server() {
    : >"$SCRATCH/kvs.log"
    # Not by `on`, so that the process is the program's.
    ip netns exec "$NET-kvs1" "$BIN/kvs" --config "$SCRATCH/kvs.toml" >>"$SCRATCH/kvs.log" 2>&1 &
    SERVER=$!
    STARTED+=("$SERVER")
    await 30 grep -q serving "$SCRATCH/kvs.log" || die "the KVS does not serve after 30 s"
}

# load SECONDS REPORT COMMAND…: one run; the words before the client's, such as those of strace, are the last.
load() {
    local seconds=$1 report=$2
    shift 2
    on gw "$@" "$BIN/loadgen" kvs "${CLIENT[@]}" --size "$size" --depth "$depth" --duration "$seconds" \
        --cpu-of "kvs=$SERVER" --json "$report" >"$SCRATCH/load.log" 2>&1 || die "a run of $way fails"
}

# measure_link SIZE DEPTH
measure_link() {
    local size=$1 depth=$2 calls_client calls_server figures
    load "$SECONDS_EACH" "$SCRATCH/run.json"
    count_calls
    figures=$SCRATCH/figures-$mtu-$wire-$way-$what-$size-$depth.json
    jq --arg way "$way" --argjson mtu "$mtu" --arg wire "$wire" --arg with "$what" --arg size "$size" \
        --argjson depth "$depth" --argjson segments "$SEGMENTS" \
        --argjson calls_client "$calls_client" --argjson calls_server "$calls_server" \
        '{$way, $mtu, $wire, $with, $segments, $size, $depth, $calls_client, $calls_server, rate: .kvs.rate,
          gbit: (.kvs.rate * .kvs.size_bytes * 8 / 1e9), store: .kvs.store, cpu: .cpu, bypass: .bypass}' \
        "$SCRATCH/run.json" >"$figures"
    jq -r '[.way, .mtu, .wire, .with, .size, .depth, .rate, .gbit, .store.p50_us, .store.p99_us, .store.p999_us,
            .store.max_us, .cpu.loadgen_us_per_message, .cpu.kvs_us_per_message, .calls_client, .calls_server] | @tsv' \
        "$figures" |
        awk -F'\t' '{ printf "%-13s %5s %-14s %-14s %5s %5s %9d %7.2f %8.1f %8.1f %8.1f %9.1f %7.2f/%7.2f %7.3f/%7.3f\n",
                      $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16 }'
}

# count_calls: system calls of both for each message, into calls_client and calls_server of the caller: in a run of its own, as
# being counted costs something. (By strace it would slow them so much that they work in another way.)
count_calls() {
    local counter messages
    perf stat -x, -e "$CALL" -p "$SERVER" -o "$SCRATCH/server.calls" sleep 60 2>/dev/null &
    counter=$!
    load 1 "$SCRATCH/calls.json" perf stat -x, -e "$CALL" -o "$SCRATCH/client.calls" --
    # It counts for as long as the command lives that it has started.
    kill "$(pgrep -P "$counter")"
    wait "$counter" || true
    messages=$(jq .kvs.messages "$SCRATCH/calls.json")
    calls_client=$(calls_of "$SCRATCH/client.calls" "$messages")
    calls_server=$(calls_of "$SCRATCH/server.calls" "$messages")
}

CALL=raw_syscalls:sys_enter

# calls_of FILE MESSAGES
calls_of() { awk -F, -v messages="$2" -v call="$CALL" '$3 == call { printf "%.4f", $1 / messages }' "$1"; }

main "$@"
