#!/usr/bin/env bash
# The ways in which a system goes down and comes back: the gateway is stopped under load and started
# again; sessions of every kind see it stop; both servers are lost while the gateway lives; and all copies are lost at once, which no
# start passes over in silence. Then starts that must fail, each with its reason.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

MESSAGES=15000
# Seconds that a gateway may take to stop under load.
STOP_MAX=10

main() {
    build_release
    (stopped_under_load)
    (drained)
    (both_servers_lost 1)
    (both_servers_lost 2)
    (taken_over)
    (all_copies_lost)
    (wrong_starts)
}

stopped_under_load() {
    begin_under_load 2 "$MESSAGES" $((MESSAGES / 3))
    stop_with 0
    start_gateway
    await_load || die "not all mail was accepted"
    end_clean
    say "clean after a stop under load"
}

# An idle session is sent away at once, a transaction under way is finished, a silent one is cut when
# the time to drain is over; the next start has the mail.
drained() {
    local idle busy silent
    begin
    prepare_system
    set_table gateway times 'drain = "3 s"'
    start_kvs a
    start_kvs b
    start_gateway
    open_session idle
    open_session busy
    begin_mail "$busy"
    open_session silent
    begin_mail "$silent"
    kill -TERM "$(pid_of gateway)"
    hears "$idle" 421
    refuses || die "the port is open although the gateway is stopping"
    printf 'finished\r\n.\r\n' >&"$busy"
    hears "$busy" 250
    hears "$busy" 421
    hears "$silent" 421
    await "$STOP_MAX" gone "$(pid_of gateway)" || die "the gateway has not stopped"
    wait "$(pid_of gateway)" || die "the gateway has not ended well"
    forget "$(pid_of gateway)"
    start_sink
    start_gateway
    await 20 grep -q 'outcome="delivered"' "$SCRATCH/gateway.log" || die "the mail is not there"
    say "sessions of every kind see a stop as they should"
}

# open_session VARIABLE: a session of which the variable is the descriptor.
open_session() {
    local -n descriptor=$1
    exec {descriptor}<>"/dev/tcp/${GATEWAY%:*}/${GATEWAY##*:}"
    hears "$descriptor" 220
    printf 'HELO client.example\r\n' >&"$descriptor"
    hears "$descriptor" 250
}

begin_mail() {
    local line
    for line in 'MAIL FROM:<a@example.net>' 'RCPT TO:<b@example.net>'; do
        printf '%s\r\n' "$line" >&"$1"
        hears "$1" 250
    done
    printf 'DATA\r\n' >&"$1"
    hears "$1" 354
}

# hears DESCRIPTOR CODE: the next reply has that code.
hears() {
    local reply
    read -r -t "$STOP_MAX" -u "$1" reply || die "no reply where $2 was due"
    [ "${reply:0:3}" = "$2" ] || die "'$reply' where $2 was due"
}

# both_servers_lost MIN_SYNC: the gateway fills both from its memory.
both_servers_lost() {
    begin_under_load "$1" "$MESSAGES" $((MESSAGES / 3))
    kill_hard kvs-a
    kill_hard kvs-b
    await 30 refuses || die "the port is open although no server is there"
    start_kvs a
    start_kvs b
    await_port gateway "$GATEWAY"
    await_load || die "not all mail was accepted"
    end_clean
    say "clean after the loss of both servers, min_sync = $1"
}

# A second gateway of the same name takes the queues; the first, with several workers, ends at once.
taken_over() {
    local first taken_at status=0
    begin
    prepare_system
    set_queues 10
    set_table gateway threads 'drivers = "merged"' 'workers = 2'
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load "$MESSAGES" --domains 10
    await_delivered $((MESSAGES / 3))
    require_load
    first=$(pid_of gateway)
    taken_at=$(date +%s%3N)
    sed "s|gateway\.sock|second.sock|" "$SCRATCH/gateway.toml" >"$SCRATCH/second.toml"
    start second "$BIN/gateway" --config "$SCRATCH/second.toml"
    await "$STOP_MAX" gone "$first" || die "the gateway whose queues were taken goes on"
    wait "$first" || status=$?
    forget "$first"
    [ "$status" -eq 1 ] || die "the gateway whose queues were taken ended with status $status"
    await_load || die "not all mail was accepted"
    end_clean --restart-at "$taken_at"
    say "clean after another gateway took the queues over"
}

