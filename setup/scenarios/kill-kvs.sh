#!/usr/bin/env bash
# One of two KVS is killed under load: it stays away, and by min_sync = 1 the gateway goes on with the
# other; or it comes back empty, and by min_sync = 2 the gateway accepts nothing until it is filled; or
# there is a spare, which takes its place while mail is accepted. Or both die, and the gateway delivers what it
# has only when it is told that nobody else has it. Nothing that was answered 250 is lost or altered.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

MESSAGES=20000

main() {
    build_release
    (stays_away)
    (comes_back)
    (is_replaced)
    (both_die)
}

stays_away() {
    begin_under_load 1 "$MESSAGES" $((MESSAGES / 2))
    kill_hard kvs-b
    end_clean
    say "clean although a KVS was killed and stayed away"
}

comes_back() {
    begin_under_load 2 "$MESSAGES" $((MESSAGES / 2))
    kill_hard kvs-b
    await 30 grep -q 'ports closed' "$SCRATCH/gateway.log" ||
        die "the gateway still accepts mail 30 s after it lost a KVS that min_sync asks for"
    start_kvs b
    end_clean
    say "clean although a KVS was killed and came back empty"
}

# Each of three is killed in its turn, and comes back empty as the next spare. No client hears of it: a mail
# waits a little longer for its 250.
is_replaced() {
    local victim kills=0
    begin
    prepare_system
    add_spare
    start_kvs c
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load "$MESSAGES" --rate 2000 --json "$SCRATCH/load.json"
    for victim in b a c; do
        await_delivered $((MESSAGES * (kills + 1) / 5))
        require_load
        kill_hard "kvs-$victim"
        kills=$((kills + 1))
        await 5 status_shows "$victim" ng || die "the status does not show that kvs-$victim is gone"
        await 20 has_replaced "$kills" || die "no spare takes the place of kvs-$victim within 20 s"
        await 5 is_well || die "the status does not show that all copies are there again"
        start_kvs "$victim"
        await 20 has_returned "$victim" || die "kvs-$victim does not come back"
    done
    end_clean
    jq -e '.smtp | .refused_4xx == 0 and .connections_lost == 0' "$SCRATCH/load.json" >/dev/null || {
        jq .smtp "$SCRATCH/load.json" >&2
        die "clients were told to come back although there was a spare"
    }
    say "clean although each of three KVS was killed; the longest wait for a 250 was" \
        "$(jq '.smtp.dot_to_250.max_us / 1000 | round' "$SCRATCH/load.json") ms"
}

# Mail goes to the next hop more slowly than it comes, so that some is left when both servers die.
both_die() {
    local accepted=1500 delivered
    begin
    prepare_system
    sed -i 's/^rate_max = .*/rate_max = 200/' "$SCRATCH/gateway.toml"
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load "$accepted"
    await_load || die "not all mail was accepted"
    "$BIN/gateway" resume --no-take-over-happened --config "$SCRATCH/gateway.toml" >"$SCRATCH/resume.txt" 2>&1 &&
        die "the gateway goes on without a lease although it has one"
    grep -q 'nothing to do' "$SCRATCH/resume.txt" || die "the gateway does not say that it has its lease"
    kill_hard kvs-a
    kill_hard kvs-b
    await 10 shows_no_lease || die "the status does not show that the gateway has no lease"
    delivered=$(delivered)
    [ "$delivered" -lt "$accepted" ] || die "nothing was left when the servers died"
    "$BIN/gateway" resume --config "$SCRATCH/gateway.toml" 2>/dev/null &&
        die "the gateway goes on although nobody has said that no take-over happened"
    "$BIN/gateway" resume --no-take-over-happened --config "$SCRATCH/gateway.toml"
    await 60 sink_has "$accepted" || die "the sink does not have all mail"
    judge --order 100
    say "clean although both KVS were killed: $((accepted - delivered)) messages were delivered when it was told to go on"
}

shows_no_lease() {
    is_well || true
    grep -q 'no lease' "$SCRATCH/status.txt"
}

delivered() { status_json; jq '[.counters[].front.delivery.delivered // 0] | add' "$SCRATCH/status.json"; }

# Its first link was that of the start.
has_returned() { [ "$(grep 'link up' "$SCRATCH/gateway.log" | grep -c "server=$1 ")" -ge 2 ]; }

# status_shows SERVER STATE: of every queue's copy there.
status_shows() {
    status_json
    jq -e --arg kvs "$1" --arg state "$2" \
        '[.queues[].copies[] | select(.kvs == $kvs).state] | length > 0 and all(. == $state)' \
        "$SCRATCH/status.json" >/dev/null
}

is_well() { "$BIN/gateway" status --config "$SCRATCH/gateway.toml" >"$SCRATCH/status.txt" 2>&1; }

has_replaced() { [ "$(grep -c "the server's copies count" "$SCRATCH/gateway.log")" -ge "$1" ]; }

end_clean() {
    await_load || die "not all mail was accepted"
    await 120 sink_has "$MESSAGES" || warn "the sink does not have all mail after 120 s"
    judge --order 100
}

main "$@"
