#!/usr/bin/env bash
# A gateway is stopped under load for longer than its lease, and a second one of the same name takes its
# queues over. When the first goes on it ends at once, says why, and sends nothing any more.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

# Messages a second that go to the next hop, so that the first gateway has some when it goes on.
RATE=200
MESSAGES=1200

main() {
    local first status=0 marks=() second stopped_at claimed_at before
    build_release
    begin
    prepare_system
    sed -i "s/^rate_max = .*/rate_max = $RATE/" "$SCRATCH/gateway.toml"
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load "$MESSAGES" --give-up 3
    await_delivered $((MESSAGES / 10))
    first=$(pid_of gateway)
    marks+=(--restart-at "$(now_ms)")
    kill -STOP "$first"
    stopped_at=$(now_ms)
    second=127.0.0.1:$(free_ports 1)
    sed -e "s|^listen = .*|listen = [\"$second\"]|; s|gateway\.sock|second.sock|" \
        "$SCRATCH/gateway.toml" >"$SCRATCH/second.toml"
    start second "$BIN/gateway" --config "$SCRATCH/second.toml"
    await_port second "$second"
    claimed_at=$(now_ms)
    marks+=(--restart-at "$claimed_at")
    say "the second gateway has the queues $((claimed_at - stopped_at)) ms after the first was stopped"
    await_delivered $((MESSAGES / 10 + RATE))

    # Whatever comes from the first one now comes on connections that it has, or makes.
    before=$(grep -c 'queue.*delivered' "$SCRATCH/gateway.log" || true)
    kill -CONT "$first"
    await 5 gone "$first" || die "the gateway whose queues were taken goes on"
    wait "$first" || status=$?
    forget "$first"
    [ "$status" -eq 1 ] || die "the gateway whose queues were taken ended with status $status"
    grep -q 'stopping at once.*has an owner of epoch' "$SCRATCH/gateway.log" ||
        die "the gateway does not say why it stops"
    [ "$(grep -c 'queue.*delivered' "$SCRATCH/gateway.log" || true)" -eq "$before" ] ||
        die "the gateway has delivered mail that was another's"
    # What it had not answered, its clients keep.
    stop load
    await_idle 1
    judge "${marks[@]}"
    say "the first gateway found itself fenced and sent nothing; clean"
}

now_ms() { date +%s%3N; }

main "$@"
