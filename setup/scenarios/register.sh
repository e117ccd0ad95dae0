#!/usr/bin/env bash
# The register in etcd, under load. One of three members is killed: a KVS that dies is taken out of the
# record all the same, and taken in again when it is back. With two of them killed mail goes on, until a
# KVS dies: then nothing is accepted until the record can say so. The gateway is killed and starts from
# what etcd has; then a second gateway takes the queues from it. Nothing is lost by any of it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

# Mails a second, for as long as it takes.
RATE=400

ISOLATED="the server's copies are isolated"
TAKEN_IN="the server's copies count"
UNUSABLE='the register cannot be used'
CLOSED='ports closed'

# When the next hop may get again what it had answered.
MARKS=()

main() {
    build_release
    begin
    prepare_system
    prepare_etcd
    set_key gateway min_sync 1
    set_key gateway register "[$(printf '"http://%s", ' "${ETCD[@]}")]"
    add_key gateway register_user '"gw1"'
    add_key gateway register_password_file '"register.secret"'
    say between-us >"$SCRATCH/register.secret"
    start_etcd 0 1 2
    guard_etcd gw1 between-us
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load 1000000 --rate "$RATE" --mix 100:1k
    await_delivered 1
    goes_on
    one_member_lost
    quorum_lost
    gateway_killed
    taken_over
    end_clean
}

# Whichever member it is, the leader or the one that was asked first included.
one_member_lost() {
    kill_hard etcd-0
    goes_on
    after "$ISOLATED" kill_hard kvs-b
    goes_on
    after "$TAKEN_IN" start_kvs b
    goes_on
    say "one of three members lost: copies are taken out and in"
}

quorum_lost() {
    local closed before
    kill_hard etcd-1
    goes_on
    closed=$(logged "$CLOSED")
    after "$UNUSABLE" kill_hard kvs-b
    await 5 has_logged "$CLOSED" $((closed + 1)) || die "the ports are open without a register"
    # The record still names the copy that is gone: each repetition fails as the first did.
    after "$UNUSABLE" true
    before=$(accepted)
    after "$UNUSABLE" true
    [ "$(accepted)" -eq "$before" ] || die "mail is accepted although the record cannot say what counts"
    start_etcd 0 1
    goes_on
    after "$TAKEN_IN" start_kvs b
    goes_on
    say "no majority: mail goes on, until a copy is lost and the register is not back"
}

gateway_killed() {
    MARKS+=(--restart-at "$(date +%s%3N)")
    kill_hard gateway
    start_gateway
    goes_on
    say "a gateway that was killed starts from the record"
}

# A second gateway of the same name takes the queues; the first ends at once and says why.
taken_over() {
    local first status=0
    first=$(pid_of gateway)
    MARKS+=(--restart-at "$(date +%s%3N)")
    sed "s|gateway\.sock|second.sock|" "$SCRATCH/gateway.toml" >"$SCRATCH/second.toml"
    start second "$BIN/gateway" --config "$SCRATCH/second.toml"
    await 10 gone "$first" || die "the gateway whose queues were taken goes on"
    wait "$first" || status=$?
    forget "$first"
    [ "$status" -eq 1 ] || die "the gateway whose queues were taken ended with status $status"
    has_logged 'another gateway' 1 || die "the gateway does not say why it stops"
    await_port second "$GATEWAY"
    goes_on
    say "a second gateway took the queues from the first"
}

end_clean() {
    require_load
    # What it has not heard of by then may be there or not.
    stop load
    await_idle 1
    judge "${MARKS[@]}"
    say "clean after all of that"
}

# goes_on: mail is accepted and delivered.
goes_on() {
    require_load
    await 20 has_accepted $(($(accepted) + RATE / 2)) || die "no mail is accepted"
    await 20 has_delivered $(($(delivered) + RATE / 2)) || die "no mail is delivered"
}

# after TEXT COMMAND…: the command, and then until the gateway says that once more.
after() {
    local text=$1 times
    shift
    times=$(logged "$text")
    "$@"
    await 20 has_logged "$text" $((times + 1)) || die "the gateway does not say '$text' after: $*"
}

has_logged() { [ "$(logged "$1")" -ge "$2" ]; }

logged() { grep -c -e "$1" "$SCRATCH/gateway.log" || true; }

accepted() { grep -c '^A ' "$SCRATCH/client.ledger" || true; }

has_accepted() { [ "$(accepted)" -ge "$1" ]; }

delivered() { grep -c '^D ' "$SCRATCH/sink.ledger" || true; }

main "$@"
