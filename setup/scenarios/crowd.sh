#!/usr/bin/env bash
# Mail of good clients beside thousands of sessions that do nothing, or a byte a second: all of it is
# accepted, its p99 stays below twice what it is without them, and a session takes little memory. Who is
# thrown out meanwhile comes back.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"
# shellcheck source-path=SCRIPTDIR source=../system.sh
. "$ROOT/setup/system.sh"

IDLE=10000
SLOW=1000
# From many addresses, for each may have a few sessions only.
FROM=127.0.0.2-127.0.1.250
# What a session may add to the gateway's memory.
SESSION_BYTES_MAX=8192
# The machine's other work comes and goes: the comparison is made anew so often before it counts.
TRIES=3

main() {
    build_release
    raise_descriptors
    begin
    prepare_system
    add_limit sessions_max $((IDLE + SLOW + 1000))
    # Else the gateway would send most of them away: here they stay.
    add_limit load_percent 100
    start_system --ledger "$SCRATCH/sink.ledger" --status "$SCRATCH/sink.status"
    local try
    for ((try = 1; try <= TRIES; try++)); do
        if compare; then return; fi
        stop crowd
    done
    die "good clients' p99 is more than twice as long beside $((IDLE + SLOW)) hostile sessions"
}

# The gateway and the crowd need a descriptor for each session.
raise_descriptors() {
    ulimit -n "$(ulimit -Hn)"
    [ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -gt $((IDLE + SLOW + 200)) ] ||
        die "a process may have $(ulimit -n) descriptors only: ulimit -Hn"
}

add_limit() { sed -i "s/^# $1 = .*/$1 = $2/" "$SCRATCH/gateway.toml"; }

# One measurement without the crowd, one beside it. Leaves the crowd there.
compare() {
    local quiet beside before after
    quiet=$(p99_us)
    before=$(memory)
    start crowd "$BIN/loadgen" crowd --to "$GATEWAY" --local "$FROM" --idle "$IDLE" --slow "$SLOW" \
        --seconds 600 --status "$SCRATCH/crowd.status"
    await 60 has_all_in || die "not all hostile sessions are in: $(tr '\n' ' ' <"$SCRATCH/crowd.status")"
    beside=$(p99_us)
    after=$(memory)
    say "hostile sessions: $(tr '\n' ' ' <"$SCRATCH/crowd.status")"
    say "p99 of final dot to 250: $quiet µs without, $beside µs beside $((IDLE + SLOW)) hostile sessions"
    say "memory of the gateway: $before bytes without, $after bytes beside them"
    [ $((after - before)) -lt $(((IDLE + SLOW) * SESSION_BYTES_MAX)) ] ||
        die "a session takes more than $SESSION_BYTES_MAX bytes"
    [ "$beside" -lt $((2 * quiet)) ]
}

# p99_us: of mail at a steady rate, all of which must be accepted.
p99_us() {
    "$BIN/loadgen" smtp --to "$GATEWAY" --domain example.net --sessions 20 --rate 300 --duration 10 \
        --json "$SCRATCH/good.json" >"$SCRATCH/good.log" || die "good mail was not accepted"
    jq '.smtp.dot_to_250.p99_us | floor' "$SCRATCH/good.json"
}

memory() { awk '/^VmRSS:/ { printf "%d\n", $2 * 1024 }' "/proc/$(pid_of gateway)/status"; }

has_all_in() {
    local idle slow
    idle=$(sed -n 's/^idle_held = //p' "$SCRATCH/crowd.status" 2>/dev/null) || return 1
    slow=$(sed -n 's/^slow_held = //p' "$SCRATCH/crowd.status" 2>/dev/null) || return 1
    [ "${idle:-0}" -eq "$IDLE" ] && [ "${slow:-0}" -eq "$SLOW" ]
}

main "$@"
