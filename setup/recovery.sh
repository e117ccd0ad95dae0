#!/usr/bin/env bash
# How long it takes to make copies anew, and to bring queues back.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=system.sh
. "$ROOT/setup/system.sh"

usage() {
    cat <<'END'
Usage: setup/recovery.sh [--messages N] [--rate N] [--queues N] [--queued N]

Two measurements on free loopback ports; run it on a quiet machine. Exit status 0 only if both ledgers are clean.

1. Resync: a queue whose sending is suspended holds N messages of 1 KB. At so many mails a second, half of them for
   that queue and half for one that is delivered, one of three KVS is killed. Prints how long it takes until a spare
   has everything, and mails accepted a second and p50, p99 and p99.9 from the final dot to the 250,
   in microseconds, before, during and after.
2. Restart: so many queues hold so many messages together. The gateway is killed and started again. Prints how
   long it takes until it listens, and until it has recovered every queue.

  --messages N  of the queue that is resynchronised (1000000)
  --rate N      mails a second meanwhile (2000)
  --queues N    of the gateway that restarts (1000)
  --queued N    messages in them (500000)
  --help        this text
END
}

MESSAGES=1000000
RATE=2000
QUEUES=1000
QUEUED=500000

main() {
    read_options "--messages MESSAGES number" "--rate RATE number" "--queues QUEUES number" \
        "--queued QUEUED number" -- "$@"
    build_release
    (resync)
    (restart)
}

# prepare QUEUES: a system with room for what is measured, whose queues send nothing.
prepare() {
    local name
    prepare_system
    add_spare
    for name in a b c; do
        set_key "kvs-$name" memory '"3 GiB"'
        sed -i 's/^# messages_max = 1_048_576/messages_max = 3_000_000/' "$SCRATCH/kvs-$name.toml"
    done
    set_key gateway memory '"6 GiB"'
    set_queues "$1" 'bytes_max = "6 GiB"' 'messages_max = 3_000_000' 'send = "suspended"'
    start_kvs c
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
}

# fill MESSAGES [OPTION…]: as fast as it goes.
fill() {
    local messages=$1
    shift
    in_turn "$BIN/loadgen" smtp --to "$GATEWAY" --messages "$messages" --sessions 20 --mix 100:1k \
        --ledger "$SCRATCH/fill.ledger" "$@" >"$SCRATCH/fill.log" 2>&1 ||
        die "the queues cannot be filled"
}

resync() {
    local began killed filling counts ended
    begin
    prepare 2
    fill "$MESSAGES" --domain d0.example
    resume d1.example
    start load "$BIN/loadgen" smtp --to "$GATEWAY" --rate "$RATE" --duration 3600 --sessions 50 --domains 2 \
        --mix 100:1k --ledger "$SCRATCH/client.ledger"
    await_delivered $((RATE / 2))
    began=$(now_us)
    sleep 10
    killed=$(now_us)
    kill_hard kvs-b
    await 600 grep -q "$FILLED" "$SCRATCH/gateway.log" || die "no spare has everything"
    filling=$(logged_us "filling the server's copies")
    counts=$(logged_us "$FILLED")
    sleep 11
    ended=$(now_us)
    stop load
    say "resync of $MESSAGES messages of 1 KB, at $RATE mails a second:" \
        "$(((counts - killed) / 1000)) ms from the kill, of which the fill took $(((counts - filling) / 1000)) ms"
    printf '%8s %10s %10s %10s %10s\n' '' accepted/s p50/us p99/us p99.9/us
    window before "$began" "$killed"
    window during "$killed" "$counts"
    window after "$counts" $((ended - 1000000))
    resume d0.example
    await_all fill.ledger client.ledger
    judge --order report "$SCRATCH/fill.ledger"
}

# Queues of other records have nothing to be filled with, and are done at once.
FILLED='a copy is filled.*queue="d0.example"'

window() {
    local figures
    read -ra figures < <(latency "$2" "$3")
    printf '%8s %10s %10s %10s %10s\n' "$1" "${figures[@]}"
}

# logged_us TEXT: when the gateway said that for the last time, in microseconds since 1970.
logged_us() {
    local stamp
    stamp=$(grep -e "$1" "$SCRATCH/gateway.log" | tail -n 1 | cut -d ' ' -f 1)
    date -d "$stamp" +%s%6N
}

# resume QUEUE: has the gateway send its mail from now on.
resume() {
    local times
    times=$(grep -c 'configuration' "$SCRATCH/gateway.log" || true)
    sed -i "/^name = \"$1\"/,/^send/s/^send = .*/send = \"on\"/" "$SCRATCH/gateway.toml"
    kill -HUP "$(pid_of gateway)"
    await 10 reloaded $((times + 1)) || die "the gateway does not take its configuration in"
}

reloaded() { [ "$(grep -c 'configuration' "$SCRATCH/gateway.log")" -ge "$1" ]; }

restart() {
    local began listening recovered marks
    begin
    prepare "$QUEUES"
    fill "$QUEUED" --domains "$QUEUES"
    marks=(--restart-at "$(date +%s%3N)")
    kill_hard gateway
    began=$(now_us)
    start_gateway
    await 120 has_recovered || die "not every queue is recovered"
    listening=$(logged_us listening)
    recovered=$(logged_us 'the queue is recovered')
    say "restart with $QUEUED messages of 1 KB in $QUEUES queues: listens after $(((listening - began) / 1000)) ms," \
        "has all after $(((recovered - began) / 1000)) ms"
    sed -i 's/^send = "suspended"/send = "on"/' "$SCRATCH/gateway.toml"
    kill -HUP "$(pid_of gateway)"
    mv "$SCRATCH/fill.ledger" "$SCRATCH/client.ledger"
    await_all client.ledger
    judge --order report "${marks[@]}"
}

has_recovered() { [ "$(grep -c 'the queue is recovered' "$SCRATCH/gateway.log")" -ge "$QUEUES" ]; }

# await_all LEDGER…: until the sink has all that was accepted by these.
await_all() {
    local accepted
    accepted=$(cat "${@/#/$SCRATCH/}" | grep -c '^A ') || true
    await 900 sink_has "$accepted" || die "the sink does not have all mail"
}

main "$@"
