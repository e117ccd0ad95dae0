#!/usr/bin/env bash
# The smallest run of setup/scale.sh has a row for each, and finds a verdict that does not hold.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=../lib.sh
. "$(dirname "$0")/../lib.sh"

main() {
    begin
    assert_refused '--only wants some of held,kvs,' "$ROOT/setup/scale.sh" --only speed
    in_turn "$ROOT/setup/scale.sh" --smallest --json "$SCRATCH/scale.json"
    local row
    for row in held:2 kvs:2 memory:10 queues:2 sessions:2 gateway:2 sizes:2 model:4; do
        check "[.rows[] | select(.table == \"${row%:*}\")] | length == ${row#*:}"
    done
    check '[.rows[] | select(.table == "queues").mails_per_s > 0] | all'
    check '[.verdicts[] | select(.kind == "memory").holds] | length == 5 and all'
    check '[.verdicts[] | select(.kind == "cost")] | length == 6'
}

# check FILTER: what has to be true of the report.
check() { jq -e "$1" "$SCRATCH/scale.json" >/dev/null || die "that is not so: $1"; }

main "$@"
