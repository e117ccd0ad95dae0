#!/usr/bin/env bash
# Mail piles up while nobody takes it; the gateway is killed with the backlog in its memory and reads it
# back from the copies; then a next hop appears. Once with both servers all the time, once with one
# of them killed while the backlog grows and filled again before the gateway dies.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

MESSAGES=50000

main() {
    build_release
    (both_there)
    (one_killed)
}

both_there() {
    begin_backlog 2
    await_load || die "not all mail was accepted"
    end_clean
    say "clean after a kill with $MESSAGES mails in the queue"
}

one_killed() {
    begin_backlog 1
    await 60 has_accepted $((MESSAGES / 3)) || die "no mail is accepted"
    require_load
    kill_hard kvs-b
    await 60 has_accepted $((MESSAGES / 2)) || die "no mail is accepted with one server"
    start_kvs b
    await_load || die "not all mail was accepted"
    await 60 grep -q "the server's copies count" "$SCRATCH/gateway.log" ||
        die "the server that came back is not taken in"
    end_clean
    say "clean after a kill with $MESSAGES mails in the queue, and of a server while it filled"
}

# begin_backlog MIN_SYNC: a system under load without a sink.
begin_backlog() {
    begin
    prepare_system
    set_key gateway min_sync "$1"
    sed -i 's/^# backoff_max = .*/backoff_max = "1 s"/' "$SCRATCH/gateway.toml"
    start_kvs a
    start_kvs b
    start_gateway
    start_load "$MESSAGES" --mix 100:1k --pipeline
}

has_accepted() {
    local accepted
    accepted=$(grep -c '^A ' "$SCRATCH/client.ledger" 2>/dev/null) || return 1
    [ "$accepted" -ge "$1" ]
}

end_clean() {
    local killed_at
    killed_at=$(date +%s%3N)
    kill_hard gateway
    start_gateway
    start_sink --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    await 60 sink_has "$MESSAGES" || warn "the sink does not have all mail after 60 s"
    await_idle 1
    judge --restart-at "$killed_at" --order 200
}

main "$@"
