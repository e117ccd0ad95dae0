#!/usr/bin/env bash
# How long a mail waits for its 250 at fixed shares of the highest rate.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=system.sh
. "$ROOT/setup/system.sh"

usage() {
    cat <<'END'
Usage: setup/latency.sh [--seconds N] [--sessions N] [--json FILE]

Starts a system on free loopback ports, finds its highest rate in a closed loop (accepted, relayed to
a sink and counted there), then offers 25, 50 and 75 % of it in an open loop, each for so many seconds, and
prints p50, p99 and p99.9 from the final dot to the 250. At last it offers 50 % to a system with a third KVS,
kills one that counts, and prints the same for the time before, for the second and a half in which it dies and is
replaced, and for the time after. Exit status 0 only if every run's ledger is clean. Run it on a quiet machine.

  --seconds N    length of each run (20)
  --sessions N   sessions of the open loop (100)
  --json FILE    the reports of all runs, as a JSON object
  --help         this text
END
}

SECONDS_EACH=20
SESSIONS=100
JSON=

main() {
    read_options "--seconds SECONDS_EACH number" "--sessions SESSIONS number" "--json JSON file" -- "$@"
    build_release
    begin
    local results=$SCRATCH highest share rate p50 p99 p999
    measure "$results/highest" --sessions 10
    highest=$(figure "$results/highest" relayed_per_s)
    say "highest rate: $highest mails a second, in a closed loop of 10 sessions"
    printf '%6s %10s %10s %10s %10s\n' share rate/s p50/us p99/us p99.9/us
    for share in 25 50 75; do
        measure "$results/$share" --sessions "$SESSIONS" --rate $((highest * share / 100))
        printf '%5s%% %10s %10s %10s %10s\n' "$share" "$(figure "$results/$share" rate)" \
            "$(figure "$results/$share" dot_to_250 p50_us)" \
            "$(figure "$results/$share" dot_to_250 p99_us)" \
            "$(figure "$results/$share" dot_to_250 p999_us)"
    done
    say "a KVS dies, at 50 %:"
    (run_with_loss "$results/loss" $((highest / 2))) >"$results/loss.log" 2>&1 || {
        cat "$results/loss.log" >&2
        die "the run in which a KVS dies is not clean"
    }
    while read -r share rate p50 p99 p999; do
        printf '%6s %10s %10s %10s %10s\n' "$share" "$rate" "$p50" "$p99" "$p999"
    done <"$results/loss"
    [ -z "$JSON" ] || write_json "$results" >"$JSON"
}

# measure RESULT OPTION…: one load on a system of its own; the load's report goes to RESULT.json.
measure() {
    local result=$1
    shift
    (run "$result" "$@") >"$result.log" 2>&1 || {
        cat "$result.log" >&2
        die "the run ${result##*/} is not clean"
    }
}

run() {
    local result=$1 began_us ended_us accepted
    shift
    begin
    prepare_system
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    began_us=${EPOCHREALTIME/[.,]/}
    in_turn "$BIN/loadgen" smtp --to "$GATEWAY" --duration "$SECONDS_EACH" --mix 70:1k,30:10k \
        --domain example.net --ledger "$SCRATCH/client.ledger" --json "$result.json" "$@"
    accepted=$(figure "$result" accepted)
    await 120 sink_has "$accepted" || die "the sink does not have all mail after 120 s"
    ended_us=${EPOCHREALTIME/[.,]/}
    # The status file is a second late at most, which makes the rate a little lower than it was.
    sed -i "1s/{/{\"relayed_per_s\":$((accepted * 1000000 / (ended_us - began_us))),/" "$result.json"
    judge --order report
}

# run_with_loss RESULT RATE: a KVS of three is killed in the middle; lines of figures go to RESULT.
run_with_loss() {
    local result=$1 rate=$2 began killed ended over=1500000
    begin
    prepare_system
    add_spare
    start_kvs c
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start load "$BIN/loadgen" smtp --to "$GATEWAY" --duration $((SECONDS_EACH * 2)) --mix 70:1k,30:10k \
        --domain example.net --ledger "$SCRATCH/client.ledger" --sessions "$SESSIONS" --rate "$rate"
    await_delivered "$rate"
    began=$(now_us)
    sleep $((SECONDS_EACH - 1))
    killed=$(now_us)
    kill_hard kvs-b
    await 20 grep -q "the server's copies count" "$SCRATCH/gateway.log" || die "no spare takes its place"
    await_load || die "not all mail was accepted"
    ended=$(now_us)
    await 120 sink_has "$(grep -c '^A ' "$SCRATCH/client.ledger")" ||
        die "the sink does not have all mail after 120 s"
    {
        say "before $(latency "$began" "$killed")"
        say "during $(latency "$killed" $((killed + over)))"
        say "after $(latency $((killed + over)) $((ended - over)))"
    } >"$result"
    judge --order report
}

# figure RESULT KEY [KEY]: a number of a report, rounded.
figure() {
    python3 - "$@" <<'END'
import json, sys
report = json.load(open(sys.argv[1] + ".json"))
value = report if sys.argv[2] in report else report["smtp"]
for key in sys.argv[2:]:
    value = value[key]
print(round(value))
END
}

write_json() {
    local name separator='{'
    for name in highest 25 50 75; do
        printf '%s"%s":' "$separator" "$name"
        cat "$1/$name.json"
        separator=,
    done
    printf '}\n'
}

main "$@"
