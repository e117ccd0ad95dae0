#!/usr/bin/env bash
# Servers come and go under load: a third KVS is added, one is drained and taken out of the configuration, its
# process is stopped, another one takes its name, and what had moved moves back. Clients notice nothing, and each
# queue has three copies all the time.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=../nodes.sh
. "$ROOT/setup/nodes.sh"

MESSAGES=16000
RATE=1000
QUEUES=6
# What fills copies, so that the drain of some thousand mails takes long enough to be seen.
RESYNC_RATE='12 MiB'

main() {
    local began
    build_release
    begin
    prepare_system
    set_queues "$QUEUES"
    sed -i "s/^\[limits\]/&\nresync_rate = \"$RESYNC_RATE\"/" "$SCRATCH/gateway.toml"
    set_send suspended
    small_servers a b
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    await 10 shows_well status || die "the status does not show three copies of each queue"
    start_watch
    start_load "$MESSAGES" --rate "$RATE" --domains "$QUEUES" --json "$SCRATCH/load.json"
    await 30 has_accepted 3000 || die "no mail is accepted"

    # There is nobody yet to take what b has.
    set_drain b true
    reload_says "$IN_FORCE"
    await 10 has_server b '.is_drained and .copies == 6 and .cannot_move == 6' ||
        die "the status does not say that copies cannot be moved"
    has_logged 'no server can take the copies' 1 || die "the log does not say that copies cannot be moved"

    add_spare
    small_servers c
    start_kvs c
    reload_says "$IN_FORCE"
    began=$(date +%s%3N)
    await 10 has_state_somewhere c joining || die "no copy is being filled at the server that was added"
    cp "$SCRATCH/gateway.toml" "$SCRATCH/three.toml"
    take_out b
    reload_says "$REFUSED"
    has_logged 'server "b" cannot be taken out of group "main": it has copies of' 1 ||
        die "the log does not say why a server with copies cannot be taken out"
    cp "$SCRATCH/three.toml" "$SCRATCH/gateway.toml"
    await 30 has_server b '.copies == 0 and .joining == 0' || die "the server is not drained within 30 s"
    say "$(($(date +%s%3N) - began)) ms to drain a server with $(queued) mails in $QUEUES queues"
    require_load
    set_send on

    take_out b
    reload_says "$IN_FORCE"
    await 10 has_no_server b || die "the status still shows the server that was taken out"
    stop kvs-b
    [ "$(logged 'link down server=b')" -eq 0 ] || die "the link to a server that was taken out is missed"

    start_kvs b
    add_back b
    reload_says "$IN_FORCE"
    await 10 has_server b '.copies == 0 and (.is_drained | not)' || die "the server is not back"
    await 10 has_state_somewhere b spare || die "the server that is back is no spare"
    move_copies --group main --from c --to b || die "the copies cannot be moved back"
    await 30 has_server c '.copies == 0 and .joining == 0' || die "the copies do not move back"
    ! move_copies --group main --from c --to b || die "copies that are not there are moved"
    ! move_copies --group main --cancel || die "a move that is over is called off"
    require_load

    await_load || die "not all mail was accepted"
    await 60 sink_has "$MESSAGES" || warn "the sink does not have all mail after 60 s"
    await_idle 1
    end_watch
    judge --order 100
    require_unnoticed
    say "clean after a server was added, drained and taken out, and came back; three copies at each of" \
        "$(cat "$SCRATCH/looks") looks, and the longest wait for a 250 was" \
        "$(jq '.smtp.dot_to_250.max_us / 1000 | round' "$SCRATCH/load.json") ms"
}

main "$@"
