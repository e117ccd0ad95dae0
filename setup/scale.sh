#!/usr/bin/env bash
# What a message costs with more queues, more messages and more sessions, and whether the model of capacity holds.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=system.sh
. "$ROOT/setup/system.sh"
# shellcheck source-path=SCRIPTDIR source=scale-cores.sh
. "$ROOT/setup/scale-cores.sh"
# shellcheck source-path=SCRIPTDIR source=scale-kvs.sh
. "$ROOT/setup/scale-kvs.sh"
# shellcheck source-path=SCRIPTDIR source=scale-gateway.sh
. "$ROOT/setup/scale-gateway.sh"

usage() {
    cat <<'END'
Usage: setup/scale.sh [--quick|--smallest] [--only PART,…] [--rounds N] [--json FILE] [--strict]

Measures on free loopback ports what docs/capacity.md plans with, and prints tables and, at the end, what has to hold beside
what was measured. Run it on a quiet machine. Exit status 0 only if all mail and all messages were there, and memory is as it
has to be; with --strict also only if costs are, which another process on the machine can spoil.

  held       a KVS alone, one worker: store and delete of 0.4 KB while it holds a thousand, a million and ten million
             messages, as far as memory goes
  kvs        the same with 1, 10, 100 and 1,000 queues in turn
  memory     a KVS alone: bytes beside a message by its size, and of the arena in use in order of arrival and with a tenth of
             the messages stuck
  queues     a gateway and two KVS, relaying to a sink: CPU time of a mail with 1, 10, 100 and 1,000 queues
  sessions   the same with 10,000 idle sessions beside, and what one takes of memory
  gateway    what a mail that is held takes of the gateway's memory
  model      costs by size, by which a mix is predicted: CPU time at fixed rates, bytes on the links

The cores_ns of a row is what a cache line took from core 0 to core 1 and back, before or behind the round that counts. On a
virtual machine that changes, and costs with it: a round is measured again while it is above twice the least that was seen.

  --quick         shorter runs: four to eight minutes
  --smallest      only to see that it works
  --only PART,…   these parts (all)
  --rounds N      how often each cost is measured, of which the lowest counts (3, with --smallest 1); of mail, each time in four
                  slices, of which the lowest counts too
  --json FILE     the rows of all tables as JSON
  --strict        costs count too
  --help          this text
END
}

PARTS=(held kvs memory queues sessions gateway model)
SCALE=whole
ONLY=
ROUNDS=
JSON=
STRICT=no

main() {
    local part
    read_options "--quick SCALE =quick" "--smallest SCALE =smallest" "--strict STRICT =yes" "--only ONLY some:$(printf %s "${PARTS[*]}" | tr " " ,)" \
        "--rounds ROUNDS number:99" "--json JSON file" -- "$@"
    choose_scale
    build_release
    raise_descriptors
    begin
    : >"$SCRATCH/rows"
    : >"$SCRATCH/verdicts"
    watch_cores
    for part in "${PARTS[@]}"; do
        [ -z "$ONLY" ] || [[ ,$ONLY, == *",$part,"* ]] || continue
        "measure_$part"
    done
    [ -z "$JSON" ] || write_json >"$JSON"
    show_verdicts
}

# How much of each is measured.
choose_scale() {
    QUEUES=(1 10 100 1000)
    case $SCALE in
    whole)
        HELD=(1000 1000000 10000000)
        RUN_SECONDS=4 SIZED_BYTES=500000000 MAILS=40000 HELD_MAILS=200000 IDLE=10000
        : "${ROUNDS:=3}"
        ;;
    quick)
        HELD=(1000 1000000 10000000)
        RUN_SECONDS=1 SIZED_BYTES=100000000 MAILS=20000 HELD_MAILS=50000 IDLE=10000
        : "${ROUNDS:=3}"
        ;;
    smallest)
        QUEUES=(1 50)
        HELD=(1000 20000)
        RUN_SECONDS=0.2 SIZED_BYTES=4000000 MAILS=500 HELD_MAILS=2000 IDLE=200
        : "${ROUNDS:=1}"
        ;;
    esac
}

