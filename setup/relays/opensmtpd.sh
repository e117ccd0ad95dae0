#!/usr/bin/env bash
# OpenSMTPD as a relay, for loadgen compare: unpacked by setup/install.sh, with /etc, /var and users of its own, its queue on
# a RAM disk. Its limits are for a host that sends to all the world; by the default of task-hiwat, say, it puts what is above 50
# messages for a next hop aside and takes up ten of it every few seconds.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=relay.sh
. "$(dirname "$0")/relay.sh"

describe() {
    [ -x "$PROGRAMS/opensmtpd/usr/sbin/smtpd" ] || die "opensmtpd is not there: setup/install.sh --compare"
    require_root
    say "$("$PROGRAMS/opensmtpd/usr/sbin/smtpd" -h 2>&1 | sed -n 's/^version: //p')"
    say "queue on a RAM disk; no limits for sessions, 100 connections to the next hop"
}

relay() {
    local listen=$1 next=$2 etc=$3/etc child
    require_root
    mkdir -p "$etc"
    open_way "$3"
    printf 'opensmtpd.example\n' >"$etc/mailname"
    cat >"$etc/smtpd.conf" <<CONF
listen on ${listen%:*} port ${listen##*:} hostname opensmtpd.example
smtp max-message-size 20M
smtp limit max-mails 1000000
smtp limit max-rcpt 1000000
queue ttl 1h
mta max-deferred 100000
scheduler limit max-inflight 100000
scheduler limit max-schedule 10000
scheduler limit max-evp-batch-size 1000
scheduler limit max-msg-batch-size 1000
mta limit max-conn-per-host 100
mta limit conn-delay-host 0
mta limit max-conn-per-route 100
mta limit conn-delay-route 0
mta limit max-conn-per-source 100
mta limit conn-delay-source 0
mta limit max-conn-per-connector 100
mta limit conn-delay-connector 0
mta limit max-conn-per-relay 100
mta limit conn-delay-relay 0
mta limit max-conn-per-domain 100
mta limit conn-delay-domain 0
mta limit session-transaction-delay 0
mta limit reconn-delay-route 0
mta limit session-mail-max 1000000
mta limit task-hiwat 100000
mta limit task-lowat 50000
mta limit task-release 10000
action "relay" relay host "smtp://$next" helo opensmtpd.example
match from any for any action "relay"
CONF
    # It sends a message's end by itself (Nagle), so without this each waits 40 ms for the sink's delayed acknowledgement.
    # Where the network is the comparison's own, loopback acknowledges at once while OpenSMTPD runs.
    acknowledge_at_once 1
    unshare --mount --pid --fork --kill-child --mount-proc --propagation private \
        "$ROOT/setup/scenarios/private.sh" "$PROGRAMS/opensmtpd" "$etc" \
        /var/programs/usr/sbin/smtpd -d -f /etc/smtpd.conf &
    child=$!
    # The first of its name space: when it ends, so do all in there.
    trap 'kill -KILL "$child"; acknowledge_at_once 0; exit 0' TERM INT
    wait "$child"
}

# acknowledge_at_once 1|0: for loopback, unless it is the machine's.
acknowledge_at_once() {
    [ "$(readlink /proc/self/ns/net)" != "$(readlink /proc/1/ns/net)" ] || return 0
    ip route change table local local 127.0.0.0/8 dev lo quickack "$1"
    ip route change table local local 127.0.0.1 dev lo quickack "$1"
}

main_relay "$@"