all_copies_lost() {
    begin
    prepare_system
    start_kvs a
    start_kvs b
    start_gateway
    start_load 1000
    await_load || die "not all mail was accepted"
    kill_hard gateway
    kill_hard kvs-a
    kill_hard kvs-b
    start_kvs a
    start_kvs b
    fails 'every recorded copy is lost' 1
    start gateway "$BIN/gateway" --config "$SCRATCH/gateway.toml" --accept-loss
    await_port gateway "$GATEWAY"
    stop_with 0
    start_gateway
    say "an alarm when all copies are lost, and a new beginning when that is accepted"
}

wrong_starts() {
    begin
    prepare_system
    local original=$SCRATCH/original.toml
    cp "$SCRATCH/gateway.toml" "$original"

    set_key gateway min_sync 3
    sed -i 's/^memory = /memroy = /; s/^kvs = .*/kvs = ["a", "c"]/' "$SCRATCH/gateway.toml"
    local mistake
    for mistake in min_sync memroy '"c"'; do
        fails "$mistake" 2 --check
        fails "$mistake" 2
    done
    cp "$original" "$SCRATCH/gateway.toml"

    mkdir "$SCRATCH/register"
    printf '{ "gw1/main/0": 7' >"$SCRATCH/register/records.json"
    fails 'records.json' 1
    rm -r "$SCRATCH/register"
    : >"$SCRATCH/register"
    fails 'register' 1
    rm "$SCRATCH/register"

    start_kvs a
    start_kvs b
    sed -i 's/^secret = .*/secret = "another-0123456789abcdef"/' "$SCRATCH/gateway.toml"
    stays_closed 'the server refuses us'
    cp "$original" "$SCRATCH/gateway.toml"
    # Its own name is not what the names of its account's queues begin with.
    sed -i 's/^name = "gw1"/name = "gw2"/' "$SCRATCH/gateway.toml"
    stays_closed 'does not grant it to our account'
    cp "$original" "$SCRATCH/gateway.toml"
    start_sink
    sed -i "s|^listen = .*|listen = [\"$SINK\"]|" "$SCRATCH/gateway.toml"
    stays_closed 'cannot listen'
    say "wrong starts fail and say why"
}

end_clean() {
    await 60 sink_has "$MESSAGES" || warn "the sink does not have all mail after 60 s"
    await_idle 1
    judge --order report "$@"
}

# stop_with STATUS: stops the gateway, which has to end in time and with that exit status.
stop_with() {
    local pid status=0
    pid=$(pid_of gateway)
    kill -TERM "$pid"
    await "$STOP_MAX" gone "$pid" || die "the gateway has not stopped after $STOP_MAX s"
    wait "$pid" || status=$?
    forget "$pid"
    [ "$status" -eq "$1" ] || die "the gateway stopped with status $status and not $1"
}

refuses() { ! answers "${GATEWAY%:*}" "${GATEWAY##*:}"; }

# fails TEXT STATUS [OPTION…]: a start of the gateway ends by itself with that status, and says so.
fails() {
    local text=$1 expected=$2 status=0
    shift 2
    timeout 20 "$BIN/gateway" --config "$SCRATCH/gateway.toml" "$@" >"$SCRATCH/start.log" 2>&1 ||
        status=$?
    [ "$status" -eq "$expected" ] || die "status $status and not $expected for '$text'"
    grep -q -e "$text" "$SCRATCH/start.log" || die "the gateway does not say '$text'"
}

# stays_closed TEXT: the gateway says that, does not listen, and stops when it is asked to.
stays_closed() {
    rm -f "$SCRATCH/gateway.log"
    start gateway "$BIN/gateway" --config "$SCRATCH/gateway.toml"
    await 20 grep -q -e "$1" "$SCRATCH/gateway.log" || die "the gateway does not say '$1'"
    refuses || die "the gateway listens although: $1"
    stop_with 0
}

main "$@"
