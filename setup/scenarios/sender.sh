#!/usr/bin/env bash
# The gateway is killed under load, and nobody starts it again. The sender beside the first KVS takes its queues
# over when they have been without an owner for the configured time, and delivers: what waited, what a next hop defers
# at first, and a report about what one refuses, which moves meanwhile. The sender beside the other KVS stays out of it. Then the
# gateway starts again, under load and while the sender still has mail: it is handed the queues, and nothing is sent
# twice by that. At last a sender takes over by hand from a gateway that does not answer, and hands back to it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

# Mails, how many of them come in a second, and how many go to the next hop: there are some left whenever
# something happens.
MESSAGES=3000
LOAD=800
RATE=100

# How long the queues are without an owner before the first sender takes over, and the second one later.
AFTER_MS=2000
FURTHER_MS=3000

main() {
    build_release
    (taken_over_and_handed_back)
    (by_hand)
}

# d0.example is delivered to at RATE, d1.example defers at first and refuses some, d2.example is the senders'.
taken_over_and_handed_back() {
    local killed_at started_at port marks=() busy refused before
    begin
    prepare_system
    set_queues 3 'retry_first = "500 ms"' 'retry_max = "1 s"' "rate_max = $RATE"
    sed -i -e 's/^queue = "example.net"/queue = "d2.example"/' \
        -e 's/^# backoff_max = .*/backoff_max = "500 ms"/' "$SCRATCH/gateway.toml"
    port=$(free_ports 1)
    busy=127.0.0.1:$port
    lead_to d1.example "$busy"
    start_busy 1 "$busy" --misbehave rcpt=4xx
    prepare_sender a "$AFTER_MS" "$FURTHER_MS"
    prepare_sender b "$AFTER_MS" "$FURTHER_MS"
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_sender a
    start_sender b
    await 10 says a 'stands by' || die "the sender beside a does not stand by"
    start_load "$MESSAGES" --rate "$LOAD" --domains 2 --from-domain d2.example --give-up 3
    await_delivered $((RATE * 3 / 2))
    require_load
    ! grep -q 'taking them over' "$SCRATCH"/sender-*.log || die "a sender disturbs a gateway that is well"

    killed_at=$(now_ms)
    marks+=(--restart-at "$killed_at")
    kill_hard gateway
    await 20 says a 'owns the queues' || die "nobody takes the queues over"
    await 20 has_delivered_since $((killed_at + AFTER_MS)) || die "the sender delivers nothing"
    say "the first mail was delivered $(($(first_since $((killed_at + AFTER_MS))) - killed_at - AFTER_MS)) ms" \
        "after the delay of $AFTER_MS ms without an owner"
    await 10 has_logged sender-a 'outcome="deferred"' || die "the sender does not meet the next hop that defers"
    # That next hop moves while nobody but the sender is there.
    stop busy
    busy=127.0.0.1:$(free_ports 1)
    start_busy 2 "$busy" --misbehave rcpt=5xx:0.3
    lead_to d1.example "$busy"
    "$BIN/gateway" keep-settings --config "$SCRATCH/gateway.toml"
    await 10 has_logged sender-a 'the configuration is in force' || die "the sender does not follow the settings"
    await 20 has_logged sender-a 'outcome="reported"' || die "the sender tells nobody of what was refused"
    await 10 has_logged sender-a 'outcome="delivered".*d1\.example' || die "the sender does not try again"

    # The gateway is back while the sender has mail, and mail comes at once.
    stop load
    started_at=$(now_ms)
    start_gateway
    say "the gateway had the queues back $(($(now_ms) - started_at)) ms after its start"
    has_logged sender-a 'the queues are left' || die "the sender has not said that it left"
    await 5 says a 'stands by' || die "the sender does not stand by again"
    has_logged gateway 'calling for the queues' || die "the gateway did not call for the queues"
    before=$(grep -c 'outcome="delivered"' "$SCRATCH/sender-a.log")
    mv "$SCRATCH/client.ledger" "$SCRATCH/first.ledger"
    start_load 300 --domains 2 --from-domain d2.example --seed 2
    await_load || die "not all mail was accepted by the gateway that is back"
    await 60 is_empty || die "not everything was delivered"
    await_idle 1
    [ "$(grep -c 'outcome="delivered"' "$SCRATCH/sender-a.log")" -eq "$before" ] ||
        die "the sender has delivered what it had handed back"
    ! has_logged sender-b 'taking them over' || die "the second sender took part"
    ! has_logged gateway 'stopping at once' || die "the gateway was fenced"
    refused=$(grep -c 'outcome="failed"' "$SCRATCH/sender-a.log" || true)
    [ "$refused" -gt 0 ] || die "nothing was refused"
    stop sender-a
    stop sender-b
    stop busy
    judge "${marks[@]}" --bounces required "$SCRATCH/first.ledger" "$SCRATCH"/busy-?.ledger
    say "taken over, delivered, told of $refused refusals and handed back; clean"
}

