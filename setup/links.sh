#!/usr/bin/env bash
# The ways of a link side by side: what one gateway worker's end and one KVS worker's do over each.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=network.sh
. "$ROOT/setup/network.sh"
# shellcheck source-path=SCRIPTDIR source=lab-system.sh
. "$ROOT/setup/lab-system.sh"
# shellcheck disable=SC2034 # of lab-system.sh
LAB_HOSTS=(gw kvs1)

usage() {
    cat <<'END'
Usage: setup/links.sh [--seconds N] [--ways "WAY…"] [--sizes "SIZE…"] [--depths "N…"] [--mtus "BYTES…"] [--json FILE]

Two hosts in network namespaces, a segment between them: a client stores and deletes messages on one KVS worker over one
connection, the client pinned to core 0 and the worker to core 1, over each way in turn. Prints for each
size, depth and MTU: messages a second (each stored and deleted, both acknowledged), how long a store took, CPU time
of either process and system calls of either for each message. Run it on a quiet machine. Needs root.

  kernel         the kernel's TCP; both ends sleep when there is nothing to do
  kernel-spin    the same; neither end ever sleeps
  generic        AF_XDP, copied by the kernel ("SKB mode"); neither end ever sleeps
  copy           AF_XDP, copied by the driver; neither end ever sleeps
  copy-sleep     the same; both ends sleep when there is nothing to do

  --seconds N      length of each run (2); one of a second more counts system calls
  --ways "WAY…"    (all of them)
  --sizes "SIZE…"  bytes of a message; k is 1024 ("400 1k 10k")
  --depths "N…"    requests in flight ("1 32 1024")
  --mtus "BYTES…"  3498 is the largest for native XDP on virtual interfaces ("1500 3498")
  --json FILE      all figures, as JSON
  --help           this text
END
}

SECONDS_EACH=2
WAYS="kernel kernel-spin generic copy copy-sleep"
SIZES="400 1k 10k"
DEPTHS="1 32 1024"
MTUS="1500 3498"
JSON=

KVS=10.77.0.2
LOCAL=10.77.0.1
SECRET=only-for-this-measurement-1
# Of the network's description: the NIC queue of the KVS's port and of the client's.
NIC_QUEUE=1

main() {
    read_options "--seconds SECONDS_EACH number" "--ways WAYS file" "--sizes SIZES file" "--depths DEPTHS file" \
        "--mtus MTUS file" "--json JSON file" -- "$@"
    can_have_namespaces || die "hosts in network namespaces need root"
    perf stat -e "$CALL" true 2>/dev/null || die "perf cannot count system calls: is linux-perf there?"
    build_release
    begin
    local mtu way
    printf '%-12s %5s %5s %5s %9s %8s %8s %8s %15s %15s\n' way mtu size depth msg/s p50/us p99/us p99.9/us \
        "cpu us cl/srv" "calls cl/srv"
    for mtu in $MTUS; do
        for way in $WAYS; do
            measure_way "$way" "$mtu"
        done
    done
    [ -z "$JSON" ] || jq -s . "$SCRATCH"/figures-*.json >"$JSON"
}

# measure_way WAY MTU: all sizes and depths, on hosts of their own.
measure_way() {
    local way=$1 mtu=$2 size depth xdp=driver
    [ "$way" != generic ] || xdp=generic
    # shellcheck disable=SC2034 # of lab-system.sh
    LAB_OPTIONS=(--mtu "$mtu" --xdp "$xdp")
    begin_lab
    write_configuration "$way" "$mtu"
    start_server
    for size in $SIZES; do
        for depth in $DEPTHS; do
            measure_link "$way" "$mtu" "$size" "$depth"
        done
    done
    end_lab
}

# write_configuration WAY MTU: of the KVS; and how the client connects, in CLIENT.
write_configuration() {
    local way=$1 mtu=$2 spin="0 us" frame=2 mode
    CLIENT=(--to "$KVS:7001" --secret "$SECRET" --core 0)
    case $way in
    kernel | *-sleep) ;;
    *)
        spin="1 h"
        CLIENT+=(--spin)
        ;;
    esac
    [ "$mtu" -le 1500 ] || frame=4
    cat >"$SCRATCH/kvs.toml" <<END
name = "a"
listen = ["$KVS:7001"]
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
    generic | copy | copy-sleep) mode=${way%-sleep} ;;
    *) die "no such way: $way" ;;
    esac
    CLIENT+=(--afxdp seg0 --local "$LOCAL" --nic-queue "$NIC_QUEUE" --mode "$mode" --frame-size "${frame}k")
    cat >>"$SCRATCH/kvs.toml" <<END
[links]
transport = "afxdp"
mode = "$mode"
frame_size = "$frame KiB"
[[interface]]
name = "seg0"
address = "$KVS"
nic_queues = "$NIC_QUEUE"
peers = ["$LOCAL"]
END
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

# measure_link WAY MTU SIZE DEPTH
measure_link() {
    local way=$1 mtu=$2 size=$3 depth=$4 calls_client calls_server
    load "$SECONDS_EACH" "$SCRATCH/run.json"
    count_calls
    jq --arg way "$way" --argjson mtu "$mtu" --arg size "$size" --argjson depth "$depth" \
        --argjson calls_client "$calls_client" --argjson calls_server "$calls_server" \
        '{$way, $mtu, $size, $depth, $calls_client, $calls_server, rate: .kvs.rate, store: .kvs.store, cpu: .cpu,
          bypass: .bypass}' "$SCRATCH/run.json" >"$SCRATCH/figures-$mtu-$way-$size-$depth.json"
    jq -r '[.way, .mtu, .size, .depth, .rate, .store.p50_us, .store.p99_us, .store.p999_us,
            .cpu.loadgen_us_per_message, .cpu.kvs_us_per_message, .calls_client, .calls_server] | @tsv' \
        "$SCRATCH/figures-$mtu-$way-$size-$depth.json" |
        awk -F'\t' '{ printf "%-12s %5s %5s %5s %9d %8.1f %8.1f %8.1f %7.2f/%7.2f %7.3f/%7.3f\n",
                      $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 }'
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
