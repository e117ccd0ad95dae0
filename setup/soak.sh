#!/usr/bin/env bash
# A long steady load with an unkind next hop: nothing is lost, and nothing grows.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=system.sh
. "$ROOT/setup/system.sh"

usage() {
    cat <<'END'
Usage: setup/soak.sh [--minutes N] [--rate N] [--csv FILE]

Starts a system on free loopback ports with a next hop that defers, refuses, hangs up and closes
connections now and then, sends mail at a steady rate, and watches memory and descriptors of the
gateway and of both KVS. Exit status 0 only if the ledger is clean and nothing has grown.

  --minutes N   how long (60)
  --rate N      mails a second (1000)
  --csv FILE    every sample: name, seconds, bytes, descriptors
  --help        this text
END
}

MINUTES=60
RATE=1000
CSV=

main() {
    read_options "--minutes MINUTES number" "--rate RATE number" "--csv CSV file" -- "$@"
    build_release
    begin
    prepare_system
    # Deferred mail comes back within the run, so that what is held comes to a level soon.
    shorten_times "2 s" "20 s" "2 s" "100 ms" "1 s"
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status" \
        --fail-rcpt-4xx 0.002 --fail-data-4xx 0.002 --fail-5xx 0.001 --fail-data-5xx 0.001 \
        --drop-421 0.0005 --close-after-dot 0.0005 --hang 0.00002
    soak
}

soak() {
    local seconds=$((MINUTES * 60)) flat=yes
    say "$RATE mails a second for $MINUTES minutes"
    start load "$BIN/loadgen" smtp --to "$GATEWAY" --rate "$RATE" --duration "$seconds" \
        --sessions 50 --messages-per-session 500 --mix 70:1k,30:10k --domain example.net \
        --ledger "$SCRATCH/client.ledger"
    in_turn "$BIN/loadgen" watch --duration "$seconds" --csv "${CSV:-$SCRATCH/soak.csv}" \
        --of "gateway=$(pid_of gateway)" --of "kvs-a=$(pid_of kvs-a)" \
        --of "kvs-b=$(pid_of kvs-b)" || flat=no
    await_load || die "not all mail was accepted"
    cat "$SCRATCH/load.log"
    # What was deferred comes within retry_max.
    await_idle 25
    judge --order report
    [ "$flat" = yes ] || die "something has grown"
    say "clean, and nothing has grown"
}

main "$@"
