#!/usr/bin/env bash
# The configuration of a running gateway changes: under load, sending and receipt are suspended and
# resumed, the rate and the next hop change, and a hundred reloads come in a row. What is wrong or
# cannot change is refused as a whole. Nothing is lost, doubled or put out of order by any of it.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

# Offered at a steady rate, so that the load lasts as long as what is done to it.
MESSAGES=15000
RATE=1500

IN_FORCE='the configuration is in force'
REFUSED='the new configuration is refused'

main() {
    build_release
    (suspended_sending)
    (suspended_receipt)
    (refused)
    (other_rates)
    (other_next_hop)
    (many_reloads)
}

suspended_sending() {
    local sent
    begin_steady
    set_switch send suspended
    reload_says "$IN_FORCE"
    has_logged 'sending is suspended' 1 || die "the log does not name the queue that is suspended"
    # What is on the connection is finished.
    await_idle 1
    sent=$(delivered)
    await 60 has_accepted $((sent + 3000)) || die "no mail is accepted while sending is suspended"
    [ "$(delivered)" -eq "$sent" ] || die "mail is sent although sending is suspended"
    set_switch send on
    reload_says "$IN_FORCE"
    end_clean --order strict
    say "suspended sending: a backlog, and in order from its resumption on"
}

suspended_receipt() {
    local accepted
    begin_steady
    set_switch receive suspended
    reload_says "$IN_FORCE"
    [ "$(recipient_is_answered)" -eq 450 ] || die "a recipient is not answered 450"
    # What had begun before is taken and sent; then nothing comes any more.
    await_idle 1
    accepted=$(accepted)
    require_load
    set_switch receive on
    reload_says "$IN_FORCE"
    [ "$(recipient_is_answered)" -eq 250 ] || die "a recipient is not accepted again"
    await 60 has_accepted $((accepted + 1000)) || die "no mail is accepted after the resumption"
    end_clean --order strict
    say "suspended receipt: 450, and 250 from its resumption on"
}

refused() {
    begin
    prepare_system
    start_system
    cp "$SCRATCH/gateway.toml" "$SCRATCH/original.toml"
    set_switch receive suspended
    set_key gateway min_sync 3
    sed -i 's/^memory = /memroy = /' "$SCRATCH/gateway.toml"
    reload_says "$REFUSED"
    has_logged 'give an integer from 1 to 2' 1 || die "the first mistake is not in the log"
    has_logged 'did you mean .memory.' 1 || die "the second mistake is not in the log"
    cp "$SCRATCH/original.toml" "$SCRATCH/gateway.toml"
    set_switch receive suspended
    set_key gateway hostname '"gw2.example"'
    set_key gateway workers 2
    reload_says "$REFUSED"
    has_logged 'only a start can change .hostname., .threads.' 1 || die "the keys are not named"
    rm "$SCRATCH/gateway.toml"
    reload_says "$REFUSED"
    [ "$(recipient_is_answered)" -eq 250 ] || die "the old configuration is not in force"
    cp "$SCRATCH/original.toml" "$SCRATCH/gateway.toml"
    set_switch receive suspended
    reload_says "$IN_FORCE"
    [ "$(recipient_is_answered)" -eq 450 ] || die "the configuration is not taken after all"
    say "mistakes and what only a start can change are refused as a whole"
}

other_rates() {
    local slow fast
    begin_steady
    set_key gateway rate_max 100
    reload_says "$IN_FORCE"
    slow=$(ms_for 300)
    # A tenth of a second's worth goes at once, and the sink may be behind with its notes.
    [ "$slow" -ge 2000 ] || die "300 mails at 100 a second take $slow ms"
    set_key gateway rate_max 0
    reload_says "$IN_FORCE"
    fast=$(ms_for 2000)
    [ "$fast" -le 10000 ] || die "2000 mails at any rate take $fast ms"
    end_clean --order strict
    say "300 mails at 100 a second took $slow ms, then 2000 without a limit $fast ms"
}