# A gateway that hangs is not waited for; the same sender hands the queues to the next one.
by_hand() {
    local first status=0 marks=()
    begin
    prepare_system
    sed -i "s/^rate_max = .*/rate_max = $RATE/" "$SCRATCH/gateway.toml"
    prepare_sender a 60000 30000
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load "$MESSAGES" --rate "$LOAD" --give-up 3
    await_delivered $((RATE * 3 / 2))
    first=$(pid_of gateway)
    marks+=(--restart-at "$(now_ms)")
    kill -STOP "$first"
    start sender-a "$BIN/gateway" take-over --of gw1 --config "$SCRATCH/sender-a.toml"
    await 20 says a 'owns the queues' || die "the sender does not take over"
    kill -CONT "$first"
    await 5 gone "$first" || die "the gateway whose queues were taken goes on"
    wait "$first" || status=$?
    forget "$first"
    [ "$status" -eq 1 ] || die "the gateway whose queues were taken ended with status $status"
    await 20 has_logged sender-a 'outcome="delivered"' || die "the sender delivers nothing"
    # What it had not answered, its clients keep.
    stop load
    start_gateway
    await 5 gone "$(pid_of sender-a)" || die "the sender goes on although it has handed back"
    status=0
    wait "$(pid_of sender-a)" || status=$?
    forget "$(pid_of sender-a)"
    [ "$status" -eq 0 ] || die "the sender ended with status $status"
    await 60 is_empty || die "not everything was delivered"
    await_idle 1
    judge "${marks[@]}"
    say "taken over by hand, and handed back; clean"
}

# prepare_sender KVS AFTER_MS FURTHER_MS: $SCRATCH/sender-KVS.toml.
prepare_sender() {
    sed -e "s|^register = .*|register = \"$SCRATCH/register\"|; s|sender\.sock|sender-$1.sock|" \
        -e "s|^beside = .*|beside = \"$1\"|" \
        -e "s|^# after = .*|after = \"$2 ms\"|; s|^# further = .*|further = \"$3 ms\"|" \
        "$ROOT/setup/examples/sender.toml" >"$SCRATCH/sender-$1.toml"
}

start_sender() { start "sender-$1" "$BIN/gateway" take-over --config "$SCRATCH/sender-$1.toml"; }

# says KVS TEXT: the sender beside that KVS says that of itself.
says() {
    { "$BIN/gateway" status --socket "$SCRATCH/sender-$1.sock" 2>/dev/null || true; } | has "$2"
}

# start_busy NUMBER ADDRESS OPTION…: the next hop of d1.example.
start_busy() {
    local number=$1 address=$2
    shift 2
    start busy "$BIN/loadgen" sink --listen "$address" --number "$number" \
        --ledger "$SCRATCH/busy-$number.ledger" "$@"
    await_port busy "$address"
}

# lead_to QUEUE ADDRESS: its next hop.
lead_to() {
    sed -i "/^name = \"$1\"/,/^next_hops/s/^next_hops = .*/next_hops = [\"$2\"]/" "$SCRATCH/gateway.toml"
}

has_logged() { grep -q -e "$2" "$SCRATCH/$1.log"; }

# is_empty: the gateway's queues are, and every answer is there.
is_empty() {
    status_json
    python3 -c '
import json, sys
queues = json.load(open(sys.argv[1]))["queues"]
sys.exit(not queues or any(queue["messages"] for queue in queues))' "$SCRATCH/status.json" 2>/dev/null
}

# first_since UNIX_MS: when the sink got the first mail after that, in milliseconds since 1970.
first_since() {
    awk -v from="$(($1 * 1000))" '$1 == "D" && $4 >= from { printf "%.0f\n", $4 / 1000; exit }' "$SCRATCH/sink.ledger"
}

has_delivered_since() { [ -n "$(first_since "$1")" ]; }

now_ms() { date +%s%3N; }

main "$@"
