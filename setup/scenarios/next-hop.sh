#!/usr/bin/env bash
# A next hop that defers, refuses, hangs up, says nothing or nonsense, in any phase of a session: each mail
# that was answered 250 ends there once, or is refused there for good, and the queue never gets stuck.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

MESSAGES=5000
# Options of the load.
LOAD=()

main() {
    build_release
    (settles unkind "$MESSAGES" --fail-rcpt-4xx 0.05 --fail-data-4xx 0.05 --fail-5xx 0.01 \
        --fail-data-5xx 0.01 --drop-421 0.01 --close-after-dot 0.01)
    (settles silent $((MESSAGES / 5)) --hang 0.01 --fail-data-4xx 0.02)
    local faults
    # Connections are few, mails are many.
    mapfile -t faults < <(every_fault 0.03 greeting ehlo quit; every_fault 0.002 mail rcpt data content dot)
    # Behind a refused EHLO there is no 8BITMIME, and the gateway could only give such mail back.
    LOAD=(--seven-bit)
    # Each lost connection costs a pause or a time-out: about 70 mails a second get through.
    (settles hostile $((MESSAGES * 2 / 5)) "${faults[@]}")
}

# every_fault PROBABILITY PHASE…: the sink's options for each fault in these phases. Refusals of the
# greeting are left out: the gateway may give mail up for them, and no mail could be named that was
# refused.
every_fault() {
    local probability=$1 phase fault
    shift
    for phase; do
        for fault in 4xx 5xx 421 drop reset hang garbage early trickle; do
            case $phase=$fault in
            content=trickle | greeting=5xx) ;;
            *) say "--misbehave=$phase=$fault:$probability" ;;
            esac
        done
    done
}

# settles NAME MESSAGES OPTION…: with a sink that behaves so.
settles() {
    local name=$1 messages=$2
    shift 2
    begin
    prepare_system
    shorten_times "200 ms" "1 s" "500 ms" "50 ms" "200 ms"
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status" "$@"
    start_load "$messages" "${LOAD[@]}"
    await_load || die "not all mail was accepted"
    # Nothing waits for longer than retry_max and the time-outs.
    await_idle 3
    # Who was refused for good is told to the sender, in a domain that leads to the sink too.
    judge --order report --bounces required
    say "clean with a next hop that is $name"
}

main "$@"