# The gateway, the crowd and the sink need a descriptor for each session.
raise_descriptors() {
    ulimit -n "$(ulimit -Hn)"
    [ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -gt $((IDLE + 2200)) ] ||
        die "a process may have $(ulimit -n) descriptors only: ulimit -Hn"
}

# table NAME TITLE COLUMN…: begins a table. Its rows follow, by `row VALUE…`.
table() {
    TABLE=$1
    printf '\n%s\n' "$2"
    shift 2
    COLUMNS_OF=("$@")
    local column
    for column; do printf '%*s' "$(width_of "$column")" "$column"; done
    printf '\n'
}

width_of() { if [ ${#1} -lt 10 ]; then say 12; else say $((${#1} + 2)); fi; }

# row VALUE…: one of the table, of numbers.
row() {
    local place=0 value json
    printf -v json '{"table":"%s"' "$TABLE"
    for value; do
        printf '%*s' "$(width_of "${COLUMNS_OF[place]}")" "$value"
        printf -v json '%s,"%s":%s' "$json" "${COLUMNS_OF[place]}" "$value"
        place=$((place + 1))
    done
    printf '\n'
    printf '%s}\n' "$json" >>"$SCRATCH/rows"
}

# column TABLE COLUMN: its values, a line each.
column() {
    jq -r --arg table "$1" --arg column "$2" 'select(.table == $table) | .[$column]' "$SCRATCH/rows"
}

# spread TABLE COLUMN: by how much its highest value is above its first.
spread() {
    column "$1" "$2" | awk 'NR == 1 { first = $1 } $1 > most { most = $1 } END { printf "%.2f", most / first }'
}

# verdict KIND WHAT VALUE BOUND LIMIT: KIND is memory or cost, BOUND most or least. Neither yes nor no where WHAT says that it
# tells nothing.
verdict() {
    local kept
    kept=$(awk -v value="$3" -v bound="$4" -v limit="$5" \
        'BEGIN { print (bound == "most" ? value <= limit : value >= limit) ? "yes" : "NO" }')
    [[ $2 != *"(it tells nothing"* ]] || kept='?'
    printf '%s\t%s\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" "$5" "$kept" >>"$SCRATCH/verdicts"
}

show_verdicts() {
    local kind what value bound limit kept spoilt=no
    [ -s "$SCRATCH/verdicts" ] || return 0
    printf '\nwhat has to hold\n%12s %8s %8s  %s\n' measured bound holds what
    while IFS=$'\t' read -r kind what value bound limit kept; do
        [ "$bound" = most ] && bound='<=' || bound='>='
        printf '%12s %8s %8s  %s\n' "$value" "$bound $limit" "$kept" "$what"
        if [ "$kept" = NO ] && { [ "$kind" = memory ] || [ "$STRICT" = yes ]; }; then spoilt=yes; fi
    done <"$SCRATCH/verdicts"
    [ "$spoilt" = no ] || die "not all of that holds"
}

write_json() {
    jq -n --slurpfile rows "$SCRATCH/rows" --rawfile verdicts "$SCRATCH/verdicts" --arg scale "$SCALE" \
        --arg cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sed -n 1p)" --arg kernel "$(uname -r)" \
        --argjson cores "$(nproc)" '{scale: $scale, host: {cpu: $cpu, kernel: $kernel, cores: $cores}, rows: $rows,
            verdicts: [$verdicts | split("\n")[] | select(. != "") | split("\t")
                | {kind: .[0], what: .[1], value: (.[2] | tonumber), bound: .[3], limit: (.[4] | tonumber),
                   holds: {"yes": true, "NO": false}[.[5]]}]}'
}

# calculate FORMAT EXPRESSION: by awk.
calculate() { awk "BEGIN { printf \"$1\", $2 }"; }

main "$@"
