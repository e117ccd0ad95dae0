#!/usr/bin/env bash
# Odd mail of well-known clients goes through the gateway and arrives to the octet as it was sent, trace
# header aside: Python's smtplib, curl, swaks with many of its options, nodemailer, and smtp-source.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=programs.sh
. "$ROOT/setup/scenarios/programs.sh"

# Mails, sessions and octets of smtp-source.
SOURCE_COUNT=5000
SOURCE_SESSIONS=50
SOURCE_OCTETS=2000
# Seconds until all has to have arrived.
PATIENCE=60

main() {
    local client
    require_programs node
    build_release
    begin
    prepare_system
    prepare_mail
    start_recorder "gateway=smtp:$SINK"
    start_kvs a
    start_kvs b
    start_gateway
    for client in raw bdat smtplib curl swaks nodemailer; do
        send "$client" "$GATEWAY"
    done
    say "swaks and curl with options"
    mail options "$SCRATCH/journal" "$GATEWAY"
    say "smtp-source"
    smtp-source -s "$SOURCE_SESSIONS" -m "$SOURCE_COUNT" -l "$SOURCE_OCTETS" \
        -f sender@client.example -t recipient@smtp-source.example "$GATEWAY"
    check_mail "$PATIENCE" --smtp-source "$SOURCE_COUNT" "$SOURCE_OCTETS"
}

main "$@"
