#!/usr/bin/env bash
# The gateway is killed ten times under load, and restarted each time. Nothing that it answered 250
# is lost or altered.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

KILLS=10
MESSAGES_PER_LIFE=3000

main() {
    local messages=$((MESSAGES_PER_LIFE * (KILLS + 1))) kill marks=()
    build_release
    begin
    prepare_system
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load "$messages"
    for ((kill = 1; kill <= KILLS; kill++)); do
        await_delivered $((MESSAGES_PER_LIFE * kill))
        require_load
        marks+=(--restart-at "$(date +%s%3N)")
        kill_hard gateway
        start_gateway
    done
    await_load || die "not all mail was accepted"
    await 120 sink_has "$messages" || warn "the sink does not have all mail after 120 s"
    judge "${marks[@]}"
    say "clean after $KILLS kills of the gateway"
}

main "$@"
