#!/usr/bin/env bash
# Counts the instructions that a message costs each part, and compares them with what they were.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<END
Usage: setup/instructions.sh [--update] [--expected FILE] [PART…]

Runs each part (setup/costs) under valgrind, which counts its instructions: they are the same on a busy machine and on a
quiet one. Prints for each part the instructions of one message, those in setup/instructions.txt, and the
difference. Exit status 0 only if no part takes $TOLERANCE % more or less than it says there: what got dearer is to be
looked at, and what got cheaper to be kept.

  --update         write what was counted to that file, as after a change that is worth it, or another compiler
  --expected FILE  that one instead
  --help           this text

Parts, and the function of each that counts:
$(awk '/^[a-z]/ { print "  " $1 "\t" $2 }' <<<"$PARTS" | expand -t 16)
END
}

TOLERANCE=5
PARTS="
kvs kvs_turn
kvs-10k kvs_turn
kvs-queues kvs_turn
kvs-held kvs_turn
replication shard_turn
replication-1k shard_turn
reception receive
delivery deliver
"
EXPECTED=$ROOT/setup/instructions.txt
UPDATE=no
NAMES=()
# Of two runs the difference counts, so that what comes before the first message does not.
BLOCKS_FEW=100
BLOCKS_MANY=300

main() {
    local name function counted expected=() failed=0
    read_options "--update UPDATE =yes" "--expected EXPECTED file" "- NAMES $(all_parts | paste -sd ,)" -- "$@"
    [ ${#NAMES[@]} -gt 0 ] || mapfile -t NAMES < <(all_parts)
    EXPECTED=$(realpath -e "$EXPECTED")
    command -v valgrind >/dev/null || die "valgrind is missing: setup/install.sh --test"
    cargo build --locked --quiet --release --manifest-path "$ROOT/Cargo.toml" -p hikyaku-costs
    begin
    printf '%-14s %10s %10s %8s\n' part counted expected change
    for name in "${NAMES[@]}"; do
        function=$(awk -v name="$name" '$1 == name { print $2 }' <<<"$PARTS")
        counted=$(instructions_of_message "$name" "$function")
        compare "$name" "$counted" || failed=1
        expected+=("$name $counted")
    done
    if [ "$UPDATE" = yes ]; then
        update "${expected[@]}"
        return
    fi
    [ "$failed" -eq 0 ] || die "the costs of a message have changed by more than $TOLERANCE %"
}

# instructions_of_message PART FUNCTION
instructions_of_message() {
    local few many messages
    few=$(collected "$1" "$2" "$BLOCKS_FEW")
    many=$(collected "$1" "$2" "$BLOCKS_MANY")
    messages=$(($("$BIN/costs" "$1" 1) * (BLOCKS_MANY - BLOCKS_FEW)))
    [ "$many" -gt "$few" ] || die "$1: valgrind does not find $2"
    say $(((many - few) / messages))
}

# collected PART FUNCTION BLOCKS: instructions in that function and what it calls.
collected() {
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "--toggle-collect=costs::*::$2*" \
        "$BIN/costs" "$1" "$3" 2>&1 >/dev/null | awk '/Collected/ { print $NF; found = 1 } END { exit !found }'
}

all_parts() { first_words "$PARTS"; }

# compare PART COUNTED: prints the line; fails beyond the tolerance.
compare() {
    awk -v part="$1" -v counted="$2" -v tolerance="$TOLERANCE" '
        $1 == part { expected = $2 }
        END {
            if (!expected) { printf "%-14s %10d %10s\n", part, counted, "unknown"; exit 1 }
            change = 100 * (counted - expected) / expected
            printf "%-14s %10d %10d %+7.1f %%\n", part, counted, expected, change
            exit change > tolerance || change < -tolerance
        }' "$EXPECTED"
}

# update "PART COUNT"…: these lines take the place of those of the same parts.
update() {
    printf '%s\n' "$@" | awk '
        NR == FNR { counted[$1] = $2; order[NR] = $1; next }
        /^#/ || !($1 in counted) { print; next }
        { print $1, counted[$1]; known[$1] = 1 }
        END { for (place = 1; place in order; place++) if (!known[order[place]]) print order[place], counted[order[place]] }
        ' - "$EXPECTED" >"$SCRATCH/instructions"
    cp "$SCRATCH/instructions" "$EXPECTED"
}

main "$@"
