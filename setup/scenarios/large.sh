#!/usr/bin/env bash
# Large mail: 100 mails of 50 MB come at once to a gateway that has 512 MiB for all of its mail. What does
# not fit is answered 452 and comes again; all of it arrives in the end; and the gateway never grows much
# beyond its budget.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

MAILS=${MAILS:-100}
SIZE=50000000
BUDGET_MIB=512
# What a gateway may have beside its mail: its program, threads, tables and sockets' buffers.
BESIDE_MIB=96
# Seconds for all of it.
SECONDS_MAX=${SECONDS_MAX:-300}

main() {
    local counts peak
    build_release
    begin
    prepare_system
    set_key kvs-a memory '"2 GiB"'
    set_key kvs-b memory '"2 GiB"'
    set_key gateway memory "\"$BUDGET_MIB MiB\""
    sed -i 's/^bytes_max = .*/bytes_max = "512 MiB"/' "$SCRATCH/gateway.toml"
    add_key gateway message_size_max '"60 MiB"'
    start_system
    counts=$(python3 "$ROOT/setup/scenarios/large.py" "${GATEWAY%:*}" "${GATEWAY##*:}" \
        --mails "$MAILS" --size "$SIZE" --seconds "$SECONDS_MAX")
    say "$counts"
    peak=$(($(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$(pid_of gateway)/status") / 1024))
    say "the gateway's memory at its peak: $peak MiB of $BUDGET_MIB MiB for mail"
    [[ $counts == "taken $MAILS refused "*" broken 0" ]] || die "not all mail was taken well"
    [[ $counts != *"refused 0 "* ]] || die "nothing was refused: the budget was never full"
    [ "$peak" -le $((BUDGET_MIB + BESIDE_MIB)) ] || die "the gateway is larger than its budget"
    await 60 has_relayed || die "not all mail was relayed"
    say "clean with $MAILS mails of $SIZE bytes"
}

has_relayed() { [ "$(grep -c 'outcome="delivered"' "$SCRATCH/gateway.log")" -eq "$MAILS" ]; }

main "$@"
