#!/usr/bin/env bash
# Mail grows old: at a next hop that defers all of it, and at one that is down, each mail is warned about
# once and given up once, also when the gateway is killed amid that. A queue that is full of mail that was
# given up empties, though the reports about that go to the same queue. And a strict queue keeps its order
# while its head is deferred, again and again.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

# Sent at a steady rate, so that the warnings are spread over as much time as the mails.
MESSAGES=200
RATE=40
# What may be told once more when the gateway is killed: what was told so shortly before, as it may not
# have noted that yet.
WINDOW_MS=1500

FULL_MESSAGES=40
STRICT_MESSAGES=120

main() {
    build_release
    (warned_and_given_up)
    (full_of_failures)
    (strict_order)
}

# d0.example defers, at d1.example nobody listens, d2.example is the senders'.
warned_and_given_up() {
    local ports busy killed_at repeated
    begin
    prepare_system
    set_queues 3 'retry_first = "200 ms"' 'retry_max = "1 s"' 'warn_after = "5 s"' 'expiry = "12 s"'
    sed -i -e 's/^queue = "example.net"/queue = "d2.example"/' \
        -e 's/^# backoff_max = .*/backoff_max = "500 ms"/' "$SCRATCH/gateway.toml"
    mapfile -t ports < <(free_ports 2)
    busy=127.0.0.1:${ports[0]}
    lead_to d0.example "$busy"
    lead_to d1.example "127.0.0.1:${ports[1]}"
    mkdir "$SCRATCH/reports"
    start busy "$BIN/loadgen" sink --listen "$busy" --number 1 --misbehave rcpt=4xx \
        --ledger "$SCRATCH/busy.ledger"
    await_port busy "$busy"
    start_system --ledger "$SCRATCH/sink.ledger" --dump "$SCRATCH/reports"
    start_load "$MESSAGES" --rate "$RATE" --domains 2 --from-domain d2.example
    await_load || die "not all mail was accepted"

    await 30 has_told delayed $((MESSAGES / 2)) || die "senders are not warned"
    ! has_told delayed "$MESSAGES" || die "all senders were warned too early for a kill amid that"
    killed_at=$(date +%s%3N)
    kill_hard gateway
    start_gateway
    await 30 has_told delayed "$MESSAGES" || die "not all senders are warned"
    await 30 has_told failed "$MESSAGES" || die "not all senders hear that their mail was given up"
    # Whatever is told twice has been told.
    await_idle 1

    stop busy
    grep -q '^D .* 4 ' "$SCRATCH/busy.ledger" || die "the next hop that defers had nothing to defer"
    repeated=$(told_again "$killed_at") || die "a sender was warned again: $repeated"
    each_report 'Action: delayed' 'Status: 4\.'
    each_report 'Action: delayed' 'Will-Retry-Until: '
    each_report 'Action: failed' 'Status: 4\.4\.7'
    each_report 'Action: failed' 'Diagnostic-Code: '
    judge --restart-at "$killed_at" --allow-giving-up --bounces required "$SCRATCH/busy.ledger"
    say "$MESSAGES mails warned about and given up, once each; $repeated told again after a kill"
}

# lead_to QUEUE ADDRESS: its next hop.
lead_to() {
    sed -i "/^name = \"$1\"/,/^next_hops/s/^next_hops = .*/next_hops = [\"$2\"]/" "$SCRATCH/gateway.toml"
}

# told ACTION: the recipients that the sink was told that of, one a line, each time that it was.
told() { sed -n "s/^N [0-9]* [0-9]* [0-9]* 2 $1 [^ ]* //p" "$SCRATCH/sink.ledger"; }

# has_told ACTION N: of so many different recipients.
has_told() { [ "$(told "$1" | sort -u | wc -l)" -ge "$2" ]; }

# told_again KILLED_AT: how many delays were told twice. Fails if one of them was told first long before
# the kill, more than twice, or under another Message-ID the second time.
told_again() {
    awk -v from="$((($1 - WINDOW_MS) * 1000))" '$1 == "N" && $5 == 2 && $6 == "delayed" {
        if (++times[$8] == 1) { first[$8] = $4; next }
        again++
        if (times[$8] > 2 || first[$8] < from) { print $8; wrong = 1; exit }
    }
    END { if (!wrong) print again + 0; exit wrong }' "$SCRATCH/sink.ledger" || return 1
    local names
    names=$(grep -l '^Action: delayed' "$SCRATCH"/reports/*.eml | xargs sed -n 's/^Message-ID: //p')
    [ "$(sort -u <<<"$names" | grep -c '\.delay\.')" -eq "$MESSAGES" ] || {
        say "under another Message-ID"
        return 1
    }
}

# each_report LINE OTHER: each report with a line that begins so has another that begins so, and there
# is one.
each_report() {
    local reports lacking
    mapfile -t reports < <(grep -l "^$1" "$SCRATCH"/reports/*.eml)
    [ ${#reports[@]} -gt 0 ] || die "no report has '$1'"
    lacking=$(grep -L "^$2" "${reports[@]}" || true)
    [ -z "$lacking" ] || die "a report with '$1' has no '$2'"
}

# The next hop comes back when all mail was given up, and gets the reports.
full_of_failures() {
    begin
    prepare_system
    shorten_times "200 ms" "500 ms" "5 s" "50 ms" "200 ms"
    set_key gateway messages_max "$FULL_MESSAGES"
    sed -i 's/^# expiry = .*/expiry = "3 s"/' "$SCRATCH/gateway.toml"
    start_kvs a
    start_kvs b
    start_gateway
    start_load "$FULL_MESSAGES" --from-domain example.net
    await_load || die "not all mail was accepted"
    await 30 has_given_up "$FULL_MESSAGES" || die "not all mail was given up"
    start_sink --ledger "$SCRATCH/sink.ledger"
    await 30 has_told failed "$FULL_MESSAGES" || die "not all senders hear of it"
    judge --allow-giving-up
    say "$FULL_MESSAGES reports came out of a queue that was full of $FULL_MESSAGES mails given up"
}

has_given_up() { [ "$(grep -c 'outcome="expired"' "$SCRATCH/gateway.log")" -ge "$1" ]; }

# Nothing passes the head, in both lives of the gateway.
strict_order() {
    local killed_at
    begin
    prepare_system
    shorten_times "50 ms" "100 ms" "5 s" "50 ms" "200 ms"
    set_key gateway connections_max 1
    sed -i '/^\[\[queue\]\]/a strict = true' "$SCRATCH/gateway.toml"
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status" --order strict \
        --misbehave rcpt=4xx:0.1 --misbehave dot=4xx:0.1
    # One mail after the other, so that their order is certain.
    start load "$BIN/loadgen" smtp --to "$GATEWAY" --messages "$STRICT_MESSAGES" --one-connection \
        --domain example.net --ledger "$SCRATCH/client.ledger"
    await_delivered $((STRICT_MESSAGES / 2))
    ! sink_has "$STRICT_MESSAGES" || die "all mail was delivered too early for a kill amid that"
    await_load || die "not all mail was accepted"
    killed_at=$(date +%s%3N)
    kill_hard gateway
    start_gateway
    await 60 sink_has "$STRICT_MESSAGES" || die "the sink does not have all mail"
    judge --order strict --restart-at "$killed_at"
    say "$STRICT_MESSAGES mails in strict order past heads that were deferred"
}

main "$@"