other_next_hop() {
    local other before
    begin_steady
    other=127.0.0.1:$(free_ports 1)
    start other "$BIN/loadgen" sink --listen "$other" --number 1 --ledger "$SCRATCH/other.ledger" \
        --status "$SCRATCH/other.status"
    await_port other "$other"
    set_key gateway next_hops "[\"$other\"]"
    reload_says "$IN_FORCE"
    await 60 has_lines other.ledger 1000 || die "nothing comes to the other next hop"
    before=$(delivered)
    require_load
    await 60 has_lines other.ledger 3000 || die "no more comes to the other next hop"
    [ "$(delivered)" -eq "$before" ] || die "mail still goes to the old next hop"
    await_load || die "not all mail was accepted"
    await 60 have_both "$MESSAGES" || warn "the sinks do not have all mail after 60 s"
    stop other
    judge "$SCRATCH/other.ledger"
    say "clean after mail went to another next hop"
}

many_reloads() {
    local number
    begin_steady
    set_switch send suspended
    cp "$SCRATCH/gateway.toml" "$SCRATCH/suspended.toml"
    set_switch send on
    cp "$SCRATCH/gateway.toml" "$SCRATCH/on.toml"
    for ((number = 0; number < 50; number++)); do
        put_in_place suspended
        kill -HUP "$(pid_of gateway)"
        put_in_place on
        kill -HUP "$(pid_of gateway)"
    done
    require_load
    reload_says "$IN_FORCE"
    has_logged "$REFUSED" 1 && die "a reload was refused"
    end_clean --order strict
    say "clean after a hundred reloads, of which $(logged "$IN_FORCE") were taken one by one"
}

# begin_steady: a system under a steady load, delivered over one connection.
begin_steady() {
    begin
    prepare_system
    set_key gateway connections_max 1
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    start_load "$MESSAGES" --rate "$RATE" --mix 100:1k
    await_delivered 1000
    require_load
}

end_clean() {
    await_load || die "not all mail was accepted"
    await 60 sink_has "$MESSAGES" || warn "the sink does not have all mail after 60 s"
    await_idle 1
    judge "$@"
}

# set_switch SWITCH VALUE: receive or send of the queue.
set_switch() {
    sed -i "/^$1 = /d; s/^rate_max = .*/&\n$1 = \"$2\"/" "$SCRATCH/gateway.toml"
}

# put_in_place NAME: that file becomes the configuration, from one instant to the next.
put_in_place() {
    cp "$SCRATCH/$1.toml" "$SCRATCH/next.toml"
    mv "$SCRATCH/next.toml" "$SCRATCH/gateway.toml"
}

# reload_says TEXT: sends SIGHUP, and waits until the gateway has said that once more.
reload_says() {
    local times
    times=$(logged "$1")
    kill -HUP "$(pid_of gateway)"
    await 20 has_logged "$1" $((times + 1)) || die "the gateway does not say '$1' after SIGHUP"
}

has_logged() { [ "$(logged "$1")" -ge "$2" ]; }

logged() { grep -c -e "$1" "$SCRATCH/gateway.log" || true; }

delivered() { grep -c '^D ' "$SCRATCH/sink.ledger" || true; }

accepted() { grep -c '^A ' "$SCRATCH/client.ledger" || true; }

has_accepted() { [ "$(accepted)" -ge "$1" ]; }

# has_lines FILE N: whether N deliveries are noted there.
has_lines() { [ "$(grep -c '^D ' "$SCRATCH/$1" || true)" -ge "$2" ]; }

have_both() { [ $(($(delivered) + $(grep -c '^D ' "$SCRATCH/other.ledger" || true))) -ge "$1" ]; }

# ms_for N: how long the sink takes to see so many more mails.
ms_for() {
    local began goal
    goal=$(($(delivered) + $1))
    began=$(date +%s%3N)
    await_delivered "$goal"
    say $(($(date +%s%3N) - began))
}

# The code that a recipient of the queue is answered.
recipient_is_answered() {
    python3 - "$GATEWAY" <<'END'
import smtplib
import sys

host, port = sys.argv[1].rsplit(":", 1)
with smtplib.SMTP(host, int(port), timeout=30) as session:
    session.ehlo("client.example")
    session.mail("sender@client.example")
    print(session.rcpt("recipient@example.net")[0])
END
}

main "$@"
