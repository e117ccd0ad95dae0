# shellcheck shell=bash
# How far the two cores were apart while scale.sh measured costs: the host of a virtual machine moves them about, and all that
# passes between two cores takes longer where they share no cache. To be sourced by it. One core alone is never far from itself.

# How often a round is measured again while they are apart.
REPEATS_MAX=3
# For so many seconds in all it waits until they are not.
PATIENCE=120

watch_cores() {
    CORES_SEEN=
    CORES_COLUMN=()
    CORES_NS=()
    [ "$(nproc)" -gt 1 ] || return 0
    # In a file, as systems look from subshells of their own.
    CORES_SEEN=$SCRATCH/cores.seen
    : >"$CORES_SEEN"
    : >"$CORES_SEEN.waits"
    # shellcheck disable=SC2034 # those with tables have it
    CORES_COLUMN=(cores_ns)
}

# near COMMAND…: runs it between two looks at the cores, and again while they are apart, but not for ever. CORES_NS is the greater
# of the last two looks, in nanoseconds.
near() {
    local repeat before after
    for ((repeat = 0; repeat <= REPEATS_MAX; repeat++)); do
        await_near
        before=$(look_at_cores)
        "$@"
        after=$(look_at_cores)
        [ -n "$CORES_SEEN" ] || return 0
        CORES_NS=("$((before > after ? before : after))")
        is_apart "${CORES_NS[0]}" || return 0
    done
}

# A round that is measured while they are apart would not count.
await_near() {
    [ -n "$CORES_SEEN" ] || return 0
    while [ "$(wc -l <"$CORES_SEEN.waits")" -lt "$PATIENCE" ] && is_apart "$(look_at_cores)"; do
        sleep 1
        say 1 >>"$CORES_SEEN.waits"
    done
}

# What is not known is 0, and stands in nobody's way.
look_at_cores() {
    [ -n "$CORES_SEEN" ] || return 0
    if "$BIN/loadgen" cores --json "$CORES_SEEN.json" >/dev/null; then
        jq '.cores.round_trip_ns | round' "$CORES_SEEN.json" | tee -a "$CORES_SEEN"
    else
        say 0
    fi
}

# is_apart NANOSECONDS: whether that is more than twice the least that was seen so far.
is_apart() {
    [ -n "$CORES_SEEN" ] || return 1
    awk -v ns="$1" 'NR == 1 || $1 < least { least = $1 } END { exit !(ns > 2 * least) }' "$CORES_SEEN"
}

# cheapest_of COLUMN: reads rounds, a line each, of which the last figure is CORES_NS. Prints that with the least in the column,
# of those whose cores were not apart if there are any.
cheapest_of() {
    local rounds near figures
    rounds=$(awk NF | sort -n -k "$1,$1")
    near=$(while read -ra figures; do is_apart "${figures[-1]}" || say "${figures[*]}"; done <<<"$rounds")
    sed -n 1p <<<"${near:-$rounds}"
}

# cheapest_rows FILE COLUMN FIRST…: of the rounds that begin with each of these, the cheapest by that column is a row.
cheapest_rows() {
    local first
    for first in "${@:3}"; do
        # shellcheck disable=SC2046 # its words are the figures
        row $(awk -v first="$first" '$1 == first' "$1" | cheapest_of "$2")
    done
}

# unless_alike TABLE…: a word for the verdict on their rows, if in some the cores were more than twice as far apart as in others.
unless_alike() {
    local table
    [ -n "$CORES_SEEN" ] || return 0
    for table; do column "$table" cores_ns; done | awk '$1 == 0 { next } !least || $1 < least { least = $1 } $1 > most { most = $1 }
        END { if (most > 2 * least) printf " (it tells nothing: the cores were not equally far apart)" }'
}
