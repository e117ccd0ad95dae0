#!/usr/bin/env bash
# Odd mail in both directions: from Postfix, OpenSMTPD and Exim to the gateway, and from the gateway to
# them and to aiosmtpd, by SMTP and by LMTP. What arrives is what was sent, to the octet, but for what
# each program is documented to change (mail/ways.py); and senders are told what they have to be told.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=programs.sh
. "$ROOT/setup/scenarios/programs.sh"

MTAS=(postfix opensmtpd exim)
# Seconds until all has to have arrived.
PATIENCE=90

main() {
    require_root
    require_programs exim opensmtpd python
    build_release
    begin
    prepare_system
    prepare_mail
    local mta ports
    mapfile -t ports < <(free_ports 6)
    start_recorder "gateway=smtp:$SINK" "postfix=lmtp:127.0.0.1:${ports[0]}" \
        "opensmtpd=smtp:127.0.0.1:${ports[1]}" "exim=lmtp:127.0.0.1:${ports[2]}" \
        "lmtp=lmtp:127.0.0.1:${ports[4]}"
    start_aiosmtpd "aiosmtpd=smtp:127.0.0.1:${ports[3]}" "aiosmtpd-lmtp=lmtp:127.0.0.1:${ports[5]}"
    start_postfix "127.0.0.1:${ports[0]}"
    start_opensmtpd "127.0.0.1:${ports[1]}"
    start_exim "127.0.0.1:${ports[2]}"
    next_hop postfix "$POSTFIX"
    next_hop opensmtpd "$OPENSMTPD"
    next_hop exim "$EXIM"
    next_hop aiosmtpd "127.0.0.1:${ports[3]}"
    next_hop lmtp "127.0.0.1:${ports[4]}" 'protocol = "lmtp"'
    next_hop aiosmtpd-lmtp "127.0.0.1:${ports[5]}" 'protocol = "lmtp"'
    start_kvs a
    start_kvs b
    start_gateway
    send raw "$GATEWAY"
    for mta in "${MTAS[@]}" aiosmtpd lmtp aiosmtpd-lmtp; do
        send "to-$mta" "$GATEWAY"
    done
    send from-postfix "$POSTFIX"
    send from-opensmtpd "$OPENSMTPD"
    send from-exim "$EXIM"
    check_mail "$PATIENCE"
}

# next_hop NAME ADDRESS [LINE]: mail for NAME.example goes there, by a queue with this line.
next_hop() {
    printf '\n[[queue]]\nname = "%s.example"\ngroup = "main"\nnext_hops = ["%s"]\nretry_first = "1 s"\n%s\n' \
        "$1" "$2" "${3:-}" >>"$SCRATCH/gateway.toml"
}

main "$@"
