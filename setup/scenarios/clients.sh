#!/usr/bin/env bash
# Mail of well-known clients goes through the demo system and arrives byte for byte, trace header
# aside: swaks, smtp-source, Python's smtplib, curl, and a Postfix with the gateway as relayhost.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

SENDER=sender@client.example
RECIPIENT=recipient@example.net
# Mails, sessions and bytes of smtp-source.
SOURCE_COUNT=5000
SOURCE_SESSIONS=50
SOURCE_BYTES=2000
MAIL_PY=$(dirname "$0")/mail.py

main() {
    if [ "$(id -u)" -ne 0 ]; then
        warn "Postfix's master process needs root; run this as root"
        exit "$SKIPPED"
    fi
    build_release
    begin
    mkdir "$SCRATCH/sent" "$SCRATCH/dump"
    prepare_system
    start_system --dump "$SCRATCH/dump"
    start_postfix
    step by_smtplib
    step by_curl
    step by_swaks
    step by_postfix
    step by_smtp_source
    local files=("$SCRATCH/sent"/*)
    await_count $((${#files[@]} + SOURCE_COUNT))
    python3 "$MAIL_PY" compare "$SCRATCH/dump" "$SCRATCH/sent" \
        --smtp-source "$SOURCE_COUNT" "$SOURCE_BYTES"
    say "all ${#files[@]} mails and $SOURCE_COUNT of smtp-source arrived as they were sent"
}

step() {
    say "${1//_/ }"
    "$1" || die "$1 failed"
}

# await_count N: until so many mails are at the sink.
await_count() {
    await 60 has_arrived "$1" || warn "not all of $1 mails arrived within 60 s"
}

has_arrived() { [ "$(find "$SCRATCH/dump" -name '*.eml' | wc -l)" -ge "$1" ]; }

# make CLIENT [OPTION…]: the mails that the client is to send.
make() { python3 "$MAIL_PY" make "$SCRATCH/sent" "$@"; }

by_smtplib() {
    make smtplib
    python3 "$MAIL_PY" send "$GATEWAY" "$SCRATCH"/sent/smtplib-*
}

by_curl() {
    local file
    make curl
    for file in "$SCRATCH"/sent/curl-*; do
        curl --silent --show-error "smtp://$GATEWAY/curl.example" --mail-from "$SENDER" \
            --mail-rcpt "$RECIPIENT" --upload-file "$file"
    done
}

by_swaks() {
    local file
    make swaks --min 3
    # swaks puts a line end after an empty body, and takes a dot on the last line for its own.
    rm "$SCRATCH/sent/swaks-04.eml" "$SCRATCH/sent/swaks-07.eml"
    for file in "$SCRATCH"/sent/swaks-*; do
        without_last_line_end "$file" |
            swaks --server "${GATEWAY%:*}" --port "${GATEWAY##*:}" --ehlo swaks.example \
                --from "$SENDER" --to "$RECIPIENT" --data - --silent 2
    done
}

# swaks adds a line end of its own.
without_last_line_end() {
    if [ "$(tail -c 1 "$1" | wc -l)" -eq 1 ]; then
        head -c -2 "$1"
    else
        cat "$1"
    fi
}

by_smtp_source() {
    smtp-source -s "$SOURCE_SESSIONS" -m "$SOURCE_COUNT" -l "$SOURCE_BYTES" \
        -f "$SENDER" -t "$RECIPIENT" "$GATEWAY"
}

by_postfix() {
    # Postfix mends what has no header.
    make postfix --min 50
    python3 "$MAIL_PY" send "$POSTFIX" "$SCRATCH"/sent/postfix-*
}

# Starts a Postfix with configuration and queue of its own, on loopback only, that passes all mail
# to the gateway. Sets POSTFIX to its address.
start_postfix() {
    local etc=$SCRATCH/postfix/etc port
    port=$(free_ports 1)
    POSTFIX=127.0.0.1:$port
    mkdir -p "$etc" "$SCRATCH/postfix/queue" "$SCRATCH/postfix/data"
    # Its processes give up root: they have to get through to their files.
    chmod 755 "$SCRATCH" "$SCRATCH/postfix"
    chown postfix "$SCRATCH/postfix/data"
    cat >"$etc/main.cf" <<END
compatibility_level = 3.6
queue_directory = $SCRATCH/postfix/queue
data_directory = $SCRATCH/postfix/data
maillog_file = $SCRATCH/postfix.log
maillog_file_prefixes = $SCRATCH
myhostname = postfix.example
mydestination =
alias_maps =
local_recipient_maps =
inet_interfaces = loopback-only
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
relayhost = [${GATEWAY%:*}]:${GATEWAY##*:}
message_size_limit = 20971520
# What clients send is passed on as it is.
local_header_rewrite_clients =
smtputf8_enable = no
disable_mime_output_conversion = yes
END
    cat >"$etc/master.cf" <<END
$POSTFIX inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
smtp unix - - n - - smtp
scache unix - - n - 1 scache
error unix - - n - - error
postlog unix-dgram n - n - 1 postlogd
END
    start postfix postfix -c "$etc" start-fg
    await_port postfix "$POSTFIX"
    # What was started is a script; the process to end is its child.
    tr -d ' ' <"$SCRATCH/postfix/queue/pid/master.pid" >"$SCRATCH/postfix.pid"
    STARTED+=("$(pid_of postfix)")
}

main "$@"
