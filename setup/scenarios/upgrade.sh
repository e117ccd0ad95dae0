#!/usr/bin/env bash
# A rolling upgrade under load, from the older version of the link protocol to the newer one: each of three KVS is
# drained, stopped, started with the newer one and taken back in its turn, then the gateway is restarted; once with a
# gateway that speaks the newer one from the first, once with one that speaks it last. Nothing is lost or altered,
# each queue has three copies all the time, and until the gateway is restarted no client notices anything.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=../nodes.sh
. "$ROOT/setup/nodes.sh"

OLD=2
NEW=3
MESSAGES=12000
RATE=1000
QUEUES=4

main() {
    build_release
    (servers_last)
    (gateway_last)
}

servers_last() {
    begin_old
    start_load_and_upgrade "$OLD" "$NEW"
    end_upgrade
    say "clean after three KVS and then the gateway were upgraded, the gateway's program being the newer one"
}

gateway_last() {
    begin_old
    add_key gateway protocol_max "$OLD"
    start_load_and_upgrade "$OLD" "$OLD"
    sed -i '/^protocol_max = /d' "$SCRATCH/gateway.toml"
    end_upgrade
    say "clean after three KVS of the newer version served a gateway of the older one until it was upgraded"
}

# A system whose servers speak the older version; the gateway is not started.
begin_old() {
    local name
    begin
    prepare_system
    add_spare
    set_queues "$QUEUES"
    small_servers a b c
    for name in a b c; do
        add_key "kvs-$name" protocol_max "$OLD"
        start_kvs "$name"
    done
    start_sink --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
}

# start_load_and_upgrade BEFORE AFTER: the version that is spoken with each server before it is upgraded, and after.
start_load_and_upgrade() {
    local name
    start_gateway
    await 10 shows_well status || die "the status does not show three copies of each queue"
    start_watch
    start_load "$MESSAGES" --rate "$RATE" --domains "$QUEUES" --json "$SCRATCH/load.json"
    await 30 has_accepted 1000 || die "no mail is accepted"
    for name in a b c; do
        await 10 speaks "$name" "$1" || die "kvs-$name is not spoken to by version $1"
        set_drain "$name" true
        reload_says "$IN_FORCE"
        await 20 has_server "$name" '.copies == 0 and .joining == 0' || die "kvs-$name is not drained"
        stop "kvs-$name"
        sed -i '/^protocol_max = /d' "$SCRATCH/kvs-$name.toml"
        start_kvs "$name"
        set_drain "$name" false
        reload_says "$IN_FORCE"
        await 10 has_state_somewhere "$name" spare || die "kvs-$name does not come back"
        await 10 speaks "$name" "$2" || die "kvs-$name is not spoken to by version $2 when it is upgraded"
        await 30 has_accepted $(($(accepted) + RATE)) || die "no mail is accepted with kvs-$name upgraded"
        require_load
    done
    end_watch
}

# The gateway is restarted amid the load, and speaks the newer version with all of them. A server that the file has
# drained meanwhile is.
end_upgrade() {
    local name
    require_load
    set_drain a true
    stop gateway
    start_gateway
    await 20 has_server a '.is_drained and .copies == 0 and .joining == 0' ||
        die "a server that was drained at the start has copies"
    await 10 shows_well status || die "a queue has fewer than three copies after the restart"
    for name in a b c; do
        await 10 speaks "$name" "$NEW" || die "kvs-$name is not spoken to by version $NEW at the end"
    done
    require_load
    await_load || die "not all mail was accepted"
    await 60 sink_has "$MESSAGES" || warn "the sink does not have all mail after 60 s"
    await_idle 1
    # A session that is open when the gateway is stopped may be told 421, which is not about mail.
    jq -e '.smtp | .deferred_451 + .deferred_452 == 0' "$SCRATCH/load.json" >/dev/null || {
        jq .smtp "$SCRATCH/load.json" >&2
        die "clients were told to come back"
    }
    judge --order 100
}

# speaks SERVER VERSION: whether the gateway's links to the server speak that version.
speaks() {
    status_json
    jq -e --arg kvs "$1" --argjson version "$2" \
        '[.queues[].copies[] | select(.kvs == $kvs).protocol] | length > 0 and all(. == $version)' \
        "$SCRATCH/status.json" >/dev/null
}

main "$@"
