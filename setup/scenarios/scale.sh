#!/usr/bin/env bash
# The smallest run of setup/scale.sh has a row for each, and finds a verdict that does not hold. Rounds whose cores were apart are
# made again, and do not count where there are others.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"

main() {
    begin
    rounds_with_cores_apart_are_made_again
    assert_refused '--only wants some of held,kvs,' "$ROOT/setup/scale.sh" --only speed
    in_turn "$ROOT/setup/scale.sh" --smallest --json "$SCRATCH/scale.json"
    assert_refused 'there is only one to run on' taskset -c 0 "$BIN/loadgen" cores
    local row
    for row in held:2 kvs:2 memory:10 queues:2 sessions:2 gateway:2 sizes:2 model:4; do
        check "[.rows[] | select(.table == \"${row%:*}\")] | length == ${row#*:}"
    done
    check '[.rows[] | select(.table == "queues").mails_per_s > 0] | all'
    check '[.verdicts[] | select(.kind == "memory").holds] | length == 5 and all'
    check '[.verdicts[] | select(.kind == "cost")] | length == 6'
    [ "$(nproc)" -eq 1 ] ||
        check '[.rows[] | select(.kvs_us_per_message or .gateway_us).cores_ns > 0] | length == 14 and all'
}

# With looks that are made up.
rounds_with_cores_apart_are_made_again() {
    (
        # shellcheck source-path=SCRIPTDIR source=../scale-cores.sh
        . "$ROOT/setup/scale-cores.sh"
        nproc() { say 2; }
        watch_cores
        # The next of them, as each look is in a subshell of its own.
        look_at_cores() {
            sed -n 1p "$SCRATCH/looks" | tee -a "$CORES_SEEN"
            sed -i 1d "$SCRATCH/looks"
        }
        # shellcheck disable=SC2317 # near calls it
        round() { ROUNDS=$((ROUNDS + 1)); }
        PATIENCE=0
        # Nobody knows yet that they are apart; then both are near; then they were apart before, and behind, the round.
        rounds_are 1 350 350 340
        rounds_are 1 60 58 60
        rounds_are 3 59 350 60 60 350 58 59
        # It comes to an end, also if they stay apart.
        rounds_are $((REPEATS_MAX + 1)) 340 340 340 340 340 340 340 340 340
        # With patience it waits for them, and no longer than that.
        # shellcheck disable=SC2317 # await_near calls it
        sleep() { :; }
        PATIENCE=3
        rounds_are 1 60 350 350 60 59 60
        rounds_are 1 61 350 60 61

        [ "$(printf '%s\n' '1 5.0 60' '2 4.0 350' '3 4.5 70' | cheapest_of 2)" = '3 4.5 70' ] ||
            die 'a round with cores apart counts'
        [ "$(printf '%s\n' '1 5.0 340' '2 4.0 350' | cheapest_of 2)" = '2 4.0 350' ] || die 'no round counts'
        column() { printf '%s\n' 60 "$1" 0; }
        [ -z "$(unless_alike 120)" ] || die 'cores that were near are told of'
        [ -n "$(unless_alike 120 121)" ] || die 'cores that were apart are not told of'
    )
}

# rounds_are COUNT NANOSECONDS LOOK…: how many rounds that makes, and what is said of them.
rounds_are() {
    printf '%s\n' "${@:3}" >"$SCRATCH/looks"
    ROUNDS=0
    near round
    # shellcheck disable=SC2031 # it is called there
    [ "$ROUNDS ${CORES_NS[*]}" = "$1 $2" ] || die "looks of ${*:3} make $ROUNDS rounds, and ${CORES_NS[*]}"
    [ ! -s "$SCRATCH/looks" ] || die "looks are left of ${*:3}"
}

# check FILTER: what has to be true of the report.
check() { jq -e "$1" "$SCRATCH/scale.json" >/dev/null || die "that is not so: $1"; }

main "$@"
